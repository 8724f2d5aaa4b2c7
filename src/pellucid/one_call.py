"""`pellucid.restore`: one call, and what comes back is what was given."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pellucid import scratch, weights
from pellucid.errors import InputError
from pellucid.image import ImageBuffer
from pellucid.image_io import Strip, check_strip, check_writable, file_state, strip_image, target_path
from pellucid.restoration import Restoration
from pellucid.restorer import TorchRestorer, load
from pellucid.strength import Strength

if TYPE_CHECKING:
    from PIL.Image import Image

# bytes of a file, an array, a tensor, a buffer, a path, or a picture of Pillow
Given = TypeVar("Given", bound="bytes | str | os.PathLike[str] | ImageBuffer | NDArray[Any] | Tensor | Image")
_PILLOW_MODES = ("L", "RGB", "RGBA", "I;16")


def restore(
    image: Given,
    output: str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] = weights.DEFAULT,
    diagnosis: str | None = None,
    strength: float | Mapping[str, float] | Strength = 1.0,
    guard: bool = True,
    overwrite: bool = False,
    strip: Strip | None = None,
    device: str | None = None,
    precision: str | None = None,
    memory: int | None = None,
) -> Given:
    """Restore one picture; a second call with the same model, unchanged, has it loaded already.

    Args:
        image: the bytes of a picture file; an array, a tensor or an `ImageBuffer` as for `Restorer`; a
            picture of Pillow of mode L, RGB, RGBA or I;16; or a path.
        output: for a path, where the result goes; default: beside it, photo.jpg to photo-restored.jpg.
        model, device, precision, memory, guard: as for `pellucid.load`.
        diagnosis, strength: as for `Restorer`.
        overwrite: replace what lies at `output`.
        strip: metadata that is left out, "gps" or "all", as for `Restoration.save`; only for bytes, an
            `ImageBuffer` or a path.

    Returns:
        The restored picture, of the type that was given: bytes of the same file format, an array of the same
        layout and dtype, a tensor on the same device, a picture of the same mode, or the path of the output.

    Raises:
        InputError: a picture that can't be used, or an `output` or a `strip` for what takes none;
            OutputExistsError if the output exists. Else as `pellucid.load` and `Restorer`.

    >>> import numpy as np
    >>> restore(np.full((32, 32), 128, np.uint8)).dtype
    dtype('uint8')
    """
    check_strip(strip)
    if strip is not None and not isinstance(image, (bytes, str, os.PathLike, ImageBuffer)):
        raise InputError(
            f"strip was given for a picture of type {type(image).__name__}; expected it for bytes, paths and "
            "ImageBuffers, which hold metadata. Leave it out."
        )
    file = weights.find(model).path.absolute()
    restorer = _load(model, (file, file_state(file)), device, precision, memory, guard)

    def run(picture: Any) -> Any:
        return restorer(picture, diagnosis=diagnosis, strength=strength)

    if isinstance(image, (str, os.PathLike)):
        target = _beside(Path(image)) if output is None else target_path(output)
        check_writable(target, overwrite=overwrite)
        run(image).save(target, overwrite=overwrite, strip=strip)
        return cast(Given, type(image)(target) if isinstance(image, (str, Path)) else target)
    if output is not None:
        raise InputError(
            f"An output was given for a picture of type {type(image).__name__}; expected one for paths only. "
            "Leave it out, and take what comes back."
        )
    if isinstance(image, bytes):
        return cast(Given, run(image).encode(strip=strip))
    if isinstance(image, ImageBuffer):
        return cast(Given, strip_image(_apart(run(image)), strip))
    if isinstance(image, Tensor):
        return run(image).tensor
    if isinstance(image, np.ndarray):
        return run(image).array
    return cast(Given, _restore_pillow(image, run))


@lru_cache(maxsize=2)
def _load(
    model: str | os.PathLike[str],
    _: tuple[Path, tuple[int, int, int] | None],  # its file and that one's state: another is another model
    device: str | None,
    precision: str | None,
    memory: int | None,
    guard: bool,
) -> TorchRestorer:
    return load(model, device=device, precision=precision, memory=memory, guard=guard)


def _apart(restoration: Restoration) -> ImageBuffer:
    """The restored picture, sharing no memory with the `ImageBuffer` that was given."""
    image = restoration.image
    pixels = scratch.copy(image.pixels) if restoration.report.untouched else image.pixels
    alpha = None if image.alpha is None else scratch.copy(image.alpha)
    return replace(image, pixels=pixels, alpha=alpha)


def _beside(path: Path) -> Path:
    return path.parent / f"{path.stem}-restored{path.suffix}"  # of a folder without a name, too


def _restore_pillow(image: Any, run: Any) -> Any:
    mode = getattr(image, "mode", None)
    if not hasattr(image, "getbands"):
        raise InputError(
            f"The picture is of type {type(image).__name__}; expected bytes, a path, an array, a tensor, an "
            "ImageBuffer, or a picture of Pillow. Convert it first."
        )
    if mode not in _PILLOW_MODES:
        raise InputError(
            f"The picture has Pillow's mode {mode}; expected one of {', '.join(_PILLOW_MODES)}. "
            "Use image.convert('RGB')."
        )
    from PIL import Image

    restored = Image.fromarray(run(np.asarray(image)).array)
    restored.info = dict(image.info)  # profile, EXIF, resolution: Pillow writes them from here
    return restored
