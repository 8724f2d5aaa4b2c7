"""A network in strips: whole feature maps live between its blocks, what is wide lives a few rows at a time.

The result is that of the whole picture. A pixel-wise step needs no neighbors; a 3x3 convolution needs one
row above and below, which a `Window` keeps from strip to strip; channel attention and routing need sums over
all pixels, which a first pass over the strips gathers before a second one applies them. So a block is a few
passes over its input map, each of which reads a strip, holds the block's wide intermediate features for these
rows only, in memory that a processor's cache holds, and adds its result to the map in place. Nothing is
computed twice but DFPIR's norms.

This is for inference with one picture. Networks describe their blocks' passes in their own files; here are
the maps, the streams that passes are made of, and the passes of the layers that both networks share. What is
derived from the weights is derived anew at each call: nothing is kept that could go stale.

Sums over pixels and what follows from them (attention scores, their norms, routing) are float32, or wider, in
every precision.

Legend: r rows of a strip, H and W height and width of a map, C channels (last, as in channels_last memory),
k the kernel's size, h heads, c channels per head.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import scratch
from pellucid.layers import GatedFeedForward, LayerNorm2d, TransposedAttention

# What a pass holds at once, in rows of its widest tensor: so many tensors of a strip's height, and rows that
# their windows keep beyond. More was never seen (tests/test_strips.py).
TENSORS_HELD, ROWS_HELD = 6, 10
STRIP_BYTES = 2**21  # of the widest tensor of a strip, per thread: less costs calls, more leaves the cache
ALIGN = 16  # hidden channels are filled up to multiples of this: 128 take 3/4 of the time of 127


@dataclass(frozen=True)
class StripCost:
    """What a network takes in strips of one type, measured on its smallest picture; the same for every size.

    Attributes:
        map_values: numbers in all feature maps that live at once, per pixel of the picture.
        widest: numbers in the widest tensor of a strip, per row of the map and column of the picture.
        fixed_bytes: what does not grow with the picture: weights in the form that strips want.
        passes: over feature maps.
    """

    map_values: float
    widest: float
    fixed_bytes: int
    passes: int


@dataclass(frozen=True)
class StripPlan:
    """How one picture is restored in strips.

    Attributes:
        rows: of a strip of the widest tensor, on the map as large as the picture.
        passes: over feature maps.
        bytes: what the restoration takes in memory, result included, the picture itself not.
        map_bytes: of all feature maps that live at once.
        in_files: whether these are files; then they are not part of `bytes`, nor is the result of a picture
            that is in a file itself.
        strip_bytes: what the widest tensor of a strip may take.
    """

    rows: int
    passes: int
    bytes: int
    map_bytes: int
    in_files: bool
    strip_bytes: int


def usual_strip_bytes() -> int:
    """What the widest tensor of a strip may take, unless memory is short."""
    return STRIP_BYTES * torch.get_num_threads()


def plan_strips(
    height: int,
    width: int,
    cost: StripCost,
    dtype: torch.dtype,
    *,
    memory: int,
    disk: int,
    picture_in_file: bool = False,
) -> StripPlan | None:
    """The plan for a picture of height x width, its maps in memory if they fit, else in files.

    Args:
        height, width: of the padded picture.
        cost: of the network.
        dtype: of the maps.
        memory: bytes that the restoration may take.
        disk: bytes that files may take.
        picture_in_file: whether the picture is in a file, where its result goes too.

    Returns:
        The plan, or none if not even strips of one row fit.
    """
    maps = round(height * width * cost.map_values * dtype.itemsize)
    row = width * cost.widest * dtype.itemsize
    # The padded picture, which becomes the network's, and the result are float32.
    around = cost.fixed_bytes + (0 if picture_in_file else 2 * 3 * 4 * height * width)
    for in_files, room in ((False, memory - around - maps), (True, memory - around)):
        rows = min(int(usual_strip_bytes() // row) or 1, int((room / row - ROWS_HELD) // TENSORS_HELD))
        if rows >= 1 and not (in_files and maps > disk):
            total = round(around + row * (TENSORS_HELD * rows + ROWS_HELD) + (0 if in_files else maps))
            return StripPlan(rows, cost.passes, total, maps, in_files, round(row * rows))
    return None


class Workspace:
    """Where the feature maps of one restoration live, in which type, and how high their strips are.

    Attributes:
        dtype: of maps and strips; float32, bfloat16 or float64.
        device: of maps and strips.
        strip_bytes: what the widest tensor of a strip may take; at least one row is taken.
        folder: if given, maps are files there that vanish with them, and the system decides which parts of
            them are in memory.
        map_bytes, peak_map_bytes: of all maps alive now, and the most there were at once.
        widest: the most numbers that a row of a strip had.
        passes: how many passes over a map were made.
        step: called after each pass.
    """

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        strip_bytes: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        step: Callable[[], None] | None = None,
    ) -> None:
        self.dtype, self.device = dtype, torch.device(device)
        self.folder = folder
        self.strip_bytes = usual_strip_bytes() if strip_bytes is None else strip_bytes
        self.map_bytes = self.peak_map_bytes = self.passes = self.widest = 0
        self._step = step

    def rows(self, width: int, channels: int) -> int:
        """How many rows of `width` x `channels` are a strip."""
        self.widest = max(self.widest, width * channels)
        return max(1, self.strip_bytes // (width * channels * self.dtype.itemsize))

    def create_map(self, height: int, width: int, channels: int) -> "FeatureMap":
        """A map (H, W, C) whose values are not set.

        Raises:
            MemoryBudgetError: it is a file, and the disk has no room for it.
        """
        shape = (height, width, channels)
        size = height * width * channels * self.dtype.itemsize
        if self.folder is None:
            pixels = torch.empty(shape, dtype=self.dtype, device=self.device)
        else:
            pixels = scratch.create(shape, self.dtype, Path(self.folder))
        self.map_bytes += size
        self.peak_map_bytes = max(self.peak_map_bytes, self.map_bytes)
        weakref.finalize(pixels.untyped_storage(), self._release, size)
        return FeatureMap(self, (pixels,))

    def _release(self, size: int) -> None:
        self.map_bytes -= size

    def finish_pass(self) -> None:
        """Count a pass."""
        self.passes += 1
        if self._step is not None:
            self._step()


@dataclass(frozen=True)
class FeatureMap:
    """A whole feature map (H, W, C), as one tensor or as several side by side along the channels.

    Attributes:
        workspace: where it was created.
        parts: tensors (H, W, C_i), contiguous; their channels together are the map's.
    """

    workspace: Workspace
    parts: tuple[Tensor, ...]

    @property
    def height(self) -> int:
        """H."""
        return self.parts[0].shape[0]

    @property
    def width(self) -> int:
        """W."""
        return self.parts[0].shape[1]

    @property
    def channels(self) -> int:
        """C."""
        return sum(part.shape[2] for part in self.parts)

    def beside(self, other: "FeatureMap") -> "FeatureMap":
        """The map whose channels are this one's, then the other's; nothing is copied."""
        return FeatureMap(self.workspace, self.parts + other.parts)

    def sweep(self, widest: int) -> "Sweep":
        """A pass over the map, where the widest tensor of a strip has `widest` channels."""
        return Sweep(self, self.workspace.rows(self.width, widest))


@dataclass
class Sweep:
    """One pass over a map: reads strips from top to bottom, and writes behind itself.

    Convolutions make what comes out lag behind what was read; each result goes below the one before it.

    Attributes:
        map: what is read and written.
        rows: of a strip.
        done: how many rows were written.
    """

    map: FeatureMap
    rows: int
    done: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[tuple[Tensor, bool]]:
        """Strips (r, W, C), to be read only, and whether one is the last."""
        height = self.map.height
        for start in range(0, height, self.rows):
            stop = min(start + self.rows, height)
            strips = [part[start:stop] for part in self.map.parts]
            yield strips[0] if len(strips) == 1 else torch.cat(strips, dim=2), stop == height
            scratch.touch(sum(strip.nbytes for strip in strips))
        self.map.workspace.finish_pass()

    def next_rows(self, count: int) -> list[Tensor]:
        """Views (count, W, C_i) of the rows to be written next, part by part."""
        start, self.done = self.done, self.done + count
        scratch.touch(sum(part[start : self.done].nbytes for part in self.map.parts))
        return [part[start : self.done] for part in self.map.parts]

    def add(self, features: Tensor, linear: "Linear") -> None:
        """Add `linear` of features (r, W, K) to the next r rows."""
        start = 0
        for rows in self.next_rows(len(features)):
            stop = start + rows.shape[2]
            linear.columns(start, stop).add(features, rows)
            start = stop

    def write(self, features: Tensor, linear: "Linear") -> None:
        """Set the next r rows to `linear` of features (r, W, K)."""
        flat, start = features.flatten(0, 1), 0
        for rows in self.next_rows(len(features)):
            stop = start + rows.shape[2]
            linear.columns(start, stop).into(flat, rows.view(-1, rows.shape[2]))
            start = stop


@dataclass(frozen=True)
class Linear:
    """A 1x1 convolution as a matrix product over pixels.

    Attributes:
        weight: (K, C), from K channels to C.
        bias: (C,) or none.
    """

    weight: Tensor
    bias: Tensor | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d, dtype: torch.dtype) -> "Linear":
        """That of a 1x1 convolution."""
        return cls(conv.weight[:, :, 0, 0].t().to(dtype), None if conv.bias is None else conv.bias.to(dtype))

    def to(self, dtype: torch.dtype) -> "Linear":
        """The same in another type."""
        return Linear(self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    def columns(self, start: int, stop: int) -> "Linear":
        """What gives the output channels from `start` to `stop` only."""
        return Linear(self.weight[:, start:stop], None if self.bias is None else self.bias[start:stop])

    def into(self, x: Tensor, out: Tensor) -> None:
        """(n, K) to `out` (n, C)."""
        if self.bias is None:
            torch.mm(x, self.weight, out=out)
        else:
            torch.addmm(self.bias, x, self.weight, out=out)

    def add(self, x: Tensor, out: Tensor) -> None:
        """Add what it makes of (r, W, K) to `out` (r, W, C), contiguous."""
        flat = out.view(-1, out.shape[2])
        flat.addmm_(x.flatten(0, 1), self.weight)
        if self.bias is not None:
            flat.add_(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(r, W, K) to (r, W, C)."""
        out = x.new_empty(*x.shape[:2], self.weight.shape[1])
        self.into(x.flatten(0, 1), out.flatten(0, 1))
        return out


