"""DFPIR: restoration guided by a prompt that shuffles channels and thins channel attention.

Tian, Liao, Liu, Li, Ren: "Degradation-Aware Feature Perturbation for All-in-One Image Restoration", CVPR
2025, arXiv 2505.12630. A Restormer U-Net whose three skip connections and bottleneck each pass through a
perturbation block: it doubles the channels, reorders them as the prompt says, halves them, and lets the
result query the feature through an attention that keeps nine tenths of each row. The caller names the
degradation.

What differs from the authors' code, and why:
* The prompt enters theirs as a CLIP code, of which only the sort order of an affine map is used; that map
  gets no gradient. Here each block stores the orders themselves, one permutation per prompt, so no text
  encoder is needed and every parameter trains. `shuffle="learned"`, off by default, is ours: it gives the
  prompt map a gradient (decision record 7).
* Outside training, expand, shuffle and contract are multiplied out into one 1x1 convolution per prompt, and
  the attention's gain into its projection. The values are the same up to rounding.
* Scores are selected and normalized in float32 at least: rounding would otherwise decide which survive.
* `grid` and `residual`, off in the paper's network, are ours, for small networks (decision record 20).

Legend: B batch, C channels, H and W height and width, h heads, c channels per head, n = H*W, P prompts.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import InputError
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
    Workspace,
    add_head,
    attend,
    downsample,
    feed_forward,
    fold_attention,
    merge_skip,
    normalize,
    stem,
    upsample,
)

# The sentences the authors encode, under the names that pellucid gives them.
PROMPTS = {
    "noise_15": "Gaussian noise with a standard deviation of 15",
    "noise_25": "Gaussian noise with a standard deviation of 25",
    "noise_50": "Gaussian noise with a standard deviation of 50",
    "rain": "Rain degradation with rain lines",
    "haze": "Hazy degradation with normal haze",
    "blur": "Blur degradation with motion blur",
    "low_light": "Lowlight degradation",
}


@dataclass(frozen=True)
class DFPIRConfig:
    """The numbers of a DFPIR; the defaults are the paper's.

    Attributes:
        dim: channels at full resolution; each of the three levels below doubles them.
        num_blocks: transformer blocks of the three encoder levels and the bottleneck; decoders mirror them.
        num_refinement_blocks: blocks after the decoder.
        num_heads: attention heads per level; 48 channels per head at every level of the paper's network.
        ffn_expansion: hidden channels of a feed-forward per channel; 2.66 gated cost what 4 plain ones do.
        keep_tenths: tenths of each attention row that perturbation keeps; the paper's gamma 0.9.
        prompts: names of the prompts, in the order of the indices.
        shuffle_seed: draws the permutations of a network that starts fresh.
        shuffle: "fixed" keeps the permutations, as the authors' training does, whose prompt map gets no
            gradient; "learned" sorts trained scores, one per prompt and expanded channel.
        shuffle_temperature: width of the relaxation that gives those scores a gradient, in their standard
            deviations. With 0.3 a slot listens to the 8 nearest of 96 on each side, the 67 nearest of 768. Of
            0.03 to 1 it brought toy blocks closest to planted permutations; less sees too few candidates,
            more stirs up what is right already.
        grid: 1 works on every pixel, as the paper does; 2 on the half-resolution grid (PixelUnshuffle before
            the stem), at a quarter of the cost. Beyond 1 the network starts as the identity, which short
            trainings reward.
        residual: whether a perturbation block adds its attention to the feature, which is ours. Without, as
            in the paper, what leaves the block came through an attention that starts as a mean over channels,
            and a short training hardly gets beyond that (decision record 20).
    """

    dim: int = 48
    num_blocks: tuple[int, ...] = (4, 6, 6, 8)
    num_refinement_blocks: int = 4
    num_heads: tuple[int, ...] = (1, 2, 4, 8)
    ffn_expansion: float = 2.66
    keep_tenths: int = 9
    prompts: tuple[str, ...] = tuple(PROMPTS)
    shuffle_seed: int = 0
    # "added": files from before these fields lack them, and mean the defaults.
    shuffle: Literal["fixed", "learned"] = field(default="fixed", metadata={"added": True})
    shuffle_temperature: float = field(default=0.3, metadata={"added": True})
    grid: int = field(default=1, metadata={"added": True})
    residual: bool = field(default=False, metadata={"added": True})

    def __post_init__(self) -> None:
        levels = [self.dim * 2**level for level in range(4)]
        if len(self.num_blocks) != 4 or len(self.num_heads) != 4:
            raise InputError(
                f"DFPIR has num_blocks {self.num_blocks} and num_heads {self.num_heads}; it has four levels, "
                "so give four numbers each."
            )
        if self.dim < 2 or self.dim % 2 or any(c % h for c, h in zip(levels, self.num_heads, strict=True)):
            raise InputError(
                f"DFPIR has dim {self.dim} and num_heads {self.num_heads}; expected an even dim whose levels "
                f"{levels} divide by their heads. Change one of the two."
            )
        if not 1 <= self.keep_tenths <= 10:
            raise InputError(f"DFPIR has keep_tenths {self.keep_tenths}; expected 1 to 10. The paper has 9.")
        if not self.prompts:
            raise InputError("DFPIR has no prompts; it needs at least one. Name them in `prompts`.")
        if self.shuffle not in ("fixed", "learned"):
            raise InputError(
                f"DFPIR has shuffle {self.shuffle!r}; expected 'fixed' (the paper's) or 'learned'."
            )
        if not 0 < self.shuffle_temperature < float("inf"):
            raise InputError(
                f"DFPIR has shuffle_temperature {self.shuffle_temperature}; expected above zero, usually 0.3."
            )
        check_grid("DFPIR", self.grid)


class TransformerBlock(nn.Module):
    """Attention between channels, then a gated feed-forward, each on a normalized input and added to it."""

    def __init__(self, dim: int, num_heads: int, ffn_expansion: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(dim)
        self.attn = TransposedAttention(dim, num_heads)
        self.norm2 = LayerNorm2d(dim)
        self.ffn = GatedFeedForward(dim, ffn_expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))

    def forward_strips(self, x: FeatureMap) -> None:
        """The same for one picture, in place."""
        attend(x, self.norm1, self.attn)
        feed_forward(x, self.norm2, self.ffn)


class SelectiveCrossAttention(nn.Module):
    """Channel attention from one feature to another that keeps the largest scores of each row (TopM)."""

    def __init__(self, dim: int, num_heads: int, keep_tenths: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kept = max(dim // num_heads * keep_tenths // 10, 1)  # a row that kept none would be NaN
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.gain = nn.Parameter(torch.full((1,), 0.2))
        self.query = nn.Conv2d(dim, dim, 1, bias=False)
        self.query_depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.key_value = nn.Conv2d(dim, dim * 2, 1, bias=False)
        self.key_value_depthwise = nn.Conv2d(dim * 2, dim * 2, 3, padding=1, groups=dim * 2, bias=False)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        query = split_heads(self.query_depthwise(self.query(x)), self.num_heads)  # (B, h, c, n)
        key, value = (
            split_heads(part, self.num_heads)
            for part in self.key_value_depthwise(self.key_value(source)).chunk(2, dim=1)
        )  # each (B, h, c, n)
        attention = self.attention(query, key).to(value.dtype)  # (B, h, c, c)
        mixed = (attention @ value).reshape(x.shape)  # (B, C, H, W)
        if self.training:
            return self.project_out(self.gain * mixed)
        return F.conv2d(mixed, self.gain * self.project_out.weight)

    def attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Rows (B, h, c, c) that sum to one over their `kept` largest scores and are zero elsewhere."""
        precise = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(query.device.type, enabled=False):
            return self.select(channel_attention_scores(query.to(precise), key.to(precise), self.temperature))

    def select(self, scores: Tensor) -> Tensor:
        """Softmax of scores (B, h, c, c) over the `kept` largest of each row, zero elsewhere."""
        largest = scores.topk(self.kept, dim=-1).indices  # (B, h, c, kept)
        dropped = torch.ones_like(scores, dtype=torch.bool).scatter(-1, largest, False)
        return scores.masked_fill(dropped, float("-inf")).softmax(dim=-1)


