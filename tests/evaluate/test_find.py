"""Test sets found as projects keep them, and what is said about those that are not whole."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.evaluate import evaluate_suite, plan_suite
from pellucid.evaluate.find import Found, find_set
from pellucid.restorer import IdentityRestorer

SIDES = (40, 56)  # height and width


def picture(path: Path, seed: int, *, factor: float = 1.0, size: tuple[int, int] = SIDES) -> None:
    """A smooth picture of its own for every seed, darkened by `factor`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(60, 240, (4, 6, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)) * factor
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def pairs(folder: Path, names: Iterable[tuple[str, str]], *, seed: int) -> None:
    """Each (degraded, clean); a name that returns is the same picture."""
    for degraded, clean in names:
        number = seed + sum(clean.encode())
        picture(folder / clean, number)
        picture(folder / degraded, number, factor=0.5)


HAZE = [("input/0001_0.8_0.2.jpg", "target/0001.png"), ("input/0001_1_0.08.jpg", "target/0001.png")]


@pytest.fixture
def promptir(tmp_path) -> Path:
    """The folders of PromptIR's, AirNet's and AdaIR's instructions."""
    pairs(tmp_path / "test/derain/Rain100L", [(f"input/{i}.png", f"target/{i}.png") for i in (1, 2)], seed=1)
    pairs(tmp_path / "test/dehaze", HAZE, seed=1000)
    pairs(
        tmp_path / "test/deblur/gopro",
        [("input/GOPR0384_11_00_000001.png", "target/GOPR0384_11_00_000001.png")],
        seed=2000,
    )
    pairs(tmp_path / "test/enhance/lol", [("input/1.png", "target/1.png")], seed=3000)
    for number, name in enumerate(("3096.jpg", "12084.jpg")):
        picture(tmp_path / "test/denoise/bsd68" / name, 4000 + number)
    return tmp_path


@pytest.fixture
def dfpir(tmp_path) -> Path:
    """DFPIR's folders, with LOL as distributed and GoPro in the folders of its scenes."""
    pairs(tmp_path / "derain/Rain100L", [("input/rain-001.png", "target/norain-001.png")], seed=1)
    pairs(tmp_path / "dehaze", HAZE, seed=1000)
    pairs(
        tmp_path / "GOPRO_Large/test",
        [
            ("GOPR0384_11_00/blur/000001.png", "GOPR0384_11_00/sharp/000001.png"),
            ("GOPR0384_11_05/blur/000001.png", "GOPR0384_11_05/sharp/000001.png"),
        ],
        seed=2000,
    )
    pairs(tmp_path / "LOLdataset/eval15", [("low/1.png", "high/1.png")], seed=3000)
    picture(tmp_path / "test/denoise/bsd68/3096.jpg", 4000)
    return tmp_path


def test_a_suite_in_promptirs_folders(promptir):
    result = evaluate_suite(IdentityRestorer(), promptir, "5task")
    assert {key: e.n for key, e in result.sets.items()} == {
        "sots_outdoor": 2,
        "rain100l": 2,
        "cbsd68_25": 2,
        "gopro": 1,
        "lol_v1": 1,
    }
    assert (result.missing, result.failed) == ({}, {})
    assert result.average is not None
    assert result.where["rain100l"] == f"{promptir / 'test/derain/Rain100L'} (layout promptir)"
    hazy = [(p.name, p.input.psnr) for p in result.sets["sots_outdoor"].pictures]
    assert [name for name, _ in hazy] == ["0001_0.8_0.2.jpg", "0001_1_0.08.jpg"]
    assert all(psnr < 20 for _, psnr in hazy), "each against the clean picture of its own number"


def test_a_suite_in_dfpirs_folders(dfpir):
    result = evaluate_suite(IdentityRestorer(), dfpir, "5task")
    assert list(result.sets) == ["sots_outdoor", "rain100l", "cbsd68_25", "gopro", "lol_v1"]
    assert {key: where.rpartition("layout ")[2] for key, where in result.where.items()} == {
        "sots_outdoor": "promptir)",
        "rain100l": "dfpir)",
        "cbsd68_25": "promptir)",
        "gopro": "original)",
        "lol_v1": "original)",
    }
    names = [p.name for p in result.sets["gopro"].pictures]
    assert names == ["GOPR0384_11_00/blur/000001.png", "GOPR0384_11_05/blur/000001.png"]