class Window:
    """The rows of a stream that a k x k convolution sees, k odd: those of a strip and k - 1 from before.

    Above the first row and below the last, zeros stand in, as the convolutions of the networks pad.
    """

    def __init__(self, kernel_size: int) -> None:
        self._halo = kernel_size // 2
        self._buffer: Tensor | None = None
        self._filled = 0

    def room(self, like: Tensor, channels: int) -> Tensor:
        """A view (r, W, channels) where the next r rows are to be put, for `like` (r, W, any)."""
        rows, width, _ = like.shape
        kept = self._halo if self._buffer is None else min(self._filled, 2 * self._halo)
        needed = kept + rows + self._halo  # with the zeros below the last row
        if self._buffer is None:
            self._buffer = like.new_empty(needed, width, channels)
            self._buffer[:kept] = 0
        else:
            tail = self._buffer[self._filled - kept : self._filled]
            if needed > len(self._buffer):  # behind another window, the first strip is lower than those after
                self._buffer = like.new_empty(needed, width, channels)
            elif self._filled < 2 * kept:
                tail = tail.clone()  # it reaches into where it goes
            self._buffer[:kept] = tail
        self._filled = kept + rows
        return self._buffer[kept : self._filled]

    def rows(self, last: bool) -> Tensor:
        """(r + k - 1, W, C): all rows, with the zeros below if these are the last."""
        assert self._buffer is not None
        if last:
            self._buffer[self._filled : self._filled + self._halo] = 0
            self._filled += self._halo
        return self._buffer[: self._filled]

    def center(self, last: bool) -> Tensor:
        """The rows that a convolution's results stand at: the stream, delayed."""
        rows = self.rows(last)
        return rows[self._halo : len(rows) - self._halo]


