"""Params: rows, JSON, and what is refused."""

import json
from dataclasses import dataclass

import pytest
import torch

from pellucid.degradations import Params
from pellucid.degradations.gaussian_noise import GaussianNoise
from pellucid.errors import InputError


@dataclass(frozen=True)
class Sample(Params):
    level: tuple[float, ...]
    color: tuple[tuple[float, float, float], ...]
    layers: tuple[tuple[int, ...], ...]
    quality: tuple[int | None, ...]
    on: tuple[bool, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("level", 0, 1)


GOOD = Sample((0.1, 1 / 3), ((1.0, 0.5, 0.2), (0.0, 0.0, 1.0)), ((1, 2), ()), (None, 40), (True, False))


def test_select_takes_one_row() -> None:
    row = GOOD.select(1)
    assert len(row) == 1
    assert row == Sample((1 / 3,), ((0.0, 0.0, 1.0),), ((),), (40,), (False,))


def test_json_round_trip_is_exact() -> None:
    assert Sample.from_json(GOOD.to_json()) == GOOD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("level", ["a", 0.2]),
        ("level", [True, 0.2]),
        ("level", 0.2),
        ("level", [0.1, 2.0]),
        ("level", [0.1]),
        ("color", [[1, 2], [1, 2, 3]]),
        ("layers", [[1.5], []]),
        ("quality", ["x", None]),
        ("on", [1, 0]),
        ("level", [10**400, 0.2]),
        ("quality", [[[[[[[[[1]]]]]]]], None]),
    ],
)
def test_refuses_values_of_another_type(field: str, value: object) -> None:
    values = json.loads(GOOD.to_json())
    values[field] = value
    with pytest.raises(InputError, match=field):
        Sample.from_json(json.dumps(values))


def test_white_may_be_missed_by_what_rounding_adds() -> None:
    operator, white = GaussianNoise(), torch.ones(1, 3, 4, 4)
    operator.check(white + 5e-6, operator.zero(1))
    for beyond in (white + 2e-5, -5e-6 * white):
        with pytest.raises(InputError, match="expected 0 to 1"):
            operator.check(beyond, operator.zero(1))


def test_nesting_without_end_is_a_sentence() -> None:
    with pytest.raises(InputError, match="not JSON"):
        Sample.from_json("[" * 100_000)


def test_names_missing_and_unknown_fields() -> None:
    values = json.loads(GOOD.to_json())
    values["levels"] = values.pop("level")
    with pytest.raises(InputError, match=r"lack \['level'\] and have the unknown fields \['levels'\]"):
        Sample.from_dict(values)
