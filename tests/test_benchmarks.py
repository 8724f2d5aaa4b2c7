"""What benchmarks compare with computes the same."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tests.toys import shaken

from pellucid import models
from pellucid.compute import probe_picture

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not part of the source archive")
@pytest.mark.parametrize("name", ["daair", "daair_s", "dfpir_s"])
def test_the_plain_networks_give_what_the_networks_give(name):
    plain, spec = load("plain"), models.get(name)
    network = shaken(spec, 0.02)
    picture, state = probe_picture(64), dict(network.state_dict())
    with torch.inference_mode():
        if spec.guided:
            result, expected = plain.dfpir(state, spec.config, picture, 1), network(picture, 1)
        else:
            result, expected = plain.daair(state, spec.config, picture), network(picture)
    assert float((expected - picture).abs().max()) > 0.05
    assert torch.allclose(result, expected, rtol=0, atol=1e-4)
