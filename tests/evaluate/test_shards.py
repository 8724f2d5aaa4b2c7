import csv
import io
import math
from dataclasses import replace

import pytest

from pellucid import models
from pellucid.data import VALIDATION_TASKS, load_shards, validation_pairs
from pellucid.errors import InputError, RecipeError
from pellucid.evaluate import evaluate_shards
from pellucid.evaluate.report import losses
from pellucid.evaluate.shards import results_table
from pellucid.labels import validation_shards
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.restorer import IdentityRestorer, TorchRestorer


def test_each_kind_has_its_row(shards):
    counts = []
    results = evaluate_shards(IdentityRestorer(), shards, progress=lambda done, _: counts.append(done))
    assert list(results) == [name for name, _ in VALIDATION_TASKS]
    bank = validation_shards(load_shards(shards, "val"))
    for kind, degraded, clean in validation_pairs(bank):
        assert results[kind].pictures[0].input.psnr == psnr_rgb(degraded, clean)
    assert results["rain"].data_sha256 == bank.data_hash
    assert "validation pairs" in results["rain"].protocol
    assert counts == list(range(1, len(counts) + 1))
    assert len(counts) == sum(result.n for result in results.values())


def test_the_table_holds_what_makes_a_row_again(shards):
    results = evaluate_shards(IdentityRestorer(), shards, limit=1, seed=3)
    rows = list(csv.DictReader(io.StringIO(results_table(results))))
    assert [row["kind"] for row in rows] == list(results)
    row = rows[0]
    assert (row["n"], row["protocol"], row["seed"], row["model"]) == ("1", "papers", "3", "identity")
    assert row["psnr_input"] == row["psnr_output"] == row["psnr_output_low"] == row["psnr_output_high"]
    assert float(row["psnr_output"]) == pytest.approx(results["noise_15"].output.psnr, abs=1e-6)
    assert len(row["data_sha256"]) == 64
    assert {"weights_sha256", "commit", "version", "device", "precision"} <= set(row)
    assert row["engine"] == "torch"
    assert next(r for r in rows if r["kind"] == "clean")["psnr_input"] == "inf"


def test_pictures_that_came_back_worse_are_counted(shards):
    class Darker(IdentityRestorer):
        def __call__(self, image, **options):
            restoration = super().__call__(image, **options)
            pixels = restoration.image.pixels
            return replace(restoration, image=replace(restoration.image, pixels=pixels * 0.5), original=None)

    results = evaluate_shards(Darker(), shards)
    clean, dark = results["clean"], results["low_light"]
    assert (clean.worse, clean.least_gain) == (clean.n, -math.inf)
    assert clean.lowest == min(picture.output.psnr for picture in clean.pictures)
    assert dark.worse == sum(picture.output.psnr < picture.input.psnr for picture in dark.pictures) > 0
    assert dark.least_gain == min(picture.gain for picture in dark.pictures) < 0
    whole = evaluate_shards(IdentityRestorer(), shards)
    assert all((result.worse, result.least_gain) == (0, 0) for result in whole.values())
    row = next(r for r in csv.DictReader(io.StringIO(results_table(results))) if r["kind"] == "low_light")
    assert int(row["worse"]) == dark.worse
    assert float(row["least_gain"]) == pytest.approx(dark.least_gain, abs=1e-6)
    title, n, worse, gain, lowest = losses(results)[1 + list(results).index("low_light")]
    assert (title, n, worse) == ("low_light", str(dark.n), str(dark.worse))
    assert (gain, lowest) == (f"{dark.least_gain:+.2f}", f"{dark.lowest:.2f}")


def test_a_guided_network_is_told_the_true_kind_and_left_out_where_it_has_no_word(shards):
    spec = models.get("dfpir_s")
    restorer = TorchRestorer(spec.build(spec.config), spec, device="cpu", precision="float32")
    results = evaluate_shards(restorer, shards, limit=1)
    told = {kind: result.diagnosis for kind, result in results.items()}
    assert (told["noise_25"], told["rain"], told["blur_defocus"]) == ("noise", "rain", "blur")
    assert not {"jpeg", "composite", "clean", "clean_drawn"} & set(told)


def test_wrong_calls_are_refused(shards, tmp_path):
    with pytest.raises(InputError, match="limit is 0"):
        evaluate_shards(IdentityRestorer(), shards, limit=0)
    with pytest.raises(RecipeError, match="no shard folder"):
        evaluate_shards(IdentityRestorer(), tmp_path)
    (tmp_path / "manifest.json").write_text('{"files": []}')
    with pytest.raises(InputError, match="no validation pairs"):
        evaluate_shards(IdentityRestorer(), tmp_path)
