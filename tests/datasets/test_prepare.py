"""Shards from own pictures: what training takes of them, what is held out, what a second call adds."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.toys import photograph

from pellucid.data import load_shards
from pellucid.datasets.leak import NEAR, find_leaks
from pellucid.datasets.prepare import KINDS, prepare_shards
from pellucid.errors import InputError, UnknownNameError


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twenty photographs, some in a folder below."""
    folder = tmp_path / "photographs"
    (folder / "deep").mkdir(parents=True)
    for seed in range(20):
        photograph(seed).save(folder / ("deep" if seed % 2 else "") / f"{seed}.png")
    return folder


@pytest.fixture
def dark(tmp_path: Path) -> Path:
    """Three pairs of a dark and a bright picture."""
    folder = tmp_path / "pairs"
    for side in ("degraded", "clean"):
        (folder / side).mkdir(parents=True)
    for seed in range(3):
        bright = photograph(seed)
        bright.save(folder / f"clean/{seed}.png")
        bright.point([v // 4 for v in range(256)] * 3).save(folder / f"degraded/{seed}.tiff")
    return folder


def rows(shards: Path) -> list[dict[str, Any]]:
    return json.loads((shards / "manifest.json").read_text("utf-8"))["files"]


def test_a_tenth_is_held_out_and_training_takes_the_rest(photographs: Path, tmp_path: Path) -> None:
    shards = tmp_path / "new" / "shards"
    found = prepare_shards(photographs, shards)
    assert (found.train, found.val, found.known, found.left_out) == (18, 2, 0, {})
    train, val = (load_shards(shards, split).banks["clean"] for split in ("train", "val"))
    assert (len(train), len(val)) == (18, 2)
    stored = {tuple(p.flatten().tolist()) for bank in (train, val) for p in bank.clean_pictures()}
    originals = {tuple(photograph(seed).tobytes()) for seed in range(20)}
    assert stored == originals


def test_what_is_there_is_not_added_again_and_keeps_its_split(photographs: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    prepare_shards(photographs, shards)
    before = rows(shards)
    (photographs / "0.png").rename(photographs / "renamed.png")
    photograph(30).save(photographs / "another.png")
    found = prepare_shards(photographs, shards)
    assert (found.train, found.val, found.known) == (1, 0, 20)
    assert rows(shards)[:-1] == before
    assert rows(shards)[-1]["path"].startswith("clean/another-")


def test_copies_of_a_scene_go_to_one_side(photographs: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    prepare_shards(photographs, shards, held_out=0.5)
    copies = tmp_path / "copies"
    copies.mkdir()
    for seed in range(20):
        photograph(seed).resize((48, 32)).save(copies / f"{seed}.jpg", quality=50)
    found = prepare_shards(copies, shards, held_out=0.5)
    assert found.train + found.val == 20
    assert len({(Path(row["path"]).name.split("-")[0], row["split"]) for row in rows(shards)}) == 20
    assert not find_leaks([shards], [shards], near=NEAR).leaks


def test_a_copy_of_what_another_hand_listed_goes_to_its_side(photographs: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    listed = []
    for seed in range(20):
        photograph(seed).save(shards / f"{seed}.png")
        sha256 = hashlib.sha256((shards / f"{seed}.png").read_bytes()).hexdigest()
        split = ("train", "val")[seed % 2]
        listed.append({"path": f"{seed}.png", "split": split, "role": "clean", "sha256": sha256})
    (shards / "manifest.json").write_text(json.dumps({"files": listed}), "utf-8")
    found = prepare_shards(photographs, shards, long_side=48)
    assert (found.train, found.val) == (10, 10)
    assert not find_leaks([shards], [shards], near=NEAR).leaks


def test_small_additions_are_held_out_in_their_turn(tmp_path: Path) -> None:
    val = 0
    for part in range(5):
        folder = tmp_path / str(part)
        folder.mkdir()
        for seed in range(4 * part, 4 * part + 4):
            photograph(seed).save(folder / f"{seed}.png")
        val += prepare_shards(folder, tmp_path / "shards").val
    assert val == 2


def test_pairs_that_share_a_degraded_file_stay_together(tmp_path: Path) -> None:
    for side in ("clean", "degraded"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
    for seed in range(10):
        photograph(seed).save(tmp_path / f"pairs/clean/{seed}.png")
        Image.new("RGB", (96, 64)).save(tmp_path / f"pairs/degraded/{seed}.png")
    found = prepare_shards(tmp_path / "pairs", tmp_path / "shards", kind="low_light", held_out=0.5)
    assert found.train + found.val == 10
    banks = [
        bank for split in ("train", "val") for bank in load_shards(tmp_path / "shards", split).banks.values()
    ]
    assert sum(map(len, banks)) == 10


def test_large_photographs_are_reduced_and_pairs_are_not(tmp_path: Path, dark: Path) -> None:
    (tmp_path / "large").mkdir()
    photograph(1, (1600, 400)).save(tmp_path / "large/wide.jpg")
    shards = tmp_path / "shards"
    prepare_shards(tmp_path / "large", shards)
    prepare_shards(dark, shards, kind="low_light", long_side=32)
    banks = load_shards(shards, "train").banks
    assert banks["clean"].picture(0).shape == (3, 192, 768)
    assert banks["low_light_pairs"].picture(0).shape == (6, 64, 96)
    prepare_shards(tmp_path / "large", tmp_path / "kept", long_side=None)
    assert load_shards(tmp_path / "kept", "train").banks["clean"].picture(0).shape == (3, 400, 1600)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_every_kind_come_back_as_pairs(kind: str, dark: Path, tmp_path: Path) -> None:
    found = prepare_shards(dark, tmp_path / "shards", kind=kind)
    assert found.train == 3
    (bank,) = load_shards(tmp_path / "shards", "train").banks.values()
    for i in range(3):
        clean, degraded = bank.picture(i).mul(255).round().split(3)
        assert torch.equal(clean.div(4).floor(), degraded)


def test_drawings_are_told_apart(photographs: Path, tmp_path: Path) -> None:
    prepare_shards(photographs, tmp_path / "shards", drawings=True)
    assert set(load_shards(tmp_path / "shards", "train").banks) == {"drawn"}


def test_what_is_no_picture_is_left_out_and_named(photographs: Path, tmp_path: Path) -> None:
    (photographs / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    Image.new("RGB", (8, 40)).save(photographs / "narrow.png")
    told: list[tuple[int, int]] = []
    found = prepare_shards(photographs, tmp_path / "shards", progress=lambda *numbers: told.append(numbers))
    assert found.train + found.val == 20
    assert told[-1] == (22, 22)
    assert {Path(path).name for path in found.left_out} == {"broken.jpg", "narrow.png"}
    assert all(said.startswith(path) for path, said in found.left_out.items())
    assert "8x40 pixels; expected one size, sides of at least 16" in str(found.left_out.values())


def test_a_name_of_any_bytes_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    photograph(1).save(folder / "a.png")
    (folder / "a.png").rename(folder / os.fsdecode(b"caf\xe9 " + b"n" * 200 + b".png"))
    assert prepare_shards(folder, tmp_path / "shards").train == 1
    assert len(load_shards(tmp_path / "shards", "train").banks["clean"]) == 1


def test_a_kill_before_the_manifest_costs_nothing(photographs: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_shards(photographs, shards, progress=stop)
    assert rows(shards) == []
    assert prepare_shards(photographs, shards).train == 18
    prepare_shards(photographs, tmp_path / "whole")
    assert rows(shards) == rows(tmp_path / "whole")


def test_two_at_once_do_not_lose_each_others_pictures(photographs: Path, tmp_path: Path) -> None:
    shards, refused = tmp_path / "shards", []

    def add_more(done: int, total: int) -> None:
        if done == 7:
            with pytest.raises(InputError, match=r"Another process adds pictures to .* Wait for it"):
                prepare_shards(photographs, shards)
            refused.append(done)

    assert prepare_shards(photographs, shards, progress=add_more).train == 18
    assert refused == [7] and len(rows(shards)) == 20
    assert prepare_shards(photographs, shards).known == 20


def test_wrong_requests_are_refused_in_words(photographs: Path, dark: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    with pytest.raises(UnknownNameError, match="no kind of pairs called 'rain'"):
        prepare_shards(dark, shards, kind="rain")
    with pytest.raises(InputError, match=r"held_out is 1\.0; expected a share"):
        prepare_shards(photographs, shards, held_out=1.0)
    with pytest.raises(InputError, match="Add them in turn"):
        prepare_shards(dark, shards, kind="blur", drawings=True)
    with pytest.raises(InputError, match="Name a folder beside it"):
        prepare_shards(photographs, photographs / "shards")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        prepare_shards(tmp_path / "empty", shards)
    photograph(9).save(dark / "clean/1.jpg")
    with pytest.raises(InputError, match=r"clean holds both 1\.jpg and 1\.png; .* Rename one of them"):
        prepare_shards(dark, shards, kind="blur")
    (dark / "clean/1.jpg").unlink()
    (dark / "clean/1.png").unlink()
    told = r"pictures without a partner: degraded/1\.tiff\. Each needs one of the same name"
    with pytest.raises(InputError, match=told):
        prepare_shards(dark, shards, kind="blur")
    assert not shards.exists()
    held = sorted(dark.iterdir())
    with pytest.raises(InputError, match=r"manifest\.json can't be read .* name a folder that is empty"):
        prepare_shards(photographs, dark)
    assert sorted(dark.iterdir()) == held
    shards.write_text("a file")
    with pytest.raises(InputError, match="can't be written"):
        prepare_shards(photographs, shards)
