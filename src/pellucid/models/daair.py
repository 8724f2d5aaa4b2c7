"""DaAIR: one blind network for all degradations, by low-rank experts with routing.

Paper: Zamfir et al., "Efficient Degradation-aware Any Image Restoration", arXiv 2405.15475 (no code
released). A four-level U-Net of transformer blocks. Before each attention stands a degradation-aware learner
(DaLe): an agnostic low-rank expert, seen by every picture, is multiplied with one of n specialized experts,
chosen per picture by a router. In the decoder a controller expert joins, whose weights are a moving average
of the encoder's agnostic expert ("parameter update", the red arrow of the figure); attention there crosses
from the learner to the controller.

What the paper's figure leaves open is a field of the configuration, with the reason for its default beside
it. `daair` is the paper's size; `daair_s` is ours for laptops: a half-resolution grid and cheap relatives of
the attention and feed-forward blocks, since at full resolution elementwise traffic, not arithmetic, takes the
time.

Legend: B batch, C channels, H and W height and width, n experts, R rank, r rows of a strip.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from pellucid.layers import (
    Downsample,
    GatedFeedForward,
    LayerNorm2d,
    TransposedAttention,
    Upsample,
    channel_attention_scores,
    check_batch,
    check_grid,
    from_grid,
    split_heads,
    to_grid,
)
from pellucid.models._spec import ModelSpec
from pellucid.strips import (
    ChannelSimilarity,
    Depthwise,
    FeatureMap,
    Linear,
    PixelMean,
    Window,
    Workspace,
    add_head,
    downsample,
    feed_forward,
    fold_attention,
    merge_skip,
    normalize,
    stem,
)

PAPER = "arXiv 2405.15475"


@dataclass(frozen=True)
class DaAIRConfig:
    """The numbers of one DaAIR network; defaults are the paper's size with five experts."""

    dim: int = 24  # the free knob: 24 lands on the paper's "6M"
    encoder_blocks: tuple[int, ...] = (4, 6, 6, 8)  # the last level is the bottleneck
    decoder_blocks: tuple[int, ...] = (4, 6, 6)  # mirrors the encoder, so each controller has its own source
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    ffn_expansion: float = 2.0
    num_experts: int = 5  # one per degradation of the training mix; no label ties them together
    rank: int = 16  # constant over levels: not printed in the paper
    kernel_size: int = 3  # of the experts' depthwise convolution ("k x k" in the figure)
    controller_momentum: float = 0.999  # horizon of 1,000 steps
    inner_residual: bool = True  # without it attention sees only R channels; false is the literal figure
    query: Literal["learner", "controller"] = "learner"  # which side asks in the cross-attention
    mixer: Literal["attention", "gated_convolution"] = "attention"  # the latter is ours, for CPUs
    grid: int = 1  # 2 works on the half-resolution grid (PixelUnshuffle before the stem)

    def __post_init__(self) -> None:
        check_grid("DaAIR", self.grid)


class LowRankExperts(nn.Module):
    """`num_experts` experts of one design, their weights stacked; each sample is given one of them.

    An expert reduces C to R channels, expands to a gate and a value of R each, and returns
    `mix(depthwise(gate) * value)` in rank space, (B, R, H, W).
    """

    def __init__(self, dim: int, rank: int, num_experts: int, kernel_size: int) -> None:
        super().__init__()
        self.reduce = nn.Parameter(torch.empty(num_experts, rank, dim))
        self.expand = nn.Parameter(torch.empty(num_experts, 2 * rank, rank))
        self.depthwise = nn.Parameter(torch.empty(num_experts, rank, kernel_size, kernel_size))
        self.mix = nn.Parameter(torch.empty(num_experts, rank, rank))
        for weight, fan_in in (
            (self.reduce, dim),
            (self.expand, rank),
            (self.depthwise, kernel_size**2),
            (self.mix, rank),
        ):
            # Variance-preserving: two experts are multiplied, and the usual third of the variance per layer
            # would leave a product, and gradients, far below Adam's epsilon; the learner would never wake.
            bound = math.sqrt(3 / fan_in)
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        b, _, h, w = x.shape
        # Nothing stands between reduce and expand, so they are one small product per sample.
        project = self.expand[index] @ self.reduce[index]  # (B, 2R, C)
        # Pixels first: the gradient then comes back in the trunk's channels_last memory.
        projected = x.permute(0, 2, 3, 1).flatten(1, 2) @ project.transpose(1, 2)  # (B, H*W, 2R)
        gate, value = F.gelu(projected.transpose(1, 2).contiguous()).chunk(2, dim=1)  # (B, R, H*W)
        depthwise = self.depthwise[index].flatten(0, 1).unsqueeze(1)  # (B*R, 1, k, k)
        gate = F.conv2d(
            gate.reshape(1, -1, h, w), depthwise, padding=depthwise.shape[-1] // 2, groups=depthwise.shape[0]
        )
        return (self.mix[index] @ (gate.reshape(b, -1, h * w) * value)).unflatten(2, (h, w))  # (B, R, H, W)


