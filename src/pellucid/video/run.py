"""The run: frames in, segments out, and a journal from which a killed run goes on."""

import contextlib
import dataclasses
import json
import shutil
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from pellucid import __version__
from pellucid.checkpoint import hash_file
from pellucid.diagnosis import GUARD_RULE
from pellucid.errors import InputError, UnreadableImageError, UnsupportedImageError, reason, write_remedy
from pellucid.image_io import Limits, check_writable, move_file, write_bytes
from pellucid.light import NO_RULE, LightRule
from pellucid.restorer import TorchRestorer
from pellucid.strength import Strength
from pellucid.video import container as files
from pellucid.video.container import Film, SegmentWriter
from pellucid.video.steady import Flicker, Shots, SteadyLight, steady_routers

SEGMENT_FRAMES = 240
LOOKAHEAD = 5  # frames of a shot that are there before it is decided what is wrong with it
Progress = Callable[[int, int], None]  # frames done, and in all; 0 if the file does not say


@dataclass(frozen=True)
class VideoReport:
    """What was done to a film; plain values, ready for JSON.

    Attributes:
        model, weights_sha256, device, precision: as in `pellucid.restoration.Report`.
        film: what the file says: see `pellucid.video.container.Film`.
        encoder, pixel_format: what was written.
        frames: how many.
        resumed_at: the frame at which this run went on, 0 if it began.
        interlaced: frames that are two half frames; they were restored as they are.
        guards: number of frames by verdict, "redone_in_float32" and "replanned", as in
            `pellucid.restoration.Report`.
        shots: per shot its first frame, verdict, kinds found, the prompt, whether it was left alone, and
            what was done about its light (the fields of `pellucid.light.LightRule`).
        streams_copied: of sound and subtitles.
        not_copied: words for what the target's format can't hold.
        flicker: see `pellucid.video.steady.Flicker.to_dict`.
        seconds: that this run took.
    """

    model: str
    weights_sha256: str | None
    device: str
    precision: str
    film: dict[str, Any]
    encoder: str
    pixel_format: str
    frames: int
    resumed_at: int
    interlaced: int
    guards: dict[str, int]
    shots: list[dict[str, Any]]
    streams_copied: int
    not_copied: list[str]
    flicker: dict[str, float | None]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


@dataclass
class Journal:
    """What is done, as it stands beside the segments.

    Attributes:
        key: of source, weights and settings; another one means to begin anew.
        segments: names of their files.
        frames, interlaced: done.
        guards, shots: as in the report; the last one goes on.
        flicker: sums so far.
        state: of what follows slowly, after the last frame of the last segment.
    """

    key: dict[str, Any]
    segments: list[str] = field(default_factory=list[str])
    frames: int = 0
    interlaced: int = 0
    guards: dict[str, int] = field(default_factory=dict[str, int])
    shots: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    flicker: list[float] = field(default_factory=lambda: [0.0] * 6)
    state: dict[str, Any] = field(default_factory=dict[str, Any])


