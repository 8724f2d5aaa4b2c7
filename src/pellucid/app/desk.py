"""What the page does with pictures, without a browser: take them, restore, mix, write.

A `Desk` holds the restorers and a folder; each browser has a `Session` of its own in it. The network's output
is kept on the disk, so that another strength needs no second run.
"""

import contextlib
import copy
import dataclasses
import json
import os
import queue
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Container, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import models, weights
from pellucid.app.previews import SIDE, encode_preview, fit, read_region, write_layers
from pellucid.checkpoint import Checkpoint
from pellucid.diagnosis import Diagnosis
from pellucid.errors import InputError, PellucidError, StorageError, UnknownNameError
from pellucid.explain.change import Change
from pellucid.image_io import IMAGE_SUFFIXES, SUFFIX, Limits, read_header, read_image
from pellucid.registry import unknown_name
from pellucid.restoration import Report, Restoration
from pellucid.restorer import TorchRestorer
from pellucid.strength import Strength

IDLE = 6 * 3600.0  # seconds after which a browser that did not say goodbye is taken to be gone
Load = Callable[[str, str], TorchRestorer]


def offered(asked: Sequence[str] | None) -> tuple[str, ...]:
    """The models that a page offers: those asked for, else all embedded weights, the default first.

    Raises:
        PellucidError: embedded weights can't be read.
    """
    if asked:
        return tuple(dict.fromkeys(asked))
    names = [name for name in weights.names() if name != weights.DEFAULT]
    files = [(name, weights.find(name)) for name in names]
    restoring = [name for name, file in files if models.get(Checkpoint.read(file.path).model).restores]
    return (weights.DEFAULT, *restoring)


@dataclass(frozen=True)
class Options:
    """How pictures are restored, as `pellucid restore` takes it.

    Attributes:
        model: one that the desk offers.
        prompt: for a guided model, what is wrong; none: it finds out.
        guard: leave a picture alone in which nothing seems wrong.
        engine: what runs the network, one of those that the desk offers.
    """

    model: str
    prompt: str | None = None
    guard: bool = True
    engine: str = "torch"


@dataclass(frozen=True)
class Step:
    """How far a run has come.

    Attributes:
        index, count: the picture, from 0, of so many.
        name: of its file.
        share: of the whole run that is done, 0 to 1.
        seconds_left: as far as can be told; none at first.
    """

    index: int
    count: int
    name: str
    share: float
    seconds_left: float | None


@dataclass
class Item:
    """A restored picture.

    Attributes:
        name: of its file, as it was dropped.
        source: the file.
        width, height: pixels.
        report: of the run, at strength 1.
        output: the network's, (3, H, W) float32 as NumPy writes it; none if the picture was left alone.
        region: (1, h, w) in [0, 1], the part to restore, of any size; none: all of it.
    """

    name: str
    source: Path
    width: int
    height: int
    report: Report
    output: Path | None
    region: Tensor | None = None


@dataclass(frozen=True)
class Looked:
    """A picture that waits to be restored: a preview, and what the recognizer found."""

    name: str
    width: int
    height: int
    preview: Path
    diagnosis: Diagnosis


