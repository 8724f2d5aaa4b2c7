"""What is wrong with a picture, as a recognizer sees it.

It stands before guided networks, which must be told; it fills a report; and it finds the pictures that are
better left alone. Where it is not sure, it says so.
"""

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import models, weights
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.errors import CheckpointError
from pellucid.light import reduced, views_of
from pellucid.models.recognizer import SCALES, Answers
from pellucid.picture import Picture, open_picture

DEFAULT = "recognizer"
LEAST_SIDE = 32  # pixels; smaller pictures show too little
ONE_COLOR = 1.01 / 255  # range of values, of a channel, up to which it is of one color
PRESENT = 0.5  # probability from which a kind counts as present, and a picture rather as good than not
# Between these a kind is left open. A picture with nothing present and a kind left open is neither good nor
# bad.
OPEN = (0.3, 0.7)
NOTHING_WRONG = 0.7  # probability from which that is said
FAINT = 0.06  # probability up to which a kind is surely not there
HARDLY = 0.1  # probability up to which a kind must not change the light
FROM_AFAR = 0.9  # probability of haze in a reduced copy from which a large picture is hazy
KEEPS_LIGHT = ("blur", "jpeg")  # kinds that leave local means of light as they are
GUARD_RULE = 10  # raised when guard or diagnosis follow another rule: a setting of every journal


@dataclass(frozen=True)
class Diagnosis:
    """What a picture shows; plain values, ready for JSON through `to_dict`.

    Attributes:
        verdict: "degraded"; "nothing wrong" (surely); "unknown": a picture unlike those of training, too
            small, or one about which the probabilities leave it open.
        present: the kinds that are there, the most probable first.
        probabilities: of each kind, calibrated; by rule 0 in a picture of one color.
        nothing_wrong: probability that none is there, calibrated; by rule 1 in a picture of one color.
        strengths: of the kinds that are present, in the units of `pellucid.models.recognizer.SCALES`.
        novelty: how far the picture is from those of training; about 1 for such ones.
        familiar: whether novelty and size are such that the rest may be relied on.
        recognizer: name of the weights.
        seconds: that it took.
        large_enough: whether the picture is large enough to show anything.
    """

    verdict: str
    present: tuple[str, ...]
    probabilities: dict[str, float]
    nothing_wrong: float
    strengths: dict[str, float]
    novelty: float
    familiar: bool
    recognizer: str
    seconds: float
    large_enough: bool = True

    @property
    def sure(self) -> bool:
        """Whether there is a verdict, and no kind is left open."""
        low, high = OPEN
        return self.verdict != "unknown" and not any(low < p < high for p in self.probabilities.values())

    def needs_nothing(self, prompts: Sequence[str] = ()) -> bool:
        """Whether nothing seems wrong, or surely no kind is there that a network guided by `prompts` knows.

        A picture is spared, too, in which rather nothing is wrong than something: nothing by more than 0.5,
        no kind by as much; and one that is too small to show anything.
        """
        strange = [kind for kind in self.probabilities if not _naming(kind, prompts)] if prompts else []
        spared = self.familiar and self._shows_only(strange, FAINT)
        rather_good = self.nothing_wrong > PRESENT > max(self.probabilities.values(), default=0.0)
        return self.verdict == "nothing wrong" or spared or rather_good or not self.large_enough

    @property
    def keeps_light(self) -> bool:
        """Whether surely no kind is there that changes light, as haze, darkness, rain and noise do.

        Beside a blur that is present it is enough that none of them is present: what is blurred looks a
        little hazy.
        """
        if "blur" in self.present:
            return self.familiar and set(self.present) <= set(KEEPS_LIGHT)
        return self.familiar and self._shows_only(KEEPS_LIGHT, HARDLY)

    @property
    def is_hazy(self) -> bool:
        """Whether haze is present, and no darkness, beside which haze is seen best at full size."""
        return self.familiar and "haze" in self.present and "low_light" not in self.present

    @property
    def blur_radius(self) -> float:
        """Of the blur that is present, in pixels; 0 if there is none."""
        return self.strengths.get("blur", 0.0)

    def _shows_only(self, kinds: Collection[str], limit: float) -> bool:
        return all(p <= limit for kind, p in self.probabilities.items() if kind not in kinds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"present": list(self.present), "sure": self.sure}

    def prompt(self, prompts: Sequence[str]) -> str | None:
        """The prompt for what is most probably there, of those that a guided network knows; none if it knows
        none.

        Noise is told by its level where the network's prompts have levels ("noise_25"): the nearest.
        """
        for kind in sorted(self.probabilities, key=lambda k: -self.probabilities[k]):
            if kind in prompts:
                return kind
            if levels := _naming(kind, prompts):
                strength = self.strengths.get(kind, SCALES[kind].least)
                return min(levels, key=lambda p: abs(float(p.rsplit("_", 1)[1]) - strength))
        return None

    def __str__(self) -> str:
        if self.verdict != "degraded":
            return self.verdict
        return ", ".join(f"{kind} ({describe_strength(kind, self.strengths[kind])})" for kind in self.present)


