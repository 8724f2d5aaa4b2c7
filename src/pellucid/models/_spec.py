"""A network's structure, by name: its configuration, how to build it, and what it asks of a picture."""

import dataclasses
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from torch import nn

from pellucid.errors import CheckpointMismatchError
from pellucid.typed import fits


@dataclass(frozen=True)
class ModelSpec:
    """One named structure.

    Attributes:
        name: for example "daair_s".
        config: frozen dataclass with the structure's numbers.
        build: makes the network from such a config, with fresh weights.
        paper: reference, as an arXiv number.
        guided: the network is called as `network(x, prompt)` with `prompt (B,)` integer; else `network(x)`.
        multiple_of: height and width must be multiples of this.
        parameters: the count that `build(config)` must have (buffers not counted).
        restores: the network gives a picture; false for one that answers about it, such as the recognizer.
    """

    name: str
    config: Any
    build: Callable[[Any], nn.Module]
    paper: str
    guided: bool
    multiple_of: int
    parameters: int
    restores: bool = True

    def config_from(self, values: dict[str, Any]) -> Any:
        """A config of this structure from plain values, as a checkpoint's header holds them.

        A field whose metadata says "added" may be missing: older files mean its default.

        Raises:
            CheckpointMismatchError: a field is missing, unknown, or of another type.
        """
        known = {f.name: "added" in f.metadata for f in dataclasses.fields(self.config)}
        missing = sorted(name for name, added in known.items() if name not in values and not added)
        unknown = sorted(set(values) - set(known))
        if missing or unknown:
            raise CheckpointMismatchError(
                f"The checkpoint's configuration for {self.name} lacks {missing or 'nothing'} "
                f"and has the unknown fields {unknown or 'none'}. "
                "It was written by another version; convert it again with this one."
            )
        hints = get_type_hints(type(self.config))
        for name, value in values.items():
            if not fits(value, hints[name]):
                expected = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
                fault = f"{name} is {reprlib.repr(value)}, expected {expected.removeprefix('typing.')}"
                raise CheckpointMismatchError(
                    f"The checkpoint's configuration gives no {self.name} ({fault}). "
                    "Its header is damaged; get the file again."
                )
        return type(self.config)(**{k: _tuples(v) for k, v in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
