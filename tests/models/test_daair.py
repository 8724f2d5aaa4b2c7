"""DaAIR: its counts, its routing, its controllers, and its experts against a plain form of the formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pellucid import models
from pellucid.errors import InputError
from pellucid.models.daair import (
    SMALL,
    Controller,
    DaAIR,
    DaAIRConfig,
    DegradationAwareLearner,
    LowRankExperts,
    Router,
    RoutingTrial,
    balance_loss,
)
from pellucid.strips import Workspace

# Small enough for dozens of runs, with every part of the real ones.
TINY = DaAIRConfig(
    dim=8,
    encoder_blocks=(1, 2, 1, 1),
    decoder_blocks=(1, 1, 1),
    num_heads=(1, 2, 2, 4),
    num_experts=3,
    rank=4,
)
TINY_CHEAP = replace(TINY, mixer="gated_convolution", grid=2)


@pytest.mark.parametrize("grid", [0, -2])
def test_a_grid_has_a_size(grid: int):
    with pytest.raises(InputError, match="expected 1"):
        replace(TINY, grid=grid)


@pytest.mark.parametrize(
    ("grid", "shape", "sentence"),
    [
        (1, (1, 3, 12, 16), "multiples of 8"),
        (2, (1, 3, 24, 16), "multiples of 16"),
        (1, (1, 3, 0, 16), "multiples of 8"),
        (1, (1, 1, 8, 8), r"expected \(B, 3, H, W\)"),
        (1, (3, 8, 8), r"expected \(B, 3, H, W\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(grid: int, shape: tuple[int, ...], sentence: str):
    network = DaAIR(replace(TINY, grid=grid))
    for call in (network, network.forward_train):
        with pytest.raises(InputError, match=sentence):
            call(torch.zeros(shape))
    with pytest.raises(InputError, match=sentence):
        network.forward_strips(torch.zeros(shape)[0], Workspace())


def build(config: DaAIRConfig, seed: int = 0) -> DaAIR:
    """A network whose routers have strong opinions and whose experts have a say; no weight is zero."""
    torch.manual_seed(seed)
    network = DaAIR(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_((1.0 if "router" in name else 0.05) * torch.randn_like(parameter))
            if "project.weight" in name:
                parameter.normal_(std=0.8)  # fresh, it is zero
    return network.eval()


def pictures(count: int, height: int = 32, width: int = 48) -> Tensor:
    """Pictures of different color, brightness and contrast, (count, 3, height, width)."""
    generator = torch.Generator().manual_seed(1)
    tint = torch.rand(count, 3, 1, 1, generator=generator)
    return tint + (1 - tint) * torch.rand(count, 3, height, width, generator=generator) * tint


def count(module: nn.Module, *, trainable: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def routes_of(network: DaAIR, run) -> list[list[int]]:
    """The experts each router chose during `run()`, per router and picture."""
    chosen: list[list[int]] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, output: chosen.append(output[0].tolist()))
        for module in network.modules()
        if isinstance(module, Router)
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return chosen


# Counts


@pytest.mark.parametrize(
    ("num_experts", "total", "trainable"),
    [(3, 6_038_208, 6_008_256), (4, 6_133_440, 6_103_488), (5, 6_228_672, 6_198_720)],
)
def test_parameters_of_the_paper_size(num_experts: int, total: int, trainable: int) -> None:
    with torch.device("meta"):
        network = DaAIR(replace(DaAIRConfig(), num_experts=num_experts))
    assert count(network) == total
    assert count(network, trainable=True) == trainable


@pytest.fixture(scope="module")
def paper_size() -> DaAIR:
    with torch.device("meta"):
        return DaAIR(DaAIRConfig())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("encoder.0.0", 15_649),
        ("encoder.0.0.learner", 8_280),
        ("encoder.0.0.learner.agnostic", 1_296),
        ("encoder.0.0.attention", 2_953),
        ("encoder.0.0.ffn", 4_320),
        ("encoder.1.0", 37_346),
        ("encoder.2.0", 115_300),
        ("encoder.3.0", 409_448),
        ("encoder.3.0.learner", 27_936),
        ("decoder.0.0", 17_329),
        ("decoder.1.0", 39_794),
        ("decoder.2.0", 119_284),
    ],
)
def test_parameters_of_one_part(paper_size: DaAIR, path: str, expected: int) -> None:
    assert count(paper_size.get_submodule(path)) == expected


def test_one_expert_is_a_fifth_of_the_specialized(paper_size: DaAIR) -> None:
    assert count(paper_size.get_submodule("encoder.0.0.learner.specialized")) == 5 * 1_296


def test_parameters_by_kind_of_part(paper_size: DaAIR) -> None:
    def total(suffix: str) -> int:
        return sum(count(m) for name, m in paper_size.named_modules() if name.endswith(suffix))

    assert total(".controller.expert") == 6_228_672 - 6_198_720
    found = {
        "learner": total(".learner"),
        "attention": total(".attention"),
        "ffn": total(".ffn"),
        "controller's projection": total(".controller.project"),
        "down": count(paper_size.down),
        "up": count(paper_size.up),
        "fuse": count(paper_size.fuse),
    }
    stated = [623_000, 1_845_000, 2_751_000, 15_000, 55_000, 871_000, 24_000]
    assert list(found.values()) == pytest.approx(stated, abs=1_000), found


def test_small_variant_suits_laptops() -> None:
    with torch.device("meta"):
        network = models.get("daair_s").build(SMALL)
    network = network.to_empty(device="cpu")
    assert 1e6 <= count(network) <= 2.5e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 256, 256))
    assert 1e9 < counter.get_total_flops() <= 6e9


# Gradients


@pytest.mark.parametrize("config", [TINY, TINY_CHEAP], ids=["attention", "gated_convolution"])
def test_every_trainable_parameter_gets_a_gradient(config: DaAIRConfig) -> None:
    network = build(config)
    torch.manual_seed(0)
    restored, losses = network.forward_train(pictures(8))
    (restored.square().mean() + losses["balance"]).backward()
    for name, parameter in network.named_parameters():
        if ".controller.expert." in name:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_fresh_experts_keep_the_variance() -> None:
    torch.manual_seed(0)
    experts = LowRankExperts(dim=32, rank=8, num_experts=50, kernel_size=3)
    for weight, fan_in in (
        (experts.reduce, 32),
        (experts.expand, 8),
        (experts.depthwise, 9),
        (experts.mix, 8),
    ):
        assert weight.var().item() * fan_in == pytest.approx(1, rel=0.1)


def test_each_chosen_expert_and_no_other_gets_a_gradient() -> None:
    torch.manual_seed(0)
    experts = LowRankExperts(dim=6, rank=4, num_experts=4, kernel_size=3)
    experts(torch.randn(3, 6, 5, 5), torch.tensor([2, 0, 2])).square().sum().backward()
    for name, parameter in experts.named_parameters():
        touched = [bool(parameter.grad[i].any()) for i in range(4)]
        assert touched == [True, False, True, False], name


def test_all_experts_of_all_learners_learn() -> None:
    network = build(TINY)
    torch.manual_seed(3)
    # Enough pictures and noise that every expert of every learner is tried.
    for module in network.modules():
        if isinstance(module, Router):
            nn.init.normal_(module.linear.weight, std=0.01)
    restored, _ = network.forward_train(pictures(24, 16, 16))
    restored.square().mean().backward()
    for name, module in network.named_modules():
        if isinstance(module, LowRankExperts) and name.endswith("specialized"):
            for weight in module.parameters():
                assert weight.grad.flatten(1).any(dim=1).all(), name


# Experts and learner against the formulas of the paper, written plainly


def plain_expert(x: Tensor, experts: LowRankExperts, index: int) -> Tensor:
    """E(u) = W_2(DW(g) * v), [g, v] = GELU(W_1 W_down u), for one picture (C, H, W)."""
    reduced = F.conv2d(x[None], experts.reduce[index][:, :, None, None])
    gate, value = F.gelu(F.conv2d(reduced, experts.expand[index][:, :, None, None])).chunk(2, dim=1)
    kernel = experts.depthwise[index][:, None]
    gate = F.conv2d(gate, kernel, padding=kernel.shape[-1] // 2, groups=len(kernel))
    return F.conv2d(gate * value, experts.mix[index][:, :, None, None])[0]


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_experts_equal_a_loop_of_convolutions(kernel_size: int) -> None:
    torch.manual_seed(0)
    experts = LowRankExperts(dim=6, rank=4, num_experts=3, kernel_size=kernel_size).double()
    x, index = torch.randn(5, 6, 9, 7, dtype=torch.float64), torch.tensor([2, 0, 1, 1, 2])
    expected = torch.stack([plain_expert(x[i], experts, int(index[i])) for i in range(5)])
    torch.testing.assert_close(experts(x, index), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inner_residual", [True, False])
def test_learner_equals_its_formula(inner_residual: bool) -> None:
    torch.manual_seed(0)
    learner = DegradationAwareLearner(6, 4, 3, 3, inner_residual).double()
    nn.init.normal_(learner.project.weight)
    nn.init.normal_(learner.router.linear.weight)
    x = torch.randn(4, 6, 9, 7, dtype=torch.float64) + torch.randn(4, 6, 1, 1, dtype=torch.float64)
    expected = []
    for picture in x:
        share = (learner.router.linear.weight @ picture.mean((1, 2))).softmax(0)
        best = int(share.argmax())
        product = share[best] * plain_expert(picture, learner.specialized, best)
        product = product * plain_expert(picture, learner.agnostic, 0)
        learned = torch.einsum("cr,rhw->chw", learner.project.weight, product)
        expected.append(picture + learned if inner_residual else learned)
    torch.testing.assert_close(learner(x, None), torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("inner_residual", [True, False])
def test_controller_equals_its_formula(inner_residual: bool) -> None:
    torch.manual_seed(0)
    controller = Controller(6, 4, 3, inner_residual).double()
    nn.init.normal_(controller.project.weight)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    control = torch.stack([plain_expert(picture, controller.expert, 0) for picture in x])
    expected = torch.einsum("cr,brhw->bchw", controller.project.weight, control)
    expected = x + expected if inner_residual else expected
    torch.testing.assert_close(controller(x), expected, rtol=0, atol=1e-12)


# Routing


@pytest.mark.parametrize("config", [TINY, TINY_CHEAP], ids=["attention", "gated_convolution"])
def test_batch_of_different_routes_equals_singles(config: DaAIRConfig) -> None:
    network, x = build(config).double(), pictures(6).double()
    routes = routes_of(network, lambda: network(x))
    assert sum(len(set(route)) > 1 for route in routes) >= 3, "the pictures took one route"
    with torch.inference_mode():
        batch = network(x)
        singles = torch.cat([network(picture[None]) for picture in x])
    torch.testing.assert_close(batch, singles, rtol=0, atol=1e-11)


def test_experts_matter() -> None:
    """Else equal batches would prove nothing: another route gives another picture."""
    network, x = build(TINY), pictures(1)
    with torch.inference_mode():
        before = network(x)
        for module in network.modules():
            if isinstance(module, Router):
                module.linear.weight.copy_(-module.linear.weight)
        assert (network(x) - before).abs().max() > 3e-3


@pytest.mark.parametrize("training", [True, False])
def test_router_is_deterministic_outside_forward_train(training: bool) -> None:
    network, x = build(TINY).train(training), pictures(2)
    state = torch.get_rng_state()
    with torch.no_grad():
        first = network(x)
        assert torch.equal(torch.get_rng_state(), state), "forward drew random numbers"
        assert torch.equal(network(x), first)


def test_forward_train_routes_with_noise() -> None:
    network, x = build(TINY).eval(), pictures(8, 16, 16)
    for module in network.modules():
        if isinstance(module, Router):
            nn.init.normal_(module.linear.weight, std=0.01)
    torch.manual_seed(0)
    routes = [routes_of(network, lambda: network.forward_train(x)) for _ in range(2)]
    assert routes[0] != routes[1]
    torch.manual_seed(0)
    assert routes_of(network, lambda: network.forward_train(x)) == routes[0], "the seed decides"


def test_noise_has_the_stated_strength() -> None:
    torch.manual_seed(0)
    router = Router(4, num_experts=5)
    nn.init.zeros_(router.linear.weight)
    index, gate = router(torch.ones(20_000, 4, 1, 1), RoutingTrial(torch.randn(20_000, 1, 5)))
    # Of five independent normal logits each wins alike; the winner's share tells the noise's size.
    assert (torch.bincount(index, minlength=5) / 20_000 - 0.2).abs().max() < 0.02
    logits = np.random.default_rng(0).normal(0, 1 / 5, (200_000, 5))
    share = np.exp(logits).max(1) / np.exp(logits).sum(1)
    assert gate.mean().item() == pytest.approx(share.mean(), abs=2e-3)


def test_gate_is_the_winners_share() -> None:
    torch.manual_seed(0)
    router, x = Router(4, 3), torch.randn(6, 4, 2, 2)
    nn.init.normal_(router.linear.weight)
    index, gate = router(x, None)
    shares = (x.mean((2, 3)) @ router.linear.weight.T).softmax(1)
    assert torch.equal(index, shares.argmax(1))
    torch.testing.assert_close(gate, shares.amax(1))


@pytest.mark.parametrize("config", [TINY, TINY_CHEAP], ids=["attention", "gated_convolution"])
def test_bfloat16_takes_the_routes_of_float32(config: DaAIRConfig) -> None:
    network, x = build(config), pictures(8)
    margins: list[Tensor] = []

    def measure(module: Router, inputs: tuple[Tensor, ...], _output: object) -> None:
        logits = inputs[0].mean((2, 3)) @ module.linear.weight.T
        best = logits.topk(2).values
        margins.append(best[:, 0] - best[:, 1])

    handles = [m.register_forward_hook(measure) for m in network.modules() if isinstance(m, Router)]
    plain = torch.tensor(routes_of(network, lambda: network(x)))
    for handle in handles:
        handle.remove()

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            network(x)

    # The features are rounded, to 8 bits and block after block: near ties may fall otherwise, no others.
    clear = torch.stack(margins) > 0.2
    assert clear.float().mean() > 0.7
    assert torch.equal(torch.tensor(routes_of(network, run))[clear], plain[clear])


def test_router_computes_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    router, x = Router(32, 5), torch.randn(64, 32, 3, 3)
    plain = router(x, None)
    with torch.autocast("cpu", torch.bfloat16):
        cast = router(x, None)
    assert torch.equal(plain[0], cast[0]) and torch.equal(plain[1], cast[1])


# Balance loss


def plain_balance(clean: np.ndarray, noisy: np.ndarray, noise_std: float) -> float:
    """V-MoE's importance and load losses, straight from their definitions."""
    importance = np.zeros(clean.shape[1])
    load = np.zeros(clean.shape[1])
    for logits, drawn in zip(clean, noisy, strict=True):
        exponentials = np.exp(logits)
        importance += exponentials / exponentials.sum()
        for expert, logit in enumerate(logits):
            load[expert] += norm.sf(max(drawn), loc=logit, scale=noise_std) / len(clean)

    def squared_variation(values: np.ndarray) -> float:
        return float((values.std(ddof=1) / values.mean()) ** 2)

    return 0.5 * squared_variation(importance) + 0.5 * squared_variation(load)


