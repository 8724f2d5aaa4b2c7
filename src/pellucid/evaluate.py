"""A restorer's scores on pictures whose clean originals are known.

The protocol is that of the all-in-one restoration papers: RGB, both pictures cropped about their center to
multiples of 16, the output clamped to [0, 1] and not rounded, PSNR and SSIM per picture, then the mean over
pictures. Noise is made as in their code: added to 8-bit values, clipped to 0..255, truncated to integers; its
seed is the picture's file name without suffix, so that a picture gets the same noise on every machine.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.data import center_crop
from pellucid.errors import InputError
from pellucid.image import ImageBuffer
from pellucid.image_io import IMAGE_SUFFIXES, read_image
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.metrics.ssim_rgb import ssim_rgb
from pellucid.restorer import Restorer

CROP = 16  # height and width are cut to multiples of this, as the papers' test code does
Progress = Callable[[int, int], None]  # called with (pictures done, pictures in all)


@dataclass(frozen=True)
class Scores:
    """PSNR in dB (infinite for equal pictures) and SSIM, both as in `pellucid.metrics`."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class PictureScores:
    """The scores of one picture, before and after."""

    name: str
    input: Scores
    output: Scores


@dataclass(frozen=True)
class Evaluation:
    """Means over `n` pictures, and what they were measured with.

    Attributes:
        n: number of pictures.
        input, output: of the degraded and of the restored pictures.
        protocol: in words.
        model, weights_sha256, device, precision: as in a restorer's report.
        pictures: the scores of each.
    """

    n: int
    input: Scores
    output: Scores
    protocol: str
    model: str
    weights_sha256: str | None
    device: str
    precision: str
    pictures: tuple[PictureScores, ...]

    def to_dict(self, *, per_image: bool = False) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity: an infinite PSNR becomes none.

        Args:
            per_image: with the scores of each picture, as "pictures".
        """
        values = _finite(asdict(self))
        if not per_image:
            del values["pictures"]
        return values


def evaluate_pairs(
    restorer: Restorer,
    data: str | os.PathLike[str],
    *,
    diagnosis: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores on the pairs `data/degraded/NAME.*` and `data/clean/NAME.*`, whatever their suffixes.

    Args:
        restorer: what is measured.
        data: the folder.
        diagnosis: for guided networks, the name of the prompt.
        progress: called with (pictures done, pictures in all).

    Raises:
        InputError: a folder is missing or empty, names have no partner, or sizes differ.
    """
    degraded, clean = (_pictures(Path(data) / side) for side in ("degraded", "clean"))
    lonely = [f"degraded/{degraded[stem].name}" for stem in degraded if stem not in clean]
    lonely += [f"clean/{clean[stem].name}" for stem in clean if stem not in degraded]
    if lonely:
        more = f" and {len(lonely) - 5} more" if len(lonely) > 5 else ""
        raise InputError(
            f"{data} has pictures without a partner: {', '.join(lonely[:5])}{more}. "
            "Each needs one of the same name (the suffix may differ) in the other folder."
        )

    def pairs() -> Iterable[tuple[str, Tensor, Tensor]]:
        for stem, path in degraded.items():
            pair = read_image(path).pixels, read_image(clean[stem]).pixels
            if pair[0].shape != pair[1].shape:
                sizes = " and ".join(f"{p.shape[2]} x {p.shape[1]}" for p in pair)
                raise InputError(
                    f"The pair {stem!r} in {data} has the sizes {sizes}; expected one size. Crop them alike."
                )
            yield path.name, _cropped(pair[0], path), _cropped(pair[1], path)

    return _evaluate(restorer, pairs(), len(degraded), "pairs", diagnosis, progress)


