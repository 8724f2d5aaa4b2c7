"""How much of a restoration is kept: one share for all of it, or one for each of two groups of degradations.

A blind network takes everything away at once. What it did is told apart afterwards by how it acts on a
picture: haze and darkness are undone by a gain and an offset that vary slowly over the picture (the model of
scattering, solved for the scene, is affine in the hazy picture; exposure is a gain); noise, rain, blur and
JPEG are not. So the locally affine part of a change is the tone, the rest the detail. Kinds of one group
can't be told apart.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import scratch
from pellucid.errors import InputError
from pellucid.registry import unknown_name

TONE_KINDS = ("haze", "low_light")
DETAIL_KINDS = ("noise", "rain", "blur", "jpeg")
SMOOTHING = (
    4  # pixels, radius of the means that free both pictures from noise and streaks before they are compared
)
WINDOW = 16  # pixels, radius of the windows in which gain and offset are fitted
REACH = 2 * SMOOTHING + 2 * WINDOW  # pixels, beyond which nothing has a part in how two pictures are mixed
GAINS = (0.25, 16.0)  # the range that is looked in
FLATNESS = 1e-4  # variance below which a window says nothing about a gain; it is taken as 1 there


@dataclass(frozen=True)
class Strength:
    """Shares of the restoration that are kept, 0 to 1.

    Attributes:
        tone: of what haze and low light need.
        detail: of what noise, rain, blur and JPEG need.

    Raises:
        InputError: a number that is none from 0 to 1.

    >>> Strength.of(0.5)
    Strength(tone=0.5, detail=0.5)
    >>> Strength.of({"haze": 1, "noise": 0.25})
    Strength(tone=1.0, detail=0.25)
    """

    tone: float = 1.0
    detail: float = 1.0

    def __post_init__(self) -> None:
        for group in ("tone", "detail"):
            object.__setattr__(self, group, _share(getattr(self, group)))

    @classmethod
    def of(cls, value: "float | str | Mapping[str, float | str] | Strength") -> "Strength":
        """From one number for everything, or from numbers by kind; a group that is not named is kept whole.

        Texts are refused like any other value that is no number.

        Raises:
            InputError: a number that is none from 0 to 1, no such kind, or two numbers for kinds that
                can't be told apart.
        """
        if isinstance(value, Strength):
            return value
        if not isinstance(value, Mapping):
            return cls(value, value)  # type: ignore[arg-type]
        for kind in value:
            if kind not in TONE_KINDS + DETAIL_KINDS:
                raise InputError(unknown_name("kind", str(kind), [*TONE_KINDS, *DETAIL_KINDS]))
        return cls(_common(value, TONE_KINDS), _common(value, DETAIL_KINDS))

    @classmethod
    def parse(cls, text: str) -> "Strength":
        """From a command line: "0.5", or "haze=1,noise=0.3".

        Raises:
            InputError: as `of`.

        >>> Strength.parse("low_light=0.5")
        Strength(tone=0.5, detail=1.0)
        """
        if "=" not in text:
            return cls.of(_number_or_text(text))
        shares: dict[str, float | str] = {}
        for part in text.split(","):
            kind, _, share = part.partition("=")
            if kind.strip() in shares:
                raise InputError(f"The strength of {kind.strip()} is given twice. Leave one out.")
            shares[kind.strip()] = _number_or_text(share)
        return cls.of(shares)

    @property
    def plain(self) -> float | dict[str, float]:
        """One number where both groups have it, else both by name: for reports."""
        return self.tone if self.tone == self.detail else {"tone": self.tone, "detail": self.detail}

    def mix(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """The picture between: `degraded` at 0, `restored` at 1, both (3, H, W), clamped to [0, 1].

        Linear from `degraded` to `restored` where both shares are one; what a group has beyond the other is
        taken from the picture with this group's change alone.
        """
        both, more = min(self.tone, self.detail), abs(self.tone - self.detail)
        if both == 1 and scratch.folder_of(restored) is None:
            return restored.clamp(0, 1)
        mixed = scratch.zeros_like(restored, restored.shape)
        for rows in scratch.bands(restored.shape[1], restored[:, 0].nbytes):
            reach = slice(max(0, rows.start - REACH), rows.stop + REACH) if more else rows
            before, after = degraded[:, reach], restored[:, reach].clamp(0, 1)
            band = torch.lerp(before, after, both)
            if more:
                gain, offset = fit_tone(before, after)
                one = gain * before + offset if self.tone > self.detail else (after - offset) / gain
                band.add_(one.clamp_(0, 1).sub_(before), alpha=more)
            mixed[:, rows] = band[:, rows.start - reach.start :][:, : rows.stop - rows.start].clamp_(0, 1)
        return mixed


def as_number(value: object) -> float:
    """A number, whatever type it has; NaN for what is none, such as text."""
    try:
        return math.nan if isinstance(value, str | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ArithmeticError, RuntimeError):  # the latter: a tensor of several
        return math.nan


def fit_tone(degraded: Tensor, restored: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset that give `degraded` the light of `restored`, for each pixel and channel, both smooth.

    Fitted by least squares in windows, as a guided filter is (He et al., 2010), after smoothing both.

    Args:
        degraded, restored: (3, H, W), floating point in [0, 1].

    Returns:
        Gain and offset, each (3, H, W).
    """
    x, y = (_means(_means(picture[None], SMOOTHING), SMOOTHING) for picture in (degraded, restored))
    mean_x, mean_y = _means(x, WINDOW), _means(y, WINDOW)
    variance = (_means(x * x, WINDOW) - mean_x * mean_x).clamp_min(0)
    covariance = _means(x * y, WINDOW) - mean_x * mean_y
    gain = ((covariance + FLATNESS) / (variance + FLATNESS)).clamp(*GAINS)
    offset = _means(mean_y - gain * mean_x, WINDOW)
    return _means(gain, WINDOW)[0], offset[0]


def _means(x: Tensor, radius: int) -> Tensor:
    """Means over windows of (1, C, H, W), cut off at the picture's edge."""
    for rows, columns in ((radius, 0), (0, radius)):
        size = (2 * rows + 1, 2 * columns + 1)
        x = F.avg_pool2d(x, size, stride=1, padding=(rows, columns), count_include_pad=False)
    return x


def _common(value: Mapping[str, float | str], kinds: tuple[str, ...]) -> float:
    shares = {kind: _share(value[kind]) for kind in kinds if kind in value}
    if len(set(shares.values())) > 1:
        found = ", ".join(f"{kind} {share:g}" for kind, share in shares.items())
        raise InputError(
            f"The strengths given are {found}; expected one for all of {', '.join(kinds)}, whose removal "
            "can't be told apart. Give them the same."
        )
    return next(iter(shares.values()), 1.0)


def _number_or_text(text: str) -> float | str:
    """What a text says, if it is a number; else the text, to be refused by its own words."""
    try:
        return float(text)
    except ValueError:
        return text


def _share(value: object) -> float:
    share = as_number(value)
    if not 0 <= share <= 1:  # so written, NaN is refused too
        raise InputError(
            f"The strength is {value!r}; expected a number from 0 (the input) to 1 (the network's result)."
        )
    return share