class Router(nn.Module):
    """Chooses one of n experts for each picture, from the mean of its features."""

    def __init__(self, dim: int, num_experts: int) -> None:
        super().__init__()
        self.noise_std = 1 / num_experts
        self.linear = nn.Linear(dim, num_experts, bias=False)

    def forward(self, x: Tensor, trial: "RoutingTrial | None") -> tuple[Tensor, Tensor]:
        """The experts' indices (B,) and gates (B,); in training (`trial` given) decided by noisy logits."""
        with torch.autocast(x.device.type, enabled=False):  # a rounded logit may choose another expert
            mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))  # (B, C)
            clean = F.linear(mean, self.linear.weight.to(mean.dtype))  # (B, n)
            logits = clean if trial is None else trial.noisy(clean, self.noise_std)
            gate, index = logits.softmax(dim=-1).max(dim=-1)
        return index, gate


class RoutingTrial:
    """What one training step adds to the routers: noise for each of them, and a record for the balance loss.

    Args:
        noise: (B, L, n) standard normal, for L routers in the order of the forward pass.
    """

    def __init__(self, noise: Tensor) -> None:
        self._noise = iter(noise.unbind(1))
        self._clean: list[Tensor] = []
        self._noisy: list[Tensor] = []
        self._noise_std = 0.0

    def noisy(self, clean: Tensor, noise_std: float) -> Tensor:
        """The next router's logits (B, n) with its noise."""
        self._noise_std = noise_std
        self._clean.append(clean)
        self._noisy.append(clean + next(self._noise).to(clean.dtype) * noise_std)
        return self._noisy[-1]

    def balance(self) -> Tensor:
        """The balance loss, mean over the routers, over the batch of all processes together."""
        clean, noisy = (_of_all_processes(torch.stack(x)) for x in (self._clean, self._noisy))  # (L, B, n)
        return balance_loss(clean, noisy, self._noise_std).mean()