def evaluate_denoising(
    restorer: Restorer,
    data: str | os.PathLike[str],
    sigma: float,
    *,
    diagnosis: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores on the clean pictures of `data/clean`, or of `data` itself, with Gaussian noise added.

    Args:
        restorer: what is measured.
        data: the folder.
        sigma: standard deviation in gray levels of 255, above 0.
        diagnosis: for guided networks, the name of the prompt.
        progress: called with (pictures done, pictures in all).

    Raises:
        InputError: a folder is missing or empty, or sigma is out of range.
    """
    if not 0 < sigma <= 255:
        raise InputError(
            f"Sigma is {sigma}; expected above 0 and up to 255, in gray levels. Usual: 15, 25, 50."
        )
    folder = Path(data) / "clean" if (Path(data) / "clean").is_dir() else Path(data)
    pictures = _pictures(folder)

    def pairs() -> Iterable[tuple[str, Tensor, Tensor]]:
        for path in pictures.values():
            clean = _cropped(read_image(path).pixels, path)
            yield path.name, add_noise(clean, sigma, path.stem), clean

    protocol = (
        f"Gaussian noise of sigma {sigma:g} on 8-bit values, clipped and truncated, seeded by file name"
    )
    return _evaluate(restorer, pairs(), len(pictures), protocol, diagnosis, progress)


def _cropped(pixels: Tensor, path: Path) -> Tensor:
    _, height, width = pixels.shape
    if min(height, width) < CROP:
        raise InputError(
            f"{path} is {width} x {height} pixels; evaluation crops to multiples of {CROP}, so nothing "
            "is left. Leave it out."
        )
    return center_crop(pixels, CROP)


def add_noise(clean: Tensor, sigma: float, name: str) -> Tensor:
    """(3, H, W) in [0, 1] with Gaussian noise, on an 8-bit grid.

    Args:
        clean: (3, H, W) in [0, 1].
        sigma: in gray levels of 255.
        name: seeds the noise.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "little")
    levels = np.rint(
        clean.permute(1, 2, 0).numpy().astype(np.float64) * 255
    )  # (H, W, 3), as the papers' arrays
    noisy = levels + np.random.default_rng(seed).standard_normal(levels.shape) * sigma
    truncated = np.clip(noisy, 0, 255).astype(np.uint8)
    return torch.from_numpy(truncated).permute(2, 0, 1).float() / 255


def _evaluate(
    restorer: Restorer,
    pairs: Iterable[tuple[str, Tensor, Tensor]],
    n: int,
    protocol: str,
    diagnosis: str | None,
    progress: Progress | None,
) -> Evaluation:
    scores: list[PictureScores] = []
    for done, (name, degraded, clean) in enumerate(pairs, start=1):
        restored = restorer(ImageBuffer(degraded), diagnosis=diagnosis).image.pixels
        before, after = (Scores(psnr_rgb(p, clean), ssim_rgb(p, clean)) for p in (degraded, restored))
        scores.append(PictureScores(name, before, after))
        if progress is not None:
            progress(done, n)
    report = restorer.describe()
    return Evaluation(
        n,
        _mean([s.input for s in scores]),
        _mean([s.output for s in scores]),
        f"{protocol}; RGB, center crop to multiples of {CROP}, output not rounded, means over pictures",
        report.model,
        report.weights_sha256,
        report.device,
        report.precision,
        tuple(scores),
    )


def _mean(scores: list[Scores]) -> Scores:
    return Scores(sum(s.psnr for s in scores) / len(scores), sum(s.ssim for s in scores) / len(scores))


def _pictures(folder: Path) -> dict[str, Path]:
    """The pictures in `folder` by their stems."""
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
    except OSError as error:
        raise InputError(
            f"{folder} can't be listed: {error.strerror}. Expected DIR/degraded and DIR/clean, "
            "or clean pictures with --sigma."
        ) from error
    by_stem: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_stem:
            raise InputError(
                f"{folder} holds both {by_stem[path.stem].name} and {path.name}; pairs go by the name "
                "without suffix. Rename one of them."
            )
        by_stem[path.stem] = path
    if not by_stem:
        raise InputError(f"{folder} holds no pictures; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return by_stem


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
