"""`pellucid data`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.toys import photograph

from pellucid.checkpoint import Checkpoint
from pellucid.datasets import load_manifest, names


@pytest.fixture
def lol(tmp_path: Path) -> Path:
    """The test half of LOL-v1, whole."""
    for name in load_manifest("lol_v1").splits["test"].known["id"]:
        for side, level in (("input", 1), ("target", 2)):
            path = tmp_path / f"test/enhance/lol/{side}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (600, 400), (level, 0, 0)).save(path)
    return tmp_path


def test_weights_learn_what_they_were_trained_on(run, shards, small_weights, tmp_path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(small_weights.read_bytes())
    result = run("data", "remember", weights, "--train", shards)
    assert result.code == 0, result.err
    count = Checkpoint.read(weights).provenance["training_pictures"]["count"]
    assert result.out == f"{weights}: {count} clean training pictures\n"
    values = run(
        "evaluate", "--model", weights, "--shards", shards, "--limit", 1, "--results", tmp_path, "--json"
    )
    assert {row["leak"]["training"] for row in json.loads(values.out).values()} == {count}


def test_own_pictures_become_shards_that_training_reads(run, tmp_path: Path) -> None:
    photographs, shards = tmp_path / "photographs", tmp_path / "shards"
    photographs.mkdir()
    for seed in range(5):
        photograph(seed).save(photographs / f"{seed}.jpg")
    result = run("data", "prepare", photographs, "-o", shards)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{shards}: 4 added for training, 1 for validation; 0 were there, 0 left out\n"
    (photographs / "broken.png").write_bytes(b"nothing")
    result = run("data", "prepare", photographs, "-o", shards, "--json")
    assert result.code == 1
    assert json.loads(result.out)["known"] == 5 and "broken.png" in result.out
    assert "left out: " in run("data", "prepare", photographs, "-o", shards).out
    trained = run("train", "smoke", "--data", shards, "--run", tmp_path / "run", "--steps", 1)
    assert trained.code == 0, trained.err


def test_own_pictures_of_a_kind_that_has_no_pairs_are_refused(run, tmp_path: Path) -> None:
    result = run("data", "prepare", tmp_path, "-o", tmp_path / "shards", "--kind", "darkness")
    assert result.code == 2 and "no kind of pairs called 'darkness'" in result.err


def test_the_sets_are_listed_with_origin_and_license(run) -> None:
    result = run("data", "list")
    assert result.code == 0
    for name in names():
        manifest = load_manifest(name)
        assert f"{name} (" in result.out and manifest.origin in result.out and manifest.license in result.out
    assert "rain100h (rain): train 1,800 or 1,254 degraded, test 100 degraded" in result.out


def test_the_sets_are_listed_for_machines(run) -> None:
    rows = json.loads(run("data", "list", "--json").out)["datasets"]
    assert [row["name"] for row in rows] == names()
    gopro = next(row for row in rows if row["name"] == "gopro")
    assert gopro["splits"]["train"] == {"degraded": [2103], "clean": [2103]}
    assert gopro["license"] == "CC-BY-4.0" and gopro["citation"] and gopro["layouts"][0]["users"]


def test_a_whole_set_ends_with_zero(run, lol: Path) -> None:
    result = run("data", "verify", "lol_v1", lol)
    assert result.code == 0, result.err
    assert "lol_v1 test, layout adair in test/enhance/lol" in result.out
    assert "degraded: 15 of 15" in result.out and "lol_v1 train: nothing of it is here" in result.out


def test_what_is_wrong_is_named_with_counts_and_ends_with_one(run, lol: Path) -> None:
    folder = lol / "test/enhance/lol"
    for number in (1, 22, 23, 55, 79, 111, 146, 179, 493, 547, 665):
        (folder / f"target/{number}.png").unlink()
    (folder / "input/.DS_Store").touch()
    result = run("data", "verify", "lol_v1", folder)
    assert result.code == 1
    assert "missing: 11" in result.out and "and 1 more; all with --json" in result.out
    assert "target/1.png: the clean partner of input/1.png" in result.out
    assert "extra: 1\n    input/.DS_Store: no rule of the layout knows it" in result.out

    result = run("data", "verify", "lol_v1", folder, "--json")
    values = json.loads(result.out)
    assert (result.code, values["ok"], values["absent"]) == (1, False, ["train"])
    (report,) = values["splits"]
    assert report["counts"] == {"missing": 11, "extra": 1, "mispaired": 0, "size": 0, "undecodable": 0}
    assert len(report["faults"]) == 12 and report["expected_clean"] == [15]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rain100", "."), "There is no data set called 'rain100'. Did you mean rain100"),
        (("lol_v1", "nowhere"), "nowhere can't be listed"),
        (("lol_v1", "."), "holds nothing of LOL-v1 in a layout that is known"),
        (("lol_v1", ".", "--split", "val"), "There is no split of lol_v1 called 'val'. Known: train, test."),
        (("lol_v1", ".", "--layout", "x"), "There is no layout of lol_v1 called 'x'"),
    ],
)
def test_a_wrong_call_ends_in_a_sentence(
    run, tmp_path: Path, monkeypatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("data", "verify", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err and len(result.err.strip().splitlines()) == 1


def test_a_leak_is_named_and_ends_with_one(run, lol: Path, tmp_path: Path) -> None:
    picture = lol / "test/enhance/lol/target/1.png"
    train = tmp_path / "train"
    train.mkdir()
    Image.new("RGB", (600, 400), (9, 9, 9)).save(train / "other.png")
    clean = run("data", "leak", "--train", train, "--test", picture.parent)
    assert (clean.code, clean.out) == (0, "0 of 15 test pictures are among 1 training pictures\n")

    with Image.open(picture) as opened:
        opened.save(train / "copy.bmp")
    options = ("--train", train, "--test", picture, "--test", picture.parents[1] / "input")
    result = run("data", "leak", *options)
    assert result.code == 1
    assert f"{picture} is {train / 'copy.bmp'} (pixels)" in result.out
    assert "1 of 16 test pictures are among 2 training pictures" in result.out
    values = json.loads(run("data", "leak", *options, "--near", 8, "--json").out)
    assert (values["leaked"], values["ok"], values["leaks"][0]["by"]) == (1, False, "pixels")

    (train / "broken.png").write_bytes(b"no picture")
    result = run("data", "leak", "--train", train, "--test", picture.parents[1] / "input")
    assert result.code == 1 and "not compared: " in result.out and "broken.png" in result.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pellucid.__main__ import main\n"
        "sys.argv = ['pellucid', 'data', 'verify', '--help']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'numpy', 'pyvips'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--decode" in shown.stdout
