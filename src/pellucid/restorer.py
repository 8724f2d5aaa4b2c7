"""An image in, an image and a report out: the one type that callers hold, the command line among them.

`load` gives a restorer by name or file. All are called alike: `restorer(image, diagnosis=..., strength=...)`.
"""

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pellucid import compute, engines, models, scratch, weights
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.diagnosis import DEFAULT as RECOGNIZER
from pellucid.diagnosis import Diagnosis, Recognizer
from pellucid.engines import Engine
from pellucid.errors import InputError, PellucidError, UnsupportedDtypeError
from pellucid.image import ImageBuffer
from pellucid.image_io import Limits, read_image
from pellucid.light import NO_RULE, LightRule, views_of
from pellucid.models import ModelSpec
from pellucid.picture import Picture, keep, open_picture
from pellucid.registry import unknown_name
from pellucid.restoration import Report, Restoration
from pellucid.runner import NetworkRunner, Progress
from pellucid.strength import Strength
from pellucid.strips import StripPlan
from pellucid.tiling import TilePlan

T = TypeVar("T")
BYTES_AROUND = 40  # per pixel: the picture, its result and a mix of both in float32, and what is written


class Restorer(Protocol):
    """Anything that restores pictures."""

    def __call__(
        self,
        image: Picture,
        *,
        diagnosis: str | None = None,
        strength: float | Mapping[str, float] | Strength = 1.0,
        progress: Progress | None = None,
    ) -> Restoration:
        """Restore one picture of any size.

        Args:
            image: a path; the bytes of a file; an `ImageBuffer`; an array (H, W), (H, W, 3) or (H, W, 4),
                uint8, uint16 or floating point in [0, 1]; or a tensor (3, H, W), floating point in [0, 1].
                sRGB-encoded. Alpha is kept.
            diagnosis: for a guided network, the name of its prompt; without it a recognizer finds it. Blind
                networks take none.
            strength: 0 gives the input's own pixels, bit by bit; 1 the network's; linear between. By kind, as
                {"haze": 1, "noise": 0.3}, light and detail are kept to different shares (see
                `pellucid.strength`).
            progress: called with (parts done, parts in all) after each tile, or each pass in strips.

        Raises:
            InputError: a picture, a strength or a diagnosis that can't be used.
            MemoryBudgetError: not even the smallest tile fits.
            NonFiniteOutputError: the network gives NaN or infinity, in float32 too.
        """
        ...

    def map(
        self,
        images: Iterable[Picture],
        *,
        diagnosis: str | None = None,
        strength: float | Mapping[str, float] | Strength = 1.0,
        on_error: Callable[[Picture, PellucidError], None] | None = None,
    ) -> Iterator[Restoration]:
        """Restore a stream of pictures, in their order; the next is read while the network has one.

        Never more than two are taken from `images` before a result is taken.

        Args:
            images: as for a call; they may be endless.
            diagnosis, strength: as for a call, the same for all.
            on_error: is told of a picture that can't be restored, which is then left out. Without it the
                error is raised.

        Raises:
            PellucidError: as a call, when that picture's turn comes.
        """
        ...

    def describe(self) -> Report:
        """The report as it stands before any picture: model, device, precision."""
        ...


class _Opening(Restorer, Protocol):
    def open(self, image: Picture) -> ImageBuffer: ...


