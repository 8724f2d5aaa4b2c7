"""Checkpoints: what is written is read back, and everything else is refused in a sentence."""

import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pellucid import models
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.errors import (
    CheckpointError,
    CheckpointMismatchError,
    HashMismatchError,
    UnknownNameError,
    UnsafeCheckpointError,
)
from pellucid.models.daair import DaAIR, DaAIRConfig

TINY = DaAIRConfig(dim=4, encoder_blocks=(1, 1), decoder_blocks=(1,), num_heads=(1, 1), num_experts=2, rank=2)


@pytest.fixture(scope="module")
def network() -> DaAIR:
    torch.manual_seed(0)
    return DaAIR(TINY)


@pytest.fixture
def checkpoint(network: DaAIR) -> Checkpoint:
    return Checkpoint.from_network("daair", network, {"steps": 3, "data": ["a"]})


@pytest.fixture
def file(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    checkpoint.write(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def changed(checkpoint: Checkpoint, **tensors: Tensor | None) -> Checkpoint:
    """With these tensors instead; none removes one."""
    merged = {**checkpoint.tensors, **{name.replace("__", "."): t for name, t in tensors.items()}}
    return dataclasses.replace(checkpoint, tensors={n: t for n, t in merged.items() if t is not None})


def test_what_is_written_is_read(checkpoint: Checkpoint, file: Path, network: DaAIR) -> None:
    read = Checkpoint.read(file)
    assert (read.model, read.provenance) == ("daair", {"steps": 3, "data": ["a"]})
    assert read.config == json.loads(json.dumps(dataclasses.asdict(TINY)))
    assert read.tensors.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, read.tensors[name]) for name, tensor in network.state_dict().items())
    rebuilt = read.build()
    assert rebuilt.config == TINY
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(rebuilt(x), network(x))