class Desk:
    """Restorers by name, and a folder for sessions.

    Args:
        models: names that may be chosen; the first is the default.
        load: gives the restorer of a name, run by an engine.
        folder: for everything that is kept meanwhile; `close` removes it.
        limits: as `pellucid restore` has them.
        engines: that may be chosen; the first is the default.
    """

    def __init__(
        self,
        models: Sequence[str],
        load: Load,
        folder: Path,
        limits: Limits | None = None,
        engines: Sequence[str] = ("torch",),
    ) -> None:
        self.models, self.folder, self.limits = tuple(models), folder, limits or Limits()
        self.engines = tuple(engines)
        self.kept: Container[str] = ()  # files in the folder that are nobody's: the page's examples
        self.network = threading.Lock()  # one picture at a time gets all cores
        self._load, self._loading = load, threading.Lock()
        self._restorers: dict[tuple[str, str], TorchRestorer] = {}
        self._sessions: dict[str, Session] = {}
        self._opening = threading.Lock()

    def restorer(self, options: Options) -> TorchRestorer:
        """The restorer that the options ask for.

        Raises:
            UnknownNameError: no such model or engine here.
            PellucidError: its weights can't be used, or it takes no such prompt.
        """
        if options.model not in self.models:
            raise UnknownNameError(unknown_name("model of this page", options.model, list(self.models)))
        if options.engine not in self.engines:
            raise UnknownNameError(unknown_name("engine of this page", options.engine, list(self.engines)))
        key = options.model, options.engine
        with self._loading:
            if key not in self._restorers:
                self._restorers[key] = self._load(*key)
        restorer = copy.copy(self._restorers[key])  # the same network, other habits
        restorer.guard = options.guard
        if options.prompt is not None:
            restorer.check_diagnosis(options.prompt)
        return restorer

    def prompts(self, model: str) -> list[str]:
        """What a guided model may be told; nothing for a blind one.

        Raises:
            PellucidError: as `restorer`.
        """
        return list(self.restorer(Options(model, engine=self.engines[0])).prompts)

    def session(self, key: str) -> "Session":
        """The session of a browser, opened at its first call; those that nobody used for long are closed.

        Raises:
            StorageError: the disk has no room for it.
        """
        now = time.monotonic()
        with self._opening:
            session = self._sessions.get(key)
            if session is None:
                with _on_disk():
                    session = Session(self, Path(tempfile.mkdtemp(prefix="session-", dir=self.folder)))
                self._sessions[key] = session
            session.used = now
            idle = [name for name, one in self._sessions.items() if now - one.used > IDLE and not one.running]
        for name in idle:
            self.leave(name)
        return session

    def was_sent_to_others(self, file: str, session: "Session") -> bool:
        """Whether other sessions were given this file, too: equal uploads lie under one name."""
        return any(one.was_given(file) for one in list(self._sessions.values()) if one is not session)

    def leave(self, key: str) -> None:
        """Close a browser's session, if it has one."""
        if (session := self._sessions.pop(key, None)) is not None:
            session.close()

    def close(self) -> None:
        """Close all sessions and remove the folder."""
        for key in list(self._sessions):
            self.leave(key)
        shutil.rmtree(self.folder, ignore_errors=True)