class _Streaming:
    """`Restorer.map`, for what can be called."""

    def map(
        self: _Opening,
        images: Iterable[Picture],
        *,
        diagnosis: str | None = None,
        strength: float | Mapping[str, float] | Strength = 1.0,
        on_error: Callable[[Picture, PellucidError], None] | None = None,
    ) -> Iterator[Restoration]:
        """See `Restorer`."""
        with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader:

            def opened(image: Picture) -> tuple[ImageBuffer, float]:
                start = time.perf_counter()
                return self.open(image), time.perf_counter() - start

            def begin(image: Picture) -> tuple[Picture, Future[tuple[ImageBuffer, float]]]:
                image = keep(image)
                opening = reader.submit(opened, image)
                if not isinstance(image, (bytes, str, os.PathLike)):
                    wait([opening])  # its owner may fill it with the next one when that is asked for
                return image, opening

            for image, opening in ahead(map(begin, images), 1):
                try:
                    picture, seconds = opening.result()
                    restoration = self(picture, diagnosis=diagnosis, strength=strength)
                except PellucidError as error:
                    if on_error is None:
                        raise
                    on_error(image, error)
                else:
                    report = restoration.report
                    report = dataclasses.replace(report, seconds=report.seconds | {"read": seconds})
                    yield dataclasses.replace(restoration, report=report, original=image)

    def open(self, image: Picture) -> ImageBuffer:
        """A picture as a call takes it."""
        return open_picture(image)


