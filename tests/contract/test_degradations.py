"""What every degradation owes, for whatever the registry finds."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pellucid import degradations
from pellucid.degradations import Degradation, Params
from pellucid.errors import InputError

SIZES = [(48, 64), (17, 33), (1, 1), (3, 40)]


@pytest.fixture(params=degradations.names())
def operator(request: pytest.FixtureRequest) -> Degradation:
    return degradations.get(request.param)


def pictures(n: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand((n, 3, height, width), generator=torch.Generator().manual_seed(7), dtype=dtype)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_same_seed_same_bytes(operator: Degradation) -> None:
    clean = pictures(3, 24, 40)
    first, second, other = operator.draw(rng(1), 3), operator.draw(rng(1), 3), operator.draw(rng(2), 3)
    assert first == second != other
    assert torch.equal(operator.apply(clean, first), operator.apply(clean, second))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_shape_dtype_and_range_are_kept(
    operator: Degradation, size: tuple[int, int], dtype: torch.dtype
) -> None:
    clean = pictures(4, *size, dtype)
    degraded = operator.apply(clean, operator.draw(rng(3), 4))
    assert degraded.shape == clean.shape
    assert degraded.dtype == dtype
    assert degraded.isfinite().all()
    assert degraded.min() >= 0
    assert degraded.max() <= 1


def test_does_something(operator: Degradation) -> None:
    clean = pictures(8, 32, 32)
    degraded = operator.apply(clean, operator.draw(rng(4), 8))
    changed = (degraded != clean).flatten(1).any(1)
    assert changed.sum() >= 6


def test_input_is_untouched(operator: Degradation) -> None:
    for params in (operator.draw(rng(5), 3), operator.zero(3)):
        clean = pictures(3, 20, 20)
        degraded = operator.apply(clean, params)
        degraded.zero_()
        assert torch.equal(clean, pictures(3, 20, 20))


def test_black_and_white_stay_in_range(operator: Degradation) -> None:
    clean = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    degraded = operator.apply(clean, operator.draw(rng(6), 2))
    assert degraded.isfinite().all()
    assert 0 <= degraded.min() <= degraded.max() <= 1


def test_params_survive_json(operator: Degradation) -> None:
    params = operator.draw(rng(8), 5)
    line = params.to_json()
    assert "\n" not in line
    assert operator.params_type.from_json(line) == params


@pytest.mark.parametrize("size", SIZES)
def test_batch_equals_singles(operator: Degradation, size: tuple[int, int]) -> None:
    clean = pictures(5, *size)
    params = operator.draw(rng(9), 5)
    batch = operator.apply(clean, params)
    assert len(params) == 5
    for i in range(5):
        assert torch.equal(batch[i : i + 1], operator.apply(clean[i : i + 1], params.select(i)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_strength_is_identity(operator: Degradation, dtype: torch.dtype) -> None:
    clean = pictures(2, 19, 23, dtype)
    assert torch.equal(operator.apply(clean, operator.zero(2)), clean)


def test_zero_and_drawn_samples_mix_in_one_batch(operator: Degradation) -> None:
    clean = pictures(2, 16, 24)
    zero, drawn = operator.zero(1), operator.draw(rng(10), 1)
    rows = {name: getattr(zero, name) + getattr(drawn, name) for name in vars(zero)}
    degraded = operator.apply(clean, operator.params_type(**rows))
    assert torch.equal(degraded[0], clean[0])
    assert torch.equal(degraded[1:], operator.apply(clean[1:], drawn))


def test_refuses_what_is_no_batch_of_pictures(operator: Degradation) -> None:
    params = operator.draw(rng(11), 2)
    for clean in (
        torch.rand(2, 1, 8, 8),
        torch.rand(3, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.rand(3, 3, 8, 8),
        torch.rand(2, 3, 8, 0),
        torch.full((2, 3, 8, 8), -1e-3),
        torch.full((2, 3, 8, 8), 255.0),
        torch.full((2, 3, 8, 8), torch.nan),
    ):
        with pytest.raises(InputError, match=r"expected|as many"):
            operator.apply(clean, params)


def test_refuses_params_of_another_operator(operator: Degradation) -> None:
    @dataclass(frozen=True)
    class Others(Params):
        seed: tuple[int, ...]

    with pytest.raises(
        InputError, match=f"of type Others; {operator.name} expects {operator.params_type.__name__}"
    ):
        operator.apply(pictures(2, 8, 8), Others((1, 2)))


def test_refuses_params_of_another_shape(operator: Degradation) -> None:
    for line in ("not json", "[1, 2]", '{"strange": [1]}', '{"seed": NaN}'):
        with pytest.raises(InputError):
            operator.params_type.from_json(line)


@pytest.mark.gpu
def test_runs_on_the_device_of_the_batch(operator: Degradation) -> None:
    clean = pictures(4, 48, 40).cuda()
    params = operator.draw(rng(12), 4)
    degraded = operator.apply(clean, params)
    assert degraded.is_cuda
    assert torch.equal(degraded, operator.apply(clean, params))
    assert 0 <= degraded.min() <= degraded.max() <= 1
    assert torch.equal(operator.apply(clean, operator.zero(4)), clean)
