"""Films made from a free photograph: a window that moves over it, with noise."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

from pellucid import models
from pellucid.restorer import TorchRestorer, load

av = pytest.importorskip("av")

TICK = Fraction(1, 90_000)
SIZE = (96, 128)  # height, width


def pictures(number: int, *, still: bool = False, sigma: float = 25, photograph: Any = None) -> list[Any]:
    """RGB frames (H, W, 3), uint8."""
    source = data.astronaut() if photograph is None else photograph
    rng = np.random.default_rng(3)
    frames: list[Any] = []
    for i in range(number):
        left = 180 if still else 180 + 2 * i
        frame = source[60 : 60 + SIZE[0], left : left + SIZE[1]].astype(np.float64)
        frames.append(np.clip(frame + rng.normal(0, sigma, frame.shape), 0, 255).astype(np.uint8))
    return frames


def write_film(
    path: Path,
    frames: list[Any],
    *,
    times: list[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    colors: tuple[int, int, int, int] | None = None,
    rotation: int = 0,
    sound: bool = False,
    subtitles: bool = False,
    interlaced: bool = False,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """A film; `times` are in 1/90000 s."""
    times = times or [3600 * i for i in range(len(frames))]
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "A window on a photograph"
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pixel_format, TICK
        options = {"crf": "1", "preset": "ultrafast"}
        if interlaced:
            options |= {"x264-params": "tff=1"}
        if codec == "libx265":
            options["x265-params"] = "log-level=error"
        stream.codec_context.options = options
        if colors is not None:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = colors
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tone = container.add_stream("aac", rate=48_000) if sound else None
        if path.suffix == ".mkv":
            chapter = {"time_base": Fraction(1, 1000), "metadata": {"title": "Part"}}
            container.set_chapters(
                [chapter | {"id": i, "start": 40 * i, "end": 40 * i + 40} for i in range(2)]
            )
        words = container.add_mux_stream("subrip") if subtitles else None
        if words is not None:
            words.metadata["language"] = "ger"
        for picture, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if words is not None:
            for number in range(2):
                packet = av.Packet(f"Zeile {number}".encode())
                packet.stream, packet.time_base = words, Fraction(1, 1000)
                packet.pts = packet.dts = 40 * number
                packet.duration = 40
                container.mux(packet)
        if tone is not None:
            wave = np.sin(np.arange(24_000) * 0.05).astype(np.float32)[None]
            for start in range(0, 24_000, 1024):
                part = wave[:, start : start + 1024]
                block = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = 48_000, start, Fraction(1, 48_000)
                container.mux(tone.encode(block))
            container.mux(tone.encode(None))
    return path


def read_film(path: Path) -> tuple[list[Any], list[float]]:
    """RGB frames as stored, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
    return [frame for frame, _ in frames], [time for _, time in frames]


def packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    """Seconds and bytes of all packets of a kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.pts is not None]


@pytest.fixture(scope="session")
def restorer() -> TorchRestorer:
    """The embedded weights, in a precision that does not depend on a probe."""
    return load(device="cpu", precision="float32")


@pytest.fixture
def unguarded(restorer: TorchRestorer, monkeypatch: pytest.MonkeyPatch) -> TorchRestorer:
    monkeypatch.setattr(restorer, "guard", False)
    return restorer


@pytest.fixture(scope="session")
def guided() -> TorchRestorer:
    """The embedded guided weights."""
    assert models.get("dfpir_s").guided
    return load("dfpir_s.5task", device="cpu", precision="float32")
