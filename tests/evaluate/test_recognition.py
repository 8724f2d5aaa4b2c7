import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pellucid import labels
from pellucid.data import Shards, load_shards
from pellucid.diagnosis import Recognizer, calibrate
from pellucid.errors import InputError
from pellucid.evaluate import recognition
from pellucid.evaluate.recognition import (
    Judged,
    calibrate_network,
    calibration_error,
    confusion,
    evaluate_recognizer,
    f1,
    fit_platt,
    judge,
    reliability,
    score,
)
from pellucid.labels import KINDS, validation_pictures, with_drawn
from pellucid.models.recognizer import SCALES, RecognizerConfig, RecognizerNetwork

NAN = math.nan
K = len(KINDS)


def column(values: list[float]) -> torch.Tensor:
    """(N, K) whose first kind has these values, and whose others have no label."""
    table = torch.full((len(values), K), NAN)
    table[:, 0] = torch.tensor(values)
    return table


def test_f1_counts_only_what_has_a_label():
    presence = column([1, 1, 0, 0, NAN, 1])
    said = torch.zeros(6, K, dtype=torch.bool)
    said[[0, 2, 4], 0] = True  # one hit, one false, one without a label; two are missed
    assert confusion(presence, said)["noise"] == {"hit": 1, "missed": 2, "false": 1, "rest": 1}
    assert f1(presence, said)["noise"] == pytest.approx(2 / 5)
    assert f1(presence, said)["rain"] is None


def test_f1_agrees_with_its_definition_by_precision_and_recall():
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(200, K, generator=rng) < 0.4
    said = torch.rand(200, K, generator=rng) < 0.5
    found = f1(truth.float(), said)
    for i, kind in enumerate(KINDS):
        precision = float(truth[said[:, i], i].float().mean())
        recall = float(said[truth[:, i], i].float().mean())
        assert found[kind] == pytest.approx(2 * precision * recall / (precision + recall))


def test_calibration_error_is_the_mean_gap_of_the_bins():
    probabilities = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.05, 0.05])
    truth = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, NAN])
    bins = reliability(probabilities, truth)
    assert [n for n, _, _ in bins] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 4]
    assert bins[9][1:] == pytest.approx((0.95, 0.75))
    assert calibration_error(bins) == pytest.approx((4 * 0.20 + 1 * 0.05) / 5)


def test_bins_are_of_equal_width_and_the_last_holds_its_end():
    bins = reliability(torch.tensor([0.19, 0.16, 1.0]), torch.tensor([0.0, 1.0, 1.0]))
    assert [n for n, _, _ in bins] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 1]


def test_logits_about_which_nothing_is_known_stay_as_they_are():
    assert fit_platt(torch.randn(5, 2), torch.full((5, 2), NAN)) == ((1.0, 1.0), (0.0, 0.0))


def test_what_is_always_there_is_not_taken_for_certain():
    _, (offset,) = fit_platt(torch.zeros(200, 1), torch.ones(200, 1))
    assert 1 < offset < 6


def test_platt_finds_slope_and_offset():
    """Labels drawn with known slope and offset: both come back, and the error of calibration falls."""
    rng = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20_000, 2, generator=rng)
    true = torch.tensor([[0.5, 1.0], [1.5, -1.0]])  # of each column: slope, offset
    chance = (logits * true[:, 0] + true[:, 1]).sigmoid()
    truth = (torch.rand(chance.shape, generator=rng) < chance).float()
    truth[::7] = NAN
    slopes, offsets = fit_platt(logits, truth)
    assert slopes == pytest.approx([0.5, 1.5], abs=0.1)
    assert offsets == pytest.approx([1.0, -1.0], abs=0.15)
    calibrated = (logits * torch.tensor(slopes) + torch.tensor(offsets)).sigmoid()
    assert calibration_error(reliability(calibrated, truth)) < 0.02
    assert calibration_error(reliability(logits.sigmoid(), truth)) > 0.04


def judged(count: int = 40) -> Judged:
    """Pictures with noise of sigma 20, every second clean instead, about which the network is right."""
    presence = torch.zeros(count, K + 1)
    presence[::4, 0] = presence[1::4, 0] = 1
    presence[:, -1] = 1 - presence[:, 0]
    truths = torch.full((count, K), NAN)
    truths[presence[:, 0] == 1, 0] = 20.0
    strengths = torch.zeros(count, K)
    strengths[:, 0] = SCALES["noise"].encode(22.0)
    logits = 6 * presence - 3
    rows = tuple("noise_25" if p else "clean" for p in presence[:, 0].tolist())
    return Judged(
        rows, torch.arange(count), presence, truths, logits, strengths, torch.linspace(0.5, 1.5, count)
    )