def _of_all_processes(x: Tensor) -> Tensor:
    """(L, B, n) with the batches of all data-parallel processes, gradients flowing back to its own."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x.detach().contiguous())
    # The factor undoes the average over processes that follows: each knows the gradient of its part alone.
    parts[distributed.get_rank()] = x.detach() + len(parts) * (x - x.detach())
    return torch.cat(parts, dim=1)


def balance_loss(clean: Tensor, noisy: Tensor, noise_std: float) -> Tensor:
    """Half the squared variation of the experts' importance, half that of their load.

    The pair is V-MoE's (Riquelme et al., 2021, arXiv 2106.05974).

    Args:
        clean: (..., B, n) router logits.
        noisy: the same with the noise that decided.
        noise_std: standard deviation of that noise.

    Returns:
        (...) losses, zero or more.
    """
    importance = clean.softmax(dim=-1).sum(-2)  # (..., n)
    threshold = noisy.max(dim=-1, keepdim=True).values  # top-1
    load = (1 - torch.special.ndtr((threshold - clean) / noise_std)).mean(-2)  # chance to win with new noise
    return 0.5 * _squared_variation(importance) + 0.5 * _squared_variation(load)


def _squared_variation(x: Tensor) -> Tensor:
    if x.shape[-1] == 1:
        return torch.zeros_like(x[..., 0])  # a single expert is always in balance
    return (x.std(-1) / x.mean(-1).clamp_min(1e-6)) ** 2


class ExpertStreams:
    """Experts of one design side by side, E of them, over strips (r, W, C) of one picture.

    Args:
        experts: each with the index (1,) of the one that was chosen.
        dtype: of the strips.
    """

    def __init__(self, experts: list[tuple[LowRankExperts, Tensor]], dtype: torch.dtype) -> None:
        project = torch.stack([(e.expand[i] @ e.reduce[i])[0] for e, i in experts]).to(dtype)  # (E, 2R, C)
        gates, values = (part.flatten(0, 1).t() for part in project.chunk(2, dim=1))  # each (C, E*R)
        depthwise = torch.cat([e.depthwise[i][0] for e, i in experts])[:, None].to(dtype)  # (E*R, 1, k, k)
        self.gates = Depthwise(Linear(gates), depthwise, activation=torch.ops.aten.gelu_)
        self.values, self.delay = Linear(values), Window(depthwise.shape[2])
        self.mix = Linear(torch.block_diag(*(e.mix[i][0] for e, i in experts)).t().to(dtype))

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """The strip that comes next to what the experts give, (r', W, E*R)."""
        gates = self.gates(x, last)
        room = self.delay.room(x, self.values.weight.shape[1])
        self.values.into(x.flatten(0, 1), room.flatten(0, 1))
        torch.ops.aten.gelu_(room)
        return self.mix(gates.mul_(self.delay.center(last)))


class DegradationAwareLearner(nn.Module):
    """DaLe: a routed expert times the agnostic expert in rank space, projected back to C channels."""

    def __init__(self, dim: int, rank: int, num_experts: int, kernel_size: int, inner_residual: bool) -> None:
        super().__init__()
        self.inner_residual = inner_residual
        self.router = Router(dim, num_experts)
        self.agnostic = LowRankExperts(dim, rank, 1, kernel_size)
        self.specialized = LowRankExperts(dim, rank, num_experts, kernel_size)
        self.project = RankProjection(rank, dim)

    def forward(self, x: Tensor, trial: RoutingTrial | None) -> Tensor:
        index, gate = self.router(x, trial)  # (B,), (B,)
        agnostic = self.agnostic(x, torch.zeros_like(index))  # (B, R, H, W)
        specialized = self.specialized(x, index) * gate.to(agnostic.dtype)[:, None, None, None]
        learned = self.project(specialized * agnostic)  # (B, C, H, W)
        return x + learned if self.inner_residual else learned

    def choose(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Expert (1,) and gate (1,) for a picture, from the mean (C,) of its normalized features."""
        return self.router(normed[None, :, None, None], None)


class RankProjection(nn.Module):
    """(B, R, H, W) to (B, C, H, W), one linear map per pixel.

    It starts at zero: products of three random branches are no help to the first steps.
    """

    def __init__(self, rank: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, rank))

    def forward(self, x: Tensor) -> Tensor:
        # Pixels first, so that the result lies in memory as channels_last, like the trunk it joins.
        return (x.flatten(2).transpose(1, 2) @ self.weight.T).transpose(1, 2).unflatten(2, x.shape[2:])


class Controller(nn.Module):
    """An expert without gradient, whose weights follow an agnostic expert of the encoder."""

    def __init__(self, dim: int, rank: int, kernel_size: int, inner_residual: bool) -> None:
        super().__init__()
        self.inner_residual = inner_residual
        self.expert = LowRankExperts(dim, rank, 1, kernel_size).requires_grad_(False)
        self.project = RankProjection(rank, dim)

    def forward(self, x: Tensor) -> Tensor:
        index = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        control = self.project(self.expert(x, index))
        return x + control if self.inner_residual else control

    @torch.no_grad()
    def follow(self, agnostic: LowRankExperts, momentum: float) -> None:
        """Move towards `agnostic`: momentum 0 copies it."""
        for own, source in zip(self.expert.parameters(), agnostic.parameters(), strict=True):
            own.lerp_(source, 1 - momentum)


class CrossAttention(nn.Module):
    """Transposed attention: query from one embedding (B, C, H, W), key and value from another."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.query = nn.Conv2d(dim, dim, 1, bias=False)
        self.query_depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.key_value = nn.Conv2d(dim, dim * 2, 1, bias=False)
        self.key_value_depthwise = nn.Conv2d(dim * 2, dim * 2, 3, padding=1, groups=dim * 2, bias=False)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        query = split_heads(self.query_depthwise(self.query(x)), self.num_heads)  # (B, h, c, H*W)
        key, value = (
            split_heads(part, self.num_heads)
            for part in self.key_value_depthwise(self.key_value(source)).chunk(2, dim=1)
        )
        attention = channel_attention_scores(query, key, self.temperature).softmax(dim=-1)  # (B, h, c, c)
        return self.project_out((attention @ value).reshape(x.shape))


class GatedConvolution(nn.Module):
    """The cheap relative of (cross-)attention: a gate times a value, then a weight per channel and picture.

    The gate is made from `x`, the value from `source`, both (B, C, H, W). NAFNet (Chen et al., 2022, arXiv
    2204.04676) shows that a plain product can stand for the activation, a 1x1 map of the means for attention.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(dim, dim, 1)
        self.gate_depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.value = nn.Conv2d(dim, dim, 1)
        self.value_depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.channel_weight = nn.Conv2d(dim, dim, 1)
        self.project_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        mixed = self.gate_depthwise(self.gate(x)) * self.value_depthwise(self.value(source))  # (B, C, H, W)
        return self.project_out(mixed * self.channel_weight(mixed.mean((2, 3), keepdim=True)))


class SelfGatedConvolution(nn.Module):
    """`GatedConvolution` of one embedding: gate and value in one convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate_value = nn.Conv2d(dim, dim * 2, 1)
        self.depthwise = nn.Conv2d(dim * 2, dim * 2, 3, padding=1, groups=dim * 2)
        self.channel_weight = nn.Conv2d(dim, dim, 1)
        self.project_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.depthwise(self.gate_value(x)).chunk(2, dim=1)
        mixed = gate * value  # (B, C, H, W)
        return self.project_out(mixed * self.channel_weight(mixed.mean((2, 3), keepdim=True)))


class PlainGateFeedForward(nn.Module):
    """The cheap relative of the gated feed-forward: no depthwise convolution, no activation but the gate."""

    def __init__(self, dim: int, expansion: float) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = nn.Conv2d(dim, hidden * 2, 1)
        self.project_out = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.project_in(x).chunk(2, dim=1)
        return self.project_out(gate * value)


class EmbeddingStreams:
    """The embeddings of a block, over strips of its input x (H, W, C): the one that asks, and the one asked.

    Without a controller both are the learner's. The router is asked at once, in a pass of its own.

    Args:
        x: what is normalized, and then embedded.
        norm: the norm.
        learner: its experts are chosen by the mean of the whole norm(x).
        controller: if there is one, the second embedding.
        query_from_learner: whether the learner's asks.

    Attributes:
        kept: a map (H, W, C): norm(x), and after `both` what is asked.
    """

    def __init__(
        self,
        x: FeatureMap,
        norm: LayerNorm2d,
        learner: DegradationAwareLearner,
        controller: Controller | None = None,
        query_from_learner: bool = True,
    ) -> None:
        self.inner_residual = learner.inner_residual
        dtype, mean = x.workspace.dtype, PixelMean()
        self.kept = x.workspace.create_map(x.height, x.width, x.channels)
        write = self.kept.sweep(1)
        for rows, _ in x.sweep(2 * x.channels):  # in bf16, the norm's float32 copy is the widest
            normed = normalize(norm, rows)
            mean.add(normed)
            write.next_rows(len(normed))[0].copy_(normed)
        index, gate = learner.choose(mean.value())
        experts = [(learner.agnostic, torch.zeros_like(index)), (learner.specialized, index)]
        learn = control = Linear((learner.project.weight * gate).t().to(dtype))
        if controller is not None:
            experts.append((controller.expert, torch.zeros_like(index)))
            control = Linear(controller.project.weight.t().to(dtype))
        self.experts, self.swapped = ExpertStreams(experts, dtype), not query_from_learner
        self.rank = learn.weight.shape[0]
        self.project_asking, self.project_asked = (control, learn) if self.swapped else (learn, control)

    def both(self) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """One pass: the asking and the asked embedding (r, W, C), and whether these rows are the last.

        What is asked is a view of `kept`, whose rows it takes: they were read already.
        """
        sweep = self.kept.sweep(max(self.kept.channels * 2, self.rank * 3))
        for rows, last in sweep:
            ranked = self.experts(rows, last).split(self.rank, dim=2)
            learned = ranked[0] * ranked[1]
            asking, asked = learned, ranked[2] if len(ranked) > 2 else learned
            if self.swapped:
                asking, asked = asked, asking
            (normed,) = sweep.next_rows(len(learned))
            other = None if asking is asked else self._embed(self.project_asking, asking, normed.clone())
            embedded = self._embed(self.project_asked, asked, normed)
            yield embedded if other is None else other, embedded, last

    def _embed(self, project: Linear, ranked: Tensor, normed: Tensor) -> Tensor:
        """The embedding, in place of `normed`."""
        if self.inner_residual:
            project.add(ranked, normed)
        else:
            project.into(ranked.flatten(0, 1), normed.view(-1, normed.shape[2]))
        return normed


def attend_in_strips(
    x: FeatureMap, streams: EmbeddingStreams, attention: "TransposedAttention | CrossAttention"
) -> None:
    """x + attention, in place: x is what `streams` embed."""
    dtype, channels = x.workspace.dtype, x.channels
    similarity = ChannelSimilarity(attention.num_heads)
    if isinstance(attention, CrossAttention):
        query = Depthwise.of(attention.query, attention.query_depthwise, dtype)
        key_value = Depthwise.of(attention.key_value, attention.key_value_depthwise, dtype)
        key, value = key_value.columns(0, channels), key_value.columns(channels, 2 * channels)
        for asking, asked, last in streams.both():
            similarity.add(torch.cat([query(asking, last), key(asked, last)], dim=2))
    else:
        every = Depthwise.of(attention.qkv, attention.qkv_depthwise, dtype)
        query_key, value = every.columns(0, 2 * channels), every.columns(2 * channels, 3 * channels)
        for embedded, _, last in streams.both():
            similarity.add(query_key(embedded, last))
    scores = similarity.scores(attention.temperature)
    fold = fold_attention(scores.softmax(dim=-1), attention.project_out.weight[:, :, 0, 0]).to(dtype)
    add = x.sweep(1)
    for embedded, last in streams.kept.sweep(2 * channels):
        add.add(value(embedded, last), fold)


def mix_in_strips(
    x: FeatureMap,
    streams: EmbeddingStreams,
    mixer: "SelfGatedConvolution | GatedConvolution",
    norm: LayerNorm2d,
    ffn: "PlainGateFeedForward",
) -> None:
    """x + mixer, then + ffn(norm), in place: x is what `streams` embed."""
    dtype, channels = x.workspace.dtype, x.channels
    if isinstance(mixer, GatedConvolution):
        gate = Depthwise.of(mixer.gate, mixer.gate_depthwise, dtype)
        value = Depthwise.of(mixer.value, mixer.value_depthwise, dtype)
    else:
        both = Depthwise.of(mixer.gate_value, mixer.depthwise, dtype)
        gate, value = both.columns(0, channels), both.columns(channels, 2 * channels)
    mean, write = PixelMean(), streams.kept.sweep(1)
    for asking, asked, last in streams.both():
        gates, values = gate(asking, last), value(asked, last)
        # These rows of the embedding were read already.
        mixed = torch.mul(gates, values, out=write.next_rows(len(gates))[0])
        mean.add(mixed)
    weight = mixer.channel_weight.weight[:, :, 0, 0]
    weight = F.linear(mean.value(), weight.to(mean.value().dtype), mixer.channel_weight.bias)  # (C,)
    project_out = Linear.of(mixer.project_out, weight.dtype)
    project_out = Linear(weight[:, None] * project_out.weight, project_out.bias).to(dtype)
    hidden, start = ffn.project_out.in_channels, 0
    project_in, ffn_out = Linear.of(ffn.project_in, dtype), Linear.of(ffn.project_out, dtype)
    for rows, _ in x.sweep(hidden):
        project_out.add(streams.kept.parts[0][start : start + len(rows)], rows)
        start += len(rows)
        normed = normalize(norm, rows)
        gated = project_in.columns(0, hidden)(normed).mul_(project_in.columns(hidden, 2 * hidden)(normed))
        ffn_out.add(gated, rows)


class EncoderBlock(nn.Module):
    """Norm, learner, self-attention; norm, feed-forward; a residual around each half."""

    def __init__(self, config: DaAIRConfig, level: int) -> None:
        super().__init__()
        dim, cheap = config.dim * 2**level, config.mixer == "gated_convolution"
        self.norm1 = LayerNorm2d(dim)
        self.learner = DegradationAwareLearner(
            dim, config.rank, config.num_experts, config.kernel_size, config.inner_residual
        )
        self.attention = (
            SelfGatedConvolution(dim) if cheap else TransposedAttention(dim, config.num_heads[level])
        )
        self.norm2 = LayerNorm2d(dim)
        self.ffn = (PlainGateFeedForward if cheap else GatedFeedForward)(dim, config.ffn_expansion)

    def forward(self, x: Tensor, trial: RoutingTrial | None) -> Tensor:
        x = x + self.attention(self.learner(self.norm1(x), trial))
        return x + self.ffn(self.norm2(x))

    def forward_strips(self, x: FeatureMap) -> None:
        """The same for one picture, in place."""
        finish_in_strips(x, EmbeddingStreams(x, self.norm1, self.learner), self)


class DecoderBlock(nn.Module):
    """Norm, learner and controller, cross-attention; norm, feed-forward; a residual around each half."""

    def __init__(self, config: DaAIRConfig, level: int) -> None:
        super().__init__()
        dim, cheap = config.dim * 2**level, config.mixer == "gated_convolution"
        self.query_from_learner = config.query == "learner"
        self.norm1 = LayerNorm2d(dim)
        self.learner = DegradationAwareLearner(
            dim, config.rank, config.num_experts, config.kernel_size, config.inner_residual
        )
        self.controller = Controller(dim, config.rank, config.kernel_size, config.inner_residual)
        self.attention = GatedConvolution(dim) if cheap else CrossAttention(dim, config.num_heads[level])
        self.norm2 = LayerNorm2d(dim)
        self.ffn = (PlainGateFeedForward if cheap else GatedFeedForward)(dim, config.ffn_expansion)

    def forward(self, x: Tensor, trial: RoutingTrial | None) -> Tensor:
        normed = self.norm1(x)
        learned, control = self.learner(normed, trial), self.controller(normed)
        x = x + (
            self.attention(learned, control) if self.query_from_learner else self.attention(control, learned)
        )
        return x + self.ffn(self.norm2(x))

    def forward_strips(self, x: FeatureMap) -> None:
        """The same for one picture, in place."""
        streams = EmbeddingStreams(x, self.norm1, self.learner, self.controller, self.query_from_learner)
        finish_in_strips(x, streams, self)


def finish_in_strips(x: FeatureMap, streams: EmbeddingStreams, block: EncoderBlock | DecoderBlock) -> None:
    """What follows the embeddings of a block, in place."""
    if isinstance(block.attention, (TransposedAttention, CrossAttention)):
        assert isinstance(block.ffn, GatedFeedForward)
        attend_in_strips(x, streams, block.attention)
        feed_forward(x, block.norm2, block.ffn)
    else:
        assert isinstance(block.ffn, PlainGateFeedForward)
        mix_in_strips(x, streams, block.attention, block.norm2, block.ffn)


class DaAIR(nn.Module):
    """The network. `forward` restores; `forward_train` also gives the balance loss.

    The picture is added after the last convolution, not before it as drawn: there it would meet C channels.
    `after_step` moves the controllers, and is called after each optimizer step.

    Attributes:
        config: its numbers.
        strips_from: pixels of a picture from which `forward_strips` is faster on a CPU (decision record 10).
    """

    def __init__(self, config: DaAIRConfig) -> None:
        super().__init__()
        self.config = config
        dims = [config.dim * 2**level for level in range(len(config.encoder_blocks))]
        colors, cheap = 3 * config.grid**2, config.mixer == "gated_convolution"
        self.strips_from = 384**2 if cheap else 96**2
        up_kernel = 1 if cheap else 3  # with 3 they would be a third of the small network's arithmetic
        self.stem = nn.Conv2d(colors, config.dim, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(
            nn.ModuleList(EncoderBlock(config, level) for _ in range(count))
            for level, count in enumerate(config.encoder_blocks)
        )
        self.down = nn.ModuleList(Downsample(dim) for dim in dims[:-1])
        self.up = nn.ModuleList(Upsample(dim, up_kernel) for dim in dims[1:])
        self.fuse = nn.ModuleList(nn.Conv2d(dim * 2, dim, 1, bias=False) for dim in dims[:-1])
        self.decoder = nn.ModuleList(
            nn.ModuleList(DecoderBlock(config, level) for _ in range(count))
            for level, count in enumerate(config.decoder_blocks)
        )
        self.head = nn.Conv2d(config.dim, colors, 3, padding=1, bias=False)
        if cheap:
            nn.init.zeros_(self.head.weight)  # starts as the identity, which short trainings reward
        self._follow(momentum=0.0)

    def forward(self, degraded: Tensor) -> Tensor:
        """The restored picture, not clamped.

        Args:
            degraded: (B, 3, H, W) in [0, 1]; H and W multiples of `8 * config.grid`.

        Raises:
            InputError: another shape.
        """
        return self._restore(degraded, None)

    def draw_noise(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Noise for the routers of `forward_train` on n pictures: (n, L, experts) standard normal."""
        routers = sum(isinstance(module, Router) for module in self.modules())
        return torch.randn(n, routers, self.config.num_experts, generator=rng)

    def forward_train(
        self, degraded: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The restored picture with noisy routing, and `{"balance": loss}`, the mean over all learners.

        Args:
            degraded: as in `forward`.
            noise: from `draw_noise`; drawn from torch's global generator if missing.

        Raises:
            InputError: another shape.
        """
        noise = self.draw_noise(len(degraded)) if noise is None else noise
        trial = RoutingTrial(noise.to(degraded.device))
        restored = self._restore(degraded, trial)
        return restored, {"balance": trial.balance()}

    def _restore(self, degraded: Tensor, trial: RoutingTrial | None) -> Tensor:
        grid = self.config.grid
        check_batch(degraded, grid * 2 ** len(self.down))
        x = self.stem(to_grid(degraded, grid))  # (B, C, H, W) on the grid
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, trial)  # (B, C * 2^level, H / 2^level, W / 2^level)
            if level < len(self.down):
                skips.append(x)
                x = self.down[level](x)
        for level in reversed(range(len(self.decoder))):
            x = self.fuse[level](torch.cat([self.up[level](x), skips[level]], dim=1))
            for block in self.decoder[level]:  # type: ignore[attr-defined]
                x = block(x, trial)
        return degraded + from_grid(self.head(x), grid)

    def forward_strips(self, picture: Tensor, workspace: Workspace) -> None:
        """Turn one picture into what `forward` gives for it, computed in strips (see `pellucid.strips`).

        Args:
            picture: (3, H, W) in [0, 1], float32 or float64; H and W multiples of `8 * config.grid`. The
                result takes its place, not clamped.
            workspace: where the feature maps live, and in which type.

        Raises:
            InputError: another shape.
        """
        check_batch(picture[None], self.config.grid * 2 ** len(self.down))
        x = stem(picture, self.stem, workspace, self.config.grid)  # (H, W, C) on the grid
        skips: list[FeatureMap] = []
        for level, blocks in enumerate(self.encoder):
            for block in blocks:  # type: ignore[attr-defined]
                block.forward_strips(x)
            if level < len(self.down):
                skips.append(x)
                x = downsample(x, self.down[level].conv)  # type: ignore[arg-type]
        for level in reversed(range(len(self.decoder))):
            skip = skips.pop()
            merge_skip(skip, x, self.up[level].conv, self.fuse[level])  # type: ignore[arg-type]
            x = skip
            for block in self.decoder[level]:  # type: ignore[attr-defined]
                block.forward_strips(x)
        add_head(x, self.head, picture, self.config.grid)

    def after_step(self) -> None:
        """Let each controller follow its encoder block's agnostic expert by one step of the average."""
        self._follow(self.config.controller_momentum)

    def _follow(self, momentum: float) -> None:
        for encoder_blocks, decoder_blocks in zip(self.encoder, self.decoder, strict=False):
            # Block feeds block of the same place; a shorter decoder level takes the encoder's last ones.
            sources = list(encoder_blocks)[-len(decoder_blocks) :]  # type: ignore[arg-type]
            for source, block in zip(sources, decoder_blocks, strict=True):  # type: ignore[arg-type]
                block.controller.follow(source.learner.agnostic, momentum)


SMALL = DaAIRConfig(
    dim=32,
    encoder_blocks=(1, 2, 6, 2),
    decoder_blocks=(1, 2, 2),
    ffn_expansion=1.0,
    rank=8,
    mixer="gated_convolution",
    grid=2,
)

SPECS = (
    ModelSpec("daair", DaAIRConfig(), DaAIR, PAPER, guided=False, multiple_of=8, parameters=6_228_672),
    ModelSpec("daair_s", SMALL, DaAIR, PAPER, guided=False, multiple_of=16, parameters=2_486_824),
)