def ahead(items: Iterable[T], number: int) -> Iterator[T]:
    """The same items, each given only when so many more are begun."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > number:
            yield waiting.popleft()
    yield from waiting


class IdentityRestorer(_Streaming):
    """Gives every picture back as it is: for tests, and as the zero of a comparison.

    >>> import torch
    >>> picture = torch.rand(3, 5, 4)
    >>> bool((IdentityRestorer()(picture).tensor == picture).all())
    True
    """

    def __call__(
        self,
        image: Picture,
        *,
        diagnosis: str | None = None,
        strength: float | Mapping[str, float] | Strength = 1.0,
        progress: Progress | None = None,
    ) -> Restoration:
        """See `Restorer`; a diagnosis is refused, since nothing could heed it."""
        if diagnosis is not None:
            raise InputError(_blind("identity", diagnosis))
        start = time.perf_counter()
        image = keep(image)
        picture = self.open(image)
        report = dataclasses.replace(
            self.describe(),
            strength=Strength.of(strength).plain,
            seconds={"read": time.perf_counter() - start},
        )
        if progress is not None:
            progress(1, 1)
        return Restoration(picture, report, image)

    def describe(self) -> Report:
        """The report before any picture."""
        return Report("identity", None, "cpu", "float32", 0, (0, 0), 1.0, None, {}, {})


class TorchRestorer(NetworkRunner, _Streaming):
    """A network of pellucid that restores pictures: recognizer and guard before it, strength after it."""

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        *,
        name: str | None = None,
        weights_sha256: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        device: str | None = None,
        precision: str | None = None,
        memory: int | None = None,
        guard: bool = False,
        recognizer: Recognizer | None = None,
        engine: Engine | None = None,
    ) -> None:
        """Wrap `network`, which is moved to the device and frozen.

        Args:
            network, spec, name, weights_sha256, provenance, device, precision, memory, engine: as for a
                `pellucid.runner.NetworkRunner`.
            guard: give a picture back as it is where the recognizer finds nothing wrong
                (`leaves_alone`), and keep its light, or see its haze from afar (`light_rule`).
            recognizer: for the guard, and for guided networks that are told nothing. Default: the embedded
                one, loaded when it is first asked.

        Raises:
            InputError: no such device or precision, or memory below 1.
        """
        super().__init__(
            network,
            spec,
            name=name,
            weights_sha256=weights_sha256,
            provenance=provenance,
            device=device,
            precision=precision,
            memory=memory,
            engine=engine,
        )
        self.guard, self._recognizer = guard, recognizer

    def describe(self) -> Report:
        """The report before any picture."""
        return Report(
            self.name,
            self.weights_sha256,
            self.device.type,
            self.precision,
            0,
            (0, 0),
            1.0,
            None,
            {},
            {},
            engine="torch" if self.engine is None else self.engine.name,
            engine_seconds=self._engine_seconds,
        )

    def __call__(
        self,
        image: Picture,
        *,
        diagnosis: str | None = None,
        strength: float | Mapping[str, float] | Strength = 1.0,
        progress: Progress | None = None,
    ) -> Restoration:
        """See `Restorer`."""
        kept = Strength.of(strength)
        if diagnosis is not None:
            self._prompt(diagnosis)  # refused before the picture is read
        start = time.perf_counter()
        image = keep(image)
        degraded = self.open(image)
        seconds = {"read": time.perf_counter() - start}
        report = dataclasses.replace(
            self.describe(), strength=kept.plain, diagnosis=diagnosis, seconds=seconds
        )
        light = NO_RULE
        if not report.untouched and diagnosis is None and self.recognizes:
            report, light = self._recognized(degraded, report)
        if report.untouched:
            if progress is not None:
                progress(1, 1)
            return Restoration(degraded, report, image)
        prompt = self._prompt(report.diagnosis)
        opened = time.perf_counter()
        restored, plan, guards = self._restored(degraded.pixels, prompt, light, progress)
        whole = isinstance(plan, StripPlan)
        pixels = kept.mix(degraded.pixels, restored)
        report = dataclasses.replace(
            report,
            tiles=1 if whole else len(plan),
            tile_size=self._padded(degraded.pixels) if whole else (plan.tile_height, plan.tile_width),
            strips=plan if whole else None,
            engine="torch" if whole else report.engine,
            guards=report.guards | guards,
            seconds=report.seconds | {"restore": time.perf_counter() - opened},
        )
        return Restoration(dataclasses.replace(degraded, pixels=pixels), report, image)

    @torch.inference_mode()
    def run(
        self,
        degraded: Tensor,
        *,
        diagnosis: str | None = None,
        strength: Strength | None = None,
        light: LightRule = NO_RULE,
        told: Callable[[Mapping[str, bool]], object] = lambda _: None,
    ) -> Tensor:
        """The restored (3, H, W) of one in [0, 1], without guard, recognizer and report: a frame of a film.

        Args:
            degraded, diagnosis, strength: as for a call.
            light: what is done about its light.
            told: called with the verdicts "redone_in_float32" and "replanned" (see `Report`).

        Raises:
            InputError: a diagnosis that can't be used, or none for a guided network.
            RestorationError: as a call.
        """
        restored, _, guards = self._restored(degraded, self._prompt(diagnosis), light, None)
        told(guards)
        return (strength or Strength()).mix(degraded, restored)

    def read(self, path: str | os.PathLike[str], *, limits: Limits | None = None) -> ImageBuffer:
        """A picture file, as `pellucid.image_io.read_image` reads it.

        What the memory budget has no room for is kept in files: the picture, its result, and what is written.

        Raises:
            PellucidError: as there.
        """

        def create(shape: tuple[int, int, int]) -> Tensor:
            return scratch.create(shape, torch.float32, self.folder_for(shape[1] * shape[2]))

        return read_image(path, limits=limits, create=create)

    def folder_for(self, pixels: int) -> Path | None:
        """Where a picture of so many pixels is kept in files; none: in memory."""
        folder, disk = compute.choose_scratch()
        return folder if pixels > self.room and BYTES_AROUND * pixels < disk else None

    @property
    def room(self) -> int:
        """The pixels of a picture that memory has room for; a larger one is kept in files."""
        memory = self.memory
        if memory is None or self.device.type != "cpu":
            memory = compute.free_memory(torch.device("cpu")) * compute.MEMORY_SHARE
        return int(memory / BYTES_AROUND)

    def open(self, image: Picture) -> ImageBuffer:
        """A picture as a call takes it; a file as `read` does."""
        return self.read(image) if isinstance(image, (str, os.PathLike)) else super().open(image)

    def check_diagnosis(self, diagnosis: str) -> None:
        """Refuse a diagnosis that a call would refuse, before there is a picture.

        Raises:
            InputError: the network is blind, or has no such prompt.
        """
        self._prompt(diagnosis)

    @property
    def recognizer(self) -> Recognizer:
        """What finds out what is wrong, where nobody has said it."""
        return self._recognizer or _embedded_recognizer()

    @property
    def recognizes(self) -> bool:
        """Whether a recognizer is asked where nobody says what is wrong.

        One was given, or the embedded one is needed, by the guard or a guided network, and is there.
        """
        needed = self.guard or self.spec.guided
        return self._recognizer is not None or (needed and RECOGNIZER in weights.names())

    @property
    def prompts(self) -> tuple[str, ...]:
        """What a guided network may be told; nothing for a blind one."""
        return self.network.config.prompts if self.spec.guided else ()  # type: ignore[union-attr, return-value]

    def _restored(
        self, degraded: Tensor, prompt: int | None, light: LightRule, progress: Progress | None
    ) -> tuple[Tensor, TilePlan | StripPlan, dict[str, bool]]:
        """As `restore_pixels`, by a rule of light; the picture goes through the network after its copies."""
        verdicts: list[dict[str, bool]] = []

        def run(copy: Tensor) -> Tensor:
            restored, _, held = self.restore_pixels(copy, prompt, None)
            verdicts.append(held)
            return restored

        seen = light.look(degraded, run)
        restored, plan, held = self.restore_pixels(degraded, prompt, progress)
        verdicts.append(held)
        guards = {guard: any(verdict[guard] for verdict in verdicts) for guard in held}
        return light.apply(degraded, restored, seen), plan, guards

    def _recognized(self, degraded: ImageBuffer, report: Report) -> tuple[Report, LightRule]:
        """The report, with what the recognizer found, what a guided network is told, and the verdicts; and
        what is done about light.
        """
        found = self.recognizer.diagnose(degraded.pixels)
        alone, light = self.leaves_alone(found), self.light_rule(found, *degraded.pixels.shape[1:])
        verdicts = {
            "left_alone": alone,
            "light_kept": not alone and light.kept,
            "light_from_afar": not alone and bool(light.views),
        }
        report = dataclasses.replace(
            report,
            diagnosis=found.prompt(self.prompts),
            recognized=found.to_dict(),
            guards={verdict: True for verdict, holds in verdicts.items() if holds},
            seconds=report.seconds | {"recognize": found.seconds},
        )
        return report, light

    def leaves_alone(self, found: Diagnosis) -> bool:
        """Whether the guard is on, and nothing seems wrong that a guided network could be told of."""
        return self.guard and found.needs_nothing(self.prompts)

    def light_rule(self, found: Diagnosis, height: int, width: int) -> LightRule:
        """What the guard, if it is on, does about the light of a picture of (height, width) pixels.

        It keeps it where surely nothing is there that changes light. A blind network sees haze from afar; a
        guided one, which is told of it, sees as much of it at full size.
        """
        if self.guard and found.keeps_light:
            return LightRule(kept=True, blur_radius=found.blur_radius)
        if self.guard and found.is_hazy and not self.spec.guided:
            return LightRule(views=views_of(height, width))
        return NO_RULE

    def _prompt(self, diagnosis: str | None) -> int | None:
        if not self.spec.guided:
            if diagnosis is not None:
                raise InputError(_blind(self.name, diagnosis))
            return None
        if diagnosis is None:
            raise InputError(
                f"{self.name} is guided: it must be told what is wrong. "
                f"Give one of its prompts, {', '.join(self.prompts)}, as diagnosis (--prompt)."
            )
        if diagnosis not in self.prompts:
            raise InputError(unknown_name(f"prompt of {self.name}", str(diagnosis), list(self.prompts)))
        return self.prompts.index(diagnosis)


@cache
def _embedded_recognizer() -> Recognizer:
    """The same for all restorers: it keeps nothing of the pictures that it is asked about."""
    return Recognizer.load()


def load(
    name_or_path: str | os.PathLike[str] = weights.DEFAULT,
    *,
    device: str | None = None,
    precision: str | None = None,
    memory: int | None = None,
    guard: bool = True,
    engine: str = "torch",
) -> TorchRestorer:
    """A restorer by the name of its weights, or from a checkpoint file or an exported one.

    Args:
        name_or_path: a name as in `pellucid models`, or a path to a `.safetensors` file of pellucid, or to a
            file of `pellucid export`, ending in `.onnx` or `.xml`; its engine runs that.
        device: "cuda", "mps" or "cpu"; default: the first of them that works.
        precision: "float32" or "bf16"; default: chosen by a probe.
        memory: bytes that a restoration may take; default: half of what is free.
        guard: give a picture back as it is where the recognizer finds nothing wrong
            (`TorchRestorer.leaves_alone`), and heed what it finds about light (`TorchRestorer.light_rule`).
        engine: "torch"; "onnxruntime" or "openvino" (extra `export`), which run pictures that fit in one
            piece, on the CPU, from a file that is exported once; or "auto", the fastest of them
            by a short probe, remembered for this machine.

    Raises:
        UnknownNameError: no such weights.
        CheckpointError: a file that can't be used; HashMismatchError if embedded weights were altered.
        InputError: neither a name nor a path, no such device, engine or precision, or memory below 1.
        UnsupportedDtypeError: not a precision of this engine.
        ExportError: the engine does not give the network's result.

    >>> load("nonsense")
    Traceback (most recent call last):
    pellucid.errors.UnknownNameError: There are no weights called 'nonsense'. ...
    """
    engines.check_engine(engine)
    compute.check_precision(precision)
    file = weights.find(name_or_path)
    if engines.is_exported(file.path):
        return _load_exported(file.path, device, precision, memory, guard, engine)
    checkpoint = Checkpoint.read(file.path, sha256=file.sha256)
    spec = models.get(checkpoint.model)
    if not spec.restores:
        raise InputError(
            f"{file.name} holds a {spec.name}, which restores nothing; expected weights of "
            f"{', '.join(models.restoring())}. It is asked by: pellucid recognize"
        )
    elsewhere = engine not in ("torch", "auto")
    restorer = TorchRestorer(
        checkpoint.build(),
        spec,
        name=checkpoint.named(file.name),
        weights_sha256=file.sha256 or hash_file(file.path),
        provenance=checkpoint.provenance,
        device="cpu" if elsewhere and device is None else device,
        precision="float32" if elsewhere and precision is None else precision,
        memory=memory,
        guard=guard,
    )
    restorer.choose_engine(engine)
    return restorer


class _Exported(nn.Module):
    """Stands where a network would, for an engine that runs a file: it only has the configuration."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


def _load_exported(
    path: Path, device: str | None, precision: str | None, memory: int | None, guard: bool, asked: str
) -> TorchRestorer:
    engine = engines.open_engine(path)
    header = engine.header
    spec = models.get(header.model)
    if asked not in ("torch", "auto", engine.name):  # "torch" is what nobody needs to say
        raise InputError(f"{path} is run by {engine.name}, not by {asked}. Leave --engine out.")
    if device not in (None, "cpu"):
        raise InputError(f"{path} is run on the CPU; the device given is {device}. Leave --device out.")
    if precision not in (None, header.precision):
        raise UnsupportedDtypeError(
            f"{path} is computed in {header.precision}; the precision given is {precision}. "
            "Leave --precision out."
        )
    return TorchRestorer(
        _Exported(spec.config_from(header.config)),
        spec,
        name=header.name,
        weights_sha256=header.weights_sha256,
        provenance=header.provenance,
        device="cpu",
        precision=header.precision,
        memory=memory,
        guard=guard,
        engine=engine,
    )


def _blind(name: str, diagnosis: str) -> str:
    return (
        f"{name} is blind: it finds out itself and takes no diagnosis, but {diagnosis!r} was given. "
        "Leave it out."
    )
