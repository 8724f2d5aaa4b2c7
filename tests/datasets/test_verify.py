"""What is particular in holding a folder against a manifest; what all manifests owe is under contract."""

from pathlib import Path

import pytest
from PIL import Image

from pellucid.datasets import load_manifest
from pellucid.datasets.verify import SplitReport, find_pairs, verify
from pellucid.errors import InputError, UnknownNameError

SIZE = (481, 321)


def write(path: Path, level: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level % 256, 30, 90)).save(path)


def only(found: object) -> SplitReport:
    (report,) = found.splits  # type: ignore[attr-defined]
    return report


def told(report: SplitReport, kind: str) -> list[str]:
    return [f"{fault.path}: {fault.what}" for fault in report.faults if fault.kind == kind]


@pytest.fixture
def lol(tmp_path: Path) -> Path:
    """The test half of LOL-v1, whole."""
    for name in load_manifest("lol_v1").splits["test"].known["id"]:
        write(tmp_path / f"eval15/low/{name}.png", 1, (600, 400))
        write(tmp_path / f"eval15/high/{name}.png", 2, (600, 400))
    return tmp_path


def test_a_whole_set_is_whole_and_its_other_half_is_absent(lol: Path) -> None:
    found = verify("lol_v1", lol)
    assert found.ok and found.absent == ("train",)
    report = only(found)
    assert (report.split, report.layout, report.folder) == ("test", "original", "eval15")
    assert (report.degraded, report.clean) == (15, 15)
    assert report.counts == dict.fromkeys(("missing", "extra", "mispaired", "size", "undecodable"), 0)


def test_a_pair_that_is_gone_is_named_with_both_files(lol: Path) -> None:
    for side in ("low", "high"):
        (lol / f"eval15/{side}/55.png").unlink()
    report = only(verify("lol_v1", lol))
    assert told(report, "missing") == [
        "eval15/low/55.png: nothing of id 55 is here: this and the clean partner eval15/high/55.png"
    ]
    assert report.counts["missing"] == 2


def test_folders_above_change_nothing(lol: Path, tmp_path: Path) -> None:
    """The field's code replaces "low" by "high" in whole paths, which a folder called lowlight breaks."""
    (tmp_path / "deblur").mkdir()
    (lol / "eval15").rename(tmp_path / "deblur" / "lowlight_low")
    assert verify("lol_v1", tmp_path / "deblur" / "lowlight_low").ok
    assert len(find_pairs("lol_v1", tmp_path / "deblur" / "lowlight_low", "test")) == 15


def test_a_split_or_layout_can_be_asked_for(lol: Path) -> None:
    assert verify("lol_v1", lol, split="test").absent == ()
    with pytest.raises(InputError, match=r"holds nothing of LOL-v1 .* such as low/2.png \(original, train\)"):
        verify("lol_v1", lol / "eval15" / "low", split="train")
    report = only(verify("lol_v1", lol, layout="adair", split="test"))
    assert report.counts["missing"] == 30 and report.counts["extra"] == 30
    for options in ({"split": "val"}, {"layout": "mine"}):
        with pytest.raises(UnknownNameError):
            verify("lol_v1", lol, **options)
    with pytest.raises(UnknownNameError, match="has no split train"):
        verify("rain100l", lol, layout="dfpir", split="train")


def test_pictures_of_another_set_in_the_same_folder_are_no_fault(tmp_path: Path) -> None:
    write(tmp_path / "2018.jpg")
    write(tmp_path / "00001.bmp", size=(40, 30))
    bsd, wed = only(verify("bsd400", tmp_path)), only(verify("wed", tmp_path))
    assert (bsd.clean, bsd.counts["missing"], bsd.counts["extra"]) == (1, 399, 0)
    assert (wed.clean, wed.counts["missing"], wed.counts["extra"]) == (1, 4743, 0)