def test_balance_loss_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(0, 1, (8, 5))
    noisy = clean + rng.normal(0, 0.2, (8, 5))
    ours = balance_loss(torch.from_numpy(clean), torch.from_numpy(noisy), 0.2).item()
    assert ours == pytest.approx(plain_balance(clean, noisy, 0.2), rel=1e-10)


def test_a_single_expert_is_in_balance() -> None:
    network = DaAIR(replace(TINY, num_experts=1))
    _, losses = network.forward_train(torch.rand(2, 3, 32, 32))
    assert losses["balance"] == 0


def test_balance_loss_is_least_for_uniform_use() -> None:
    # Each picture prefers another expert equally strongly: nobody is preferred on the whole.
    uniform = torch.eye(5, dtype=torch.float64)
    assert balance_loss(uniform, uniform, 0.2).item() == pytest.approx(0, abs=1e-12)
    skewed = uniform.clone()
    skewed[:, 0] += 0.5
    assert balance_loss(skewed, skewed, 0.2) > 0.01
    one = torch.zeros(5, 5, dtype=torch.float64)
    one[:, 0] = 3.0
    assert balance_loss(one, one, 0.2) > balance_loss(skewed, skewed, 0.2)


def test_balance_loss_pulls_towards_uniform_use() -> None:
    logits = torch.zeros(4, 3)
    logits[:, 1] = 1.0
    logits.requires_grad_()
    balance_loss(logits, logits.detach(), 1 / 3).backward()
    assert (logits.grad[:, 1] > 0).all() and (logits.grad[:, [0, 2]] < 0).all()