def test_partners_are_those_of_the_rules_and_not_of_the_order(tmp_path):
    """Rain100L's pictures 2 and 10 sort differently as text on their two sides."""
    pairs(
        tmp_path / "rain_data_test_Light",
        [(f"rain/X2/norain-{i}x2.png", f"norain/norain-{i}.png") for i in (2, 10)],
        seed=1,
    )
    result = evaluate_suite(IdentityRestorer(), tmp_path, "3task")
    scores = {p.name: p.input.psnr for p in result.sets["rain100l"].pictures}
    swapped = Image.open(tmp_path / "rain_data_test_Light/rain/X2/norain-2x2.png")
    wrong = np.asarray(Image.open(tmp_path / "rain_data_test_Light/norain/norain-10.png"), float)
    wrong_psnr = 10 * np.log10(255**2 / ((np.asarray(swapped, float) - wrong)[4:36, 4:52] ** 2).mean())
    right = np.asarray(Image.open(tmp_path / "rain_data_test_Light/norain/norain-2.png"), float)
    right_psnr = 10 * np.log10(255**2 / ((np.asarray(swapped, float) - right)[4:36, 4:52] ** 2).mean())
    assert abs(right_psnr - wrong_psnr) > 0.1
    assert scores["norain-2x2.png"] == pytest.approx(right_psnr, abs=1e-4)


def test_the_same_pictures_have_the_same_noise_and_hash_in_both_forms(promptir, tmp_path_factory):
    other = tmp_path_factory.mktemp("plain")
    (other / "cbsd68").mkdir()
    (promptir / "test/denoise/bsd68").rename(other / "cbsd68/clean")
    plain = evaluate_suite(IdentityRestorer(), other, "3task").sets["cbsd68_25"]
    (other / "cbsd68/clean").rename(promptir / "test/denoise/bsd68")
    laid_out = evaluate_suite(IdentityRestorer(), promptir, "3task").sets["cbsd68_25"]
    assert plain.input == laid_out.input
    assert plain.data_sha256 == laid_out.data_sha256


def test_the_set_may_lie_in_a_folder_of_its_own_name(promptir):
    (promptir / "test/derain/Rain100L").rename(promptir / "rain100l")
    found = find_set(promptir, "rain100l")
    assert isinstance(found, Found)
    assert found.where == f"{promptir / 'rain100l'} (layout promptir)"


def test_of_two_forms_the_first_is_taken_and_named(promptir):
    for side in ("degraded", "clean"):
        picture(promptir / "rain100l" / side / "7.png", 1)
    result = evaluate_suite(IdentityRestorer(), promptir, "3task")
    assert [p.name for p in result.sets["rain100l"].pictures] == ["7.png"]
    told = next(note for note in result.notes if "is there twice" in note)
    assert str(promptir / "rain100l") in told
    assert str(promptir / "test/derain/Rain100L") in told
    assert told.endswith("the first is taken.")


def test_what_is_wrong_is_named_with_counts_and_left_out(promptir):
    rain = promptir / "test/derain/Rain100L"
    (rain / "target/2.png").unlink()
    picture(rain / "input/3.png", 3, size=(48, 48))
    picture(rain / "target/3.png", 3, size=(40, 48))
    picture(rain / "input/4.png", 4)
    (rain / "target/4.png").write_bytes(b"damaged")
    result = evaluate_suite(IdentityRestorer(), promptir, "3task")
    assert [p.name for p in result.sets["rain100l"].pictures] == ["1.png"]
    told = next(note for note in result.notes if note.startswith("Rain100L in "))
    assert "1 mispaired (first: test/derain/Rain100L/input/3.png: is 48x48, its clean partner" in told
    assert "193 missing (first: test/derain/Rain100L/input/5.png: nothing of id 5 is here" in told
    assert "1 undecodable (first: test/derain/Rain100L/target/4.png" in told
    assert "2 of its pairs are left out" in told
    assert f"pellucid data verify rain100l {promptir}" in told
    assert result.failed == {}


def test_a_set_of_which_no_pair_is_usable_is_skipped(promptir):
    for number in (1, 2):
        (promptir / f"test/derain/Rain100L/input/{number}.png").write_bytes(b"damaged")
    plan = plan_suite(promptir, "3task")
    assert "rain100l" not in plan.present
    assert "2 undecodable" in plan.missing["rain100l"]


def test_a_folder_of_one_set_is_not_taken_for_another(promptir):
    """LOL-v1 and Rain100L both have a picture 1 in input/ and target/."""
    plan = plan_suite(promptir / "test/derain/Rain100L", "5task")
    found = sorted(set(plan.present) & {"rain100l", "lol_v1"})
    assert len(found) == 1
    loser = ({"rain100l", "lol_v1"} - set(found)).pop()
    assert "whose rules it fits better" in plan.missing[loser]


def test_what_is_not_there_says_what_was_expected(tmp_path):
    told = find_set(tmp_path, "rain100l")
    assert isinstance(told, str)
    assert "there is no folder" in told
    assert "Expected a path such as input/1.png (promptir, test)" in told