def restore_video(
    restorer: TorchRestorer,
    source: Path,
    target: Path,
    *,
    diagnosis: str | None = None,
    strength: Strength | None = None,
    limits: Limits | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    steady: bool = True,
    segment_frames: int = SEGMENT_FRAMES,
) -> VideoReport:
    """Restore a film.

    Frames keep their times, sound and subtitles their bytes; chapters, tags, rotation and color tags are
    kept. What is wrong, and whether to leave alone where nothing seems so, is decided once per shot.
    Segments and a journal stand in a hidden folder beside the target until all is done: the same call goes on
    after a kill.

    Args:
        restorer: what restores; its guard says whether shots may be left alone.
        source: a film that FFmpeg reads.
        target: its suffix, of `WRITABLE_SUFFIXES`, names the format.
        diagnosis: for a guided network, its prompt for the whole film.
        strength: 0 the input, 1 the network's.
        limits: of a frame, checked before one is decoded; the defaults of `Limits` if none are given.
        overwrite: replace an existing file.
        progress: told of each frame.
        steady: let routing and light follow slowly within a shot.
        segment_frames: of a segment, which is what a kill can cost.

    Raises:
        InputError: a file that can't be read or written, or another run has this target.
        ImageTooLargeError: frames of more pixels than `limits` allow.
        OutputExistsError: the target exists.
        RestorationError: a frame can't be restored.
    """
    start, strength, suffix = time.perf_counter(), strength or Strength(), target.suffix.lower()
    if suffix not in files.WRITABLE_SUFFIXES:
        raise UnsupportedImageError(
            f"{target} names no format of films that is written. Choose one of "
            f"{', '.join(files.WRITABLE_SUFFIXES)}."
        )
    check_writable(target, overwrite=overwrite)
    film = _film(source, limits or Limits())
    encoder = files.encoder_for(film, suffix)
    not_copied = files.check_copies(source, film, suffix)
    if diagnosis is not None:
        restorer.check_diagnosis(diagnosis)
    work = target.with_name(f".{target.name}.pellucid")
    with _owned(work):
        guard = restorer.guard and GUARD_RULE
        asked = diagnosis is None and restorer.recognizes
        key = {
            "source": hash_file(source),
            "weights": restorer.weights_sha256 or restorer.name,
            "recognizer": restorer.recognizer.weights_sha256 if asked else None,
            "precision": restorer.precision,
            "settings": [strength.tone, strength.detail, diagnosis, guard, steady, segment_frames],
            "pellucid": __version__,
        }
        journal = _read_journal(work, key)
        resumed_at = journal.frames
        run = _Run(restorer, film, diagnosis, strength, steady, journal)
        run.restore(source, work, suffix, segment_frames, progress)
        segments = [work / name for name in journal.segments]
        joined = work / f"joined{suffix}"
        copied, _ = files.join(segments, source, joined, film, suffix)
        move_file(joined, target, overwrite=overwrite)
    shutil.rmtree(work, ignore_errors=True)
    facts = restorer.describe()
    return VideoReport(
        facts.model,
        facts.weights_sha256,
        facts.device,
        facts.precision,
        _plain(film),
        encoder,
        files.written_format(film, suffix),
        journal.frames,
        resumed_at,
        journal.interlaced,
        journal.guards,
        journal.shots,
        copied,
        not_copied,
        Flicker(journal.flicker).to_dict(),
        time.perf_counter() - start,
    )


def _plain(film: Film) -> dict[str, Any]:
    exact = {"time_base": str(film.time_base), "pixel_aspect": str(film.pixel_aspect)}
    return dataclasses.asdict(film) | {"rate": float(film.rate)} | exact


def _film(source: Path, limits: Limits) -> Film:
    with files.opened(source) as container:
        stream = files.video_stream(container, source)
        limits.check(stream.width, stream.height, str(source))
        first = next(files.decode(container, stream, source), None)
        if first is None:
            raise UnreadableImageError(f"{source} has no frame. Get the file again.")
        return files.describe(stream, first)


@contextlib.contextmanager
def _owned(work: Path) -> Generator[None]:
    """The folder of segments, while no other run has it."""
    try:
        work.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{work} can't be made: {reason(error)}. {write_remedy(error)}") from error
    try:
        with FileLock(work / "lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"Another run is writing to {work}. Wait for it, or choose another output."
        ) from error


def _read_journal(work: Path, key: dict[str, Any]) -> Journal:
    """What an earlier run with the same key left, else a new one."""
    try:
        journal = Journal(**json.loads((work / "journal.json").read_bytes()))
        if journal.key == key and all((work / name).is_file() for name in journal.segments):
            return journal
    except (OSError, ValueError, TypeError):
        pass
    return Journal(key)