class PerturbationBlock(nn.Module):
    """Degradation-guided perturbation (DGPB): channels shuffled by prompt, then selective attention.

    No residual leads around the attention unless asked for: what leaves the block came through its values.

    Args:
        dim: channels C.
        num_heads: heads of the attention.
        ffn_expansion: hidden channels of the feed-forward per channel.
        keep_tenths: tenths of each attention row that are kept.
        permutations: (P, 2C) int64; row p lists which expanded channel goes where under prompt p.
        shuffle_temperature: if given, the permutations are learned: `prompt_scores` (P, 2C) is trained, and
            `follow_scores` sorts it into `permutations`.
        residual: whether the attention is added to the feature.
    """

    permutations: Tensor
    prompt_scores: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn_expansion: float,
        keep_tenths: int,
        permutations: Tensor,
        shuffle_temperature: float | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.shuffle_temperature = shuffle_temperature or 0.0
        self.residual = residual
        self.expand = nn.Conv2d(dim, dim * 2, 1)
        self.register_buffer("permutations", permutations)
        learned = shuffle_temperature is not None
        self.prompt_scores = nn.Parameter(score_permutations(permutations)) if learned else None
        self.contract = nn.Conv2d(dim * 2, dim, 1)
        self.norm1 = LayerNorm2d(dim)
        self.norm2 = LayerNorm2d(dim)
        self.cross_attn = SelectiveCrossAttention(dim, num_heads, keep_tenths)
        self.norm3 = LayerNorm2d(dim)
        self.ffn = GatedFeedForward(dim, ffn_expansion)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        # Learned, it is folded in training too: a matrix product over 2C channels of pixels would cost more.
        stepwise = self.training and self.prompt_scores is None
        shuffle = self.shuffle if stepwise else self.folded_shuffle
        y = shuffle(x, prompt)  # (B, C, H, W)
        y = self.cross_attn(self.norm1(y), self.norm2(x))
        if self.residual:
            y = x + y
        return y + self.ffn(self.norm3(y))

    def forward_strips(self, x: FeatureMap, prompt: Tensor) -> None:
        """The same for one picture, in place."""
        attention, dtype, channels = self.cross_attn, x.workspace.dtype, x.channels
        weight, bias = self.fold(prompt)
        shuffle = Linear(weight[0].t(), bias[0]).to(dtype)
        query = Depthwise.of(attention.query, attention.query_depthwise, dtype)
        key_value = Depthwise.of(attention.key_value, attention.key_value_depthwise, dtype)
        key, value = key_value.columns(0, channels), key_value.columns(channels, 2 * channels)
        similarity = ChannelSimilarity(attention.num_heads)
        for rows, last in x.sweep(2 * channels):
            parts = (
                query(normalize(self.norm1, shuffle(rows)), last),
                key(normalize(self.norm2, rows), last),
            )
            similarity.add(torch.cat(parts, dim=2))
        selected = attention.select(similarity.scores(attention.temperature))
        project_out = attention.gain * attention.project_out.weight[:, :, 0, 0]
        fold = fold_attention(selected, project_out).to(dtype)
        sweep = x.sweep(channels)
        change = sweep.add if self.residual else sweep.write
        for rows, last in sweep:
            change(value(normalize(self.norm2, rows), last), fold)
        feed_forward(x, self.norm3, self.ffn)

    def shuffle(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Expand, reorder, contract, step by step: (B, C, H, W), with `prompt` (B,) or (1,)."""
        wide = self.expand(x)  # (B, 2C, H, W)
        order = self.permutations[prompt].expand(len(x), -1)  # (B, 2C)
        return self.contract(wide.gather(1, order[:, :, None, None].expand_as(wide)))

    def folded_shuffle(self, x: Tensor, prompt: Tensor) -> Tensor:
        """The same map as `shuffle`, without ever holding 2C channels of pixels."""
        weight, bias = self.fold(prompt)
        return (weight @ x.flatten(2) + bias[:, :, None]).reshape(x.shape)

    def fold(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (B, C, C) and bias (B, C) of the one 1x1 convolution that `shuffle` amounts to per prompt.

        Multiplying out costs 2C*C*C per prompt, next to 4C*C*n for the steps, so it is done at each call:
        nothing is kept that could go stale.
        """
        expand, contract = self.expand.weight[:, :, 0, 0], self.contract.weight[:, :, 0, 0]
        assert self.expand.bias is not None and self.contract.bias is not None
        with torch.autocast(expand.device.type, enabled=False):  # two roundings to bfloat16 would add up
            if self.training and self.prompt_scores is not None:
                shuffle = straight_through_sort(self.prompt_scores[prompt], self.shuffle_temperature)
                rows, offsets = shuffle @ expand, shuffle @ self.expand.bias  # (B, 2C, 2C) @ (2C, C), @ (2C,)
            else:
                order = self.permutations[prompt]  # (B, 2C)
                rows, offsets = expand[order], self.expand.bias[order]
            weight = contract @ rows  # (C, 2C) @ (B, 2C, C)
            bias = offsets @ contract.T + self.contract.bias
        return weight, bias

    @torch.no_grad()
    def follow_scores(self) -> None:
        """Sort learned scores into `permutations`, which inference and checkpoints take."""
        if self.prompt_scores is not None:
            self.permutations.copy_(sort_permutations(self.prompt_scores))


class EncoderStage(nn.Module):
    """Blocks of one level; the skip is perturbed, what goes further down is not."""

    def __init__(self, blocks: nn.Sequential, perturbation: PerturbationBlock, dim: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.perturbation = perturbation
        self.down = Downsample(dim)

    def forward(self, x: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(x)
        return self.down(x), self.perturbation(x, prompt)  # (B, 2C, H/2, W/2), (B, C, H, W)


class Bottleneck(nn.Module):
    """Blocks of the lowest level, their result perturbed."""

    def __init__(self, blocks: nn.Sequential, perturbation: PerturbationBlock) -> None:
        super().__init__()
        self.blocks = blocks
        self.perturbation = perturbation

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        return self.perturbation(self.blocks(x), prompt)


class DecoderStage(nn.Module):
    """Upsampling from 2C to C channels, the skip beside it, a reduction (or none), blocks."""

    def __init__(self, dim: int, reduce: nn.Module, blocks: nn.Sequential) -> None:
        super().__init__()
        self.up = Upsample(dim * 2)
        self.reduce = reduce
        self.blocks = blocks

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat([self.up(x), skip], dim=1)  # (B, 2C, H, W)
        return self.blocks(self.reduce(x))

    def merge_strips(self, x: FeatureMap, skip: FeatureMap) -> FeatureMap:
        """What comes before the blocks, for one picture."""
        if not isinstance(self.reduce, nn.Conv2d):
            return upsample(x, self.up.conv).beside(skip)
        merge_skip(skip, x, self.up.conv, self.reduce)
        return skip


class DFPIR(nn.Module):
    """The guided network: `network(x, prompt)`.

    Attributes:
        config: its numbers.
        strips_from: pixels of a picture from which `forward_strips` is faster on a CPU (decision record 10).
    """

    def __init__(self, config: DFPIRConfig) -> None:
        super().__init__()
        self.config = config
        self.strips_from = 96**2
        dims = [config.dim * 2**level for level in range(4)]
        heads = config.num_heads
        generator = torch.Generator().manual_seed(config.shuffle_seed)

        def blocks(dim: int, num_heads: int, count: int) -> nn.Sequential:
            return nn.Sequential(
                *(TransformerBlock(dim, num_heads, config.ffn_expansion) for _ in range(count))
            )

        def perturbation(level: int) -> PerturbationBlock:
            permutations = draw_permutations(len(config.prompts), 2 * dims[level], generator)
            temperature = config.shuffle_temperature if config.shuffle == "learned" else None
            return PerturbationBlock(
                dims[level],
                heads[level],
                config.ffn_expansion,
                config.keep_tenths,
                permutations,
                temperature,
                config.residual,
            )

        def decoder(level: int) -> DecoderStage:
            # The top level is not reduced: it works on the skip and the upsampled feature side by side.
            dim = dims[level]
            width = dim if level else dim * 2
            reduce = nn.Conv2d(dim * 2, dim, 1, bias=False) if level else nn.Identity()
            return DecoderStage(dim, reduce, blocks(width, heads[level], config.num_blocks[level]))

        colors = 3 * config.grid**2
        self.stem = nn.Conv2d(colors, config.dim, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(
            EncoderStage(blocks(dims[i], heads[i], config.num_blocks[i]), perturbation(i), dims[i])
            for i in range(3)
        )
        self.bottleneck = Bottleneck(blocks(dims[3], heads[3], config.num_blocks[3]), perturbation(3))
        self.decoder = nn.ModuleList(decoder(level) for level in (2, 1, 0))
        self.refinement = blocks(config.dim * 2, heads[0], config.num_refinement_blocks)
        self.output = nn.Conv2d(config.dim * 2, colors, 3, padding=1, bias=False)
        if config.grid > 1:
            nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor, prompt: Tensor | int) -> Tensor:
        """The restored batch, not clamped.

        Args:
            x: (B, 3, H, W) in [0, 1], H and W multiples of `8 * config.grid`.
            prompt: (B,) integer, an index into `config.prompts` per picture; a single one serves them all.

        Raises:
            InputError: a size or an index that does not fit.
        """
        prompt, grid = self._check(x, prompt), self.config.grid
        y = self.stem(to_grid(x, grid))  # (B, C, H, W) on the grid
        skips: list[Tensor] = []
        for stage in self.encoder:
            y, skip = stage(y, prompt)  # (B, 2C, H/2, W/2), at last (B, 8C, H/8, W/8)
            skips.append(skip)
        y = self.bottleneck(y, prompt)  # (B, 8C, H/8, W/8)
        for stage in self.decoder:
            y = stage(y, skips.pop())  # (B, 4C, H/4, W/4), (B, 2C, H/2, W/2), (B, 2C, H, W)
        return from_grid(self.output(self.refinement(y)), grid) + x

    def forward_strips(self, picture: Tensor, workspace: Workspace, prompt: Tensor | int) -> None:
        """Turn one picture into what `forward` gives for it, computed in strips (see `pellucid.strips`).

        Args:
            picture: (3, H, W) in [0, 1], H and W multiples of `8 * config.grid`, float32 or float64. The
                result takes its place, not clamped.
            workspace: where the feature maps live, and in which type.
            prompt: an index into `config.prompts`.

        Raises:
            InputError: a size or an index that does not fit.
        """
        prompt = self._check(picture[None], prompt)
        y = stem(picture, self.stem, workspace, self.config.grid)  # (H, W, C) on the grid
        skips: list[FeatureMap] = []
        for stage in self.encoder:
            for block in stage.blocks:  # type: ignore[union-attr]
                block.forward_strips(y)
            skips.append(y)
            y = downsample(y, stage.down.conv)  # type: ignore[union-attr, arg-type]
            stage.perturbation.forward_strips(skips[-1], prompt)  # type: ignore[union-attr, operator]
        for block in self.bottleneck.blocks:
            block.forward_strips(y)  # type: ignore[operator]
        self.bottleneck.perturbation.forward_strips(y, prompt)
        for stage in self.decoder:
            y = stage.merge_strips(y, skips.pop())  # type: ignore[operator]
            for block in stage.blocks:  # type: ignore[union-attr]
                block.forward_strips(y)
        for block in self.refinement:
            block.forward_strips(y)  # type: ignore[operator]
        add_head(y, self.output, picture, self.config.grid)

    def after_step(self) -> None:
        """Let the permutations follow the scores, if they are learned; called after each optimizer step."""
        for block in self.modules():
            if isinstance(block, PerturbationBlock):
                block.follow_scores()

    def _check(self, x: Tensor, prompt: Tensor | int) -> Tensor:
        check_batch(x, 8 * self.config.grid)
        index = torch.as_tensor(prompt)
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise InputError(
                f"The prompt is {index.dtype}; DFPIR takes integers. Pass indices into `prompts`."
            )
        index = index.reshape(-1)
        if len(index) not in (1, len(x)):
            raise InputError(
                f"There are {len(index)} prompts for {len(x)} pictures; expected one for all or one each."
            )
        # Values on the GPU are left to its own bounds check: reading them here would make each call wait.
        if index.device.type == "cpu" and not torch.compiler.is_compiling():
            last = len(self.config.prompts) - 1
            if index.min() < 0 or index.max() > last:
                raise InputError(
                    f"The prompts {index.cpu().numpy()} are not all between 0 and {last}; this network knows "
                    f"{', '.join(f'{i} {name}' for i, name in enumerate(self.config.prompts))}."
                )
        return index.to(x.device, torch.int64)


def draw_permutations(num_prompts: int, channels: int, generator: torch.Generator) -> Tensor:
    """Permutations (P, channels) int64 from a CPU generator, so the same on every machine."""
    device = torch.get_default_device()
    if device.type == "meta":  # shapes are asked for, of any size, and nothing shall be allocated
        return torch.empty(num_prompts, channels, dtype=torch.int64)
    rows = [torch.randperm(channels, generator=generator, device="cpu") for _ in range(num_prompts)]
    return torch.stack(rows).to(device)


def sort_permutations(scores: Tensor) -> Tensor:
    """Permutations (P, 2C) int64 listing each row of scores (P, 2C) from the largest; ties in order."""
    return scores.argsort(dim=-1, descending=True, stable=True)


def score_permutations(permutations: Tensor) -> Tensor:
    """Scores (P, 2C) from 1 down to -1, evenly spaced, that `sort_permutations` sorts into `permutations`."""
    spaced = torch.linspace(1, -1, permutations.shape[-1], device=permutations.device)
    return torch.empty_like(permutations, dtype=spaced.dtype).scatter_(
        1, permutations, spaced.expand_as(permutations)
    )


def relaxed_sort(scores: Tensor, temperature: float) -> Tensor:
    """SoftSort: (..., n) scores to (..., n, n) rows that sum to one, near the matrix that sorts descending.

    Prillo, Eisenschlos: "SoftSort: A Continuous Relaxation for the argsort Operator", ICML 2020, arXiv
    2006.16038. Row i weighs the scores by their distance from the i-th largest; its largest entry is where
    the sorting permutation has its one. Scores count in their standard deviations, so that the temperature
    means the same however they grow or decay.
    """
    scores = scores / scores.std(dim=-1, keepdim=True).clamp_min(1e-6)
    ranked = scores.sort(dim=-1, descending=True, stable=True).values
    return (-(ranked[..., :, None] - scores[..., None, :]).abs() / temperature).softmax(dim=-1)


def straight_through_sort(scores: Tensor, temperature: float) -> Tensor:
    """The matrices (..., n, n) of `sort_permutations`, bit by bit, with the gradient of `relaxed_sort`."""
    soft = relaxed_sort(scores, temperature)
    hard = F.one_hot(sort_permutations(scores), scores.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())


def with_shuffle(network: DFPIR, shuffle: Literal["fixed", "learned"]) -> DFPIR:
    """A network with the same weights and permutations whose shuffle is fixed, or learned from there on."""
    other = DFPIR(replace(network.config, shuffle=shuffle)).to(network.stem.weight)
    tensors = {name: t for name, t in network.state_dict().items() if not name.endswith(".prompt_scores")}
    for name, tensor in tensors.copy().items():
        if shuffle == "learned" and name.endswith(".permutations"):
            tensors[name.replace(".permutations", ".prompt_scores")] = score_permutations(tensor)
    other.load_state_dict(tensors)
    return other.train(network.training)


# The authors' names beside ours. A row names whole dotted parts, so one pass renames a key either way.
KEY_TABLE = (
    ("patch_embed.proj", "stem"),
    *((f"encoder_level{n + 1}", f"encoder.{n}.blocks") for n in range(3)),
    *((f"encoder_shuffle_channel{n + 1}", f"encoder.{n}.perturbation") for n in range(3)),
    *((f"down{n + 1}_{n + 2}.body.0", f"encoder.{n}.down.conv") for n in range(3)),
    ("latent", "bottleneck.blocks"),
    ("latent_shuffle_channel", "bottleneck.perturbation"),
    *((f"up{4 - n}_{3 - n}.body.0", f"decoder.{n}.up.conv") for n in range(3)),
    *((f"reduce_chan_level{3 - n}", f"decoder.{n}.reduce") for n in range(2)),
    *((f"decoder_level{3 - n}", f"decoder.{n}.blocks") for n in range(3)),
    *((f"norm{n}.body", f"norm{n}") for n in (1, 2, 3)),
    *((f"{pre}dwconv", f"{ours}depthwise") for pre, ours in (("", ""), ("qkv_", "qkv_"))),
    *((f"q{post}", f"query{ours}") for post, ours in (("", ""), ("_dwconv", "_depthwise"))),
    *((f"kv{post}", f"key_value{ours}") for post, ours in (("", ""), ("_dwconv", "_depthwise"))),
    *((f"linear_layer{n}", f"prompt_map.{n}") for n in (1, 3)),  # only their sort order enters our network
    ("select_attn", "cross_attn"),
    ("attn4", "gain"),
    ("conv1x1", "expand"),
    ("conv_out", "contract"),
)
_OURS = dict(KEY_TABLE)
_THEIRS = {ours: theirs for theirs, ours in KEY_TABLE}


def from_official(key: str) -> str:
    """Our name for the authors' `key`; a name outside the table stays as it is."""
    return _rename(key, _OURS)


def to_official(key: str) -> str:
    """The authors' name for our `key`; a name outside the table stays as it is."""
    return _rename(key, _THEIRS)


def _rename(key: str, table: dict[str, str]) -> str:
    parts = "|".join(re.escape(part) for part in sorted(table, key=len, reverse=True))
    return re.sub(rf"(?<![^.])(?:{parts})(?![^.])", lambda match: table[match[0]], key)


def official_shapes(config: DFPIRConfig, code_dim: int = 512) -> dict[str, torch.Size]:
    """Names and shapes of the authors' state dict for `config`, the prompt maps included."""
    with torch.device("meta"):
        network = DFPIR(config)
    shapes: dict[str, torch.Size] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith(".prompt_scores"):
            continue  # what a prompt map says of each prompt; the authors' has its own row below
        if not name.endswith(".permutations"):
            shapes[to_official(name)] = tensor.shape
            continue
        for layer, width in ((1, code_dim), (3, tensor.shape[1])):
            official = to_official(name.replace("permutations", f"prompt_map.{layer}"))
            shapes[f"{official}.weight"] = torch.Size((width, code_dim))
            shapes[f"{official}.bias"] = torch.Size((width,))
    return shapes


_PAPER = "arXiv 2505.12630"
_SMALL = DFPIRConfig(
    dim=24,
    num_blocks=(1, 2, 2, 2),
    num_refinement_blocks=1,
    prompts=("noise", "rain", "haze", "blur", "low_light"),
    grid=2,
    residual=True,
)
SPECS = (
    ModelSpec("dfpir", DFPIRConfig(), DFPIR, _PAPER, guided=True, multiple_of=8, parameters=29_315_417),
    ModelSpec("dfpir_s", _SMALL, DFPIR, _PAPER, guided=True, multiple_of=16, parameters=3_348_638),
    ModelSpec(
        "dfpir_s_learned",  # to set beside dfpir_s: the same start, the shuffle learned
        replace(_SMALL, shuffle="learned"),
        DFPIR,
        _PAPER,
        guided=True,
        multiple_of=16,
        parameters=3_352_238,
    ),
)