def test_network_gives_the_mean_balance_of_its_learners() -> None:
    network, x = build(TINY), pictures(4)
    noise = network.draw_noise(4)
    logits: list[Tensor] = []
    handles = [
        m.register_forward_hook(
            lambda m, inputs, _: logits.append(inputs[0].mean((2, 3)) @ m.linear.weight.T)
        )
        for m in network.modules()
        if isinstance(m, Router)
    ]
    _, extra = network.forward_train(x, noise)
    for handle in handles:
        handle.remove()
    assert noise.shape == (4, sum(TINY.encoder_blocks) + sum(TINY.decoder_blocks), TINY.num_experts)
    std = 1 / TINY.num_experts
    losses = [
        balance_loss(clean, clean + drawn * std, std)
        for clean, drawn in zip(logits, noise.unbind(1), strict=True)
    ]
    torch.testing.assert_close(extra["balance"], torch.stack(losses).mean())


# Controllers


def controllers_and_sources(network: DaAIR) -> list[tuple[LowRankExperts, LowRankExperts]]:
    """Each controller's expert and, found by its place, the agnostic expert it follows."""
    pairs = []
    for level, blocks in enumerate(network.decoder):
        offset = len(network.encoder[level]) - len(blocks)
        for i, block in enumerate(blocks):
            pairs.append((block.controller.expert, network.encoder[level][i + offset].learner.agnostic))
    return pairs


