"""What every degradation is: a pure, batched operator whose parameters are drawn first."""

import json
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn, Self, get_type_hints

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.typed import fits

ROUNDING = 1e-5  # by which a sum of weights may go beyond white


@dataclass(frozen=True)
class Params:
    """The parameters of one draw, for a batch of `n`: each field is a tuple of `n` plain values.

    They are JSON-able, and `select` takes one row, so that a single training pair can be rebuilt from a line
    of a log. Whatever is random inside `apply` comes from a per-sample `seed` field.
    """

    def __post_init__(self) -> None:
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"The fields of {type(self).__name__} have different lengths, {lengths}; "
                "give each of them one value per picture."
            )

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def select(self, index: int) -> Self:
        """The parameters of one sample, as a batch of one."""
        return type(self)(**{f.name: (getattr(self, f.name)[index],) for f in fields(self)})

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            InputError: not JSON, or not with the fields and types of this class.
        """
        try:
            values = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"The parameters are not JSON ({error}). Give the line as it was printed."
            ) from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Parameters from what `json.loads` gives for `to_json`'s line.

        Raises:
            InputError: a field is missing, unknown or of another type.
        """
        hints = get_type_hints(cls)
        wanted = {f.name: hints[f.name] for f in fields(cls)}
        found = {str(key) for key in values} if isinstance(values, dict) else set[str]()
        if found != set(wanted):
            raise InputError(
                f"The parameters lack {sorted(set(wanted) - found) or 'nothing'} and have the unknown fields "
                f"{sorted(found - set(wanted)) or 'none'}. Give the line as it was printed."
            )
        for name in wanted:
            if not fits(values[name], wanted[name]):
                raise InputError(
                    f"The parameter {name!r} is {reprlib.repr(values[name])}; expected {wanted[name]}. "
                    "Give the line as it was printed."
                )
        return cls(**{name: _tupled(values[name]) for name in wanted})

    def expect(self, name: str, low: float, high: float) -> None:
        """Check that all values of a field lie in [low, high].

        Raises:
            InputError: one does not.
        """
        outside = [v for v in _leaves(getattr(self, name)) if v is not None and not low <= v <= high]
        if outside:
            raise InputError(
                f"The parameter {name!r} is {outside[0]}; expected a value from {low} to {high}."
            )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


class Degradation(ABC):
    """An image operator that makes a clean picture worse.

    `draw(rng, n)` gives parameters, `apply(clean, params)` a degraded batch of the same shape, dtype and
    device. `apply` is pure: same picture and same parameters give the same bytes, the input is left
    untouched. A sample of a batch comes out as it would alone, bit for bit on a CPU.
    """

    name: str
    kind: str  # "noise", "rain", "haze", "blur", "low_light", "jpeg" or "composite"
    params_type: type[Params]
    in_mixes: bool = True  # whether a `Composite` that chooses by chance may choose it

    @abstractmethod
    def draw(self, rng: torch.Generator, n: int) -> Params:
        """Parameters for `n` pictures, from a CPU generator."""

    @abstractmethod
    def zero(self, n: int) -> Params:
        """Parameters for `n` pictures that leave every picture exactly as it is."""

    @abstractmethod
    def apply(self, clean: Tensor, params: Any) -> Tensor:
        """The degraded batch.

        Args:
            clean: (B, 3, H, W) float32 or float64 in [0, 1], sRGB-encoded, on any device.
            params: what `draw` gave for B pictures.

        Returns:
            (B, 3, H, W) in [0, 1], same dtype and device; its own memory.

        Raises:
            InputError: what `check` refuses.
        """

    def check(self, clean: Tensor, params: Params) -> None:
        """Check what `apply` is given; values on a GPU are not read, as each call would wait for it.

        Raises:
            InputError: not (B, 3, H, W) float32 or float64 in [0, 1] with at least one pixel, not B
                parameters, or another operator's.
        """
        if not isinstance(params, self.params_type):
            raise InputError(
                f"The parameters are of type {type(params).__name__}; {self.name} expects "
                f"{self.params_type.__name__}. Draw them by the operator that is applied."
            )
        floating = clean.dtype in (torch.float32, torch.float64)
        if clean.ndim != 4 or clean.shape[1] != 3 or 0 in clean.shape or not floating:
            raise InputError(
                f"The batch is {clean.dtype} of shape {tuple(clean.shape)}; "
                "expected float32 or float64 (B, 3, H, W) with pixels in it. Convert it before degrading."
            )
        if clean.shape[0] != len(params):
            raise InputError(
                f"There are {clean.shape[0]} pictures and parameters for {len(params)}; "
                "draw as many parameters as there are pictures."
            )
        if clean.device.type == "cpu":
            lowest, highest = (float(end) for end in clean.detach().aminmax())
            if not (lowest >= 0 and highest <= 1 + ROUNDING):  # so written, NaN is refused too
                raise InputError(
                    f"The batch holds values from {lowest:.6g} to {highest:.6g}; expected 0 to 1. Clamp it."
                )
