import csv
import json
import shutil

import pytest
import torch
from tests.toys import shaken
from torch import nn

from pellucid import models
from pellucid.diagnosis import Recognizer
from pellucid.errors import InputError, UnknownNameError
from pellucid.evaluate import evaluate_suite, plan_suite
from pellucid.evaluate.report import comparison, render
from pellucid.evaluate.suites import SUITES, published, published_sources
from pellucid.models.recognizer import Answers, RecognizerConfig
from pellucid.restorer import IdentityRestorer, TorchRestorer

# Rows whose printed averages do not follow from their printed columns; `published.toml` says so.
SLIPS = {"Restormer", "NAFNet", "DL", "MEASNet"}


@pytest.mark.parametrize("suite", SUITES)
def test_published_averages_follow_from_the_columns(suite):
    keys = [s.key for s in SUITES[suite]]
    rows = published(suite)
    assert len(rows) > 25
    for row in rows:
        assert list(row.scores) == keys, row
        assert row.source in published_sources()
        for position, digits in ((0, 0.015), (1, 0.0016)):
            values = [scores[position] for scores in row.scores.values()]
            if row.average is None or None in values or row.method in SLIPS:
                continue
            assert row.average[position] == pytest.approx(sum(values) / len(values), abs=digits), row


def test_the_papers_own_rows_are_as_printed():
    three = {(row.method, row.source): row for row in published("3task")}
    assert three["DaAIR", "survey"].scores["sots_outdoor"] == (32.30, 0.981)
    assert three["DFPIR", "dfpir"].average == (32.88, 0.919)
    five = {(row.method, row.source): row for row in published("5task")}
    assert five["DaAIR", "survey"].scores["gopro"] == (29.51, 0.890)
    assert five["DFPIR", "dfpir"].average == (30.64, 0.913)
    assert three["SymUNet", "symunet"].scores["rain100l"] == (39.12, None)
    averages = [row.average[0] for row in published("3task") if row.average]
    assert averages == sorted(averages, reverse=True)


def test_a_whole_suite_has_its_average(root):
    result = evaluate_suite(IdentityRestorer(), root, "3task")
    assert list(result.sets) == ["sots_outdoor", "rain100l", "cbsd68_15", "cbsd68_25", "cbsd68_50"]
    assert result.average is not None
    assert result.average.psnr == pytest.approx(sum(r.output.psnr for r in result.sets.values()) / 5)
    assert result.sets["cbsd68_15"].output.psnr > result.sets["cbsd68_50"].output.psnr + 5
    assert (result.missing, result.failed) == ({}, {})
    assert "Rain100L holds 5 pictures here; the published means are over 100" in result.notes[1]
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["sets"]["rain100l"]["n"] == 5
    assert values["average"]["ssim"] == result.average.ssim
    assert len(values["published"]) == len(published("3task"))


def test_missing_sets_are_named_and_skipped(root):
    result = evaluate_suite(IdentityRestorer(), root, "5task")
    assert list(result.sets) == ["sots_outdoor", "rain100l", "cbsd68_25"]
    assert result.average is None
    assert set(result.missing) == {"gopro", "lol_v1"}
    assert "no folder" in result.missing["gopro"]
    assert str(root / "gopro" / "degraded") in result.missing["gopro"]
    assert result.to_dict()["average"] is None


def test_nothing_there_is_no_error_but_a_plan_without_sets(tmp_path):
    plan = plan_suite(tmp_path, "3task")
    assert plan.present == {}
    assert len(plan.missing) == 5


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere is no folder"):
        plan_suite(tmp_path / "nowhere", "5task")


def test_a_set_without_partners_is_refused_before_any_is_run(root):
    (root / "rain100l" / "clean" / "1.png").unlink()
    with pytest.raises(InputError, match=r"without a partner: degraded/1\.png"):
        evaluate_suite(IdentityRestorer(), root, "3task")


def test_a_damaged_picture_does_not_end_the_other_sets(root):
    (root / "sots_outdoor" / "degraded" / "0.png").write_bytes(b"damaged")
    result = evaluate_suite(IdentityRestorer(), root, "3task")
    assert set(result.failed) == {"sots_outdoor"}
    assert "SOTS outdoor could not be finished" in result.failed["sots_outdoor"]
    assert len(result.sets) == 4
    assert result.average is None


def test_another_protocol_is_not_to_be_compared(root):
    result = evaluate_suite(IdentityRestorer(), root, "3task", protocol="papers-y")
    assert any("can't be compared" in note for note in result.notes)


def guided(prompts: tuple[str, ...], recognizer: Recognizer | None = None) -> TorchRestorer:
    spec = models.get("dfpir_s")
    network = shaken(spec, 0.02, prompts=prompts)  # fresh, it heeds no prompt
    return TorchRestorer(network, spec, device="cpu", precision="float32", recognizer=recognizer)


class AlwaysHaze(nn.Module):
    """A recognizing network that has made up its mind."""

    config = RecognizerConfig()

    def forward(self, x: torch.Tensor) -> Answers:
        logits = torch.tensor([[9.0 if kind == "haze" else -9.0 for kind in (*self.config.kinds, "nothing")]])
        return Answers(logits, torch.ones(1, len(self.config.kinds)), torch.ones(1))