def test_controllers_start_as_copies() -> None:
    torch.manual_seed(0)
    for controller, source in controllers_and_sources(DaAIR(TINY)):
        for own, followed in zip(controller.parameters(), source.parameters(), strict=True):
            assert torch.equal(own, followed)
            assert own.data_ptr() != followed.data_ptr()
            assert not own.requires_grad


def test_after_step_moves_controllers_by_the_momentum() -> None:
    network = build(replace(TINY, controller_momentum=0.9)).double()
    before = [
        [p.clone() for p in controller.parameters()] for controller, _ in controllers_and_sources(network)
    ]
    others = {n: p.clone() for n, p in network.named_parameters() if ".controller.expert." not in n}
    network.after_step()
    for old, (controller, source) in zip(before, controllers_and_sources(network), strict=True):
        for was, own, followed in zip(old, controller.parameters(), source.parameters(), strict=True):
            torch.testing.assert_close(own, 0.9 * was + 0.1 * followed, rtol=0, atol=1e-15)
            assert not torch.equal(own, was)
    for name, parameter in network.named_parameters():
        assert name not in others or torch.equal(parameter, others[name]), name


def test_a_shorter_decoder_follows_the_encoders_last_blocks() -> None:
    network = build(replace(TINY, encoder_blocks=(3, 2, 1, 1), decoder_blocks=(2, 1, 1)))
    network._follow(momentum=0.0)
    for block, source in ((0, 1), (1, 2)):
        controller = network.decoder[0][block].controller.expert
        assert torch.equal(controller.reduce, network.encoder[0][source].learner.agnostic.reduce)
        assert not torch.equal(controller.reduce, network.encoder[0][0].learner.agnostic.reduce)


