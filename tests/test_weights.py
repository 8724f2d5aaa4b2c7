import json
from pathlib import Path

import pytest

from pellucid import weights
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.errors import CheckpointError, HashMismatchError, UnknownNameError
from pellucid.restorer import load


@pytest.fixture
def folder(tmp_path, monkeypatch, small_weights) -> Path:
    """A weights folder of its own, with one file that is not registered yet."""
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "small.test.safetensors").write_bytes(small_weights.read_bytes())
    (tmp_path / "small.test.md").write_text("# a card")
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", weights.names())
def test_embedded_weights_are_what_the_index_says(name):
    file = weights.find(name)
    assert file.path.stat().st_size == file.bytes
    assert file.card is not None
    assert file.card.exists()
    Checkpoint.read(file.path, sha256=file.sha256).build()


def test_register_find_load(folder):
    file = weights.register(folder / "small.test.safetensors")
    assert weights.names() == ["small.test"]
    assert (file.name, file.sha256, file.license) == ("small.test", hash_file(file.path), "Apache-2.0")
    assert file.card == folder / "small.test.md"
    assert load("small.test", device="cpu", precision="float32").name == "small.test"


def test_altered_weights_are_refused(folder):
    path = weights.register(folder / "small.test.safetensors").path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(HashMismatchError):
        load("small.test")


def test_missing_weights_are_said_to_be_missing(folder):
    weights.register(folder / "small.test.safetensors").path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        weights.find("small.test")


def test_register_refuses_files_elsewhere(folder, small_weights):
    with pytest.raises(CheckpointError, match="no file in"):
        weights.register(small_weights)
    assert json.loads((folder / "index.json").read_text()) == {}


def test_unknown_names_get_a_suggestion(folder):
    weights.register(folder / "small.test.safetensors")
    with pytest.raises(UnknownNameError, match=r"no weights called 'smal.test'. Did you mean small.test\?"):
        weights.find("smal.test")


@pytest.mark.parametrize("text", ["a/b", "x.safetensors", "official.pth"])
def test_paths_are_paths(text):
    assert weights.find(text).path == Path(text)
    assert weights.find(Path("plain")).path == Path("plain")
