"""A checkpoint: safetensors whose header says which network it is, so that the file rebuilds it."""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pellucid import models
from pellucid.errors import CheckpointError, CheckpointMismatchError, HashMismatchError, UnsafeCheckpointError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A network's name, configuration, tensors and origin.

    Attributes:
        model: structure, for example "daair_s"; known to `pellucid.models`.
        config: the structure's configuration as plain values.
        tensors: state dict under pellucid's own names.
        provenance: where the weights come from (data, licences, steps, seed, commit, scores).
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
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error.strerror}. Check the path.") from error
        if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise UnsafeCheckpointError(
                f"{path} is a pickle, which can run code when loaded; nothing was loaded. "
                "Turn it into safetensors with: pellucid convert CKPT -o OUT.safetensors"
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("pellucid", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError) as error:
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
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, temporary, metadata={"pellucid": json.dumps(header, sort_keys=True)})
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} can't be written ({error}). Choose a folder that exists and is yours to write to."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def build(self) -> nn.Module:
        """The network with these tensors, in float32.

        Raises:
            UnknownNameError: no such structure.
            CheckpointMismatchError: the configuration gives no network, or a tensor is missing, unknown, of
                another shape, or not finite.
        """
        spec = models.get(self.model)
        config = spec.config_from(self.config)
        try:
            network = spec.build(config)
        except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
            raise CheckpointMismatchError(
                f"The checkpoint's configuration gives no {self.model} ({error}). "
                "Its header is damaged; get the file again."
            ) from error
        own = network.state_dict()
        faults = [f"lacks {name}" for name in own if name not in self.tensors]
        faults += [f"has the unknown tensor {name}" for name in self.tensors if name not in own]
        for name, tensor in self.tensors.items():
            if name in own and tensor.shape != own[name].shape:
                faults.append(f"has {name} as {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
            elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                faults.append(f"has NaN or infinity in {name}")
        if faults:
            more = f" and {len(faults) - 5} more faults" if len(faults) > 5 else ""
            raise CheckpointMismatchError(
                f"The checkpoint does not fit {self.model}: it {'; '.join(faults[:5])}{more}. "
                "Use the file this model was trained to, or convert it again."
            )
        network.load_state_dict(self.tensors, strict=True)
        return network


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
