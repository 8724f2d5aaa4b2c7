"""The recognizer: which degradations a picture shows, and how strong each is. It restores nothing.

A network of pellucid's own, with three looks at a picture. (1) The spectrum of 8 x 8 blocks (DCT-II), on
JPEG's grid and half a block beside it, whose statistics hold noise, blur and JPEG (the use of low quantiles
over blocks follows estimators of noise such as Pyatykh et al., "Image Noise Level Estimation by Principal
Component Analysis", 2013; that zeros gather on the true grid follows Fan and de Queiroz, "Identification of
Bitmap Compression History", 2003). (2) A small convolutional trunk, for streaks and whatever the spectrum
does not tell. Both see crops in native resolution, since resizing would change what they look for. (3) One
reduced view of the whole picture, for haze (dark channel, He et al., 2009) and darkness.

Features are pooled over all crops together by means, standard deviations and quantiles, so that the number of
crops only makes them steadier.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import InputError
from pellucid.models._spec import ModelSpec

BLOCK = 8  # JPEG's
LEVELS = 255.0
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOMENTUM = 0.02  # of the running statistics
FAR = 10.0  # features further from the mean, in units of their spread, count as no further in novelty
BANDS = 6  # of the block's diagonal frequencies, of equal width
# Y, Cb, Cr of JFIF, as rows
LUMA_CHROMA = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class Scale:
    """How the strength of one kind is counted.

    Attributes:
        unit: in words.
        least: from here on the kind counts as present.
        negligible: up to here the kind counts as absent; between the two it is neither.
        low, high: the range that is told.
        step: strengths are learned as multiples of it, or as logarithms where it is none.
        decimals: worth printing.
    """

    unit: str
    least: float
    negligible: float
    low: float
    high: float
    step: float | None = None
    decimals: int = 1

    def encode(self, strength: float) -> float:
        """As the network learns it."""
        return math.log(max(strength, 1e-3)) if self.step is None else strength / self.step

    def decode(self, answer: float) -> float:
        """The strength for a network's answer, within the range."""
        strength = math.exp(min(answer, 10.0)) if self.step is None else answer * self.step
        return min(max(strength, self.low), self.high)

    def presence(self, strength: float) -> float:
        """1 if present, 0 if absent, NaN if neither."""
        sign = 1 if self.least > self.negligible else -1  # a lower quality is a stronger degradation
        if sign * strength >= sign * self.least:
            return 1.0
        return 0.0 if sign * strength <= sign * self.negligible else math.nan


SCALES = {
    "noise": Scale("standard deviation in gray levels of 255", 4, 1, 0, 80),
    "rain": Scale("root mean square of the light that streaks add, in gray levels of 255", 3, 0.5, 0, 120),
    "haze": Scale("share of the scene's light that is lost, 0 to 1", 0.15, 0.05, 0, 1, 0.25, 2),
    "blur": Scale("root mean square radius of the blur's kernel in pixels", 0.9, 0.45, 0, 30),
    "low_light": Scale("stops (halvings of linear light) below the right exposure", 1.0, 0.3, 0, 10, 2.0),
    "jpeg": Scale("IJG quality of the file, 1 to 100, lower is worse", 80, 90, 1, 100, 25.0, 0),
}


@dataclass(frozen=True)
class RecognizerConfig:
    """Numbers of the structure.

    Attributes:
        kinds: what is told apart; the answers' order.
        crop: side in pixels of a crop in native resolution, a multiple of 8.
        crops: most crops along one side of the picture.
        view: side in pixels of the reduced view.
        widths: channels of the trunk at 1/2, 1/4, 1/8 and 1/16 of the resolution.
        hidden: width of the heads.
        axes: along how many directions the features of training pictures differ most; what lies beside them
            is novelty.
        slopes, offsets: K + 1 each, which make probabilities of logits, sigmoid(slope * logit + offset);
            measured after training, on pictures held out from it. Empty: 1 and 0.
        familiar: the largest novelty at which answers are relied on; measured likewise.
    """

    kinds: tuple[str, ...] = ("noise", "rain", "haze", "blur", "low_light", "jpeg")
    crop: int = 128
    crops: int = 3
    view: int = 32
    widths: tuple[int, ...] = (24, 48, 64, 96)
    hidden: int = 192
    axes: int = 32
    slopes: tuple[float, ...] = field(default=(), metadata={"added": "by calibration"})
    offsets: tuple[float, ...] = field(default=(), metadata={"added": "by calibration"})
    familiar: float = field(default=1e9, metadata={"added": "by calibration"})


