"""`ImageBuffer` to files and bytes; a file appears under its name only when it is complete."""

import contextlib
import errno
import hashlib
import mmap
import os
import stat
import struct
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pellucid import scratch
from pellucid.errors import InputError, OutputExistsError, UnsupportedImageError, write_refusal
from pellucid.image import ImageBuffer, SampleFormat, Source, to_gray
from pellucid.image_io import _exif as exif
from pellucid.image_io._color import RAMP, fits, tone_curve
from pellucid.image_io._formats import (
    BITS,
    BY_SUFFIX,
    FORMATS,
    IMAGE_SUFFIXES,
    Array,
    FileFormat,
    PathLike,
    vips,
    vips_image,
)
from pellucid.image_io._read import Header, opened

# libvips' flags; the others are XMP, IPTC and ICC.
_KEEP_EXIF, _KEEP_OTHERS = 1, 2 | 4 | 8


def encode_image(image: ImageBuffer, suffix: str, *, quality: int | None = None) -> bytes:
    """The bytes of a picture file.

    Args:
        image: what `read_image` or `decode_image` gave, or with other pixels.
        suffix: one of `IMAGE_SUFFIXES`. Depth and gray are kept where the format holds them.
        quality: 1 to 100 for JPEG, WebP and AVIF; 100 means lossless for the last two. By default 95 (AVIF
            90), and lossless for what was read from a lossless WebP.

    Raises:
        UnsupportedImageError: an unknown suffix, or the format can't hold this picture (alpha, size).
        InputError: a quality out of range, or NaN among the pixels.
    """
    return _encode(image, _target_format(f"a {suffix} file", suffix), f"a {suffix} file", quality)


def write_image(
    image: ImageBuffer,
    path: PathLike,
    *,
    overwrite: bool = False,
    quality: int | None = None,
    suffix: str | None = None,
) -> Path:
    """Write a picture file; it appears under its name only when it is complete.

    Args:
        image: what `read_image` gave, or with other pixels.
        path: the target; its suffix names the format.
        overwrite: replace an existing file, keeping its permissions; never a link. Otherwise no file is
            touched, even if it appears meanwhile.
        quality: as in `encode_image`.
        suffix: names the format in the place of the path's.

    Returns:
        The path.

    Raises:
        OutputExistsError: the target exists, or is a link.
        UnsupportedImageError: an unknown suffix, or the format can't hold this picture (alpha, size).
        InputError: it is no path, the folder is missing or can't be written to, or the disk is full.
    """
    path = target_path(path)
    file_format = _target_format(str(path), path.suffix if suffix is None else suffix)
    with _writable(path, overwrite):
        if file_format == "tiff" and scratch.folder_of(image.pixels):
            _write_by_rows(image, path, quality, overwrite)
        else:
            _write_atomically(_encode(image, file_format, str(path), quality), path, overwrite)
    return path


