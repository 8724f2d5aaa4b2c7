"""A checkpoint: safetensors whose header says which network it is, so that the file rebuilds it."""

import dataclasses
import hashlib
import json
import os
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pellucid import models
from pellucid.errors import (
    CheckpointError,
    CheckpointMismatchError,
    HashMismatchError,
    InputError,
    UnsafeCheckpointError,
    reason,
    some,
)
from pellucid.models import ModelSpec

FORMAT = 1
# What floats may be stored as; torch computes nothing with its floats of one byte.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Checkpoint:
    """A network's name, configuration, tensors and origin.

    Attributes:
        model: structure, for example "daair_s"; known to `pellucid.models`.
        config: the structure's configuration as plain values.
        tensors: state dict under pellucid's own names.
        provenance: where the weights come from (data, licenses, steps, seed, commit, scores).
    """

    model: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def from_network(cls, model: str, network: nn.Module, provenance: dict[str, Any] | None = None) -> Self:
        """The checkpoint of `network`, which was built by the structure `model` and keeps its `config`."""
        config = dataclasses.asdict(network.config)  # type: ignore[arg-type]
        tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
        return cls(model, config, tensors, provenance or {})

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, sha256: str | None = None) -> Self:
        """Read a safetensors file.

        Args:
            path: the file.
            sha256: if given, what the file's bytes must hash to.

        Raises:
            CheckpointError: missing, cut short, or without pellucid's header.
            UnsafeCheckpointError: a pickle; nothing of it is loaded.
            HashMismatchError: other bytes than expected.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                head = file.read(16)
            if sha256 is not None and (found := hash_file(path)) != sha256:
                raise HashMismatchError(
                    f"{path} has SHA-256 {found[:16]}..., expected {sha256[:16]}.... "
                    "The file is damaged or another one; get it again."
                )
        except (OSError, ValueError) as error:  # ValueError: a name with a null character
            raise CheckpointError(f"{path} can't be read: {reason(error)}. Check the path.") from error
        if is_pickle(head):
            raise UnsafeCheckpointError(
                f"{path} is a pickle, which can run code when loaded; nothing was loaded. "
                "Turn it into safetensors with: pellucid convert CKPT -o OUT.safetensors"
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("pellucid", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, RecursionError) as error:  # the latter two: the header's JSON
            raise CheckpointError(
                f"{path} is not a whole safetensors file ({error}). Get it again, or check the path."
            ) from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} has no pellucid header of format {FORMAT}: it is another program's file or from "
                "another version. Foreign weights come in through: pellucid convert CKPT -o OUT.safetensors"
            )
        model, config, provenance = (header.get(key) for key in ("model", "config", "provenance"))
        if not (isinstance(model, str) and isinstance(config, dict) and isinstance(provenance, dict)):
            raise CheckpointError(
                f"{path} has a damaged pellucid header: expected a model's name, its configuration and its "
                "provenance. Get the file again."
            )
        return cls(model, config, tensors, provenance)

    def named(self, stem: str) -> str:
        """What the weights of a file are called: by its stem, or by their recipe where that is "weights".

        Every training calls its file so, which tells nothing in a report. A name that could lead out of a
        folder is not taken.
        """
        recipe: Any = self.provenance.get("recipe")
        try:
            name = str(recipe["name"])
        except (TypeError, LookupError):
            return stem
        return name if stem == "weights" and re.fullmatch(r"\w[\w. -]*", name) else stem

    def write(self, path: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write the file beside its target, then rename it into place.

        Args:
            path: the target.
            dtype: if given, floating-point tensors are stored in it (float16 halves the size).

        Raises:
            CheckpointError: the file can't be written.
        """
        path = Path(path)
        header = {
            "format": FORMAT,
            "model": self.model,
            "config": self.config,
            "provenance": self.provenance,
        }
        tensors = {
            name: (t.to(dtype) if dtype is not None and t.is_floating_point() else t).contiguous()
            for name, t in sorted(self.tensors.items())
        }
        try:
            save_tensors(tensors, path, {"pellucid": json.dumps(header, sort_keys=True)})
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} can't be written ({error}). Choose a folder that exists and is yours to write to."
            ) from error

    def build(self) -> nn.Module:
        """The network with these tensors, in float32 on the CPU, whatever torch's defaults are.

        Nothing is allocated before the tensors are known to be those that the configuration asks for, and
        none of torch's random numbers are used up.

        Raises:
            UnknownNameError: no such structure.
            CheckpointMismatchError: the configuration gives no network, or a tensor is missing, unknown, of
                another shape or sort, or not finite.
        """
        spec = models.get(self.model)
        try:
            config = spec.config_from(self.config)
            with _plain_torch():
                own = self._outline(spec, config).state_dict()
        except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError, InputError) as error:
            # Of torch's words the first line: the rest is its own call stack.
            raise CheckpointMismatchError(
                f"The checkpoint's configuration gives no {self.model} ({str(error).partition(chr(10))[0]}). "
                "Its header is damaged; get the file again."
            ) from error
        faults = [f"lacks {name}" for name in own if name not in self.tensors]
        faults += [f"has the unknown tensor {name}" for name in self.tensors if name not in own]
        for name, tensor in self.tensors.items():
            if name in own and tensor.shape != own[name].shape:
                faults.append(f"has {name} as {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
            elif name in own and not _becomes(tensor.dtype, own[name].dtype):
                faults.append(f"has {name} in {tensor.dtype}, expected {own[name].dtype}")
            elif name in own and not bool(torch.isfinite(tensor.to(own[name].dtype)).all()):
                faults.append(f"has NaN or infinity in {name}")
        if faults:
            raise CheckpointMismatchError(
                f"The checkpoint does not fit {self.model}: it {some(faults, '; it ', 'faults')}. "
                "Use the file this model was trained to, or convert it again."
            )
        with _plain_torch():
            network = spec.build(config)
        network.load_state_dict(self.tensors, strict=True)
        return network

    def _outline(self, spec: ModelSpec, config: Any) -> nn.Module:
        """The network on the meta device, which has shapes and no memory.

        A header may ask for a million blocks, so building ends once the file can't hold the tensors by far.
        """
        most, count, thread = 2 * len(self.tensors) + 1000, 0, threading.get_ident()

        def count_parameter(*_: object) -> None:
            nonlocal count
            count += threading.get_ident() == thread  # the hook also sees what other threads build
            if count > most:
                raise ValueError(
                    f"it asks for more than {most:,} tensors, the file has {len(self.tensors):,}"
                )

        with torch.device("meta"), register_module_parameter_registration_hook(count_parameter):
            return spec.build(config)


@contextmanager
def _plain_torch() -> Generator[None]:
    """Torch's own defaults inside, float32 and the CPU; its random numbers go on afterwards as before."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    # As a context even the CPU costs a sixth of the time that building takes.
    elsewhere = nullcontext() if device.type == "cpu" else torch.device("cpu")
    with elsewhere, torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file beside its target, with the rights that the umask leaves, then rename it.

    Raises:
        OSError, SafetensorError: it can't be written; what the target held is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        # safetensors makes a file of its own, which only its owner may read.
        rights = temporary.stat().st_mode
        save_file(tensors, temporary, metadata)
        temporary.chmod(rights)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_pickle(head: bytes) -> bool:
    """Whether a file whose first 9 bytes or more are `head` is PyTorch's (a zip or a pickle) or a pickle.

    Safetensors begins with the length of its header, whose bytes may look the same; then comes a brace.
    """
    marks = (b"PK", *(bytes((0x80, protocol)) for protocol in range(2, 6)))
    return head.startswith(marks) and head[8:9] != b"{"


def _becomes(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether values keep their meaning when they are loaded."""
    return stored in FLOATS if wanted.is_floating_point else stored == wanted


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
