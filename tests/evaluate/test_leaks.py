"""Every result says whether its test pictures were trained on."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.data import load_shards, validation_pairs
from pellucid.datasets.training_pictures import KEY, TrainingPictures
from pellucid.evaluate import evaluate_denoising, evaluate_pairs, evaluate_shards, evaluate_suite
from pellucid.evaluate.leaks import LeakCheck, worst
from pellucid.evaluate.report import comparison, render
from pellucid.evaluate.scores import picture_table
from pellucid.evaluate.shards import results_table
from pellucid.image_io import read_image
from pellucid.restorer import IdentityRestorer


def photograph(path: Path, seed: int, factor: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(60, 240, (6, 9, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((96, 64), Image.Resampling.BICUBIC)) * factor
    Image.fromarray(pixels.astype(np.uint8)).save(path)


class Trained(IdentityRestorer):
    """Says that it was trained on some pictures."""

    def __init__(self, *paths: Path) -> None:
        pixels = (read_image(p).pixels.mul(255).round().byte().permute(1, 2, 0) for p in paths)
        self.provenance = {KEY: TrainingPictures.of(pixels).to_dict()}


@pytest.fixture
def sets(tmp_path) -> Path:
    """Rain100L with the pictures 1 to 3, CBSD68 with the pictures 4 and 5; outside of both, 6."""
    for seed in (1, 2, 3):
        photograph(tmp_path / f"root/rain100l/clean/{seed}.png", seed)
        photograph(tmp_path / f"root/rain100l/degraded/{seed}.png", seed, 0.5)
    for seed in (4, 5):
        photograph(tmp_path / f"root/cbsd68/clean/{seed}.png", seed)
    photograph(tmp_path / "6.png", 6)
    return tmp_path


def test_pictures_that_were_trained_on_are_counted_and_named(sets):
    rain = sets / "root/rain100l"
    restorer = Trained(rain / "clean/2.png", rain / "clean/3.png", sets / "6.png")
    result = evaluate_pairs(restorer, rain)
    assert [p.trained_on for p in result.pictures] == [False, True, True]
    assert result.leak == LeakCheck(training=3, test=3, leaked=("2.png", "3.png"))
    assert str(result.leak) == "with a leak: 2 of 3 test pictures were trained on: 2.png, 3.png"
    assert result.origin["leak"] == str(result.leak)
    assert json.loads(json.dumps(result.to_dict()))["leak"]["leaked"] == ["2.png", "3.png"]
    rows = list(csv.DictReader(io.StringIO(picture_table({"rain": result}))))
    assert [row["trained_on"] for row in rows] == ["False", "True", "True"]
    assert {row["leak"] for row in rows} == {str(result.leak)}


def test_leak_free_is_said_with_both_numbers(sets):
    result = evaluate_denoising(Trained(sets / "6.png"), sets / "root/cbsd68", 25)
    told = "leak-free (none of the 2 test pictures is among the 1 training pictures by perceptual hash)"
    assert str(result.leak) == told
    assert result.to_dict()["leak"] == {
        "status": "leak-free",
        "training": 1,
        "test": 2,
        "leaked": [],
        "words": told,
    }


def test_weights_that_say_nothing_leave_it_unknown(sets):
    result = evaluate_denoising(IdentityRestorer(), sets / "root/cbsd68", 25)
    assert result.leak == LeakCheck(None, 2, ())
    assert "carry no hashes of their training pictures" in str(result.leak)
    assert "pellucid data leak" in str(result.leak)
    assert [p.trained_on for p in result.pictures] == [None, None]


def test_many_names_are_cut_in_a_sentence_and_whole_in_json():
    check = LeakCheck(9, 8, tuple("abcdefg"))
    assert str(check).endswith("7 of 8 test pictures were trained on: a, b, c, d, e and 2 more")
    assert check.to_dict()["leaked"] == list("abcdefg")
    assert check.short == "with a leak: 7 of 8"


def test_a_mean_over_sets_has_the_worst_of_their_states():
    free, unknown, leaky = LeakCheck(9, 2, ()), LeakCheck(None, 2, ()), LeakCheck(9, 2, ("a",))
    assert worst([free, free]) == "leak-free"
    assert worst([free, unknown]) == "leak unknown"
    assert worst([unknown, leaky, free]) == "with a leak"


def test_every_report_of_a_suite_says_it(sets):
    restorer = Trained(sets / "root/rain100l/clean/2.png")
    result = evaluate_suite(restorer, sets / "root", "3task")
    assert result.leak == "with a leak"
    rain, noise = str(result.sets["rain100l"].leak), str(result.sets["cbsd68_15"].leak)
    assert "1 of 3" in rain and noise.startswith("leak-free")
    for suffix in (".md", ".html"):
        text = render(result, suffix, {})
        assert f"Rain100L: {rain}." in text
        assert f"CBSD68 σ 15, CBSD68 σ 25, CBSD68 σ 50: {noise}." in text
        assert "with a leak: 1 of 3" in text
        assert "with the published leak" in text
    values = result.to_dict()
    assert values["leak"] == "with a leak"
    assert values["sets"]["rain100l"]["leak"]["leaked"] == ["2.png"]
    assert all("75 of the 100" in row["leak"]["rain100l"] for row in values["published"])
    rows = list(csv.DictReader(io.StringIO(render(result, ".csv", {}))))
    told = {(row["method"], row["set"]): row["leak"] for row in rows}
    assert told["identity", "rain100l"] == rain
    assert told["identity", "cbsd68_15"] == noise
    assert "75 of the 100 test pictures lie in BSD400" in told["PromptIR", "rain100l"]
    assert told["PromptIR", "sots_outdoor"] == ""
    assert told["PromptIR", "average"] == "with the published leak (Rain100L)"


def test_the_comparison_has_a_column_for_it(sets):
    rows = comparison(evaluate_suite(Trained(sets / "6.png"), sets / "root", "3task"))
    column = rows[0].index("leak")
    assert rows[1][column] == "leak-free"
    assert {row[column] for row in rows[2:]} == {"with the published leak (Rain100L)"}


def test_the_rows_of_the_results_folder_say_it(shards):
    restorer = IdentityRestorer()
    pairs = validation_pairs(load_shards(shards, "val"), 1, ["low_light"])
    trained = TrainingPictures.of((clean[0] * 255).round().byte().permute(1, 2, 0) for *_, clean in pairs)
    restorer.provenance = {KEY: trained.to_dict()}  # type: ignore[attr-defined]
    results = evaluate_shards(restorer, shards, limit=1)
    rows = {r["kind"]: r["leak"] for r in csv.DictReader(io.StringIO(results_table(results)))}
    assert rows["low_light"] == "with a leak: 1 of 1 test pictures were trained on: low_light/0"
    assert all(words.startswith(("leak-free", "with a leak")) for words in rows.values())
