"""A restorer's scores on folders of pictures: pairs, or clean pictures to which noise is added.

Noise is made as in the papers' code: added to 8-bit values, clipped to 0..255, truncated to integers; its
seed is the picture's file name without suffix, so that a picture gets the same noise on every machine.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pellucid import metrics
from pellucid.checkpoint import hash_file
from pellucid.data import LEAST_SIDE
from pellucid.datasets.files import SUFFIXES, by_name, paired, picture_size, read_pixels
from pellucid.errors import InputError, some
from pellucid.evaluate import protocols
from pellucid.evaluate.leaks import trained_on
from pellucid.evaluate.protocols import Protocol
from pellucid.evaluate.scores import Change, Evaluation, PictureScores, Scores, hash_listing, summarize
from pellucid.image import ImageBuffer
from pellucid.image_io import Limits, read_image
from pellucid.metrics import Measure
from pellucid.restorer import Restorer, TorchRestorer

Progress = Callable[[int, int], None]  # called with (pictures done, pictures in all)
# Called with each picture's scores and its degraded, restored and clean pixels, as they were compared.
Witness = Callable[[PictureScores, Tensor, Tensor, Tensor], None]


# Of pictures that can't be read here: left out in silence, a set would be smaller than it looks.
_UNREAD = re.compile(
    r"\.(arw|cr[23]|dng|exr|gif|hdr|hei[cf]|j2k|jfif|jp[2e]|jxl|nef|p[bfgnp]m|psd|svg|tga)", re.IGNORECASE
)


@dataclass(frozen=True)
class PictureSet:
    """Pictures to measure on, wherever they lie.

    Attributes:
        folder: in which their paths begin.
        pairs: (degraded, clean) paths below it; none as degraded for clean pictures to which noise is added.
            Several degraded ones may share a clean one.
    """

    folder: Path
    pairs: tuple[tuple[str | None, str], ...]

    def named(self) -> dict[str, tuple[str | None, str]]:
        """The pairs by the names of their pictures: the file's name, or its path where names repeat."""
        paths = [degraded or clean for degraded, clean in self.pairs]
        names = [Path(path).name for path in paths]
        return dict(zip(names if len(set(names)) == len(names) else paths, self.pairs, strict=True))

    def files(self) -> dict[str, Path]:
        """Every file by the name under which it is hashed: its path; for clean pictures alone, in clean/."""
        paths = [(path, degraded) for degraded, clean in self.pairs for path in (degraded, clean)]
        return {
            path if degraded is not None else f"clean/{path}": self.folder / path
            for path, degraded in paths
            if path is not None
        }


def evaluate_pairs(
    restorer: Restorer,
    data: str | os.PathLike[str],
    *,
    protocol: str = protocols.DEFAULT,
    measures: Sequence[str] = (),
    seed: int = 0,
    diagnosis: str | None = None,
    progress: Progress | None = None,
    witness: Witness | None = None,
) -> Evaluation:
    """Scores on the pairs `data/degraded/NAME.*` and `data/clean/NAME.*`, whatever their suffixes.

    Args:
        restorer: what is measured.
        data: the folder.
        protocol: "papers", "papers-y" or "files".
        measures: names of measures to take beside the protocol's PSNR and SSIM.
        seed: of the resampling that gives the intervals.
        diagnosis: for guided networks, the name of the prompt.
        progress: called with (pictures done, pictures in all).
        witness: called with each picture's scores and pixels.

    Raises:
        InputError: a folder is missing or empty, or holds pictures that can't be read here; names have no
            partner, or sizes differ.
        UnknownNameError: no such protocol or measure.
    """
    return evaluate_pictures(
        restorer,
        list_pairs(data),
        protocol=protocol,
        measures=measures,
        seed=seed,
        diagnosis=diagnosis,
        progress=progress,
        witness=witness,
    )


def evaluate_denoising(
    restorer: Restorer,
    data: str | os.PathLike[str],
    sigma: float,
    *,
    protocol: str = protocols.DEFAULT,
    measures: Sequence[str] = (),
    seed: int = 0,
    diagnosis: str | None = None,
    progress: Progress | None = None,
    witness: Witness | None = None,
) -> Evaluation:
    """Scores on the clean pictures of `data/clean`, or of `data` itself, with Gaussian noise added.

    Args:
        restorer: what is measured.
        data: the folder.
        sigma: standard deviation in gray levels of 255, above 0.
        protocol, measures, diagnosis, progress, witness: as in `evaluate_pairs`.
        seed: of the noise, together with the file names, and of the resampling.

    Raises:
        InputError: a folder is missing or empty, or holds pictures that can't be read here; or sigma is out
            of range.
        UnknownNameError: no such protocol or measure.
    """
    return evaluate_pictures(
        restorer,
        list_clean(data),
        sigma,
        protocol=protocol,
        measures=measures,
        seed=seed,
        diagnosis=diagnosis,
        progress=progress,
        witness=witness,
    )


