"""Film files: what one says about itself, its frames as numbers and back, and what is copied as it is."""

import contextlib
import io
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import merge
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import InputError, UnreadableImageError, UnsupportedImageError, write_remedy

ENCODERS = {
    ".mp4": ("libx264", "libx265"),
    ".m4v": ("libx264", "libx265"),
    ".mov": ("libx264", "libx265"),
    ".mkv": ("libx264", "libx265"),
    ".webm": ("libvpx-vp9", "libsvtav1"),
}
"""Per suffix, the encoder of 8 bits and that of more."""

WRITABLE_SUFFIXES = tuple(ENCODERS)
READABLE_SUFFIXES = (
    *WRITABLE_SUFFIXES,
    *(".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".wmv", ".flv"),
)

_FORMATS = {".m4v": "mp4", ".mkv": "matroska"}  # FFmpeg's name where it is not the suffix
# Without frames that wait for later ones, so that segments follow each other at exactly the source's times.
_OPTIONS = {
    "libx264": {"crf": "16", "preset": "medium"},
    "libx265": {"crf": "16", "preset": "medium", "x265-params": "bframes=0:open-gop=0:log-level=error"},
    "libvpx-vp9": {"crf": "20", "b": "0", "cpu-used": "4", "auto-alt-ref": "0", "lag-in-frames": "0"},
    "libsvtav1": {"crf": "20", "preset": "6"},
}
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # FFmpeg's color spaces, as its scaler counts them
_LIMITED_RANGE, _FULL_RANGE, _HDR = 1, 2, (16, 18)  # MPEG's and JPEG's ranges; PQ and HLG


def av() -> Any:
    """PyAV.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    try:
        return import_module("av")
    except ImportError as error:
        raise InputError(
            f"Films need PyAV, which is not installed ({error}). "
            "Install it with: pip install 'pellucid[video]'"
        ) from error


@dataclass(frozen=True)
class Film:
    """What a file says about its film.

    Attributes:
        width, height: of a stored frame, in pixels, before it is turned.
        rotation: degrees that a player turns it by, counterclockwise: 0, 90, 180 or 270.
        bits: of a sample, 8 or more.
        pixel_format: in FFmpeg's words, as in "yuv420p".
        frames: how many there are, as far as the file says it, or 0.
        pixel_aspect: width of a stored pixel by its height, as a player shows it.
        rate: frames a second, on average.
        time_base: seconds of one tick of its time stamps.
        matrix, full_range: how YUV becomes RGB.
        colors: (primaries, transfer, matrix, range) as tagged, in FFmpeg's numbers.
        hdr: the transfer is PQ or HLG.
    """

    width: int
    height: int
    rotation: int
    bits: int
    pixel_format: str
    frames: int
    pixel_aspect: Fraction
    rate: Fraction
    time_base: Fraction
    matrix: int
    full_range: bool
    colors: tuple[int, int, int, int]
    hdr: bool


@contextlib.contextmanager
def opened(path: Path) -> Generator[Any]:
    """A film's file for reading.

    Raises:
        UnreadableImageError: missing, or not a film.
    """
    if not path.is_file():
        raise UnreadableImageError(f"There is no file {path}. Check the path.")
    with reading(path):
        container = av().open(str(path), metadata_errors="replace")  # old films have tags in other encodings
    with container:
        yield container


@contextlib.contextmanager
def reading(path: Path) -> Generator[None]:
    """Turn what FFmpeg says about a file into one sentence."""
    try:
        yield
    except av().error.FFmpegError as error:
        raise UnreadableImageError(
            f"{path} can't be read as a film: {error.strerror}. It is cut short, damaged or something else; "
            "get it again."
        ) from error


@contextlib.contextmanager
def _writing(path: Path) -> Generator[None]:
    """Turn what FFmpeg says about a file that it writes into one sentence."""
    try:
        yield
    except av().error.FFmpegError as error:
        raise InputError(
            f"{path} can't be written: {error.strerror}. {write_remedy(error)} Another suffix may do, too."
        ) from error


def video_stream(container: Any, path: Path) -> Any:
    """The film's pictures: the first video stream that is not a cover.

    Raises:
        UnsupportedImageError: there is none, or it can't be decoded.
    """
    cover = av().stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            if stream.codec_context is None:
                raise UnsupportedImageError(
                    f"{path} holds pictures in a codec that this FFmpeg does not know. Convert it first."
                )
            stream.thread_type = "AUTO"
            return stream
    raise UnsupportedImageError(f"{path} has no moving pictures; expected a film. Check the file.")


def describe(stream: Any, first: Any) -> Film:
    """A film by its stream and its first frame."""
    codec, height = stream.codec_context, first.height
    space, transfer = int(first.colorspace), int(first.color_trc)
    name = first.format.name
    guessed = 1 if height >= 720 else 5  # as players do: BT.709 for high definition, else BT.601
    matrix = _MATRICES.get(space, guessed)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    frames = stream.frames
    if not frames and stream.duration:
        frames = round(stream.duration * stream.time_base * rate)
    return Film(
        width=first.width,
        height=height,
        rotation=round(first.rotation) % 360,
        bits=max(component.bits for component in first.format.components),
        pixel_format=name,
        frames=frames,
        pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
        rate=rate,
        time_base=stream.time_base,
        matrix=matrix,
        full_range=int(first.color_range) == _FULL_RANGE or name.startswith("yuvj"),
        colors=(
            int(codec.color_primaries),
            transfer,
            space or matrix,
            int(first.color_range),
        ),  # RGB is written as YUV
        hdr=transfer in _HDR,
    )


def decode(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """All frames of a stream, each later than the one before, if only by a tick.

    Raises:
        UnreadableImageError: the file is cut short or damaged, or a frame has no time, or an earlier one.
        UnsupportedImageError: frames change their size.
    """
    size = before = last = None
    for number, frame in enumerate(_frames(container, stream, path), start=1):
        if frame.pts is None:
            raise UnreadableImageError(f"Frame {number} of {path} has no time stamp. Get the file again.")
        if size is not None and (frame.width, frame.height) != size:
            raise UnsupportedImageError(
                f"Frame {number} of {path} is {frame.width} x {frame.height} pixels, those before are "
                f"{size[0]} x {size[1]}; expected one size. Split the film there."
            )
        size = frame.width, frame.height
        if before is not None and frame.pts < before:
            raise UnreadableImageError(
                f"Frame {number} of {path} is shown before the one that precedes it; expected rising times. "
                "Mend them first, with ffmpeg -i for example."
            )
        before = frame.pts
        if last is not None and frame.pts <= last:  # no two at one time can be written
            frame.pts = last + 1
        last = frame.pts
        yield frame


def _frames(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    frames = container.decode(stream)
    while True:
        with reading(path):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def pixels_of(frame: Any, film: Film) -> Tensor:
    """A frame as (3, H, W) float32 in [0, 1], upright; by way of 16 bits, so that nothing is rounded away."""
    rgb = frame.reformat(
        format="rgb48le",
        src_colorspace=film.matrix,
        src_color_range=_FULL_RANGE if film.full_range else _LIMITED_RANGE,
        dst_color_range=_FULL_RANGE,
        interpolation=_scaling(),
    )
    samples = np.rot90(rgb.to_ndarray(), film.rotation // 90)
    return torch.from_numpy(samples.astype(np.float32)).permute(2, 0, 1) / 65_535


def frame_of(pixels: Tensor, film: Film, pixel_format: str) -> Any:
    """(3, H, W) in [0, 1], upright, as a frame in a film's own orientation, matrix and range."""
    samples = pixels.permute(1, 2, 0).mul(65_535).round_().numpy().astype(np.uint16)
    samples = np.ascontiguousarray(np.rot90(samples, -(film.rotation // 90)))
    return (
        av()
        .VideoFrame.from_ndarray(samples, format="rgb48le")
        .reformat(
            format=pixel_format,
            src_color_range=_FULL_RANGE,
            dst_colorspace=film.matrix,
            dst_color_range=_FULL_RANGE if film.full_range else _LIMITED_RANGE,
            interpolation=_scaling(),
        )
    )


def _scaling() -> Any:
    flags = av().video.reformatter.Interpolation
    return flags.BICUBIC | flags.ACCURATE_RND | flags.FULL_CHR_H_INT


def written_format(film: Film, suffix: str) -> str:
    """The pixel format to write: the film's subsampling, in 8 bits or 10."""
    if encoder_for(film, suffix) == "libsvtav1":
        return "yuv420p10le"  # it takes no other
    name = film.pixel_format
    sampling = next((s for s in ("444", "422", "440") if s in name), "420")
    planar = name.startswith(("yuv", "nv12", "nv21", "p010", "p016", "gray"))
    if sampling == "440" or not planar or (film.width | film.height) & 1:
        sampling = "444"  # nothing is lost; and halves of odd sizes can't be written
    return f"yuv{sampling}p" + ("10le" if film.bits > 8 else "")


class SegmentWriter:
    """Encodes frames to a file of their own, at exactly their times.

    Args:
        path: of the segment.
        film: whose frames they are.
        suffix: of the film that the segment is for.

    Raises:
        UnsupportedImageError: the encoder does not take such frames.
        InputError: the file can't be written; so do the methods.
    """

    def __init__(self, path: Path, film: Film, suffix: str) -> None:
        self._path, self._film, self.pixel_format = path, film, written_format(film, suffix)
        name = encoder_for(film, suffix)
        # NUT holds any codec, at any time base.
        with _writing(path):
            self._container = av().open(str(path), "w", format="nut")
        stream = self._stream = self._container.add_stream(name, rate=film.rate)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, self.pixel_format
        codec = stream.codec_context
        codec.time_base, codec.max_b_frames, codec.options = film.time_base, 0, dict(_OPTIONS[name])
        codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range = film.colors
        codec.sample_aspect_ratio = film.pixel_aspect
        if film.full_range:
            codec.color_range = _FULL_RANGE
        try:
            codec.open(strict=False)
        except av().error.FFmpegError as error:
            raise UnsupportedImageError(
                f"{film.width} x {film.height} pixels of {self.pixel_format} can't be encoded by {name}: "
                f"{error.strerror}. Choose another suffix of {', '.join(WRITABLE_SUFFIXES)}."
            ) from error

    def write(self, frame: Any, pts: int) -> None:
        """Add a frame, in `pixel_format`."""
        film = self._film
        frame.pts, frame.time_base, frame.pict_type = pts, film.time_base, 0
        frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = film.colors
        with _writing(self._path):
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        with _writing(self._path):
            self._container.mux(self._stream.encode(None))
            self._container.close()


def encoder_for(film: Film, suffix: str) -> str:
    """The name of the encoder.

    Raises:
        UnsupportedImageError: this FFmpeg has none.
    """
    name = ENCODERS[suffix][film.bits > 8]
    if name not in av().codecs_available:
        raise UnsupportedImageError(
            f"{suffix} with {film.bits} bits needs the encoder {name}, which this PyAV was built without. "
            f"Choose another of {', '.join(WRITABLE_SUFFIXES)}."
        )
    return name


def join(segments: list[Path], source: Path, target: Path, film: Film, suffix: str) -> tuple[int, list[str]]:
    """Put segments one behind the other, with the sound, subtitles, chapters and tags of the source.

    No packet is changed.

    Args:
        segments: of one film, in order.
        source: the film that they are made from.
        target: the file to write, whatever its name.
        film: facts about the source.
        suffix: of the target's final name.

    Returns:
        How many streams were copied, and words for those that the target's format can't hold.

    Raises:
        UnreadableImageError: the source is damaged.
        InputError: the target can't be written.
    """
    with (
        _writing(target),
        opened(source) as container,
        av().open(str(segments[0])) as first,
        av().open(str(target), "w", format=_FORMATS.get(suffix, suffix[1:])) as result,
    ):
        stream = video_stream(container, source)
        pictures = result.add_stream_from_template(first.streams.video[0], opaque=True)
        pictures.time_base, pictures.codec_context.framerate = film.time_base, film.rate
        pictures.metadata.update(stream.metadata)
        if film.rotation:
            pictures.set_display_rotation(film.rotation)
        copies, dropped = _add_others(result, source, container, stream, suffix)
        result.metadata.update(container.metadata)
        if container.chapters():
            result.set_chapters(container.chapters())
        others = _packets(container, copies, source)
        for _, number, packet in merge(_segment_packets(segments, film), others, key=lambda item: item[0]):
            packet.stream = pictures if number < 0 else copies[number]
            result.mux(packet)
    return len(copies), dropped


def check_copies(source: Path, film: Film, suffix: str) -> list[str]:
    """What of a source's streams the format can't hold, found out before long work.

    Raises:
        UnsupportedImageError: the format can't be written with these streams at all.
    """
    with opened(source) as container:
        stream = video_stream(container, source)
        result = av().open(io.BytesIO(), "w", format=_FORMATS.get(suffix, suffix[1:]))
        try:
            pictures = result.add_stream(encoder_for(film, suffix), rate=film.rate)
            pictures.width, pictures.height, pictures.pix_fmt = film.width, film.height, "yuv420p"
            dropped = _add_others(result, source, container, stream, suffix)[1]
            if any(part.is_alpha for part in av().VideoFormat(film.pixel_format, 2, 2).components):
                dropped.append("transparency")
            # VP9 and AV1 don't hold it, and PyAV can't tell WebM.
            if suffix == ".webm" and film.pixel_aspect != 1:
                dropped.append(f"aspect {film.pixel_aspect} of a pixel")
            return dropped
        finally:
            with contextlib.suppress(av().error.FFmpegError):
                result.close()


def _add_others(
    result: Any, source: Path, container: Any, pictures: Any, suffix: str
) -> tuple[dict[int, Any], list[str]]:
    """Streams of the result by the source's index, and words for what is left out."""
    copies, dropped = dict[int, Any](), list[str]()
    for stream in container.streams:
        if stream.index == pictures.index:
            continue
        name = stream.codec_context.name if stream.codec_context is not None else ""
        what = f"{stream.type} {name} (stream {stream.index})".replace("  ", " ")
        if stream.type == "attachment":
            if suffix == ".mkv":
                result.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
            else:
                dropped.append(what)
            continue
        if stream.type not in ("audio", "subtitle") or not _holds(source, stream, suffix):
            dropped.append(what)
            continue
        copy = copies[stream.index] = result.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(stream.metadata)
        copy.disposition = stream.disposition
    return copies, dropped


def _holds(source: Path, stream: Any, suffix: str) -> bool:
    """Whether the format takes this stream: a header and, for sound, a packet are written into nowhere.

    Some sound is refused only with its first packet or at the end. Subtitles may come late; theirs is not
    waited for.
    """
    trial = av().open(io.BytesIO(), "w", format=_FORMATS.get(suffix, suffix[1:]))
    try:
        with trial, opened(source) as container:
            copy = trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
            if stream.type == "audio":
                for _, _, packet in _packets(container, {stream.index: copy}, source):
                    packet.stream = copy
                    trial.mux(packet)
                    break
    except (av().error.FFmpegError, ValueError):
        return False
    return True


Packet = tuple[Fraction, int, Any]  # seconds, index in the source (-1: pictures), the packet


def _segment_packets(segments: list[Path], film: Film) -> Iterator[Packet]:
    """Each with the duration up to the next; the last lasts as long as the one before."""
    waiting: Any = None
    for path in segments:
        with av().open(str(path)) as segment:
            for packet in segment.demux(segment.streams.video[0]):
                if packet.pts is None:
                    continue
                packet.pts = packet.dts = round(packet.pts * packet.time_base / film.time_base)
                packet.time_base = film.time_base
                if waiting is not None:
                    lasting = packet.pts - waiting.pts  # the packet's taker changes what it says itself
                    waiting.duration = lasting
                    yield waiting.pts * film.time_base, -1, waiting
                    packet.duration = lasting
                waiting = packet
    if waiting is not None:
        yield waiting.pts * film.time_base, -1, waiting


def _packets(container: Any, copies: dict[int, Any], path: Path) -> Iterator[Packet]:
    packets = container.demux([container.streams[index] for index in copies]) if copies else iter(())
    while True:
        with reading(path):
            packet = next(packets, None)
        if packet is None:
            return
        time = packet.pts if packet.dts is None else packet.dts
        if time is not None:
            yield time * packet.time_base, packet.stream.index, packet