class Answers(NamedTuple):
    """What the network says about a batch.

    Attributes:
        logits: (B, K + 1); of each kind's presence, and last of "nothing is wrong". Not calibrated.
        strengths: (B, K), encoded by `SCALES`; meaningless where a kind is absent.
        novelty: (B,), mean square of what the training's main axes leave of the features; 1 on pictures like
            those.
    """

    logits: Tensor
    strengths: Tensor
    novelty: Tensor


class BlockSpectrum(nn.Module):
    """Statistics of the DCT of 8 x 8 blocks: (B, N, 3, P, P) in [0, 1] to (B, `width`)."""

    width = 6 * 64 + 3 * BANDS * len(QUANTILES)
    basis: Tensor
    bands: Tensor
    color: Tensor
    quantiles: Tensor

    def __init__(self) -> None:
        super().__init__()
        basis = torch.tensor(
            [
                [
                    math.sqrt((1 if k == 0 else 2) / BLOCK)
                    * math.cos(math.pi * (2 * n + 1) * k / (2 * BLOCK))
                    for n in range(BLOCK)
                ]
                for k in range(BLOCK)
            ]
        )
        order = torch.arange(BLOCK)
        diagonal = (order[:, None] + order).flatten().float()  # 0, the mean, to 14
        edges = torch.linspace(1, 15, BANDS + 1)
        bands = (diagonal >= edges[:-1, None]) & (diagonal < edges[1:, None])
        self.register_buffer("basis", torch.kron(basis, basis), persistent=False)  # (64, 64)
        self.register_buffer("bands", bands / bands.sum(1, keepdim=True), persistent=False)  # (BANDS, 64)
        self.register_buffer("color", torch.tensor(LUMA_CHROMA), persistent=False)
        self.register_buffer("quantiles", torch.tensor(QUANTILES), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        planes = torch.einsum("kc,bnchw->bnkhw", self.color, crops) * LEVELS
        half = BLOCK // 2
        on_grid = self._coefficients(planes[:, :, :1])  # (B, L, 64)
        beside = self._coefficients(planes[:, :, :1, half:-half, half:-half])
        chroma = self._coefficients(planes[:, :, 1:])
        log_on, log_beside, log_chroma = (self._log_mean(c) for c in (on_grid, beside, chroma))
        zeros_on, zeros_beside, zeros_chroma = (self._zeros(c) for c in (on_grid, beside, chroma))
        features = [log_on, log_on - log_beside, log_chroma, zeros_on, zeros_on - zeros_beside, zeros_chroma]
        for coefficients in (on_grid, beside, chroma):
            energy = (coefficients.square() @ self.bands.T + 0.01).log()  # (B, L, BANDS)
            features.append(torch.quantile(energy, self.quantiles, dim=1).permute(1, 2, 0).flatten(1))
        return torch.cat(features, dim=1)

    def _coefficients(self, planes: Tensor) -> Tensor:
        """(B, N, C, h, w) in gray levels to (B, L, 64), all blocks of all crops and planes."""
        b, n, c, h, w = planes.shape
        blocks = planes.reshape(b, n * c, h // BLOCK, BLOCK, w // BLOCK, BLOCK).transpose(3, 4)
        return blocks.reshape(b, -1, BLOCK * BLOCK) @ self.basis.T

    @staticmethod
    def _log_mean(coefficients: Tensor) -> Tensor:
        return (coefficients.abs() + 0.1).log().mean(1)

    @staticmethod
    def _zeros(coefficients: Tensor) -> Tensor:
        """How often a coefficient is zero, up to the rounding of pixels."""
        return torch.exp(-coefficients.square()).mean(1)


class Trunk(nn.Module):
    """Convolutions: (B, N, 3, P, P) to (B, `width`), moments of the features at three depths."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.width = 3 * sum(widths[1:])
        self.stem = _normed(3 * 4, widths[0])  # on 2 x 2 pixels at once, none is lost
        pairs = itertools.pairwise(widths)
        self.down = nn.ModuleList(_normed(a, b, stride=2) for a, b in pairs)
        self.mix = nn.ModuleList(_normed(c, c) for c in widths[1:])

    def forward(self, crops: Tensor) -> Tensor:
        b, n = crops.shape[:2]
        x = F.pixel_unshuffle(crops.flatten(0, 1) * 4 - 2, 2)  # (B*N, 12, P/2, P/2)
        x = F.silu(self.stem(x))
        features: list[Tensor] = []
        for down, mix in zip(self.down, self.mix, strict=True):
            x = F.silu(down(x))
            x = x + F.silu(mix(x))
            pooled = x.unflatten(0, (b, n)).transpose(1, 2).flatten(2)  # (B, C, all crops' pixels)
            mean = pooled.mean(2)
            spread = (pooled - mean[..., None]).square().mean(2)
            features += [mean, (spread + 1e-4).log(), pooled.unflatten(2, (n, -1)).amax(3).mean(2)]
        return torch.cat(features, dim=1)


def _normed(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """A convolution, then batch normalization, which leaves a batch's pictures as different as they are."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width, momentum=MOMENTUM)
    )


class View(nn.Module):
    """The reduced picture: (B, 3, V, V) to (B, `width`)."""

    quantiles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.width = 2 * 64 + 7 * len(QUANTILES)
        self.first, self.second, self.third = _normed(3, 32, 2), _normed(32, 64, 2), _normed(64, 64, 2)
        self.register_buffer("quantiles", torch.tensor(QUANTILES), persistent=False)

    def forward(self, view: Tensor) -> Tensor:
        x = F.silu(self.first(view * 4 - 2))
        x = F.silu(self.second(x))
        x = F.silu(self.third(x)).flatten(2)  # (B, 64, V/8 * V/8)
        least, most = view.amin(1, keepdim=True), view.amax(1, keepdim=True)
        dark = -F.max_pool2d(-least, 3, 1, 1)  # the dark channel
        mean = view.mean(1, keepdim=True)
        contrast = F.max_pool2d(mean, 3, 1, 1) + F.max_pool2d(-mean, 3, 1, 1)
        facts = torch.cat([view, least, dark, most - least, contrast], dim=1).flatten(2)  # (B, 7, V*V)
        tones = torch.quantile((facts + 0.003).log(), self.quantiles, dim=2).permute(1, 2, 0).flatten(1)
        return torch.cat([x.mean(2), x.amax(2), tones], dim=1)


class Head(nn.Module):
    """Normed features (B, F) to answers (B, N).

    Presence and strength have one each, so that one can be fitted anew without moving the other.
    """

    def __init__(self, width: int, hidden: int, answers: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, answers)

    def forward(self, features: Tensor) -> Tensor:
        x = F.silu(self.first(features))
        x = x + F.silu(self.second(x))
        return self.last(x)


class RecognizerNetwork(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] of any size to `Answers`.

    Raises:
        InputError: more axes than features, or none.
    """

    axes: Tensor
    residue: Tensor

    def __init__(self, config: RecognizerConfig) -> None:
        super().__init__()
        self.config = config
        self.spectrum, self.trunk, self.view = BlockSpectrum(), Trunk(config.widths), View()
        width = self.spectrum.width + self.trunk.width + self.view.width
        if not 1 <= config.axes <= width:
            raise InputError(
                f"The recognizer has {config.axes} axes; expected 1 to {width}, as it has that many features."
            )
        self.norm = nn.BatchNorm1d(width, momentum=MOMENTUM, affine=False)
        self.presence = Head(width, config.hidden, len(config.kinds) + 1)
        self.strength = Head(width, config.hidden, len(config.kinds))
        self.register_buffer("axes", torch.zeros(config.axes, width))
        self.register_buffer("residue", torch.ones(()))

    def forward(self, x: Tensor) -> Answers:
        return self.answer(*self.look(x))

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (B, N, 3, P, P), spread evenly over the picture on JPEG's grid, and the view (B, 3, V, V)."""
        side, most = self.config.crop, self.config.crops
        full = mirrored(x, side, side)
        rows, columns = (_starts(length, side, most) for length in full.shape[-2:])
        crops = [full[..., top : top + side, left : left + side] for top in rows for left in columns]
        return torch.stack(crops, dim=1), reduced(x, self.config.view)

    def answer(self, crops: Tensor, view: Tensor) -> Answers:
        """What crops (B, N, 3, P, P) and a view (B, 3, V, V), both in [0, 1], say."""
        return self.conclude(self.features(crops, view))

    def features(self, crops: Tensor, view: Tensor) -> Tensor:
        """(B, F): what the three looks find."""
        with torch.autocast(crops.device.type, enabled=False):  # half precision would hide JPEG's zeros
            spectrum = self.spectrum(crops.float())
        return torch.cat([spectrum, self.trunk(crops).float(), self.view(view).float()], dim=1)

    def conclude(self, features: Tensor) -> Answers:
        """What features (B, F) mean."""
        features = self.norm(features)
        near = features.clamp(-6, 6)
        return Answers(self.presence(near), self.strength(near), self._beside(features) / self.residue)

    @torch.no_grad()
    def learn_axes(self, features: Tensor) -> None:
        """Take the main axes of training pictures' features (N, F), and how much these leave in the mean."""
        known = self.norm(features).clamp(-FAR, FAR)
        ascending = torch.linalg.eigh(known.T @ known).eigenvectors.T
        self.axes.copy_(ascending[len(ascending) - self.config.axes :])
        self.residue.copy_(self._beside(known).mean().clamp_min(1e-6))

    @torch.no_grad()
    def _beside(self, features: Tensor) -> Tensor:
        """(B,): mean square of the part of normed features (B, F) that no axis holds."""
        near = features.clamp(-FAR, FAR)
        return (near - near @ self.axes.T @ self.axes).square().mean(1)


def mirrored(x: Tensor, height: int, width: int, *, whole: bool = False) -> Tensor:
    """(..., H, W), continued by its mirror image to (..., height, width) at least: as noisy there as here.

    What is too small gets just that size; with `whole` it is doubled, whole, until it is large enough.
    """
    for axis, length in ((-2, height), (-1, width)):
        while (size := x.shape[axis]) < length:
            x = torch.cat([x, x.flip(axis)], dim=axis)
            x = x if whole else x.narrow(axis, 0, min(2 * size, length))
    return x


def reduced(x: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) to (B, 3, side, side) by averaging, whatever the shape was; small ones are repeated."""
    return F.adaptive_avg_pool2d(x, side)


def _starts(length: int, side: int, most: int) -> list[int]:
    """Where crops of `side` begin along `length`: evenly spread, on multiples of 8."""
    count = min(most, -(-length // side))
    return [round(i * (length - side) / max(count - 1, 1)) // BLOCK * BLOCK for i in range(count)]


CONFIG = RecognizerConfig()

SPECS = (
    ModelSpec(
        name="recognizer",
        config=CONFIG,
        build=RecognizerNetwork,
        paper="own",
        guided=False,
        multiple_of=8,
        parameters=855_037,
        restores=False,
    ),
)
