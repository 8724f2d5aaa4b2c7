"""Both networks written down step by step, as a reader of the papers would: what speed is compared with.

Float32, default memory layout, one whole picture, no folding, no fused steps. The weights are a state dict of
pellucid's own networks, and the results are theirs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def conv(state: State, name: str, x: Tensor) -> Tensor:
    """The convolution called `name`, padded to keep the size; depthwise if its weight says so."""
    weight = state[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2, groups=groups)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = x.var(1, keepdim=True, unbiased=False)
    x = (x - mean) / torch.sqrt(variance + 1e-5)
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def attend(
    state: State,
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    select: Callable[[Tensor], Tensor] = lambda scores: scores,
) -> Tensor:
    """Attention between channels; `select` may thin the scores."""
    temperature = state[f"{name}.temperature"]
    b, c, h, w = query.shape
    query, key, value = (x.reshape(b, len(temperature), -1, h * w) for x in (query, key, value))
    query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    scores = select(query @ key.transpose(-2, -1) * temperature)
    return (scores.softmax(-1) @ value).reshape(b, c, h, w)


def self_attention(state: State, name: str, x: Tensor) -> Tensor:
    qkv = conv(state, f"{name}.qkv_depthwise", conv(state, f"{name}.qkv", x))
    return conv(state, f"{name}.project_out", attend(state, name, *qkv.chunk(3, 1)))


def cross(state: State, name: str, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query = conv(state, f"{name}.query_depthwise", conv(state, f"{name}.query", x))
    key, value = conv(state, f"{name}.key_value_depthwise", conv(state, f"{name}.key_value", source)).chunk(
        2, 1
    )
    return query, key, value


def feed_forward(state: State, name: str, x: Tensor) -> Tensor:
    gate, value = conv(state, f"{name}.depthwise", conv(state, f"{name}.project_in", x)).chunk(2, 1)
    return conv(state, f"{name}.project_out", F.gelu(gate) * value)


def down(state: State, name: str, x: Tensor) -> Tensor:
    return F.pixel_unshuffle(conv(state, f"{name}.conv", x), 2)


def up(state: State, name: str, x: Tensor) -> Tensor:
    return F.pixel_shuffle(conv(state, f"{name}.conv", x), 2)


def dfpir(state: State, config, x: Tensor, prompt: int) -> Tensor:
    """(1, 3, H, W) restored under a prompt."""

    def blocks(name: str, x: Tensor, count: int) -> Tensor:
        for i in range(count):
            block = f"{name}.{i}"
            x = x + self_attention(state, f"{block}.attn", norm(state, f"{block}.norm1", x))
            x = x + feed_forward(state, f"{block}.ffn", norm(state, f"{block}.norm2", x))
        return x

    def perturb(name: str, x: Tensor) -> Tensor:
        wide = conv(state, f"{name}.expand", x)[:, state[f"{name}.permutations"][prompt]]
        y = norm(state, f"{name}.norm1", conv(state, f"{name}.contract", wide))
        inner = f"{name}.cross_attn"

        def thin(scores: Tensor) -> Tensor:
            kept = max(scores.shape[-1] * config.keep_tenths // 10, 1)
            largest = scores.topk(kept, dim=-1).indices
            return torch.full_like(scores, float("-inf")).scatter(-1, largest, scores.gather(-1, largest))

        parts = cross(state, inner, y, norm(state, f"{name}.norm2", x))
        y = conv(state, f"{inner}.project_out", attend(state, inner, *parts, thin) * state[f"{inner}.gain"])
        y = x + y if config.residual else y
        return y + feed_forward(state, f"{name}.ffn", norm(state, f"{name}.norm3", y))

    y, skips = conv(state, "stem", F.pixel_unshuffle(x, config.grid)), []
    for i in range(3):
        y = blocks(f"encoder.{i}.blocks", y, config.num_blocks[i])
        skips.append(perturb(f"encoder.{i}.perturbation", y))
        y = down(state, f"encoder.{i}.down", y)
    y = perturb("bottleneck.perturbation", blocks("bottleneck.blocks", y, config.num_blocks[3]))
    for i in range(3):
        y = torch.cat([up(state, f"decoder.{i}.up", y), skips.pop()], 1)
        y = conv(state, f"decoder.{i}.reduce", y) if i < 2 else y
        y = blocks(f"decoder.{i}.blocks", y, config.num_blocks[2 - i])
    y = conv(state, "output", blocks("refinement", y, config.num_refinement_blocks))
    return x + F.pixel_shuffle(y, config.grid)


def daair(state: State, config, x: Tensor) -> Tensor:
    """(1, 3, H, W) restored."""

    def expert(name: str, x: Tensor, index: int) -> Tensor:
        reduce, expand, depthwise, mix = (
            state[f"{name}.{part}"][index] for part in ("reduce", "expand", "depthwise", "mix")
        )
        y = F.conv2d(F.conv2d(x, reduce[:, :, None, None]), expand[:, :, None, None])
        gate, value = F.gelu(y).chunk(2, 1)
        gate = F.conv2d(gate, depthwise[:, None], padding=depthwise.shape[-1] // 2, groups=len(depthwise))
        return F.conv2d(gate * value, mix[:, :, None, None])

    def learn(name: str, x: Tensor) -> Tensor:
        probabilities = F.linear(x.mean((2, 3)), state[f"{name}.router.linear.weight"]).softmax(-1)
        gate, index = probabilities.max(-1)
        y = expert(f"{name}.specialized", x, int(index)) * gate * expert(f"{name}.agnostic", x, 0)
        y = F.conv2d(y, state[f"{name}.project.weight"][:, :, None, None])
        return x + y if config.inner_residual else y

    def control(name: str, x: Tensor) -> Tensor:
        y = F.conv2d(expert(f"{name}.expert", x, 0), state[f"{name}.project.weight"][:, :, None, None])
        return x + y if config.inner_residual else y

    def mix(name: str, gated: Tensor) -> Tensor:
        weight = conv(state, f"{name}.channel_weight", gated.mean((2, 3), keepdim=True))
        return conv(state, f"{name}.project_out", gated * weight)

    def attention(name: str, asking: Tensor, asked: Tensor | None) -> Tensor:
        if config.mixer == "attention":
            if asked is None:
                return self_attention(state, name, asking)
            return conv(state, f"{name}.project_out", attend(state, name, *cross(state, name, asking, asked)))
        if asked is None:
            gate, value = conv(state, f"{name}.depthwise", conv(state, f"{name}.gate_value", asking)).chunk(
                2, 1
            )
        else:
            gate = conv(state, f"{name}.gate_depthwise", conv(state, f"{name}.gate", asking))
            value = conv(state, f"{name}.value_depthwise", conv(state, f"{name}.value", asked))
        return mix(name, gate * value)

    def ffn(name: str, x: Tensor) -> Tensor:
        if config.mixer == "attention":
            return feed_forward(state, name, x)
        gate, value = conv(state, f"{name}.project_in", x).chunk(2, 1)
        return conv(state, f"{name}.project_out", gate * value)

    def block(name: str, x: Tensor, decodes: bool) -> Tensor:
        normed = norm(state, f"{name}.norm1", x)
        embedded = [learn(f"{name}.learner", normed), None]
        if decodes:
            embedded[1] = control(f"{name}.controller", normed)
            embedded = embedded if config.query == "learner" else embedded[::-1]
        x = x + attention(f"{name}.attention", *embedded)
        return x + ffn(f"{name}.ffn", norm(state, f"{name}.norm2", x))

    y, skips = conv(state, "stem", F.pixel_unshuffle(x, config.grid)), []
    for level, count in enumerate(config.encoder_blocks):
        for i in range(count):
            y = block(f"encoder.{level}.{i}", y, False)
        if level < len(config.encoder_blocks) - 1:
            skips.append(y)
            y = down(state, f"down.{level}", y)
    for level in reversed(range(len(config.decoder_blocks))):
        y = conv(state, f"fuse.{level}", torch.cat([up(state, f"up.{level}", y), skips[level]], 1))
        for i in range(config.decoder_blocks[level]):
            y = block(f"decoder.{level}.{i}", y, True)
    return x + F.pixel_shuffle(conv(state, "head", y), config.grid)