def test_writing_is_repeatable(checkpoint: Checkpoint, file: Path, tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_float16_halves_the_file_and_builds_in_float32(
    checkpoint: Checkpoint, file: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.safetensors"
    with_counter = changed(checkpoint, counter=torch.tensor([7]))
    with_counter.write(half, dtype=torch.float16)
    assert Checkpoint.read(half).tensors["counter"].dtype == torch.int64, "only floating point is rounded"
    checkpoint.write(half, dtype=torch.float16)
    tensors = Checkpoint.read(half).tensors
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    saved = sum(2 * t.numel() for t in tensors.values())
    assert half.stat().st_size == pytest.approx(file.stat().st_size - saved, rel=0.01)
    for name, parameter in Checkpoint.read(half).build().named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, checkpoint.tensors[name].half().float()), name


def test_writing_leaves_nothing_beside_the_file(file: Path, checkpoint: Checkpoint) -> None:
    checkpoint.write(file)  # replaces
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_failed_write_leaves_the_old_file(file: Path, checkpoint: Checkpoint) -> None:
    before = file.read_bytes()
    unserializable = dataclasses.replace(checkpoint, provenance={"x": object()})
    with pytest.raises(TypeError):
        unserializable.write(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_interrupted_write_leaves_the_old_file(file: Path, checkpoint: Checkpoint, monkeypatch) -> None:
    before = file.read_bytes()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_unwritable_place_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"can't be written .* Choose a folder that exists"):
        checkpoint.write(tmp_path / "missing" / "a.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="can't be written"):
        checkpoint.write(tmp_path / "folder.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


# Files that are refused


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a.safetensors can't be read: No such file"):
        Checkpoint.read(tmp_path / "a.safetensors")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be read: Is a directory"):
        Checkpoint.read(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_file(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        Checkpoint.read(file)


def test_any_other_bytes(file: Path) -> None:
    file.write_text("No network, only words. " * 50)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        Checkpoint.read(file)


class Trap:
    """Leaves a trace when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", ["torch", "legacy torch", *range(2, pickle.HIGHEST_PROTOCOL + 1)])
def test_a_pickle_is_not_loaded(file: Path, tmp_path: Path, writer: str | int) -> None:
    trap = Trap(tmp_path / "trace")
    if isinstance(writer, int):
        file.write_bytes(pickle.dumps(trap, protocol=writer))
    else:
        torch.save({"x": trap}, file, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(UnsafeCheckpointError, match=r"is a pickle.*nothing was loaded.*pellucid convert"):
        Checkpoint.read(file)
    assert not trap.trace.exists()


def test_another_hash(file: Path) -> None:
    assert Checkpoint.read(file, sha256=hash_file(file)).model == "daair"
    with pytest.raises(HashMismatchError, match=f"SHA-256 {hash_file(file)[:16]}.*expected 0000"):
        Checkpoint.read(file, sha256="0" * 64)


@pytest.mark.parametrize(
    "metadata",
    [None, {"other": "x"}, {"pellucid": "[]"}, {"pellucid": '{"format": 2}'}, {"pellucid": "null"}],
)
def test_foreign_safetensors(file: Path, metadata: dict[str, str] | None) -> None:
    save_file({"x": torch.zeros(1)}, file, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"no pellucid header of format 1.*pellucid convert"):
        Checkpoint.read(file)


HEADER = {"format": 1, "model": "daair", "config": dataclasses.asdict(TINY), "provenance": {}}


@pytest.mark.parametrize(
    "damage",
    [
        {"model": None},
        {"model": 3},
        {"config": None},
        {"config": []},
        {"provenance": "x"},
        {"provenance": None},
    ],
)
def test_a_damaged_header(file: Path, damage: dict[str, Any]) -> None:
    save_file({"x": torch.zeros(1)}, file, metadata={"pellucid": json.dumps({**HEADER, **damage})})
    with pytest.raises(CheckpointError, match="damaged pellucid header"):
        Checkpoint.read(file)


def test_a_header_that_is_no_json(file: Path) -> None:
    save_file({"x": torch.zeros(1)}, file, metadata={"pellucid": "{"})
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        Checkpoint.read(file)


# Contents that are refused


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000])
def test_a_header_that_json_gives_up_on(file: Path, text: str) -> None:
    save_file({"x": torch.zeros(1)}, file, metadata={"pellucid": text})
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        Checkpoint.read(file)


@pytest.mark.parametrize("length", [0x10280, 0x10380, 0x10480, 0x10580, 0x14B50])
def test_a_header_whose_length_looks_like_a_pickle(checkpoint: Checkpoint, file: Path, length: int) -> None:
    def write(note: str) -> int:
        dataclasses.replace(checkpoint, provenance={"note": note}).write(file)
        return int.from_bytes(file.read_bytes()[:8], "little")

    assert write("x" * (length - write(""))) == length
    assert Checkpoint.read(file).tensors.keys() == checkpoint.tensors.keys()


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be read: embedded null"):
        Checkpoint.read(tmp_path / "a\0b.safetensors")


def test_an_unknown_model(checkpoint: Checkpoint) -> None:
    with pytest.raises(UnknownNameError, match=r"no model called 'daiar'\. Did you mean daair"):
        dataclasses.replace(checkpoint, model="daiar").build()


def test_another_model(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointMismatchError, match="configuration for dfpir lacks"):
        dataclasses.replace(checkpoint, model="dfpir").build()


def test_a_missing_or_unknown_field(checkpoint: Checkpoint) -> None:
    config = {**checkpoint.config, "depth": 3}
    del config["rank"]
    with pytest.raises(
        CheckpointMismatchError, match=r"lacks \['rank'\] and has the unknown fields \['depth'\]"
    ):
        dataclasses.replace(checkpoint, config=config).build()


@pytest.mark.parametrize(
    "damage",
    [
        {"dim": "wide"},
        {"dim": -4},
        {"num_heads": [1]},
        {"rank": None},
        {"encoder_blocks": 2},
        {"num_experts": 0},
        {"dim": float("nan")},
        {"dim": True},
        {"dim": 10**400},
        {"encoder_blocks": ["1", "1"]},
        {"ffn_expansion": 10**400},
        {"inner_residual": "no"},
        {"mixer": "soup"},
        {"grid": -2},
    ],
)
def test_a_field_that_gives_no_network(checkpoint: Checkpoint, damage: dict[str, Any]) -> None:
    with pytest.raises(CheckpointMismatchError, match=r"configuration gives no daair .* header is damaged"):
        dataclasses.replace(checkpoint, config={**checkpoint.config, **damage}).build()


@pytest.mark.parametrize(
    "damage", [{"dim": 10**6}, {"num_experts": 10**9}, {"rank": 10**8}, {"kernel_size": 10**6 + 1}]
)
def test_huge_sizes_are_refused_before_memory_is_taken(
    checkpoint: Checkpoint, damage: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: list[bool] = []
    reset = torch.nn.Conv2d.reset_parameters
    monkeypatch.setattr(
        torch.nn.Conv2d,
        "reset_parameters",
        lambda conv: (real.append(not conv.weight.is_meta), reset(conv))[1],
    )
    with pytest.raises(CheckpointMismatchError, match=r"does not fit daair: it has .*, expected \("):
        dataclasses.replace(checkpoint, config={**checkpoint.config, **damage}).build()
    assert real
    assert not any(real)


def test_a_million_blocks_are_refused_while_building(checkpoint: Checkpoint) -> None:
    config = {**checkpoint.config, "encoder_blocks": (10**9, 1)}
    with pytest.raises(CheckpointMismatchError, match=r"it asks for more than [\d,]+ tensors, the file has"):
        dataclasses.replace(checkpoint, config=config).build()


def test_huge_prompt_maps_are_refused_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randperm", None)  # one permutation would take 2 GB
    config = dataclasses.asdict(models.get("dfpir_s").config) | {"dim": 2**24}
    with pytest.raises(CheckpointMismatchError, match="lacks stem"):
        Checkpoint("dfpir_s", config, {}).build()


def test_a_missing_tensor(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointMismatchError, match=r"does not fit daair: it lacks stem\.weight\. Use"):
        changed(checkpoint, stem__weight=None).build()


def test_an_unknown_tensor(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointMismatchError, match=r"it has the unknown tensor extra\.weight\."):
        changed(checkpoint, extra__weight=torch.zeros(1)).build()


def test_a_tensor_of_another_shape(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointMismatchError, match=r"stem\.weight as \(4, 3\), expected \(4, 3, 3, 3\)"):
        changed(checkpoint, stem__weight=torch.zeros(4, 3)).build()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite(checkpoint: Checkpoint, value: float) -> None:
    stem = checkpoint.tensors["stem.weight"].clone()
    stem[1, 2, 0, 0] = value
    with pytest.raises(CheckpointMismatchError, match=r"has NaN or infinity in stem\.weight"):
        changed(checkpoint, stem__weight=stem).build()


def test_a_tensor_that_overflows_float32(checkpoint: Checkpoint) -> None:
    stem = checkpoint.tensors["stem.weight"].double() * 1e300
    with pytest.raises(CheckpointMismatchError, match=r"has NaN or infinity in stem\.weight"):
        changed(checkpoint, stem__weight=stem).build()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.complex64, torch.float8_e4m3fn])
def test_a_tensor_of_another_sort(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    stem = checkpoint.tensors["stem.weight"].to(dtype)
    with pytest.raises(
        CheckpointMismatchError, match=rf"has stem\.weight in {dtype}, expected torch\.float32"
    ):
        changed(checkpoint, stem__weight=stem).build()


def test_many_faults_are_counted(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointMismatchError, match=rf"and {len(checkpoint.tensors) - 5} more faults\."):
        dataclasses.replace(checkpoint, tensors={}).build()
