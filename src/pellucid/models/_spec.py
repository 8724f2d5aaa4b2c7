"""A network's structure, by name: its configuration, how to build it, and what it asks of a picture."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pellucid.errors import CheckpointMismatchError


@dataclass(frozen=True)
class ModelSpec:
    """One named structure.

    Attributes:
        name: for example "daair_s".
        config: frozen dataclass with the structure's numbers.
        build: makes the network from such a config, with fresh weights.
        paper: reference.
        guided: the network is called as `network(x, prompt)` with `prompt (B,)` integer; else `network(x)`.
        multiple_of: height and width must be multiples of this.
        parameters: the count that `build(config)` must have (buffers not counted).
    """

    name: str
    config: Any
    build: Callable[[Any], nn.Module]
    paper: str
    guided: bool
    multiple_of: int
    parameters: int

    def config_from(self, values: dict[str, Any]) -> Any:
        """A config of this structure from plain values, as a checkpoint's header holds them.

        Raises:
            CheckpointMismatchError: a field is missing or unknown.
        """
        known = {f.name for f in dataclasses.fields(self.config)}
        if known != set(values):
            missing, unknown = sorted(known - set(values)), sorted(set(values) - known)
            raise CheckpointMismatchError(
                f"The checkpoint's configuration for {self.name} lacks {missing or 'nothing'} "
                f"and has the unknown fields {unknown or 'none'}. "
                "It was written by another version; convert it again with this one."
            )
        return type(self.config)(**{k: _tuples(v) for k, v in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