def test_a_guided_network_is_told_the_true_kind(root, monkeypatch):
    monkeypatch.setattr("pellucid.restorer.RECOGNIZER", "nobody")
    for folder in ("sots_outdoor", "rain100l"):
        for side in ("clean", "degraded"):
            for path in sorted((root / folder / side).iterdir())[1:]:
                path.unlink()
    restorer = guided(("noise_15", "rain", "noise_50", "haze", "noise"))
    result = evaluate_suite(restorer, root, "3task")
    told = {key: evaluation.diagnosis for key, evaluation in result.sets.items()}
    assert told == {
        "sots_outdoor": "haze",
        "rain100l": "rain",
        "cbsd68_15": "noise_15",
        "cbsd68_25": "noise",
        "cbsd68_50": "noise_50",
    }
    assert "no recognizer is there" in result.notes[0] and not result.recognized
    assert result.parameters == sum(p.numel() for p in guided(("noise",)).network.parameters())


def test_a_guided_network_is_measured_with_the_kind_recognized_too(root):
    shutil.rmtree(root / "cbsd68")
    restorer = guided(("rain", "haze", "noise"), recognizer=Recognizer(AlwaysHaze()))
    result = evaluate_suite(restorer, root, "3task")
    assert {key: e.diagnosis for key, e in result.sets.items()} == {
        "sots_outdoor": "haze",
        "rain100l": "rain",
    }
    assert result.recognized.keys() == result.sets.keys()
    # Told haze where it is haze, the network gives the same; told haze where it is rain, it gives another.
    assert result.recognized["sots_outdoor"].output == result.sets["sots_outdoor"].output
    assert result.recognized["rain100l"].output != result.sets["rain100l"].output
    assert "kind recognized" in result.notes[0]
    names = [row[0] for row in comparison(result)[1:3]]
    assert names == ["dfpir_s (ours)", "dfpir_s, kind recognized (ours)"]
    assert result.to_dict()["recognized"]["rain100l"]["diagnosis"] == "recognized"


def test_the_guard_and_its_recognizer_are_recorded(root):
    shutil.rmtree(root / "cbsd68")
    recognizer = Recognizer(AlwaysHaze(), weights_sha256="5" * 64)
    spec = models.get("daair_s")
    network = shaken(spec, 0.02)
    blind = {
        guard: TorchRestorer(
            network, spec, device="cpu", precision="float32", guard=guard, recognizer=recognizer
        )
        for guard in (True, False)
    }
    guarded, plain = (evaluate_suite(blind[guard], root, "3task") for guard in (True, False))
    rain = guarded.to_dict()["sets"]["rain100l"]
    assert (rain["guard"], rain["recognizer_sha256"], rain["diagnosis"]) == (True, "5" * 64, None)
    rain = plain.to_dict()["sets"]["rain100l"]
    assert (rain["guard"], rain["recognizer_sha256"], rain["diagnosis"]) == (False, None, None)
    assert comparison(guarded)[1][0] == "daair_s, guarded (ours)"
    assert comparison(plain)[1][0] == "daair_s (ours)"
    for suffix in (".md", ".html"):
        assert f"papers, guarded by recognizer {'5' * 16}" in render(guarded, suffix, {})
        assert "guarded" not in render(plain, suffix, {})
    (row, *_) = csv.DictReader(render(guarded, ".csv", {}).splitlines())
    assert (row["method"], row["guard"], row["recognizer_sha256"]) == ("daair_s, guarded", "True", "5" * 64)

    told = guided(("rain", "haze", "noise"), recognizer=recognizer)
    told.guard = True
    result = evaluate_suite(told, root, "3task")
    names = [row[0] for row in comparison(result)[1:3]]  # told the kind, the recognizer is not asked
    assert names == ["dfpir_s (ours)", "dfpir_s, kind recognized, guarded (ours)"]
    words = f", kind recognized and guarded by recognizer {'5' * 16}"
    assert result.recognized["rain100l"].told == words
    assert result.sets["rain100l"].told == ", told rain"


def test_a_guided_network_without_the_right_prompt_is_refused(root):
    with pytest.raises(InputError, match=r"no prompt for SOTS outdoor: it knows rain, expected haze"):
        evaluate_suite(guided(("rain",)), root, "3task")


def test_an_unknown_suite_is_refused(root):
    with pytest.raises(UnknownNameError, match="Did you mean 3task"):
        plan_suite(root, "3tasks")


def test_the_pictures_are_handed_to_the_witness(root):
    shutil.rmtree(root / "cbsd68")
    seen = []
    evaluate_suite(
        IdentityRestorer(),
        root,
        "3task",
        witness=lambda s: lambda scores, *_: seen.append((s.key, scores.name)),
    )
    assert seen == [("sots_outdoor", f"{i}.png") for i in range(2)] + [
        ("rain100l", f"{i}.png") for i in range(5)
    ]
