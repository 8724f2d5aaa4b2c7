"""What comes back for one picture: the picture itself, and a report of what was done to it."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pellucid.arrays import array_from_image
from pellucid.errors import InputError
from pellucid.image import ImageBuffer
from pellucid.image_io import (
    BY_SUFFIX,
    CUT,
    SUFFIX,
    Strip,
    encode_image,
    file_state,
    read_bytes,
    strip_file,
    strip_image,
    target_path,
    write_bytes,
    write_image,
)
from pellucid.picture import Picture, is_wide
from pellucid.strips import StripPlan


@dataclass(frozen=True)
class Report:
    """What a restorer did to one picture; plain values, ready for JSON through `to_dict`.

    Attributes:
        model: name of weights or structure.
        weights_sha256: of the weights' file, or none if they came from no file.
        device: "cpu", "cuda", "mps".
        precision: "float32" or "bf16" (sums over pixels and the last addition stay in float32).
        tiles: how many pieces the picture was restored in; 0 if the network was not needed.
        tile_size: (height, width) of a piece in pixels of the padded picture.
        strength: 0 the input's own pixels, 1 the network's, linear between; the shares of "tone" and "detail"
            where they differ (see `pellucid.strength`).
        diagnosis: what a guided network was told, by its caller or by the recognizer, else none.
        guards: verdicts: "redone_in_float32" (some tile was not finite in bf16), "replanned" (memory ran out,
            tiles, or smaller ones, were taken), "left_alone" (nothing was found to mend: the input's own
            pixels came back), "light_kept" (nothing was found that changes light: local means
            of it are the input's, and a coarse change that undoing a blur does not explain is taken back),
            "light_from_afar" (haze was found in a large picture: its light was changed as far as the network
            does so in the picture and in reduced copies alike).
        seconds: "read", "restore", and "recognize" where a recognizer ran.
        recognized: what the recognizer found, a `pellucid.diagnosis.Diagnosis` as plain values; none where it
            did not run.
        strips: how the picture was restored whole, in strips; none if it was cut into tiles, or left alone.
        engine: what ran the network: "torch", "onnxruntime" or "openvino".
        engine_seconds: what each engine took in the probe that chose, or none if nothing was to choose.
    """

    model: str
    weights_sha256: str | None
    device: str
    precision: str
    tiles: int
    tile_size: tuple[int, int]
    strength: float | dict[str, float]
    diagnosis: str | None
    guards: dict[str, bool]
    seconds: dict[str, float]
    recognized: dict[str, Any] | None = None
    strips: StripPlan | None = None
    engine: str = "torch"
    engine_seconds: dict[str, float] | None = None

    @property
    def untouched(self) -> bool:
        """Whether the input's own pixels came back, bit by bit."""
        return self.strength == 0 or self.guards.get("left_alone", False)

    @property
    def state(self) -> Literal["restored", "left alone"]:
        """What became of the picture, in the words of lines and journals."""
        return "left alone" if self.guards.get("left_alone") else "restored"

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the verdicts in `guards` that hold."""
        return tuple(guard for guard, holds in self.guards.items() if holds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)  # arrays and tensors are not simply equal, and have no hash
class Restoration:
    """A restored picture, and the report about it.

    Attributes:
        image: the restored picture; alpha and source are the input's.
        report: what was done.
        original: the input as it was given; of an array or a tensor in float64 a copy, since its untouched
            pixels and its alpha come back from there.

    >>> import numpy as np
    >>> from pellucid.restorer import IdentityRestorer
    >>> restoration = IdentityRestorer()(np.full((2, 3), 7, np.uint8))
    >>> restoration.array.tolist(), restoration.report.model
    ([[7, 7, 7], [7, 7, 7]], 'identity')
    """

    image: ImageBuffer
    report: Report
    original: Picture

    @property
    def array(self) -> NDArray[Any]:
        """The picture in layout and dtype of an array input; else in the depth of the file, (H, W, C)."""
        if not isinstance(self.original, np.ndarray):
            return array_from_image(self.image)
        wide = is_wide(self.original)  # would not survive the way through float32
        if wide and self.report.untouched:
            return self.original.copy()
        array = array_from_image(self.image, self.original.dtype)
        if wide and self.image.alpha is not None:
            array[..., 3] = self.original[..., 3]
        return array

    @property
    def tensor(self) -> Tensor:
        """(3, H, W) in [0, 1], on the device and in the dtype of a tensor input; else float32 on the CPU."""
        if not isinstance(self.original, Tensor):
            return self.image.pixels
        if self.report.untouched and is_wide(self.original):
            return self.original.clone()
        return self.image.pixels.to(self.original.device, self.original.dtype)

    def save(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, strip: Strip | None = None
    ) -> None:
        """Write the picture with everything its file had (depth, alpha, profile, metadata).

        Towards the same file format an untouched picture gets the bytes that were given, or those of its file
        where that was not changed since: encoding anew could change pixels.

        Args:
            path: the target; its suffix names the format.
            overwrite: replace an existing file.
            strip: metadata that is left out, as for `pellucid.image_io.strip_image`; the pixels of an
                untouched picture stay the same.

        Raises:
            InputError: the target exists and `overwrite` is false, can't be written, or is no path; another
                `strip`.
        """
        path = target_path(path)
        if not self.keeps_file(path.suffix):
            write_image(strip_image(self.image, strip), path, overwrite=overwrite)
        elif strip is None or self.image.source.format in CUT:
            write_bytes(strip_file(self._file(), self.image, strip), path, overwrite=overwrite)
        else:  # as `strip_file` does, without the file in memory, and a large TIFF row by row
            image, suffix = strip_image(self.image, strip), SUFFIX[self.image.source.format]
            write_image(image, path, overwrite=overwrite, quality=100, suffix=suffix)

    def encode(self, suffix: str | None = None, *, strip: Strip | None = None) -> bytes:
        """The bytes that `save` writes.

        Args:
            suffix: of the format; by default the one in which the picture was given.
            strip: as for `save`.

        Raises:
            InputError: the format can't hold the picture, or the picture was no file and no suffix is given;
                another `strip`.
        """
        suffix = suffix or SUFFIX.get(self.image.source.format)
        if suffix is None:
            raise InputError(
                "The picture was given as no file, so that it has no format of its own; expected a suffix. "
                'Give one, for example encode(".png").'
            )
        if self.keeps_file(suffix):
            return strip_file(self._file(), self.image, strip)
        return encode_image(strip_image(self.image, strip), suffix)

    def keeps_file(self, suffix: str, name: str = "") -> bool:
        """Whether the file that was given is written, but for stripped metadata, and not its pixels anew.

        So it is where the input's own pixels came back, towards the format that the file has, or is named
        after; a path must still lead to the file that was read.

        Args:
            suffix: of the target.
            name: of the file whose bytes were given, if it has one.
        """
        original, source = self.original, self.image.source
        if not self.report.untouched or not isinstance(original, (bytes, str, os.PathLike)):
            return False
        if not isinstance(original, bytes):
            if source.file is None or file_state(source.file[0]) != source.file[1]:
                return False
            name = os.fspath(original)
        return _format_of(suffix) in (source.format, *((_format_of(Path(name).suffix),) if name else ()))

    def _file(self) -> bytes:
        """The file that was given, where it is kept."""
        if isinstance(self.original, bytes):
            return self.original
        assert self.image.source.file is not None
        return read_bytes(self.image.source.file[0])


def _format_of(suffix: str) -> str:
    """The format that a suffix stands for, or the suffix itself."""
    return BY_SUFFIX.get(suffix.lower(), suffix.lower())