def _naming(kind: str, prompts: Sequence[str]) -> list[str]:
    """The prompts that name a kind, alone or with a level ("noise_25")."""
    return [p for p in prompts if p == kind or (p.startswith(f"{kind}_") and p.rsplit("_", 1)[1].isdigit())]


def describe_strength(kind: str, strength: float) -> str:
    """A strength in words, as in "sigma 24.8"."""
    number = f"{strength:.{SCALES[kind].decimals}f}"
    return {
        "noise": f"sigma {number}",
        "rain": f"{number} gray levels of light",
        "haze": f"{strength:.0%} of the light lost",
        "blur": f"radius {number} px",
        "low_light": f"{number} stops too dark",
        "jpeg": f"quality {number}",
    }[kind]


class Recognizer:
    """A recognizing network, ready for pictures of any size. It runs in float32, on a few crops of each
    picture.

    >>> import torch
    >>> Recognizer.load()(torch.full((3, 20, 20), 0.5)).verdict  # too small to tell
    'unknown'
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str = DEFAULT,
        weights_sha256: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.name, self.weights_sha256, self.device = name, weights_sha256, torch.device(device)
        self.config: Any = network.config

    @classmethod
    def load(
        cls, name_or_path: str | os.PathLike[str] = DEFAULT, *, device: torch.device | str = "cpu"
    ) -> "Recognizer":
        """A recognizer by the name of its weights, or from a checkpoint file.

        Raises:
            UnknownNameError: no such weights.
            CheckpointError: a file that can't be used, or of a network that restores pictures.
        """
        file = weights.find(name_or_path)
        checkpoint = Checkpoint.read(file.path, sha256=file.sha256)
        if models.get(checkpoint.model).restores:
            raise CheckpointError(
                f"{file.name} holds a {checkpoint.model}, which restores pictures; expected a recognizer. "
                f"Take {DEFAULT}."
            )
        sha256 = file.sha256 or hash_file(file.path)
        return cls(checkpoint.build(), name=checkpoint.named(file.name), weights_sha256=sha256, device=device)

    def __call__(self, picture: Picture) -> Diagnosis:
        """What one picture shows.

        Args:
            picture: whatever `pellucid.picture.open_picture` takes, as a restorer does.

        Raises:
            InputError: a picture that can't be used.
        """
        return self.diagnose(open_picture(picture).pixels)

    def diagnose(self, pixels: Tensor) -> Diagnosis:
        """What pixels show, (3, H, W) float32 in [0, 1] on the CPU, which are taken as they are."""
        start = time.perf_counter()
        diagnosis = self._conclude(pixels)
        if views := views_of(*pixels.shape[-2:]):
            diagnosis = with_haze_from_afar(diagnosis, lambda: self._conclude(reduced(pixels, views[0])))
        return replace(diagnosis, seconds=time.perf_counter() - start)

    def _conclude(self, pixels: Tensor) -> Diagnosis:
        large_enough = min(pixels.shape[-2:]) >= LEAST_SIDE
        if large_enough and is_of_one_color(pixels):
            absent = dict.fromkeys(self.config.kinds, 0.0)
            return Diagnosis("nothing wrong", (), absent, 1.0, {}, 0.0, True, self.name, 0.0)
        return conclude(self.ask(pixels[None]), self.config, name=self.name, large_enough=large_enough)

    @torch.inference_mode()
    def ask(self, pixels: Tensor) -> Answers:
        """The network's own answers about (1, 3, H, W) in [0, 1], on the CPU."""
        return Answers(*(t.float().cpu() for t in self.network(pixels.to(self.device))))