def target_path(path: PathLike) -> Path:
    """Where to write.

    Raises:
        InputError: it is no path.
    """
    if not isinstance(path, (str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"The target is of type {type(path).__name__}; expected a path. "
            "For bytes in memory, use Restoration.encode or pellucid.image_io.encode_image."
        )
    return Path(path)


def copy_image(source: PathLike, path: PathLike, *, overwrite: bool = False) -> Path:
    """Copy a file's bytes as they are, with the guarantees of `write_image`.

    Raises:
        UnreadableImageError: the source is missing or can't be read.
        OutputExistsError, InputError: as in `write_image`.
    """
    return write_bytes(read_bytes(source), path, overwrite=overwrite)


def link_image(source: PathLike, path: PathLike, *, overwrite: bool = False) -> Path:
    """A second name for a file (a hard link), with the guarantees of `write_image`.

    Of a symbolic link its file gets the name. Where the file system can't link, the file is copied.

    Raises:
        UnreadableImageError, OutputExistsError, InputError: as `copy_image`.
    """
    path = Path(path)
    with _writable(path, overwrite):
        temporary = _temporary(path)
        try:
            os.link(os.path.realpath(source), temporary)
        except OSError:
            return copy_image(source, path, overwrite=overwrite)
        _publish(temporary, path, overwrite, keep_mode=False)
    return path


def read_bytes(path: PathLike) -> bytes:
    """The bytes of a file.

    Raises:
        UnreadableImageError: missing, or can't be read.
    """
    with opened(path) as stream:
        return stream.read()


def write_bytes(data: bytes, path: PathLike, *, overwrite: bool = False) -> Path:
    """Write any file with the guarantees of `write_image`.

    Raises:
        OutputExistsError, InputError: as in `write_image`.
    """
    path = Path(path)
    with _writable(path, overwrite):
        _write_atomically(data, path, overwrite)
    return path


def move_file(source: PathLike, path: PathLike, *, overwrite: bool = False) -> Path:
    """Give a complete file of the same disk its name, with the guarantees of `write_image`.

    Raises:
        OutputExistsError, InputError: as in `write_image`.
    """
    source, path = Path(source), Path(path)
    with _writable(path, overwrite):
        with source.open("rb") as file:
            os.fsync(file.fileno())
        _publish(source, path, overwrite)
    return path


def check_writable(path: PathLike, *, overwrite: bool = False) -> None:
    """Refuse now, before long work, a target that `write_bytes` would refuse later.

    Raises:
        OutputExistsError, InputError: as in `write_image`.
    """
    with _writable(Path(path), overwrite):
        pass


def check_format(header: Header, path: PathLike) -> None:
    """Refuse now, before long work, a picture that `write_image` would refuse later.

    Raises:
        UnsupportedImageError: as in `write_image`.
    """
    target = FORMATS[_target_format(str(path), Path(path).suffix)]
    _check_holds(str(path), target, header.width, header.height, alpha=header.has_alpha)


@contextlib.contextmanager
def _writable(path: Path, overwrite: bool) -> Generator[None]:
    """Refuse a hopeless target before any work is done; give the system's refusals one sentence."""
    try:
        if not path.parent.is_dir():
            raise InputError(f"{path} can't be written: there is no folder {path.parent}. Create it first.")
        if path.is_dir():
            raise InputError(f"{path} is a folder; expected the name of a file to write. Add one.")
        if not overwrite and os.path.lexists(path):
            raise _exists(path)
        if path.is_symlink():
            raise OutputExistsError(
                f"{path} is a link to {path.readlink()}; replacing it would lose the link or what it leads "
                "to, so both were left alone. Give that file's own name, or remove the link."
            )
        if path.exists() and not path.is_file():
            raise OutputExistsError(f"{path} is not a regular file and was left alone. Choose another name.")
        yield
    except (OSError, ValueError) as error:
        raise write_refusal(path, error) from error


def _target_format(what: str, suffix: str) -> str:
    try:
        return BY_SUFFIX[suffix.lower()]
    except KeyError:
        raise UnsupportedImageError(
            f"{what} can't be written: {suffix or 'no suffix'!s} names no known format. "
            f"Choose one of {', '.join(IMAGE_SUFFIXES)}."
        ) from None


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(
        f"{path} exists already and was left alone. Choose another name or pass --overwrite."
    )


def remove_leftovers(path: PathLike) -> None:
    """Remove what a killed process had begun to write for this target; nobody else may be writing it."""
    path = Path(path)
    for temporary in path.parent.glob(f"{_mark(path)}*.tmp"):
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_mark(path)}{uuid.uuid4().hex}.tmp")


def _mark(path: Path) -> str:
    """How the temporary names of a target begin: of the same length for all, since names may be long."""
    return f".pellucid-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


def _write_atomically(data: bytes, path: Path, overwrite: bool) -> None:
    with _published(path, overwrite) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_by_rows(image: ImageBuffer, path: Path, quality: int | None, overwrite: bool) -> None:
    """A TIFF file of a picture whose pixels are in a file: neither samples nor bytes are all in memory."""
    picture, options = _prepare(image, "tiff", str(path), quality)
    picture.set_progress(True)  # rows are read, and may leave again
    picture.signal_connect("eval", _let_go)
    with _published(path, overwrite) as temporary:
        with _encoding("tiff", str(path)):
            picture.tiffsave(str(temporary), **options)
        with temporary.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
            addition = _finish_tiff(pages, image.source)
            file.seek(0, os.SEEK_END)
            file.write(addition)
            pages.flush()
            file.flush()
            os.fsync(file.fileno())


def _let_go(*_: object) -> None:
    scratch.touch(scratch.TRIM_BYTES)


@contextlib.contextmanager
def _published(path: Path, overwrite: bool) -> Generator[Path]:
    """A name to write to; afterwards the file gets its own name, or is removed if something went wrong."""
    temporary = _temporary(path)
    try:
        mode = 0o666
        if overwrite:
            with contextlib.suppress(FileNotFoundError):
                mode = stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR  # a private picture is never open
        temporary.touch(mode, exist_ok=False)
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _publish(temporary, path, overwrite)


