"""Two or three degradations on one picture, in the order in which they happen."""

import reprlib
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from pellucid import degradations
from pellucid.degradations._base import Degradation, Params
from pellucid.errors import InputError

# The air between camera and scene first, the drops nearer than the haze; then the lens and the shutter; then
# exposure and sensor; then the file. Blur comes before low light because that operator ends in sensor noise,
# which no lens blurs; exposure is a factor on linear light and commutes with the blur.
ORDER = ("haze", "rain", "blur", "low_light", "noise", "jpeg")


@dataclass(frozen=True)
class Part:
    """One operator's name and its parameters for one picture."""

    name: str
    params: Params


@dataclass(frozen=True)
class CompositeParams(Params):
    """Per sample: `parts`, in the order in which they are applied."""

    parts: tuple[tuple[Part, ...], ...]

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """See `Params.from_dict`."""
        try:
            rows = [[(str(part["name"]), part["params"]) for part in row] for row in values["parts"]]
        except (TypeError, KeyError) as error:
            raise InputError(
                f"The composite's parameters are {reprlib.repr(values)}; expected "
                '{"parts": [[{"name": ..., "params": ...}, ...]]}. Give the line as it was printed.'
            ) from error
        if any(name == Composite.name for row in rows for name, _ in row):
            raise InputError(
                "A composite has another as its part; expected single degradations. List them all."
            )
        return cls(
            tuple(
                tuple(
                    Part(name, degradations.get(name).params_type.from_dict(params)) for name, params in row
                )
                for row in rows
            )
        )


class Composite(Degradation):
    """Several degradations one after the other, each of another kind, ordered as in nature (`ORDER`).

    Args:
        operators: the operators that every picture gets; none: two or three kinds by chance, and of each kind
            one of the registered operators that are `in_mixes`.

    Raises:
        InputError: operators of one kind, or of a kind that has no place in `ORDER`.
    """

    name = "composite"
    kind = "composite"
    params_type = CompositeParams

    def __init__(self, operators: tuple[Degradation, ...] | None = None) -> None:
        kinds = [operator.kind for operator in operators or ()]
        if not set(kinds) <= set(ORDER) or len(set(kinds)) < len(kinds):
            raise InputError(
                f"A composite's operators are of the kinds {', '.join(kinds)}; expected different ones of "
                f"{', '.join(ORDER)}. A new kind gets its place in ORDER of degradations/composite.py."
            )
        self.operators = operators

    def draw(self, rng: torch.Generator, n: int) -> CompositeParams:
        """See `Degradation.draw`."""
        return CompositeParams(tuple(self._draw_one(rng) for _ in range(n)))

    def zero(self, n: int) -> CompositeParams:
        """See `Degradation.zero`."""
        return CompositeParams(((),) * n)

    def apply(self, clean: Tensor, params: CompositeParams) -> Tensor:
        """See `Degradation.apply`."""
        self.check(clean, params)
        pictures: list[Tensor] = []
        for picture, parts in zip(clean, params.parts, strict=True):
            degraded = picture[None].clone()
            for part in parts:
                degraded = degradations.get(part.name).apply(degraded, part.params)
            pictures.append(degraded[0])
        return torch.stack(pictures)

    def _draw_one(self, rng: torch.Generator) -> tuple[Part, ...]:
        chosen = self.operators or _some_kinds(rng)
        ordered = sorted(chosen, key=lambda operator: ORDER.index(operator.kind))
        return tuple(Part(operator.name, operator.draw(rng, 1)) for operator in ordered)


def _some_kinds(rng: torch.Generator) -> tuple[Degradation, ...]:
    by_kind: dict[str, list[Degradation]] = {kind: [] for kind in ORDER}
    for name in degradations.names():
        operator = degradations.get(name)
        if operator.kind in by_kind and operator.in_mixes:
            by_kind[operator.kind].append(operator)
    how_many = int(torch.randint(2, 4, (), generator=rng))
    kinds = [ORDER[i] for i in torch.randperm(len(ORDER), generator=rng)[:how_many].tolist()]
    return tuple(by_kind[kind][int(torch.randint(len(by_kind[kind]), (), generator=rng))] for kind in kinds)


OPERATORS = (Composite(),)
