"""Every shipped file of weights has its rows in `results/`, measured on just these bytes."""

import csv
import re
from pathlib import Path

import pytest

from pellucid import models, weights
from pellucid.checkpoint import Checkpoint
from pellucid.datasets.training_pictures import KEY

RESULTS = Path(__file__).parents[2] / "results"
RESTORING = [
    name for name in weights.names() if models.get(Checkpoint.read(weights.find(name).path).model).restores
]


@pytest.mark.parametrize("name", RESTORING)
def test_shipped_weights_have_rows(name):
    path = RESULTS / f"{name}.csv"
    assert path.is_file(), f"measure them: pellucid evaluate --shards DIR --model {name}"
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    assert {"noise_25", "rain", "haze_depth", "low_light", "blur_camera"} <= {row["kind"] for row in rows}
    stale = {row["weights_sha256"] for row in rows} - {weights.find(name).sha256}
    assert not stale, f"{path} is of other weights: measure these anew with --overwrite"
    assert all(row["protocol"] == "papers" and row["data_sha256"] for row in rows)
    known = KEY in Checkpoint.read(weights.find(name).path).provenance
    states = ("leak-free", "with a leak") if known else ("leak unknown",)
    assert all(row["leak"].startswith(states) for row in rows), (
        f"{path} does not say whether its test pictures were trained on: measure anew with --overwrite"
    )
    assert {row["guard"] for row in rows} == {"False"}  # what the network does, not the guard
    assert {row.get("engine") or "torch" for row in rows} == {"torch"}  # older rows don't name it
    refuse_unknown_code(rows)


def refuse_unknown_code(rows):
    """A tree with changes can't be got again."""
    assert all(re.fullmatch("[0-9a-f]{40}", row["commit"]) for row in rows), "measure from a clean commit"


@pytest.mark.parametrize("name", sorted(set(weights.names()) - set(RESTORING)))
def test_shipped_recognizers_have_rows(name):
    path = RESULTS / f"{name}.csv"
    assert path.is_file(), f"measure them: pellucid recognize --shards DIR --model {name}"
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    kinds = {*Checkpoint.read(weights.find(name).path).config["kinds"], "all"}
    parts = ("single", "composite")
    assert {(row["kind"], row["pictures"]) for row in rows} == {
        (kind, part) for kind in kinds for part in parts
    }
    stale = {row["weights_sha256"] for row in rows} - {weights.find(name).sha256}
    assert not stale, f"{path} is of other weights: measure these anew with --overwrite"
    refuse_unknown_code(rows)