def _publish(temporary: Path, path: Path, overwrite: bool, *, keep_mode: bool = True) -> None:
    """Give a complete file its name."""
    try:
        if overwrite:
            if keep_mode:
                with contextlib.suppress(FileNotFoundError):
                    temporary.chmod(stat.S_IMODE(path.stat().st_mode))  # a private picture stays private
            temporary.replace(path)
        else:
            _claim(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _claim(temporary: Path, path: Path) -> None:
    """Give the file its name, unless the name is taken: unlike renaming, linking never replaces."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK):
            raise
        # A file system without links (FAT, some network shares): take the name with an empty file.
        try:
            path.open("xb").close()
        except FileExistsError:
            raise _exists(path) from None
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _encode(image: ImageBuffer, file_format: str, what: str, quality: int | None) -> bytes:
    source = image.source
    picture, options = _prepare(image, file_format, what, quality)
    with _encoding(file_format, what):
        data: bytes = getattr(picture, f"{file_format}save_buffer")(**options)
    if file_format == "tiff":
        edited = bytearray(data)
        edited += _finish_tiff(edited, source)
        return bytes(edited)
    if file_format == "jpeg":
        data = _with_jfif(data, source.dots_per_mm)
    if file_format == "png" and source.dots_per_mm is None:
        data = _without_resolution(data)
    if file_format == "heif" and source.exif and not exif.states_resolution(source.exif):
        edited = bytearray(data)
        exif.drop_resolution(edited)  # as in `_without_resolution`
        return bytes(edited)
    if source.exif and file_format != "heif":
        data = exif.embed(data, file_format, source.exif, (image.width, image.height))
    return data


@contextlib.contextmanager
def _encoding(file_format: str, what: str) -> Generator[None]:
    """Turn what libvips says about a picture that it can't encode into one sentence."""
    try:
        yield
    except vips().Error as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise InputError(
            f"{what} can't be encoded as {FORMATS[file_format].title} ({detail}). Try another format."
        ) from error


def _prepare(
    image: ImageBuffer, file_format: str, what: str, quality: int | None
) -> tuple[Any, dict[str, Any]]:
    """libvips' image with its metadata, and the arguments of the writer."""
    target, source = FORMATS[file_format], image.source
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"quality is {quality}; expected 1 to 100.")
    _check_holds(what, target, image.width, image.height, alpha=image.alpha is not None)
    depth = source.depth if source.depth in target.depths else target.depths[-1]
    gray = source.mode == "gray" and target.gray
    bits = BITS[depth]
    if file_format == "heif" and depth == "uint16":
        bits = source.bits if source.bits in (10, 12) else 12
    icc = source.icc if fits(source.icc, "gray" if gray else "rgb") else None
    curve = tone_curve(icc)
    tones = None if curve is None else (curve, RAMP)
    if not gray and tone_curve(source.icc) is None and fits(source.icc, "gray"):
        # Gray becomes RGB, which its profile is not for: sRGB's tones take its place.
        shown = tone_curve(source.icc, 0)
        tones = None if shown is None else (RAMP, shown)
    pyvips = vips()
    picture = vips_image(_interleaved(image, depth, bits, gray, tones), gray)
    if source.dots_per_mm is not None:
        picture = picture.copy(xres=source.dots_per_mm[0], yres=source.dots_per_mm[1])
    picture.set_type(pyvips.GValue.gstr_type, "resolution-unit", "in")
    for name, blob in (
        ("icc-profile-data", icc),
        ("xmp-data", source.xmp),
        # JPEG wraps IPTC in Photoshop's resources, TIFF doesn't: a block is only at home in its own format.
        ("iptc-data", source.iptc if file_format == source.format == "jpeg" else None),
        # AVIF's boxes point at each other, so there EXIF has to go through libvips.
        ("exif-data", exif.MARK + source.exif if source.exif and file_format == "heif" else None),
    ):
        if blob is not None:
            picture.set_type(pyvips.GValue.blob_type, name, blob)
    keep = _KEEP_OTHERS | (_KEEP_EXIF if file_format == "heif" and source.exif else 0)
    return picture, {"keep": keep} | _options(file_format, picture, bits, quality, source)


def _check_holds(what: str, target: FileFormat, width: int, height: int, *, alpha: bool) -> None:
    if alpha and not target.alpha:
        raise UnsupportedImageError(
            f"{what} can't be written: {target.title} holds no transparency and the picture has some. "
            "Write .png, .tif, .webp or .avif."
        )
    if max(height, width) > target.max_side:
        raise UnsupportedImageError(
            f"{what} can't be written: the picture is {width:,} x {height:,} pixels and "
            f"{target.title} holds at most {target.max_side:,} a side. Write .tif or .png."
        )