class Session:
    """The pictures of one browser."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk, self.folder = desk, folder
        self.items: list[Item] = []
        self.failures: list[tuple[str, str]] = []  # name and sentence
        self.count, self.canceled = 0, False
        self.used = time.monotonic()
        self._stop, self._runs = threading.Event(), 0
        self._run: threading.Thread | None = None
        self._sources: dict[str, Path] = {}
        self._given = set[str]()

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._run is not None and self._run.is_alive()

    def receive(self, files: Iterable[str | os.PathLike[str]]) -> None:
        """Keep files that the browser sent, which others may remove; `close` removes them.

        Raises:
            InputError: one is gone.
            StorageError: the disk has no room for them.
        """
        sent = [os.fspath(file) for file in files]
        self._given.update(sent)
        for file in sent:
            self._take(file)

    def look(self, file: str | os.PathLike[str]) -> Looked:
        """Read a picture and say what is wrong with it.

        Raises:
            InputError: it can't be used.
            StorageError: the disk is full.
        """
        source = self._take(file)
        with _named(source):
            image = read_image(source, limits=self.desk.limits)
        default = Options(self.desk.models[0], engine=self.desk.engines[0])
        diagnosis = self.desk.restorer(default).recognizer(image)
        with _on_disk():
            preview = Path(tempfile.mkdtemp(prefix="preview-", dir=self.folder)) / "preview.jpg"
            preview.write_bytes(encode_preview(image, fit(image.pixels, SIDE)))
        return Looked(source.name, image.width, image.height, preview, diagnosis)

    def restore(self, files: Sequence[str | os.PathLike[str]], options: Options) -> Generator[Step]:
        """Restore pictures one after another; `items` and `failures` then hold what became of them.

        Closing the generator, or `cancel`, stops the run after the tile, or pass of strips, it works on.

        Raises:
            PellucidError: the options can't be used; pictures that can't be are `failures`.
        """
        restorer = self.desk.restorer(options)
        self.cancel()
        sources = [self._take(file) for file in files]
        folder = self._new_folder()
        self.items, self.failures, self.canceled = [], [], False
        self.count, self._stop = len(sources), threading.Event()
        steps: queue.SimpleQueue[Step | BaseException | None] = queue.SimpleQueue()
        run = _Run(self, restorer, options, sources, folder, self._stop, steps.put)
        self._run = threading.Thread(target=run, name="restore", daemon=True)
        self._run.start()
        try:
            while (step := steps.get()) is not None:
                if isinstance(step, BaseException):
                    raise step
                yield step
        finally:
            run.stop.set()

    def cancel(self) -> None:
        """Stop the run that is under way, and wait until it has."""
        self._stop.set()
        if self._run is not None:
            self._run.join()

    def show(self, index: int) -> tuple[dict[str, Path], Change, Item]:
        """The previews of a restored picture, by layer, and how much it was changed.

        Raises:
            InputError: there is no such picture.
            StorageError: the disk is full.
        """
        item = self._item(index)
        folder = item.source.parent / f"layers-{self._runs}"
        with _named(item.source), _on_disk():
            folder.mkdir(exist_ok=True)
            image = read_image(item.source, limits=self.desk.limits)
            names, change = write_layers(image, _read_output(item), folder)
        files = {name: next(folder.glob(f"{name}.*")) for name in names}
        return files, change, item

    def paint(self, index: int, region: str | None) -> None:
        """Restore only a part of a picture; none: all of it.

        Args:
            index: of the picture.
            region: as `previews.read_region` takes it.

        Raises:
            InputError: there is no such picture, or it is no region.
        """
        self._item(index).region = None if region is None else read_region(region)

    def write(self, index: int, strength: Strength) -> Path:
        """Write a restored picture, byte for byte as `pellucid restore` does.

        Args:
            index: of the picture.
            strength: how much of the restoration is kept.

        Raises:
            PellucidError: it can't be written.
        """
        item = self._item(index)
        target = item.source.parent / "restored" / _target_name(item)
        report = dataclasses.replace(item.report, strength=strength.plain)
        with _named(item.source), _on_disk():
            target.parent.mkdir(exist_ok=True)
            image = read_image(item.source, limits=self.desk.limits)
            if (output := _read_output(item)) is not None:
                pixels = strength.mix(image.pixels, output)
                if item.region is not None:
                    size = pixels.shape[1:]
                    share = F.interpolate(item.region[None], size=size, mode="bilinear", align_corners=False)[
                        0
                    ]
                    pixels = torch.lerp(image.pixels, pixels, share)
                image = dataclasses.replace(image, pixels=pixels)
            Restoration(image, report, item.source).save(target, overwrite=True)
        return target

    def write_all(self, strength: Strength) -> Path:
        """A zip of all restored pictures, without compressing what is compressed.

        Raises:
            PellucidError: one can't be written, or there is none.
        """
        self._item(0)
        target, taken = self.folder / "restored.zip", set[str]()
        with _on_disk(), zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for index in range(len(self.items)):
                file = self.write(index, strength)
                archive.write(file, _free_name(file.name, taken))
                file.unlink()
        return target

    def write_report(self, strength: Strength) -> Path:
        """What was done to each picture, as JSON: a row for each, with the report of `restore --json`.

        "region" is the share of the picture that was restored, where a part was painted.

        Raises:
            PellucidError: there is none, or the disk is full.
        """
        self._item(0)
        rows: list[dict[str, Any]] = []
        for item in self.items:
            report = dataclasses.replace(item.report, strength=strength.plain)
            row: dict[str, Any] = {"input": item.name, "output": _target_name(item), "ok": True}
            row |= {"state": report.state, "report": report.to_dict()}
            rows.append(row if item.region is None else row | {"region": round(float(item.region.mean()), 4)})
        for name, sentence in self.failures:
            rows.append({"input": name, "output": None, "ok": False, "error": {"message": sentence}})
        target = self.folder / "report.json"
        with _on_disk():
            target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        return target

    def was_given(self, file: str) -> bool:
        """Whether its browser sent this file."""
        return file in self._given

    def close(self) -> None:
        """Stop, and remove all files, those that the browser sent too."""
        self.cancel()
        for original in map(Path, self._given):
            sent = original.is_relative_to(self.desk.folder) and str(original) not in self.desk.kept
            if sent and not self.desk.was_sent_to_others(str(original), self):
                original.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _item(self, index: int) -> Item:
        if not 0 <= index < len(self.items):
            raise InputError("There is no restored picture yet. Drop one and restore it first.")
        return self.items[index]

    def _take(self, file: str | os.PathLike[str]) -> Path:
        """The session's own name for a file, which others may remove."""
        key = os.fspath(file)
        self._given.add(key)
        if key not in self._sources:
            with _on_disk():
                own = Path(tempfile.mkdtemp(prefix="picture-", dir=self.folder)) / Path(key).name
                try:
                    os.link(key, own)
                except FileNotFoundError as error:
                    raise InputError(
                        f"{own.name} is no longer kept here: what is sent and not looked at is removed after "
                        "an hour. Drop it again."
                    ) from error
                except OSError:
                    shutil.copyfile(key, own)
            self._sources[key] = own
        return self._sources[key]

    def _new_folder(self) -> Path:
        shutil.rmtree(self.folder / f"run-{self._runs}", ignore_errors=True)
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        with _on_disk():
            folder.mkdir()
        return folder