def evaluate_pictures(
    restorer: Restorer,
    pictures: PictureSet,
    sigma: float | None = None,
    *,
    protocol: str = protocols.DEFAULT,
    measures: Sequence[str] = (),
    seed: int = 0,
    diagnosis: str | None = None,
    progress: Progress | None = None,
    witness: Witness | None = None,
) -> Evaluation:
    """Scores on pictures wherever they lie: pairs, or with `sigma` clean ones to which noise is added.

    Args:
        restorer: what is measured.
        pictures: files, found by whoever knows how they are laid out.
        sigma: standard deviation in gray levels of 255, above 0; none for pairs.
        protocol, measures, seed, diagnosis, progress, witness: as in `evaluate_pairs`.

    Raises:
        InputError: sizes differ, a picture is too small, or sigma is out of range.
        UnreadableImageError: a file is no picture.
        UnknownNameError: no such protocol or measure.
    """
    if sigma is not None and not 0 < sigma <= 255:
        raise InputError(
            f"Sigma is {sigma}; expected above 0 and up to 255, in gray levels. Usual: 15, 25, 50."
        )
    how = protocols.get(protocol)

    def read() -> Iterable[tuple[str, Tensor, Tensor]]:
        _check_sizes(pictures)
        for name, (degraded_name, clean_name) in pictures.named().items():
            path = pictures.folder / clean_name
            clean = how.prepare(_read(path))
            if sigma is not None:
                yield name, add_noise(clean, sigma, path.stem, seed), clean
            elif degraded_name is not None:
                yield name, how.prepare(_read(pictures.folder / degraded_name)), clean

    n = len(pictures.pairs)
    scores = compare(restorer, read(), n, how, measures, diagnosis, progress, witness)
    what = "pairs"
    if sigma is not None:
        what = (
            f"Gaussian noise of sigma {sigma:g} on 8-bit values, clipped and truncated, seeded by file name"
        )
    return summarize(
        restorer,
        scores,
        protocol=how,
        what=what,
        data_sha256=hash_listing({name: hash_file(path) for name, path in pictures.files().items()}),
        seed=seed,
        diagnosis=diagnosis,
    )


def _check_sizes(pictures: PictureSet) -> None:
    """Refuse, by the headers of the files, what would end an evaluation after hours.

    Raises:
        InputError: sizes differ, or a picture is too small.
        ImageTooLargeError: a picture is larger than what is decoded.
        UnreadableImageError, UnsupportedImageError: a file is no picture, or is cut short.
    """
    for name, pair in pictures.named().items():
        sizes = {path: picture_size(pictures.folder / path) for path in pair if path is not None}
        if len(set(sizes.values())) > 1:
            both = " and ".join(f"{width} x {height}" for width, height in sizes.values())
            raise InputError(
                f"The pair {name!r} in {pictures.folder} has the sizes {both}; expected one size. Crop them "
                "alike."
            )
        for path, (width, height) in sizes.items():
            Limits().check(width, height, str(pictures.folder / path))
            if min(width, height) < LEAST_SIDE:
                raise InputError(
                    f"{pictures.folder / path} is {width} x {height} pixels; expected sides of at least "
                    f"{LEAST_SIDE}, since the papers' protocols crop to multiples of {LEAST_SIDE}. Leave it "
                    "out."
                )


def add_noise(clean: Tensor, sigma: float, name: str, seed: int = 0) -> Tensor:
    """(3, H, W) in [0, 1] with Gaussian noise, on an 8-bit grid.

    Args:
        clean: (3, H, W) in [0, 1].
        sigma: in gray levels of 255.
        name: seeds the noise.
        seed: other noise for the same name.
    """
    digest = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "little")
    levels = np.rint(
        clean.permute(1, 2, 0).numpy().astype(np.float64) * 255
    )  # (H, W, 3), as the papers' arrays
    rng = np.random.default_rng([digest, seed])
    noisy = levels + rng.standard_normal(levels.shape) * sigma
    truncated = np.clip(noisy, 0, 255).astype(np.uint8)
    return torch.from_numpy(truncated).permute(2, 0, 1).float() / 255