def _options(
    file_format: str, picture: Any, bits: int, quality: int | None, source: Source
) -> dict[str, Any]:
    """libvips' arguments for the writer of a format."""
    lossless = quality == 100 or (quality is None and file_format == "webp" and source.lossless)
    match file_format:
        case "jpeg":
            quality = quality or 95
            return {
                "Q": quality,
                "subsample_mode": "off" if quality >= 90 else "auto",
                "optimize_coding": True,
            }
        case "png":
            return {"compression": 6, "filter": "all"}
        case "tiff":
            samples: int = picture.width * picture.height * picture.bands
            return {
                "compression": "deflate",
                "predictor": "float" if picture.format == "float" else "horizontal",
                "resunit": "inch",
                "bigtiff": samples * bits > 8 * 3_500_000_000,  # plain TIFF ends at 4 GB
            }
        case "webp":
            # exact: keep the color under transparency
            return {"Q": quality or 95, "lossless": lossless, "exact": True, "alpha_q": 100}
        case _:
            return {
                "Q": quality or 90,
                "lossless": lossless,
                "bitdepth": bits,
                "compression": "av1",
                "subsample_mode": "off",
            }


def _interleaved(
    image: ImageBuffer, depth: SampleFormat, bits: int, gray: bool, tones: tuple[Array, Array] | None
) -> Array:
    """(H, W, C) samples as they are stored; tones at the first are written as the second."""
    pixels, alpha, hidden = image.pixels.detach().cpu(), image.alpha, image.source.hidden
    channels = (1 if gray else 3) + (alpha is not None)
    folder = scratch.folder_of(pixels)
    shape, dtype = (image.height, image.width, channels), getattr(torch, depth)
    under, begun = None if alpha is None or hidden is None else alpha[0].cpu() == 0, 0
    if under is None or hidden is None or int(under.sum()) != hidden.shape[1]:
        under = hidden = None
    stored: Array = np.empty(shape, depth) if folder is None else scratch.create(shape, dtype, folder).numpy()
    for rows in scratch.bands(image.height, 4 * image.width * channels):
        colors = pixels[:, rows]
        if under is not None and hidden is not None:
            here = under[rows]
            colors = colors.clone()
            colors[:, here] = hidden[:, begun : (begun := begun + int(here.sum()))]
        if not bool(torch.isfinite(colors).all()):
            raise InputError("The picture to write has NaN or infinite pixels; expected numbers from 0 to 1.")
        if gray:
            colors = to_gray(colors)
        planes = [*colors, *(() if alpha is None else alpha[:, rows].detach().cpu())]
        for channel, plane in enumerate(planes):
            values: Array = plane.clamp(0, 1).numpy()
            if tones is not None and channel < len(colors):
                values = np.interp(values, *tones)
            band = stored[rows, :, channel]
            if depth == "float32":
                band[...] = values
            else:
                band[...] = np.rint(values * (2**bits - 1))
            if depth == "uint16" and bits < 16:
                band <<= 16 - bits
    return stored


def _with_jfif(data: bytes, dots_per_mm: tuple[float, float] | None) -> bytes:
    """A JPEG file that states a resolution or none; without EXIF libvips writes no header that could."""
    after = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    unit, dots = (0, (1, 1)) if dots_per_mm is None else (1, [round(25.4 * number) for number in dots_per_mm])
    stated = struct.pack(">5sHBHHH", b"JFIF\0", 0x0101, unit, *(min(max(n, 1), 65_535) for n in dots), 0)
    return data[:2] + b"\xff\xe0" + struct.pack(">H", len(stated) + 2) + stated + data[after:]


def _without_resolution(data: bytes) -> bytes:
    """libvips states 25.4 dots per inch in a PNG where nothing is known; layout programs would believe it."""
    if (start := data.find(b"pHYs", 33, data.find(b"IDAT"))) > 0:
        return data[: start - 4] + data[start + 17 :]  # length 4, name 4, payload 9, checksum 4
    return data


def _finish_tiff(data: bytearray | mmap.mmap, source: Source) -> bytes:
    """Put into a file what libvips did not: its directories change in place; what is to be appended."""
    if source.dots_per_mm is None and data[2:4] in (b"*\0", b"\0*"):  # not in BigTIFF
        exif.set_tag(data, exif.RESOLUTION_UNIT, 1)  # as in `_without_resolution`
    iptc = source.iptc if source.format == "tiff" else None
    if not (source.exif or iptc):
        return b""
    data[:8], addition = exif.add_to_tiff(data, source.exif, iptc)
    return addition
