import json

import pytest
import torch

from pellucid import degradations
from pellucid.degradations.composite import ORDER, Composite, CompositeParams
from pellucid.degradations.gaussian_noise import GaussianNoise
from pellucid.degradations.haze import Haze
from pellucid.degradations.jpeg import Jpeg
from pellucid.errors import InputError, UnknownNameError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_two_or_three_kinds_in_physical_order() -> None:
    params = Composite().draw(rng(), 120)
    kinds = [[degradations.get(part.name).kind for part in row] for row in params.parts]
    assert {len(row) for row in kinds} == {2, 3}
    assert {kind for row in kinds for kind in row} == set(ORDER)
    for row in kinds:
        places = [ORDER.index(kind) for kind in row]
        assert places == sorted(set(places))


def test_every_operator_has_a_place_in_the_order() -> None:
    kinds = {degradations.get(name).kind for name in degradations.names()}
    assert kinds == {*ORDER, "composite"}


def test_is_its_parts_one_after_the_other() -> None:
    clean = torch.rand((1, 3, 24, 24), generator=rng(1))
    composite = Composite((Jpeg(), GaussianNoise(sigmas=(15,)), Haze()))
    params = composite.draw(rng(2), 1)
    haze, noise, jpeg = params.parts[0]
    assert [haze.name, noise.name, jpeg.name] == ["haze", "gaussian_noise", "jpeg"]
    expected = Jpeg().apply(
        GaussianNoise().apply(Haze().apply(clean, haze.params), noise.params), jpeg.params
    )
    assert torch.equal(composite.apply(clean, params), expected)


def test_replays_from_its_json() -> None:
    clean = torch.rand((3, 3, 20, 28), generator=rng(3))
    params = Composite().draw(rng(4), 3)
    again = CompositeParams.from_json(params.to_json())
    assert again == params
    assert torch.equal(Composite().apply(clean, again), Composite().apply(clean, params))


def test_refuses_unknown_parts() -> None:
    with pytest.raises(UnknownNameError, match="haze"):
        CompositeParams.from_dict({"parts": [[{"name": "hase", "params": {}}]]})
    with pytest.raises(InputError, match="another as its part"):
        CompositeParams.from_dict({"parts": [[{"name": "composite", "params": {"parts": [[]]}}]]})
    for values in ({"parts": [["haze"]]}, {"parts": 3}, [], {"parts": [[{"name": "haze"}]]}):
        with pytest.raises(InputError):
            CompositeParams.from_json(json.dumps(values))


@pytest.mark.parametrize("names", [("composite",), ("jpeg", "jpeg")])
def test_operators_of_one_kind_or_without_a_place_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=f"of the kinds {', '.join(names)}; expected different ones of haze"):
        Composite(tuple(degradations.get(name) for name in names))