def compare(
    restorer: Restorer,
    pairs: Iterable[tuple[str, Tensor, Tensor]],
    n: int,
    protocol: Protocol,
    measures: Sequence[str],
    diagnosis: str | None,
    progress: Progress | None,
    witness: Witness | None,
) -> list[PictureScores]:
    """The scores of pairs (name, degraded, clean), both (3, H, W) and prepared by the protocol."""
    taken, look = choose_measures(protocol, measures), trained_on(restorer)
    scores: list[PictureScores] = []
    for done, (name, degraded, clean) in enumerate(pairs, start=1):
        restoration = restorer(ImageBuffer(degraded), diagnosis=diagnosis)
        restored = protocol.finish(restoration.image.pixels)
        try:
            found = {m.name: Change(m(degraded, clean), m(restored, clean)) for m in taken}
        except InputError as error:
            raise InputError(f"{name} can't be measured. {error}") from error
        psnr, ssim = found[protocol.psnr], found[protocol.ssim]
        before, after = Scores(psnr.input, ssim.input), Scores(psnr.output, ssim.output)
        scores.append(PictureScores(name, before, after, found, look(clean), restoration.report.engine))
        if witness is not None:
            witness(scores[-1], degraded, restored, clean)
        if progress is not None:
            progress(done, n)
    return scores


def choose_measures(protocol: Protocol, names: Sequence[str] = ()) -> list[Measure]:
    """The protocol's measures and those called `names`, ready to be taken.

    Raises:
        UnknownNameError: no such measure.
        InputError: what one of them needs is not installed.
    """
    taken = [metrics.get(name) for name in dict.fromkeys((protocol.psnr, protocol.ssim, *names))]
    for measure in taken:
        if measure.prepare is not None:
            measure.prepare()
    return taken


def prompts_of(restorer: Restorer) -> tuple[str, ...] | None:
    """The prompts of a guided network; none for a blind one."""
    return (restorer.prompts or None) if isinstance(restorer, TorchRestorer) else None


def choose_prompt(restorer: Restorer, *names: str) -> str | None:
    """The first of `names` that is a prompt of the network; none if it is blind, or has no such prompt."""
    known = prompts_of(restorer) or ()
    return next((name for name in names if name in known), None)


def list_pairs(data: str | os.PathLike[str]) -> PictureSet:
    """The pairs of `data/degraded` and `data/clean`, by the same stems.

    Raises:
        InputError: a folder is missing or empty, or holds pictures that can't be read here, or names have no
            partner.
    """
    folder = Path(data)
    names = ((path.relative_to(folder).as_posix() for path in pair) for pair in paired(folder, _pictures))
    return PictureSet(folder, tuple((degraded, clean) for degraded, clean in names))


def list_clean(data: str | os.PathLike[str]) -> PictureSet:
    """The pictures of `data/clean`, or of `data` itself.

    Raises:
        InputError: the folder is missing or empty, or holds pictures that can't be read here.
    """
    folder = Path(data) / "clean"
    folder = folder if folder.is_dir() else Path(data)
    return PictureSet(
        folder, tuple((None, path.name) for path in by_name(folder, _pictures(folder)).values())
    )


def _read(path: Path) -> Tensor:
    """(3, H, W) in [0, 1]; also of a bitmap, which libvips does not read."""
    if path.suffix.lower() != ".bmp":
        return read_image(path).pixels
    return read_pixels(path).permute(2, 0, 1).float() / 255


def _pictures(folder: Path) -> list[Path]:
    """The pictures in a folder."""
    try:
        files = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise InputError(
            f"{folder} can't be listed: {error.strerror}. Expected DIR/degraded and DIR/clean, "
            "or clean pictures with --sigma."
        ) from error
    if unread := [path.name for path in files if _UNREAD.fullmatch(path.suffix)]:
        raise InputError(
            f"{folder} holds pictures that can't be read here: {some(unread)}; expected files ending in "
            f"{', '.join(SUFFIXES)}. Convert them to PNG, or move them elsewhere."
        )
    if found := [path for path in files if path.suffix.lower() in SUFFIXES]:
        return found
    raise InputError(f"{folder} holds no pictures; expected files ending in {', '.join(SUFFIXES)}.")
