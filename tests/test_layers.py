"""The shared layers against the formulas, written out another way."""

import pytest
import torch
from torch import nn

from pellucid.errors import InputError
from pellucid.layers import (
    Downsample,
    GatedFeedForward,
    LayerNorm2d,
    TransposedAttention,
    Upsample,
    channel_attention_scores,
    check_grid,
    from_grid,
    split_heads,
    to_grid,
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def randomized(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.double().requires_grad_(False)


def test_layer_norm_is_per_pixel_over_channels():
    norm = randomized(LayerNorm2d(6))
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
    scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
    assert torch.allclose(norm(x), (x - mean) / (variance + 1e-5).sqrt() * scale + shift, atol=1e-12)


def test_heads_take_neighboring_channels():
    x = torch.arange(2 * 6 * 2 * 2).reshape(2, 6, 2, 2)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 2, 4)
    assert torch.equal(heads[1, 2, 1], x[1, 5].flatten())


def test_transposed_attention_equals_its_formula():
    layer = randomized(TransposedAttention(6, 2))
    x = torch.randn(1, 6, 4, 3, dtype=torch.float64)
    query, key, value = layer.qkv_depthwise(layer.qkv(x))[0].flatten(1).split(6)
    heads = []
    for head in range(2):
        rows = slice(3 * head, 3 * head + 3)
        cosine = torch.cosine_similarity(query[rows, None], key[None, rows], dim=-1)
        heads.append((layer.temperature[head, 0, 0] * cosine).softmax(-1) @ value[rows])
    expected = layer.project_out(torch.cat(heads).reshape(1, 6, 4, 3))
    assert torch.allclose(layer(x), expected, atol=1e-10)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_scores_are_precise_over_many_pixels(memory_format):
    x = torch.rand(1, 16, 512, 512)
    one = torch.ones(1, 1, 1)
    exact = channel_attention_scores(*[split_heads(x.double(), 1)] * 2, one)
    heads = split_heads(x.to(memory_format=memory_format), 1)
    assert (channel_attention_scores(heads, heads, one) - exact).abs().max() < 1.5e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_precision_stay_in_range(dtype):
    x = torch.full((1, 1, 2, 2**17), 3.0, dtype=dtype)
    scores = channel_attention_scores(x, x, torch.ones(1, 1, 1, dtype=dtype))
    assert torch.allclose(scores, torch.ones_like(scores), rtol=0.02)


def test_scores_of_empty_channels_are_zero_with_a_finite_gradient():
    x = torch.zeros(1, 1, 2, 16, requires_grad=True)
    scores = channel_attention_scores(x, x, torch.ones(1, 1, 1))
    scores.sum().backward()
    assert torch.equal(scores, torch.zeros(1, 1, 2, 2))
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize(("dim", "hidden"), [(48, 127), (96, 255), (192, 510), (384, 1021), (8, 21)])
def test_feed_forward_cuts_its_width_to_an_integer(dim, hidden):
    with torch.device("meta"):
        layer = GatedFeedForward(dim, 2.66)
    assert layer.project_in.weight.shape == (2 * hidden, dim, 1, 1)
    assert layer.project_out.weight.shape == (dim, hidden, 1, 1)


def test_feed_forward_gates_its_second_half():
    layer = randomized(GatedFeedForward(4, 1.5))
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    hidden = layer.depthwise(layer.project_in(x))
    gate, value = hidden[:, :6], hidden[:, 6:]
    gelu = gate * 0.5 * (1 + torch.erf(gate / 2**0.5))
    assert torch.allclose(layer(x), layer.project_out(gelu * value), atol=1e-10)


def test_sampling_halves_and_doubles():
    x = torch.randn(2, 8, 6, 4)
    assert Downsample(8)(x).shape == (2, 16, 3, 2)
    assert Upsample(8)(x).shape == (2, 4, 12, 8)
    assert Upsample(8, kernel_size=1)(x).shape == (2, 4, 12, 8)


def test_upsampling_undoes_downsampling_where_the_kernels_copy():
    down, up = Downsample(4), Upsample(8, kernel_size=1)
    nn.init.zeros_(down.conv.weight)
    nn.init.zeros_(up.conv.weight)
    with torch.no_grad():
        down.conv.weight[0, 0, 1, 1] = down.conv.weight[1, 1, 1, 1] = 1
        up.conv.weight[:8, :, 0, 0] = torch.eye(8)
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(up(down(x))[:, :2], x[:, :2])


@pytest.mark.parametrize(
    "layer", [TransposedAttention(8, 2), GatedFeedForward(8, 2.0), LayerNorm2d(8), Downsample(8), Upsample(8)]
)
def test_memory_format_does_not_change_values(layer):
    x = torch.randn(2, 8, 6, 4)
    with torch.no_grad():
        assert torch.allclose(layer(x.to(memory_format=torch.channels_last)), layer(x), atol=1e-6)


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_grid_keeps_every_pixel(grid):
    picture = torch.rand(2, 3, 6, 12)
    on_grid = to_grid(picture, grid)
    assert on_grid.shape == (2, 3 * grid**2, 6 // grid, 12 // grid)
    assert torch.equal(on_grid[:, :: grid**2], picture[:, :, ::grid, ::grid])
    assert torch.equal(from_grid(on_grid, grid), picture)


def test_grid_below_one_is_refused():
    with pytest.raises(InputError, match="Net has grid 0; expected 1"):
        check_grid("Net", 0)