def test_a_picture_of_none_of_the_sets_numbers_is_extra(tmp_path: Path) -> None:
    write(tmp_path / "2018.jpg")
    write(tmp_path / "3096.jpg")  # of BSDS500, but from its validation half: CBSD68
    report = only(verify("bsd400", tmp_path))
    assert told(report, "extra") == ["3096.jpg: id 3096 is none of the set's"]


def test_the_same_picture_twice_by_name_is_extra(tmp_path: Path) -> None:
    write(tmp_path / "2018.jpg")
    write(tmp_path / "a2018.jpg")
    report = only(verify("bsd400", tmp_path))
    assert told(report, "extra") == ["a2018.jpg: by its name the same picture as 2018.jpg"]


def test_two_clean_partners_are_mispaired(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        write(tmp_path / f"original/0025.{suffix}", 9, (60, 40))
    write(tmp_path / "synthetic/part1/0025_0.8_0.1.jpg", 1, (60, 40))
    report = only(verify("reside_ots", tmp_path))
    assert told(report, "mispaired") == [
        "synthetic/part1/0025_0.8_0.1.jpg: has 2 clean partners: original/0025.jpg and original/0025.png"
    ]


def test_a_copy_of_the_clean_picture_is_mispaired(lol: Path) -> None:
    (lol / "eval15/low/1.png").write_bytes((lol / "eval15/high/1.png").read_bytes())
    assert told(only(verify("lol_v1", lol)), "mispaired") == [
        "eval15/low/1.png: holds the same bytes as its clean partner eval15/high/1.png"
    ]


def test_the_border_of_the_indoor_pictures_is_no_fault_and_another_is(tmp_path: Path) -> None:
    for number, size in ((1400, (640, 480)), (1401, (620, 460))):
        write(tmp_path / f"gt/{number}.png", 99, size)
        for strength in range(1, 11):
            write(tmp_path / f"hazy/{number}_{strength}.png", strength, (620, 460))
    report = only(verify("sots_indoor", tmp_path))
    assert (report.counts["mispaired"], report.counts["size"]) == (0, 0)
    assert report.counts["missing"] == 48 * 11
    write(tmp_path / "gt/1400.png", 99, (630, 470))
    report = only(verify("sots_indoor", tmp_path))
    assert (report.counts["mispaired"], report.counts["size"]) == (10, 1)


def test_missing_versions_are_named_with_the_zeros_of_their_neighbors(tmp_path: Path) -> None:
    mixes = load_manifest("cdd11").splits["test"].known["mix"]
    for number in ("00001", "00002"):
        write(tmp_path / f"CDD-11_test/clear/{number}.png", 9, (60, 40))
        for mix in mixes:
            write(tmp_path / f"CDD-11_test/{mix}/{number}.png", 1, (60, 40))
    (tmp_path / "CDD-11_test/low_haze/00002.png").unlink()
    report = only(verify("cdd11", tmp_path))
    assert report.split == "test"
    missing = told(report, "missing")
    assert missing[0] == "CDD-11_test/low_haze/00002.png: degraded picture of CDD-11_test/clear/00002.png"
    assert missing[1].startswith(
        ": 2,178 more degraded pictures, whose names can't be told; 21 of 2,200 are there"
    )
    assert report.counts["missing"] == 1 + 2178 + 198


def test_a_missing_number_is_written_as_its_neighbors_are(tmp_path: Path) -> None:
    """DFPIR numbers Rain100L's test pictures from 001, PReNet the training pictures from 1."""
    for folder, rainy, clean in (
        ("test", "input/rain-001", "target/norain-001"),
        ("train", "rain-1", "norain-1"),
    ):
        write(tmp_path / f"{folder}/{rainy}.png", 1)
        write(tmp_path / f"{folder}/{clean}.png", 2)
    missing = [told(only(verify("rain100l", tmp_path / name)), "missing") for name in ("test", "train")]
    assert missing[0][0].startswith("input/rain-002.png: nothing of id 2 is here: this and the clean partner")
    assert missing[1][0].startswith("rain-2.png: ") and missing[1][0].endswith(" norain-2.png")


def test_a_scene_without_a_picture_is_told(tmp_path: Path) -> None:
    for side, level in (("input", 1), ("target", 2)):
        write(tmp_path / f"{side}/GOPR0384_11_00_000001.png", level, (1280, 720))
    missing = told(only(verify("gopro", tmp_path)), "missing")
    assert "nothing of scene GOPR0384_11_05, scene GOPR0385_11_01" in missing[0]


def test_more_pictures_than_the_field_knows_are_counted(tmp_path: Path) -> None:
    for i in range(501):
        path = tmp_path / f"hazy/{i:04d}_0.8_0.1.jpg"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    report = only(verify("sots_outdoor", tmp_path))
    assert ": 501 degraded pictures are there; expected 500" in told(report, "extra")
    assert report.counts["undecodable"] == 501


def test_either_of_two_versions_is_right(tmp_path: Path) -> None:
    """Rain100H's training pairs: all 1,800, or the 1,254 that show none of its test scenes."""
    manifest = load_manifest("rain100h")
    assert manifest.splits["train"].degraded == (1800, 1254)
    for i in range(3):
        write(tmp_path / f"rain-{i}.png", 1)
        write(tmp_path / f"norain-{i}.png", 2)
    write(tmp_path / "rainstreak-1.png")
    report = only(verify(manifest, tmp_path))
    assert (report.layout, report.counts["missing"], report.counts["extra"]) == ("prenet", 2 * 1251, 0)


def test_a_damaged_picture_is_found_by_decoding(lol: Path) -> None:
    path = lol / "eval15/low/1.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert verify("lol_v1", lol).ok
    report = only(verify("lol_v1", lol, decode=True))
    assert [fault.path for fault in report.faults] == ["eval15/low/1.png"]
    assert report.counts["undecodable"] == 1


def test_both_splits_are_found_below_a_projects_root(tmp_path: Path) -> None:
    write(tmp_path / "data/Train/Derain/rainy/rain-1.png", 1)
    write(tmp_path / "data/Train/Derain/gt/norain-1.png", 2)
    write(tmp_path / "test/derain/Rain100L/input/1.png", 3)
    write(tmp_path / "test/derain/Rain100L/target/1.png", 4)
    found = verify("rain100l", tmp_path)
    assert [(r.split, r.folder, r.degraded, r.counts["extra"]) for r in found.splits] == [
        ("train", "data/Train/Derain", 1, 0),
        ("test", "test/derain/Rain100L", 1, 0),
    ]


def test_a_split_below_another_one_is_no_fault_of_it(tmp_path: Path) -> None:
    for place, rainy, clean in (
        ("", "rain-1", "norain-1"),
        ("datasets/test/Rain100L/", "rainy/rain-001", "norain-001"),
    ):
        write(tmp_path / f"{place}{rainy}.png", 1)
        write(tmp_path / f"{place}{clean}.png", 2)
    found = verify("rain100l", tmp_path)
    assert [(r.split, r.folder, r.counts["extra"]) for r in found.splits] == [
        ("train", "", 0),
        ("test", "datasets/test/Rain100L", 0),
    ]


def test_pairs_leave_out_what_is_incomplete(lol: Path) -> None:
    (lol / "eval15/high/1.png").unlink()
    pairs = find_pairs("lol_v1", lol, "test")
    assert len(pairs) == 14 and ("eval15/low/22.png", "eval15/high/22.png") in pairs
    with pytest.raises(InputError, match="holds nothing of LOL-v1"):
        find_pairs("lol_v1", lol / "eval15" / "low", "train")


def test_progress_counts_every_picture(lol: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify("lol_v1", lol, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(i, 30) for i in range(1, 31)]