def is_of_one_color(pixels: Tensor) -> bool:
    """Whether no channel of (3, H, W) in [0, 1] differs by more than a gray level: black is no darkness."""
    few = pixels[:, ::16, ::16]  # which tell nearly every picture apart, at a hundredth of the time
    return all(bool((part.amax((1, 2)) - part.amin((1, 2))).max() <= ONE_COLOR) for part in (few, pixels))


def calibrate(logits: Tensor, config: Any) -> Tensor:
    """Probabilities from logits (..., K + 1), by the configuration's slopes and offsets (Platt, 1999)."""
    if not config.slopes:
        return logits.sigmoid()
    return (logits * logits.new_tensor(config.slopes) + logits.new_tensor(config.offsets)).sigmoid()


def conclude(answers: Answers, config: Any, *, name: str = DEFAULT, large_enough: bool = True) -> Diagnosis:
    """The diagnosis that the answers about one picture amount to."""
    *chances, nothing_wrong = (round(p, 4) for p in calibrate(answers.logits[0], config).tolist())
    kinds: tuple[str, ...] = config.kinds
    probabilities = dict(zip(kinds, chances, strict=True))
    novelty = float(answers.novelty[0])
    familiar = large_enough and novelty <= config.familiar
    ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
    present = [kind for kind in ranked if probabilities[kind] >= PRESENT]
    told = dict(zip(kinds, answers.strengths[0].tolist(), strict=True))
    if not familiar:
        verdict, present = "unknown", []
    elif present:
        verdict = "degraded"
    elif nothing_wrong >= NOTHING_WRONG and max(chances) <= OPEN[0]:
        verdict = "nothing wrong"
    else:
        verdict = "unknown"
    strengths = {kind: round(SCALES[kind].decode(told[kind]), 3) for kind in present}
    return Diagnosis(
        verdict,
        tuple(present),
        probabilities,
        nothing_wrong,
        strengths,
        round(novelty, 3),
        familiar,
        name,
        0.0,
        large_enough,
    )


def with_haze_from_afar(near: Diagnosis, look: Callable[[], Diagnosis]) -> Diagnosis:
    """The diagnosis of a large picture, with a haze that its reduced copy surely shows.

    Neither may be strange or dark. The probability of haze is the copy's, that of nothing wrong the lower.

    Args:
        near: of the picture at full size.
        look: gives the copy's; it is called where that can matter.
    """
    if not near.familiar or not {"haze", "low_light"}.isdisjoint(near.present):
        return near
    far = look()
    if not far.is_hazy or far.probabilities["haze"] < FROM_AFAR:
        return near
    probabilities = near.probabilities | {"haze": far.probabilities["haze"]}
    present = sorted((*near.present, "haze"), key=probabilities.__getitem__, reverse=True)
    return replace(
        near,
        verdict="degraded",
        present=tuple(present),
        probabilities=probabilities,
        nothing_wrong=min(near.nothing_wrong, far.nothing_wrong),
        strengths=near.strengths | {"haze": far.strengths["haze"]},
    )
