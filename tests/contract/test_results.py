"""Every shipped file of weights has its rows in `results/`, measured on just these bytes."""

import csv
from pathlib import Path

import pytest

from pellucid import models, weights
from pellucid.checkpoint import Checkpoint

RESULTS = Path(__file__).parents[2] / "results"
RESTORING = [
    name for name in weights.names() if models.get(Checkpoint.read(weights.find(name).path).model).restores
]


@pytest.mark.xfail(not RESULTS.exists(), reason="results/ is not filled yet", strict=True)
@pytest.mark.parametrize("name", RESTORING)
def test_shipped_weights_have_rows(name):
    path = RESULTS / f"{name}.csv"
    assert path.is_file(), f"measure them: pellucid evaluate --shards DIR --model {name}"
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    assert {"noise_25", "rain", "haze_depth", "low_light", "blur_camera"} <= {row["kind"] for row in rows}
    stale = {row["weights_sha256"] for row in rows} - {weights.find(name).sha256}
    assert not stale, f"{path} is of other weights: measure these anew with --overwrite"
    assert all(row["protocol"] == "papers" and row["data_sha256"] for row in rows)