# Switches of the configuration


@pytest.mark.parametrize("field", ["inner_residual", "query"])
@pytest.mark.parametrize("config", [TINY, TINY_CHEAP], ids=["attention", "gated_convolution"])
def test_switches_change_the_result_alone(config: DaAIRConfig, field: str) -> None:
    other = replace(config, **{field: False if field == "inner_residual" else "controller"})
    network, switched = build(config), DaAIR(other).eval()
    switched.load_state_dict(network.state_dict())  # same structure
    x = pictures(1)
    with torch.inference_mode():
        assert (network(x) - switched(x)).abs().max() > 1e-2


def test_kernel_size_and_rank_change_the_experts() -> None:
    with torch.device("meta"):
        wide = DaAIR(replace(TINY, kernel_size=7, rank=6)).encoder[0][0].learner.specialized
    assert wide.depthwise.shape == (3, 6, 7, 7)
    assert wide.reduce.shape == (3, 6, 8)
    with torch.inference_mode():
        assert build(replace(TINY, kernel_size=7, rank=6))(pictures(1)).shape == (1, 3, 32, 48)


def test_seven_by_seven_costs_what_the_spec_says() -> None:
    with torch.device("meta"):
        wide = DaAIR(replace(DaAIRConfig(), kernel_size=7))
    assert count(wide, trainable=True) - 6_198_720 == 40 * 6 * 16 * (49 - 9)  # 40 learners of 1 + 5 experts


# Values


@pytest.mark.parametrize("config", [TINY, TINY_CHEAP], ids=["attention", "gated_convolution"])
def test_float64_agrees_with_float32(config: DaAIRConfig) -> None:
    network, x = build(config), pictures(2)
    with torch.inference_mode():
        single = network(x)
        double = network.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_fresh_small_network_is_the_identity() -> None:
    torch.manual_seed(0)
    x = pictures(1)
    with torch.inference_mode():
        assert torch.equal(DaAIR(TINY_CHEAP)(x), x)


def test_fresh_experts_keep_the_scale_of_their_input() -> None:
    # Two experts are multiplied: at a hundredth of the scale each, no gradient would ever reach them.
    torch.manual_seed(0)
    for dim, rank in ((32, 8), (256, 8), (24, 16)):
        experts = LowRankExperts(dim, rank, 5, 3)
        with torch.no_grad():
            out = experts(torch.randn(5, dim, 16, 16), torch.arange(5))
        assert 0.1 < out.std().item() < 1.5
