import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pellucid import models
from pellucid.errors import InputError, UnknownNameError
from pellucid.evaluate.efficiency import count_gmac, measure_efficiency

# Billions of multiply-adds that were counted on the authors' DFPIR and on DaAIR as its figure draws it.
KNOWN = [
    ("daair", 224, 18.88),
    ("dfpir", 256, 165.53),
]


@pytest.mark.parametrize(("name", "size", "expected"), KNOWN)
def test_multiply_adds_are_as_known(name, size, expected):
    spec = models.get(name)
    drawn, run = count_gmac(spec, spec.config, size)
    assert round(drawn, 2) == expected
    assert run != drawn
    assert run == pytest.approx(drawn, rel=0.02)


def test_fake_tensors_count_as_real_ones():
    spec = models.get("daair_s")
    network = spec.build(spec.config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.rand(1, 3, 64, 96))
        square = counter.get_total_flops()
    assert count_gmac(spec, spec.config, 64)[1] * 1.5 == pytest.approx(square / 2e9, rel=0.01)


def test_the_experts_steps_are_counted_as_drawn():
    spec = models.get("daair_s")
    network = spec.build(spec.config)
    drawn, run = count_gmac(spec, spec.config, 64)
    difference = 0
    for level, stage in enumerate([*network.encoder]):
        pixels, dim, rank = (32 // 2**level) ** 2, 32 * 2**level, 8
        blocks = len(stage) * 2 + (len(network.decoder[level]) * 3 if level < 3 else 0)
        difference += blocks * (pixels * (2 * rank * rank - rank * dim) - 2 * rank * rank * dim)
    assert drawn - run == pytest.approx(difference / 1e9, rel=1e-6)


def test_counting_alone_runs_nothing():
    result = measure_efficiency("dfpir_s", (128,), runs=0)
    assert (result.parameters, result.device, result.runs) == (3_348_638, None, 0)
    assert result.costs[0].seconds is None
    assert result.costs[0].gmac > result.costs[0].gmac_run > 0.3


def test_latency_and_memory_are_measured(small_weights):
    result = measure_efficiency(str(small_weights), (64,), runs=3, device="cpu", precision="float32")
    cost = result.costs[0]
    assert cost.seconds is not None and cost.fastest is not None and cost.slowest is not None
    assert 0 < cost.fastest <= cost.seconds <= cost.slowest
    weights = small_weights.stat().st_size
    assert cost.peak_bytes is not None
    assert 0.9 * weights < cost.peak_bytes < 2 * weights
    assert (result.model, result.structure, result.device, result.precision) == (
        "small",
        "daair_s",
        "cpu",
        "float32",
    )


def test_a_guided_network_is_measured_under_a_prompt():
    assert measure_efficiency("dfpir_s", (32,), runs=1, device="cpu", precision="float32").costs[0].seconds


def test_wrong_calls_are_refused():
    with pytest.raises(InputError, match="size is 100; daair_s takes multiples of 16"):
        measure_efficiency("daair_s", (100,), runs=0)
    with pytest.raises(InputError, match="runs is -1"):
        measure_efficiency("daair_s", runs=-1)
    with pytest.raises(UnknownNameError, match="daair_s"):
        measure_efficiency("daair_ss")