def test_scores_are_taken_from_the_odd_pictures_alone():
    config = replace(RecognizerConfig(), familiar=9.0)
    pictures = judged()
    spoiled = pictures.logits.clone()
    spoiled[pictures.numbers % 2 == 0] *= -1  # the even ones all wrong
    scores = score(replace(pictures, logits=spoiled), config)
    assert scores["n"] == 20
    assert scores["kinds"]["noise"]["single"]["f1"] == 1.0
    assert scores["sigma_error"]["gaussian"] == pytest.approx(0.1, abs=1e-3)
    assert scores["rows"]["clean"]["nothing wrong"] == scores["rows"]["clean"]["n"] == 10
    assert scores["rows"]["noise_25"]["degraded"] == 10


def test_strengths_are_compared_where_they_show_single_and_mixed_apart():
    pictures = judged()
    rows = tuple("composite_2" if i % 8 == 1 else row for i, row in enumerate(pictures.rows))
    strengths, truths = pictures.strengths.clone(), pictures.truths.clone()
    strengths[1::8, 0] = SCALES["noise"].encode(30.0)
    truths[3::4, 0] = 0.5  # too faint to be seen, so absent
    scores = score(
        replace(pictures, rows=rows, strengths=strengths, truths=truths),
        replace(RecognizerConfig(), familiar=9.0),
    )
    assert scores["sigma_error"] == pytest.approx(
        {"gaussian": 0.1, "single": 0.1, "composite": 0.5}, abs=1e-3
    )
    noise = scores["kinds"]["noise"]
    assert [noise[part]["absolute_error"] for part in ("single", "composite")] == pytest.approx(
        [2, 10], abs=0.01
    )


def test_each_kind_has_a_calibration_error_of_its_own():
    pictures, other = judged(), KINDS[1]
    logits = pictures.logits.clone()
    logits[:, 1] = 3  # said with 95 %, and nowhere there
    scores = score(replace(pictures, logits=logits), replace(RecognizerConfig(), familiar=9.0))
    errors = [scores["kinds"][kind]["calibration_error"] for kind in ("noise", other)]
    assert errors == pytest.approx([0.0474, 0.9526], abs=1e-3)
    assert scores["worst_kind_calibration_error"] == errors[1]


def test_a_short_look_asks_of_clean_pictures_whether_they_are_said_to_be(monkeypatch):
    pictures = judged()
    logits = pictures.logits.clone()
    logits[2, -1] = -1  # one of the 20
    monkeypatch.setattr(recognition, "ask", lambda *_: replace(pictures, logits=logits))
    assert judge(RecognizerNetwork(RecognizerConfig(crop=32)), Shards({}, "none"))[
        "clean_said_clean"
    ] == pytest.approx(0.95)


def test_calibration_is_taken_from_the_even_pictures_alone():
    pictures = judged()
    spoiled = pictures.logits.clone()
    spoiled[pictures.numbers % 2 == 1] *= -1
    config = calibrate_network(replace(pictures, logits=spoiled), RecognizerConfig())
    assert len(config.slopes) == len(config.offsets) == K + 1
    assert (calibrate(pictures.logits[0], config)[0] > 0.95) and (
        calibrate(pictures.logits[2], config)[0] < 0.05
    )
    even = pictures.novelty[pictures.numbers % 2 == 0]
    assert 1.4 < config.familiar <= float(even.max())


def test_a_recognizer_is_measured_on_shards_and_its_rows_make_a_table(shards: Path, monkeypatch):
    monkeypatch.setattr(labels, "VALIDATION_DRAWN", 9)
    torch.manual_seed(0)
    network = RecognizerNetwork(RecognizerConfig(crop=32, familiar=9.0))
    scores, table = evaluate_recognizer(Recognizer(network, name="r", weights_sha256="ab"), shards)
    rows = list(csv.DictReader(table.splitlines()))
    assert {(row["kind"], row["pictures"]) for row in rows} == {
        (kind, part) for kind in (*KINDS, "all") for part in ("single", "composite")
    }
    assert all(row["weights_sha256"] == "ab" and row["data_sha256"] and row["version"] for row in rows)
    assert {(row["device"], row["precision"]) for row in rows} == {("cpu", "float32")}
    loaded = with_drawn(load_shards(shards, "val"), 9, labels.VALIDATION_SEED)
    odd = [name for name, number, _ in validation_pictures(loaded) if number % 2]
    assert scores["n"] == len(odd)
    assert len(scores["strange"]) >= 8


def test_shards_without_validation_pictures_are_refused():
    network = RecognizerNetwork(RecognizerConfig(crop=32, widths=(4, 4, 8, 8), hidden=8))
    with pytest.raises(InputError, match="no validation pictures"):
        judge(network, Shards({}, "none"))