class _Stopped(Exception):  # noqa: N818 - it ends a run that nobody waits for, and is no error
    """The run was canceled."""


@dataclass
class _Run:
    """A run in a thread of its own, telling its steps, then none."""

    session: Session
    restorer: TorchRestorer
    options: Options
    sources: list[Path]
    folder: Path
    stop: threading.Event
    tell: Callable[[Step | BaseException | None], None]

    def __call__(self) -> None:
        try:
            with self.session.desk.network:
                self._restore_all()
        except _Stopped:
            self.session.canceled = True
        except BaseException as error:  # for the one who waits
            self.tell(error)
        finally:
            self.tell(None)

    def _restore_all(self) -> None:
        sizes = [self._size(source) for source in self.sources]
        self.whole, self.done, self.start = max(sum(sizes), 1), 0, time.monotonic()
        for index, (source, size) in enumerate(zip(self.sources, sizes, strict=True)):
            try:
                with _named(source), _on_disk():
                    self.session.items.append(self._restore_one(index, source, size))
            except PellucidError as error:
                self.session.failures.append((source.name, str(error)))
            self.done += size

    def _size(self, source: Path) -> int:
        """Pixels, as far as the header tells: what a picture's time goes by."""
        try:
            header = read_header(source)
        except PellucidError:  # told when its turn comes
            return 0
        return header.width * header.height

    def _restore_one(self, index: int, source: Path, size: int) -> Item:
        def part_done(done: int, parts: int) -> None:
            if self.stop.is_set():
                raise _Stopped
            share = (self.done + size * done / max(parts, 1)) / self.whole
            spent = time.monotonic() - self.start
            left = spent * (1 - share) / share if share > 0.01 else None
            self.tell(Step(index, len(self.sources), source.name, share, left))

        part_done(0, 1)
        began = time.perf_counter()
        image = self.restorer.read(source, limits=self.session.desk.limits)
        seconds = {"read": time.perf_counter() - began}
        restoration = self.restorer(image, diagnosis=self.options.prompt, progress=part_done)
        report = restoration.report
        report = dataclasses.replace(report, seconds=report.seconds | seconds)
        output = None if report.untouched else self.folder / f"{index}.npy"
        if output is not None:
            np.save(output, restoration.image.pixels.numpy())
        return Item(source.name, source, image.width, image.height, report, output)


def _read_output(item: Item) -> Tensor | None:
    if item.output is None:
        return None
    return torch.from_numpy(np.load(item.output, mmap_mode="c"))  # read from the disk as it is needed


def _target_name(item: Item) -> str:
    """The name of a restored file: the input's, in the input's format."""
    if item.source.suffix.lower() in IMAGE_SUFFIXES:
        return item.name
    return item.name + SUFFIX[read_header(item.source).format]


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or the first of "a-2.jpg", "a-3.jpg", ... that is not taken yet; it then is."""
    path, number, free = Path(name), 1, name
    while free in taken:
        number += 1
        free = f"{path.stem}-{number}{path.suffix}"
    taken.add(free)
    return free


@contextlib.contextmanager
def _named(source: Path) -> Generator[None]:
    """Sentences name the picture, not where it is kept meanwhile."""
    try:
        yield
    except PellucidError as error:
        raise type(error)(str(error).replace(str(source), source.name)) from error


@contextlib.contextmanager
def _on_disk() -> Generator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            "What was kept of these photographs is gone. Load the page again, and drop them again."
        ) from error
    except OSError as error:
        raise StorageError(
            f"The folder for pictures under way can't be used: {error.strerror or error}. Free some "
            "space, or restore fewer at once: each takes 12 bytes a pixel."
        ) from error