class _Run:
    def __init__(
        self,
        restorer: TorchRestorer,
        film: Film,
        diagnosis: str | None,
        strength: Strength,
        steady: bool,
        journal: Journal,
    ) -> None:
        self.restorer, self.film, self.diagnosis, self.strength = restorer, film, diagnosis, strength
        self.steady, self.journal = steady, journal
        self.light, self.flicker = SteadyLight(), Flicker(journal.flicker)

    def restore(
        self, source: Path, work: Path, suffix: str, segment_frames: int, progress: Progress | None
    ) -> None:
        """All segments that are missing."""
        with files.opened(source) as container, contextlib.ExitStack() as stack:
            self.routers = stack.enter_context(steady_routers(self.restorer.network)) if self.steady else []
            self._load_state()
            frames = files.decode(container, files.video_stream(container, source), source)
            writer, written, skipped = None, 0, self.journal.frames
            temporary = work / "segment.tmp"
            for number, (frame, opening) in enumerate(_in_shots(frames)):
                if number < skipped:  # done by an earlier run
                    continue
                if opening is not None:
                    self._begin_shot(number, opening)
                if writer is None:
                    writer = SegmentWriter(temporary, self.film, suffix)
                writer.write(self._restored(frame, writer.pixel_format), frame.pts)
                written += 1
                self.journal.interlaced += bool(frame.interlaced_frame)
                if progress is not None:
                    progress(number + 1, self.film.frames)
                if written == segment_frames:
                    writer.close()
                    self._keep(temporary, work, written)
                    writer, written = None, 0
            if writer is not None:
                writer.close()
                self._keep(temporary, work, written)

    def _begin_shot(self, number: int, opening: list[Any]) -> None:
        shot: dict[str, Any] = {"frame": number, "seconds": float(opening[0].pts * self.film.time_base)}
        told = self.diagnosis is not None
        prompt, alone, light = self.diagnosis, self.strength.plain == 0, NO_RULE
        if (
            self.restorer.recognizes
            and (self.restorer.prompts or self.restorer.guard)
            and not (told or alone)
        ):
            found = [self.restorer.recognizer(files.pixels_of(frame, self.film)) for frame in opening]
            size = self.film.height, self.film.width
            rules = [self.restorer.light_rule(diagnosis, *size) for diagnosis in found]
            alone, kept = (
                sum(held) * 2 > len(found)
                for held in (map(self.restorer.leaves_alone, found), (rule.kept for rule in rules))
            )
            if kept and not alone:
                radius = statistics.median_high(diagnosis.blur_radius for diagnosis in found)
                light = LightRule(kept=True, blur_radius=radius)
            elif not alone:
                others = [rule for rule in rules if not rule.kept]
                light = max(others, key=others.count)
            middle = found[len(found) // 2]
            shot |= {"verdict": middle.verdict, "kinds": list(middle.present)}
            named = [diagnosis.prompt(self.restorer.prompts) for diagnosis in found]
            prompt = max(named, key=named.count)
        shot |= {"prompt": prompt, "left_alone": alone, "light": light.to_dict()}
        self.journal.shots.append(shot)
        self.light = SteadyLight()
        self.flicker.begin()
        for router in self.routers:
            router.mean = None

    def _restored(self, frame: Any, pixel_format: str) -> Any:
        shot, degraded = self.journal.shots[-1], files.pixels_of(frame, self.film)
        if shot["left_alone"]:
            self.flicker.add(degraded, degraded)
            if frame.format.name != pixel_format:
                return files.frame_of(degraded, self.film, pixel_format)
            return frame
        for router in self.routers:
            router.begin_frame()
        restored = self.restorer.run(
            degraded,
            diagnosis=shot["prompt"],
            strength=self.strength,
            light=LightRule(**shot.get("light", {})),  # none in a journal from before there was one
            told=self._count,
        )
        if self.steady:
            restored = self.light(degraded, restored)
        self.flicker.add(degraded, restored)
        return files.frame_of(restored, self.film, pixel_format)

    def _count(self, guards: Mapping[str, bool]) -> None:
        counts = self.journal.guards
        counts |= {guard: counts.get(guard, 0) + holds for guard, holds in guards.items()}

    def _keep(self, temporary: Path, work: Path, written: int) -> None:
        """Count a segment as done: first its file, then the journal."""
        name = f"{len(self.journal.segments):06d}.nut"
        move_file(temporary, work / name, overwrite=True)
        self.journal.segments.append(name)
        self.journal.frames += written
        self.journal.flicker = self.flicker.sums
        tensors = [router.mean for router in self.routers] + [self.light.change, self.light.before]
        self.journal.state = {"tensors": [None if t is None else t.tolist() for t in tensors]}
        self.flicker.begin()  # so that a run that goes on from here counts the same
        text = json.dumps(dataclasses.asdict(self.journal))
        write_bytes(text.encode(), work / "journal.json", overwrite=True)

    def _load_state(self) -> None:
        if not self.journal.state:
            return
        tensors: list[Tensor | None] = [
            None if values is None else torch.tensor(values) for values in self.journal.state["tensors"]
        ]
        *means, self.light.change, self.light.before = tensors
        for router, mean in zip(self.routers, means, strict=True):
            router.mean = mean


def _in_shots(frames: Iterator[Any]) -> Iterator[tuple[Any, list[Any] | None]]:
    """Frames, the first of each shot with a few that it is judged by."""
    shots, waiting = Shots(), list[Any]()
    opened = False

    def release() -> Iterator[tuple[Any, list[Any] | None]]:
        for position, frame in enumerate(waiting):
            yield frame, waiting[::2] if position == 0 else None
        waiting.clear()

    for frame in frames:
        if shots.begins(frame):
            yield from release()
            opened = False
        if opened:
            yield frame, None
            continue
        waiting.append(frame)
        if len(waiting) == LOOKAHEAD:
            yield from release()
            opened = True
    yield from release()