def convolve(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A k x k convolution of (r + k - 1, W, C), padded with zeros left and right alone: (r, W, D).

    Args:
        rows: from a `Window`.
        weight: (D, C, k, k), or (C, 1, k, k) for a depthwise one.
        bias: (D,).
    """
    size = weight.shape[2]
    if len(rows) < size:  # the window is not full yet
        return rows.new_empty(0, rows.shape[1], weight.shape[0])
    groups = rows.shape[2] // weight.shape[1]
    # The batch comes first: its stride tells torch that this is channels_last memory, and nothing is copied.
    pixels = rows[None].permute(0, 3, 1, 2)
    result = F.conv2d(pixels, weight, bias, padding=(0, size // 2), groups=groups)
    return result.permute(0, 2, 3, 1)[0].contiguous()


class Depthwise:
    """A stream of strips through a 1x1 and then a depthwise convolution.

    Args:
        linear: the 1x1 convolution.
        weight: (C, 1, k, k).
        bias: (C,) or none.
        activation: between the two, in place.
    """

    def __init__(
        self,
        linear: Linear,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.linear, self.activation = linear, activation
        self.weight, self.bias = weight, bias
        self.window = Window(weight.shape[2])

    @classmethod
    def of(cls, linear: nn.Conv2d, depthwise: nn.Conv2d, dtype: torch.dtype) -> "Depthwise":
        """That of two convolutions."""
        bias = None if depthwise.bias is None else depthwise.bias.to(dtype)
        return cls(Linear.of(linear, dtype), depthwise.weight.to(dtype), bias)

    def columns(self, start: int, stop: int) -> "Depthwise":
        """What gives the channels from `start` to `stop` only."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Depthwise(self.linear.columns(start, stop), self.weight[start:stop], bias, self.activation)

    @property
    def channels(self) -> int:
        """C of the result."""
        return self.weight.shape[0]

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        """The strip (r, W, K) that comes next to the rows (r', W, C) that are complete by now."""
        room = self.window.room(x, self.channels)
        self.linear.into(x.flatten(0, 1), room.view(-1, self.channels))
        if self.activation is not None:
            self.activation(room)
        return convolve(self.window.rows(last), self.weight, self.bias)


def normalize(norm: LayerNorm2d, x: Tensor) -> Tensor:
    """The norm of each pixel of (r, W, C)."""
    if x.dtype == torch.bfloat16 and x.shape[2] < 64:  # its own kernel takes twice the time for narrow pixels
        return F.layer_norm(x.float(), norm.weight.shape, norm.weight, norm.bias, 1e-5).to(x.dtype)
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return F.layer_norm(x, weight.shape, weight, bias, 1e-5)


class PixelMean:
    """The mean over all pixels of a stream, gathered strip by strip."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, x: Tensor) -> None:
        """Take in a strip (r, W, C)."""
        part = x.sum((0, 1), dtype=torch.promote_types(x.dtype, torch.float32))
        self._sum = part if self._sum is None else self._sum + part
        self._count += x.shape[0] * x.shape[1]

    def value(self) -> Tensor:
        """(C,)."""
        assert self._sum is not None
        return self._sum / self._count


class ChannelSimilarity:
    """Cosine similarity of channels over all pixels, gathered strip by strip (Restormer, eq. 1)."""

    def __init__(self, num_heads: int) -> None:
        self.num_heads = num_heads
        self._products: Tensor | None = None  # (h, c, c)
        self._squares: Tensor | None = None  # (2C,)

    def add(self, query_key: Tensor) -> None:
        """Take in a strip (r, W, 2C), queries first; its values are lost."""
        n, channels = query_key.shape[0] * query_key.shape[1], query_key.shape[2] // 2
        flat = query_key.reshape(n, 2 * channels)
        flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
        parts = flat.view(n, 2, self.num_heads, channels // self.num_heads)
        products = parts[:, 0].permute(1, 2, 0) @ parts[:, 1].permute(1, 0, 2)  # (h, c, n) @ (h, n, c)
        squares = flat.mul_(flat).sum(0)
        if self._products is None or self._squares is None:
            self._products, self._squares = products, squares
        else:
            self._products += products
            self._squares += squares

    def scores(self, temperature: Tensor) -> Tensor:
        """(1, h, c, c) scores before the softmax, for a temperature (h, 1, 1)."""
        assert self._products is not None and self._squares is not None
        query, key = self._squares.sqrt().clamp_min(1e-12).view(2, self.num_heads, -1)  # (h, c)
        return (self._products / (query[:, :, None] * key[:, None, :]) * temperature)[None]


def fold_attention(attention: Tensor, project_out: Tensor) -> Linear:
    """Attention (1, h, c, c) and the projection (C, C) behind it, as one map of the values."""
    heads = project_out.view(project_out.shape[0], attention.shape[1], -1)  # (C, h, c)
    weight = torch.einsum("ohc,hcd->hdo", heads.to(attention.dtype), attention[0])
    return Linear(weight.flatten(0, 1))


def attend(x: FeatureMap, norm: LayerNorm2d, attention: TransposedAttention) -> None:
    """x + attention(norm(x)), in place."""
    dtype, channels = x.workspace.dtype, x.channels
    streams = Depthwise.of(attention.qkv, attention.qkv_depthwise, dtype)
    query_key, value = streams.columns(0, 2 * channels), streams.columns(2 * channels, 3 * channels)
    similarity = ChannelSimilarity(attention.num_heads)
    for rows, last in x.sweep(2 * channels):
        similarity.add(query_key(normalize(norm, rows), last))
    scores = similarity.scores(attention.temperature)
    fold = fold_attention(scores.softmax(dim=-1), attention.project_out.weight[:, :, 0, 0]).to(dtype)
    sweep = x.sweep(2 * channels)
    for rows, last in sweep:
        sweep.add(value(normalize(norm, rows), last), fold)


def gated_streams(ffn: GatedFeedForward, dtype: torch.dtype) -> tuple[Depthwise, Depthwise, Linear]:
    """Streams of gate and value, and the projection behind them.

    Each is filled up to a multiple of `ALIGN` hidden channels with zeros, which changes nothing.
    """
    hidden = ffn.project_out.weight.shape[1]
    missing = -hidden % ALIGN
    linear, depthwise = ffn.project_in.weight[:, :, 0, 0], ffn.depthwise.weight
    gate, value = (
        Depthwise(
            Linear(F.pad(linear[part], (0, 0, 0, missing)).t().to(dtype)),
            F.pad(depthwise[part], (0, 0) * 3 + (0, missing)).to(dtype),
        )
        for part in (slice(hidden), slice(hidden, None))
    )
    return gate, value, Linear(F.pad(ffn.project_out.weight[:, :, 0, 0], (0, missing)).t().to(dtype))


def feed_forward(x: FeatureMap, norm: LayerNorm2d, ffn: GatedFeedForward) -> None:
    """x + ffn(norm(x)), in place."""
    gate, value, project_out = gated_streams(ffn, x.workspace.dtype)
    sweep = x.sweep(gate.channels)
    for rows, last in sweep:
        normed = normalize(norm, rows)
        gated = F.gelu(gate(normed, last))
        sweep.add(gated.mul_(value(normed, last)), project_out)


def stem(picture: Tensor, conv: nn.Conv2d, workspace: Workspace, grid: int = 1) -> FeatureMap:
    """The first map (H/g, W/g, C) of a picture (3, H, W), by a convolution in the picture's own precision.

    Args:
        picture: H and W are multiples of the grid.
        conv: from 3 * g * g channels.
        workspace: where the map goes.
        grid: g; so many pixels side by side, in both directions, are one.
    """
    height, width = picture.shape[1] // grid, picture.shape[2] // grid
    result = workspace.create_map(height, width, conv.out_channels)
    window, sweep = Window(conv.kernel_size[0]), result.sweep(conv.out_channels)
    for start in range(0, height, sweep.rows):
        stop = min(start + sweep.rows, height)
        strip = F.pixel_unshuffle(picture[:, start * grid : stop * grid], grid).permute(1, 2, 0)
        window.room(strip, strip.shape[2]).copy_(strip)
        features = convolve(window.rows(stop == height), conv.weight)
        sweep.next_rows(len(features))[0].copy_(features)
    workspace.finish_pass()
    return result


def add_head(x: FeatureMap, conv: nn.Conv2d, picture: Tensor, grid: int = 1) -> None:
    """Add a convolution of the last map (H/g, W/g, C) to the picture (3, H, W), in place."""
    window, weight, done = Window(conv.kernel_size[0]), conv.weight.to(x.workspace.dtype), 0
    for rows, last in x.sweep(x.channels):
        window.room(rows, x.channels).copy_(rows)
        change = convolve(window.rows(last), weight).permute(2, 0, 1)  # (3 * g * g, r, W/g)
        change = F.pixel_shuffle(change.contiguous(), grid)
        picture[:, done : done + change.shape[1]] += change
        scratch.touch(change.nbytes)
        done += change.shape[1]


def downsample(x: FeatureMap, conv: nn.Conv2d) -> FeatureMap:
    """(H, W, C) to (H/2, W/2, 2C): a 3x3 convolution to C/2, then four pixels side by side."""
    work = x.workspace
    result = work.create_map(x.height // 2, x.width // 2, conv.out_channels * 4)
    # Channel 4j + 2a + b is channel j of the pixel at (a, b) of its four.
    pixels = result.parts[0].view(*result.parts[0].shape[:2], conv.out_channels, 2, 2)
    window, weight, done = Window(conv.kernel_size[0]), conv.weight.to(work.dtype), 0
    for rows, last in x.sweep(x.channels):
        window.room(rows, x.channels).copy_(rows)
        features = convolve(window.rows(last), weight)  # (r, W, C/2), at any row, odd ones too
        features = features.unflatten(1, (-1, 2)).transpose(2, 3)  # (r, W/2, C/2, 2)
        for parity in (0, 1):
            own = features[(done + parity) % 2 :: 2]
            first = (done + (done + parity) % 2) // 2
            pixels[first : first + len(own), :, :, parity] = own
        done += len(features)
    return result


class Upsampled:
    """A map at half the size, as a stream of strips of the larger one: a convolution, then pixels apart."""

    def __init__(self, x: FeatureMap, conv: nn.Conv2d, widest: int) -> None:
        self.map, dtype = x, x.workspace.dtype
        self.channels = conv.out_channels // 4
        # Channel 4j + 2a + b goes to channel j of the pixel at (a, b); put first, (a, b) moves whole pixels.
        weight = conv.weight.unflatten(0, (self.channels, 2, 2)).permute(1, 2, 0, 3, 4, 5).flatten(0, 2)
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.rows = x.workspace.rows(x.width, widest * 4)

    def __iter__(self) -> Iterator[Tensor]:
        """Strips (2r, 2W, C/2) from top to bottom."""
        window, sweep = Window(self.weight.shape[2]), Sweep(self.map, self.rows)
        for rows, last in sweep:
            window.room(rows, rows.shape[2]).copy_(rows)
            features = convolve(window.rows(last), self.weight)  # (r, W, 4 * C/2)
            r, width, _ = features.shape
            apart = features.view(r, width, 2, 2, self.channels).transpose(1, 2)  # (r, 2, W, 2, C/2)
            yield apart.reshape(2 * r, 2 * width, self.channels)


def upsample(x: FeatureMap, conv: nn.Conv2d) -> FeatureMap:
    """(H, W, C) to (2H, 2W, C/2): a convolution to 2C, then each pixel's channels to four pixels."""
    result = x.workspace.create_map(x.height * 2, x.width * 2, conv.out_channels // 4)
    done = 0
    for strip in Upsampled(x, conv, conv.out_channels // 4):
        result.parts[0][done : done + len(strip)] = strip
        done += len(strip)
    return result


def merge_skip(skip: FeatureMap, x: FeatureMap, up: nn.Conv2d, reduce: nn.Conv2d) -> None:
    """reduce(cat(upsample(x), skip)), in place of the skip: reduce is a 1x1 convolution."""
    linear = Linear.of(reduce, x.workspace.dtype)
    channels, done = skip.channels, 0
    (pixels,) = skip.parts
    for strip in Upsampled(x, up, 2 * channels):
        rows = pixels[done : done + len(strip)].flatten(0, 1)
        merged = torch.mm(rows, linear.weight[strip.shape[2] :])
        torch.addmm(merged, strip.flatten(0, 1), linear.weight[: strip.shape[2]], out=rows)
        done += len(strip)
