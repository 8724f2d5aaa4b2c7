"""What every model that restores pictures owes, whoever wrote it."""

import dataclasses
import json

import pytest
import torch
from tests.toys import shaken
from torch import Tensor, nn

from pellucid import models
from pellucid.checkpoint import Checkpoint
from pellucid.models import ModelSpec

# Sizes in multiples of `spec.multiple_of`: the smallest, and odd ones lying and standing.
SIZES = [(1, 1), (1, 3), (5, 2)]


@pytest.fixture(scope="module", params=models.restoring())
def spec(request) -> ModelSpec:
    return models.get(request.param)


@pytest.fixture(scope="module")
def network(spec) -> nn.Module:
    return shaken(spec, 0.02)


def pictures(spec: ModelSpec, count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    m = spec.multiple_of
    return torch.rand(count, 3, height * m, width * m, generator=generator)


def prompts(spec: ModelSpec, count: int) -> tuple[Tensor, ...]:
    """The further arguments of a call: a different prompt for each picture, if the model is guided."""
    return (torch.arange(count) % len(spec.config.prompts),) if spec.guided else ()


def test_parameter_count_is_as_stated(spec):
    with torch.device("meta"):
        network = spec.build(spec.config)
    assert sum(p.numel() for p in network.parameters()) == spec.parameters, "correct `parameters` of the spec"


def test_config_survives_json(spec):
    assert dataclasses.fields(spec.config)
    assert spec.config_from(json.loads(json.dumps(dataclasses.asdict(spec.config)))) == spec.config
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec.config, dataclasses.fields(spec.config)[0].name, None)


def test_network_keeps_its_config(spec, network):
    assert network.config == spec.config


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sizes_are_kept(spec, network, height, width):
    x = pictures(spec, 1, height, width)
    with torch.inference_mode():
        restored = network(x, *prompts(spec, 1))
    assert restored.shape == x.shape
    assert restored.dtype == x.dtype
    assert restored.isfinite().all()


def test_batch_equals_singles(spec, network):
    x = pictures(spec, 3, 1, 2)
    arguments = prompts(spec, 3)
    with torch.inference_mode():
        batch = network(x, *arguments)
        singles = [network(x[i : i + 1], *(a[i : i + 1] for a in arguments)) for i in range(3)]
    assert torch.allclose(batch, torch.cat(singles), atol=1e-4)


def test_inference_repeats_itself_and_leaves_its_input(spec, network):
    x = pictures(spec, 2, 1, 1)
    before = x.clone()
    with torch.inference_mode():
        assert torch.equal(network(x, *prompts(spec, 2)), network(x, *prompts(spec, 2)))
    assert torch.equal(x, before)


def test_every_parameter_gets_a_gradient(spec, network):
    torch.manual_seed(2)
    network.train().zero_grad()
    try:
        # Several pictures, so that a network that routes has something to route.
        x = pictures(spec, 4, 2, 2)
        if hasattr(network, "forward_train"):
            restored, losses = network.forward_train(x, *prompts(spec, 4))
        else:
            restored, losses = network(x, *prompts(spec, 4)), {}
        assert restored.shape == x.shape
        (restored.square().mean() + sum(losses.values())).backward()
        trained = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
        none = [name for name, gradient in trained.items() if gradient is None]
        assert not none, "unused in forward: remove them, or make them buffers"
        assert not [name for name, gradient in trained.items() if not gradient.isfinite().all()]
        assert not [name for name, gradient in trained.items() if not gradient.any()], (
            "no effect on the output"
        )
        if len(trained) < len(list(network.parameters())):
            assert hasattr(network, "after_step"), "frozen parameters that no step moves"
    finally:
        network.eval().zero_grad()


def test_checkpoint_gives_the_same_bytes(spec, network, tmp_path):
    Checkpoint.from_network(spec.name, network, {"seed": 0}).write(tmp_path / "a.safetensors")
    read = Checkpoint.read(tmp_path / "a.safetensors")
    rebuilt = read.build().eval()
    Checkpoint.from_network(read.model, rebuilt, read.provenance).write(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    x = pictures(spec, 1, 1, 1)
    with torch.inference_mode():
        assert torch.equal(rebuilt(x, *prompts(spec, 1)), network(x, *prompts(spec, 1)))
