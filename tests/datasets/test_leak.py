"""Test pictures among training pictures: found by content, whatever they are called."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.toys import photograph

from pellucid.data import load_shards
from pellucid.datasets.leak import NEAR, LeakReport, find_leaks, perceptual_hash, refuse_leaks
from pellucid.errors import InputError, LeakError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three training and two test pictures, none shared."""
    train, test = tmp_path / "train", tmp_path / "test"
    for folder, seeds in ((train, (1, 2, 3)), (test, (4, 5))):
        (folder / "deep").mkdir(parents=True)
        for seed in seeds:
            photograph(seed).save(folder / "deep" / f"{seed}.png")
    return train, test


def names(report: LeakReport) -> list[tuple[str, str, str]]:
    return [(Path(leak.test).name, Path(leak.train).name, leak.by) for leak in report.leaks]


def test_nothing_is_found_where_nothing_is(folders: tuple[Path, Path]) -> None:
    train, test = folders
    (train / "notes.txt").write_text("not a picture")
    report = find_leaks([train], [test], near=NEAR)
    assert (report.train, report.test, report.leaks, report.leaked) == (3, 2, (), 0)
    assert report.to_dict()["ok"] is True
    assert refuse_leaks([train], [test]).leaks == ()


def test_what_can_not_be_read_is_named(folders: tuple[Path, Path]) -> None:
    train, test = folders
    broken = bytearray((test / "deep/4.png").read_bytes())
    broken[len(broken) // 2] ^= 255
    (train / "broken.png").write_bytes(broken)
    (reason,) = find_leaks([train], [test], near=NEAR).unread.values()
    assert str(train / "broken.png") in reason


def test_a_renamed_file_is_found(folders: tuple[Path, Path]) -> None:
    train, test = folders
    (train / "holiday.PNG").write_bytes((test / "deep/4.png").read_bytes())
    assert names(find_leaks([train], [test])) == [("4.png", "holiday.PNG", "file")]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_a_lossless_copy_of_a_jpeg_is_found_by_its_pixels(suffix: str, folders: tuple[Path, Path]) -> None:
    train, test = folders
    photograph(9).save(test / "a.jpg", quality=70)
    with Image.open(test / "a.jpg") as decoded:
        decoded.save(train / f"b.{suffix}")
    report = find_leaks([train], [test])
    assert names(report) == [("a.jpg", f"b.{suffix}", "pixels")]
    assert report.leaks[0].distance is None


@pytest.mark.parametrize("change", ["saved again", "half the size", "cropped", "darkened"])
def test_a_near_copy_is_found_if_asked_for(change: str, folders: tuple[Path, Path]) -> None:
    train, test = folders
    copy = photograph(4)
    if change == "half the size":
        copy = copy.resize((48, 32), Image.Resampling.BOX)
    elif change == "cropped":
        copy = copy.crop((1, 1, 95, 63))
    elif change == "darkened":
        copy = copy.point(lambda level: level // 2)
    copy.save(train / "copy.jpg", quality=80)
    assert find_leaks([train], [test]).leaks == ()
    report = find_leaks([train], [test], near=NEAR)
    assert names(report) == [("4.png", "copy.jpg", "near")]
    assert report.leaks[0].distance is not None and report.leaks[0].distance <= NEAR


def test_the_strongest_evidence_is_told_with_the_distance(folders: tuple[Path, Path]) -> None:
    train, test = folders
    (train / "same.png").write_bytes((test / "deep/4.png").read_bytes())
    photograph(4).save(train / "pixels.bmp")
    photograph(4).save(train / "close.jpg", quality=60)
    report = find_leaks([train], [test], near=NEAR)
    assert names(report) == [
        ("4.png", "same.png", "file"),
        ("4.png", "pixels.bmp", "pixels"),
        ("4.png", "close.jpg", "near"),
    ]
    assert [leak.distance for leak in report.leaks[:2]] == [0, 0]
    assert report.leaked == 1


def test_near_is_a_number_of_bits_that_may_differ(folders: tuple[Path, Path]) -> None:
    first, second = (perceptual_hash(torch.from_numpy(np.array(photograph(seed)))) for seed in (1, 4))
    bits = int((first != second).sum())
    found = [find_leaks([folders[0]], [folders[1]], near=near).leaks for near in (bits - 1, bits)]
    assert [sum(leak.distance == bits for leak in leaks) >= 1 for leaks in found] == [False, True]


def test_pictures_of_one_color_are_near_to_nothing(folders: tuple[Path, Path]) -> None:
    train, test = folders
    Image.new("RGB", (96, 64), (200, 10, 10)).save(train / "red.png")
    Image.new("RGB", (96, 64), (10, 10, 200)).save(test / "blue.png")
    assert find_leaks([train], [test], near=NEAR).leaks == ()
    assert perceptual_hash(torch.full((40, 50, 3), 77, dtype=torch.uint8)) is None


def test_equal_bytes_of_pixels_in_another_shape_are_no_copy(folders: tuple[Path, Path]) -> None:
    train, test = folders
    Image.new("RGB", (96, 64), (9, 9, 9)).save(train / "wide.png")
    Image.new("RGB", (64, 96), (9, 9, 9)).save(test / "tall.png")
    photograph(8, (64, 96)).save(train / "also tall.png")
    assert find_leaks([train], [test]).leaks == ()


def test_unlike_pictures_are_far_apart() -> None:
    hashes = [perceptual_hash(torch.from_numpy(np.array(photograph(seed)))) for seed in range(20)]
    signs = torch.stack([signs for signs in hashes if signs is not None])
    assert signs.shape == (20, 64) and set(signs.unique().tolist()) == {-1.0, 1.0}
    distances = (64 - signs @ signs.T) / 2 + 64 * torch.eye(20)
    assert distances.min() > NEAR


def test_refusing_names_the_pictures_and_the_way_out(folders: tuple[Path, Path]) -> None:
    train, test = folders
    for seed in (4, 5):
        photograph(seed).save(train / f"x{seed}.bmp")
    with pytest.raises(LeakError) as caught:
        refuse_leaks([train], [test])
    told = str(caught.value)
    assert told.startswith("2 of 2 test pictures are training pictures: ")
    assert f"{test / 'deep/4.png'} as {train / 'x4.bmp'} (pixels)" in told and told.endswith("--allow-leak.")
    assert refuse_leaks([train], [test], allow_leak=True).leaked == 2


def test_an_error_names_the_first_five() -> None:
    from pellucid.datasets.leak import Leak

    leaks = tuple(Leak(f"a{i}", f"b{i}", "file") for i in range(7))
    told = str(LeakReport(10, 8, leaks, {}))
    assert told.startswith("7 of 8 test pictures") and told.endswith("b4 as a4 (file) and 2 more")


def test_what_can_not_be_read_is_not_ruled_out(folders: tuple[Path, Path]) -> None:
    train, test = folders
    (test / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = find_leaks([train], [test])
    assert list(report.unread) == [str(test / "broken.png")] and report.to_dict()["ok"] is False
    with pytest.raises(InputError, match=r"^1 pictures could not be compared .*broken.png"):
        refuse_leaks([train], [test])
    assert refuse_leaks([train], [test], allow_leak=True).unread
    (train / "same.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert names(find_leaks([train], [test])) == [("broken.png", "same.png", "file")]


def test_files_can_be_named_instead_of_folders(folders: tuple[Path, Path]) -> None:
    train, test = folders
    report = find_leaks(
        [train / "deep/1.png", train / "deep/1.png"], [test / "deep/4.png", train / "deep/1.png"]
    )
    assert (report.train, report.test) == (1, 2)
    assert names(report) == [("1.png", "1.png", "file")]


@pytest.mark.parametrize("which", ["empty", "nowhere"])
def test_a_folder_without_pictures_is_refused(which: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=which):
        find_leaks([folders[0]], [tmp_path / which])


def test_of_shards_only_what_training_reads_is_compared(shards: Path, tmp_path: Path) -> None:
    rows = json.loads((shards / "manifest.json").read_text())["files"]
    held_out = next(row["path"] for row in rows if row["split"] == "val" and row["role"] == "clean")
    used = next(row["path"] for row in rows if row["split"] == "train" and row["role"] == "clean")
    with Image.open(shards / held_out) as picture:
        picture.save(tmp_path / "val.bmp")
    assert find_leaks([shards], [tmp_path]).leaks == ()
    with Image.open(shards / used) as picture:
        picture.save(tmp_path / "train.bmp")
    assert names(find_leaks([shards], [tmp_path])) == [("train.bmp", Path(used).name, "pixels")]
    assert find_leaks([shards], [shards]).leaks == ()  # its own validation pictures


def test_what_training_holds_back_for_validation_is_no_training_picture(
    tmp_path: Path, write_shards: Callable[..., Path]
) -> None:
    held = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    rows = [
        ({"path": f"{name}.png", "role": "clean", "split": split}, pixels)
        for name, split, pixels in (
            ("val", "val", held),
            ("again", "train", held),
            ("own", "train", 255 - held),
        )
    ]
    shards = write_shards(tmp_path / "shards", rows)
    assert load_shards(shards, "train").banks["clean"].names == ("own.png",)
    report = find_leaks([shards], [shards])
    assert (report.train, report.leaks) == (1, ())


def test_the_hash_that_a_manifest_states_is_taken(shards: Path, tmp_path: Path) -> None:
    """A file of the test set that a shard folder lists is found, though the shard's copy is not there."""
    rows = json.loads((shards / "manifest.json").read_text())["files"]
    row = next(row for row in rows if row["split"] == "train" and row["role"] == "clean")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/manifest.json").write_text(json.dumps({"files": [row]}))
    (tmp_path / "test.png").write_bytes((shards / row["path"]).read_bytes())
    report = find_leaks([tmp_path / "shards"], [tmp_path / "test.png"])
    assert [leak.by for leak in report.leaks] == ["file"]
    assert len(report.unread) == 1


def test_shards_that_have_nothing_of_the_side_are_refused(folders: tuple[Path, Path], shards: Path) -> None:
    rows = json.loads((shards / "manifest.json").read_text("utf-8"))["files"]
    training = [{**row, "split": "train"} for row in rows]
    (folders[0] / "manifest.json").write_text(json.dumps({"files": training}), "utf-8")
    with pytest.raises(InputError, match="holds shards, but none of the split val"):
        find_leaks([folders[1]], [folders[0]])
