"""A restorer's scores on folders of pictures: pairs, or clean pictures to which noise is added.

Noise is made as in the papers' code: added to 8-bit values, clipped to 0..255, truncated to integers; its
seed is the picture's file name without suffix, so that a picture gets the same noise on every machine.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pellucid import metrics
from pellucid.checkpoint import hash_file
from pellucid.data import LEAST_SIDE
from pellucid.errors import InputError
from pellucid.evaluate import protocols
from pellucid.evaluate.protocols import Protocol
from pellucid.evaluate.scores import Change, Evaluation, PictureScores, Scores, hash_listing, summarize
from pellucid.image import ImageBuffer
from pellucid.image_io import IMAGE_SUFFIXES, read_image
from pellucid.metrics import Measure
from pellucid.restorer import Restorer, TorchRestorer

Progress = Callable[[int, int], None]  # called with (pictures done, pictures in all)
# Called with each picture's scores and its degraded, restored and clean pixels, as they were compared.
Witness = Callable[[PictureScores, Tensor, Tensor, Tensor], None]


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
        InputError: a folder is missing or empty, names have no partner, or sizes differ.
        UnknownNameError: no such protocol or measure.
    """
    degraded, clean = list_pairs(data)
    how = protocols.get(protocol)

    def pairs() -> Iterable[tuple[str, Tensor, Tensor]]:
        for stem, path in degraded.items():
            pair = read_image(path).pixels, read_image(clean[stem]).pixels
            if pair[0].shape != pair[1].shape:
                sizes = " and ".join(f"{p.shape[2]} x {p.shape[1]}" for p in pair)
                raise InputError(
                    f"The pair {stem!r} in {data} has the sizes {sizes}; expected one size. Crop them alike."
                )
            yield path.name, _prepared(pair[0], path, how), _prepared(pair[1], path, how)

    scores = compare(restorer, pairs(), len(degraded), how, measures, diagnosis, progress, witness)
    files = {f"degraded/{path.name}": path for path in degraded.values()}
    files |= {f"clean/{path.name}": path for path in clean.values()}
    return summarize(
        restorer,
        scores,
        protocol=how,
        what="pairs",
        data_sha256=hash_listing({name: hash_file(path) for name, path in files.items()}),
        seed=seed,
        diagnosis=diagnosis,
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
        InputError: a folder is missing or empty, or sigma is out of range.
        UnknownNameError: no such protocol or measure.
    """
    if not 0 < sigma <= 255:
        raise InputError(
            f"Sigma is {sigma}; expected above 0 and up to 255, in gray levels. Usual: 15, 25, 50."
        )
    how, pictures = protocols.get(protocol), list_clean(data)

    def pairs() -> Iterable[tuple[str, Tensor, Tensor]]:
        for path in pictures.values():
            clean = _prepared(read_image(path).pixels, path, how)
            yield path.name, add_noise(clean, sigma, path.stem, seed), clean

    scores = compare(restorer, pairs(), len(pictures), how, measures, diagnosis, progress, witness)
    return summarize(
        restorer,
        scores,
        protocol=how,
        what=f"Gaussian noise of sigma {sigma:g} on 8-bit values, clipped and truncated, seeded by file name",
        data_sha256=hash_listing({f"clean/{path.name}": hash_file(path) for path in pictures.values()}),
        seed=seed,
        diagnosis=diagnosis,
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
    rng = np.random.default_rng([digest, seed] if seed else digest)
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
    taken = choose_measures(protocol, measures)
    scores: list[PictureScores] = []
    for done, (name, degraded, clean) in enumerate(pairs, start=1):
        restored = protocol.finish(restorer(ImageBuffer(degraded), diagnosis=diagnosis).image.pixels)
        try:
            found = {m.name: Change(m(degraded, clean), m(restored, clean)) for m in taken}
        except InputError as error:
            raise InputError(f"{name} can't be measured. {error}") from error
        psnr, ssim = found[protocol.psnr], found[protocol.ssim]
        scores.append(
            PictureScores(name, Scores(psnr.input, ssim.input), Scores(psnr.output, ssim.output), found)
        )
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
    if not isinstance(restorer, TorchRestorer) or not restorer.spec.guided:
        return None
    prompts: tuple[str, ...] = restorer.network.config.prompts  # type: ignore[union-attr, assignment]
    return prompts


def choose_prompt(restorer: Restorer, *names: str) -> str | None:
    """The first of `names` that is a prompt of the network; none if it is blind, or has no such prompt."""
    known = prompts_of(restorer) or ()
    return next((name for name in names if name in known), None)


def list_pairs(data: str | os.PathLike[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """The degraded and the clean pictures of `data`, by the same stems.

    Raises:
        InputError: a folder is missing or empty, or names have no partner.
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
    return degraded, clean


def list_clean(data: str | os.PathLike[str]) -> dict[str, Path]:
    """The pictures of `data/clean`, or of `data` itself, by their stems.

    Raises:
        InputError: the folder is missing or empty.
    """
    folder = Path(data) / "clean"
    return _pictures(folder if folder.is_dir() else Path(data))


def _prepared(pixels: Tensor, path: Path, protocol: Protocol) -> Tensor:
    _, height, width = pixels.shape
    if min(height, width) < LEAST_SIDE:
        raise InputError(
            f"{path} is {width} x {height} pixels; expected sides of at least {LEAST_SIDE}, since the "
            f"papers' protocols crop to multiples of {LEAST_SIDE}. Leave it out."
        )
    return protocol.prepare(pixels)


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
