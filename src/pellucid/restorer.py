"""An image in, an image and a report out: the one type that callers hold, the command line among them.

`load` gives a restorer by name or file. All are called alike: `restorer(image, diagnosis=..., strength=...)`.
"""

import dataclasses
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid import compute, engines, models, scratch, weights
from pellucid.arrays import array_from_image, image_from_array, image_from_tensor
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.compute import Precision, Probe
from pellucid.diagnosis import DEFAULT as RECOGNIZER
from pellucid.diagnosis import Diagnosis, Recognizer
from pellucid.engines import Engine
from pellucid.errors import (
    InputError,
    MemoryBudgetError,
    NonFiniteOutputError,
    PellucidError,
    UnsupportedDtypeError,
)
from pellucid.image import ImageBuffer
from pellucid.image_io import Limits, copy_image, decode_image, read_header, read_image, write_image
from pellucid.light import keep_light
from pellucid.models import ModelSpec
from pellucid.pipeline import GRAPH_FROM, MOST_AT_ONCE, Pipeline
from pellucid.registry import unknown_name
from pellucid.strength import Strength, as_number
from pellucid.strips import StripCost, StripPlan, Workspace, plan_strips
from pellucid.tiling import Span, TilePlan, plan_tiles, smallest_tile

Picture = bytes | str | os.PathLike[str] | ImageBuffer | NDArray[Any] | Tensor
T = TypeVar("T")
Progress = Callable[[int, int], None]  # called with (parts done, parts in all): tiles, or passes in strips
BYTES_AROUND = 40  # per pixel: the picture, its result and a mix of both in float32, and what is written
_DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}


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
            tiles, or smaller ones, were taken), "left_alone" (nothing to mend: the input's own pixels came
            back), "light_kept" (nothing was found that changes light: local means of it are the input's).
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Restoration:
    """A restored picture, and the report about it.

    Attributes:
        image: the restored picture; alpha and source are the input's.
        report: what was done.
        original: the input as it was given.

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
        if self.report.untouched:
            return self.original.copy()
        array = array_from_image(self.image, self.original.dtype)
        if self.image.alpha is not None:  # float64 would not survive the way through float32
            array[..., 3] = self.original[..., 3]
        return array

    @property
    def tensor(self) -> Tensor:
        """(3, H, W) in [0, 1], on the device and in the dtype of a tensor input; else float32 on the CPU."""
        if not isinstance(self.original, Tensor):
            return self.image.pixels
        if self.report.untouched:
            return self.original.detach().clone()
        return self.image.pixels.to(self.original.device, self.original.dtype)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the picture with everything its file had (depth, alpha, profile, metadata).

        An untouched picture is copied towards the same file format, since encoding anew could change pixels.

        Raises:
            InputError: the target exists and `overwrite` is false, or can't be written.
        """
        original = self.original
        if self.report.untouched and isinstance(original, (str, os.PathLike)):
            source, target = Path(original), Path(path)
            if _format(source) == _format(target):
                copy_image(source, target, overwrite=overwrite)
                return
        write_image(self.image, path, overwrite=overwrite)


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


class _Streaming:
    """`Restorer.map`, for what can be called."""

    def map(
        self: "Restorer",
        images: Iterable[Picture],
        *,
        diagnosis: str | None = None,
        strength: float | Mapping[str, float] | Strength = 1.0,
        on_error: Callable[[Picture, PellucidError], None] | None = None,
    ) -> Iterator[Restoration]:
        """See `Restorer`."""
        with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader:
            for image, opening in ahead(((image, reader.submit(_open, image)) for image in images), 1):
                try:
                    restoration = self(opening.result(), diagnosis=diagnosis, strength=strength)
                except PellucidError as error:
                    if on_error is None:
                        raise
                    on_error(image, error)
                else:
                    yield dataclasses.replace(restoration, original=image)


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
        picture = _open(image)
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


class TorchRestorer(_Streaming):
    """A network of pellucid, run by torch.

    Pictures are padded to the network's multiple (reflected, then replicated where too small). On the CPU
    they are restored as a whole under the memory budget: small ones in one piece, larger ones in strips (see
    `pellucid.strips`). Where that can't be, on other devices, and for a network watched through hooks, which
    would not see its strips, they are cut into feathered tiles, run in channels_last. Running out of memory
    means tiles, then smaller ones.

    Another engine, if there is one, runs what fits into one piece, and tiles; strips are torch's.
    """

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
            network: built by `spec`.
            spec: its structure.
            name: for reports; default: the structure's.
            weights_sha256: of the file that the weights come from.
            provenance: of the checkpoint that they come from.
            device: "cuda", "mps" or "cpu"; default: the first of them that works.
            precision: "float32" or "bf16"; default: bf16 where a probe finds it faster, and within half a
                gray level (root mean square) of float32.
            memory: bytes that a restoration may take. Default: half of what is free, and on the CPU no tile
                beyond one megapixel, since larger ones are slower.
            guard: give a picture back as it is where the recognizer surely finds nothing wrong that the
                weights mend (`leaves_alone`).
            recognizer: for the guard, and for guided networks that are told nothing. Default: the embedded
                one, loaded when it is first asked.
            engine: of an exported file; then the network need only have its `config`.

        Raises:
            InputError: no such device, or memory below 1.
            UnsupportedDtypeError: no such precision.
        """
        if precision is not None and precision not in compute.PRECISIONS:
            raise UnsupportedDtypeError(
                f"The precision {precision!r} is not known; expected one of {', '.join(compute.PRECISIONS)}. "
                "Leave it out to choose."
            )
        if memory is not None and not 1 <= as_number(memory) < math.inf:
            raise InputError(
                f"The memory given is {memory!r}; expected a number of bytes, at least 1. "
                "Leave it out to choose."
            )
        self.spec, self.name, self.weights_sha256, self.memory = (
            spec,
            name or spec.name,
            weights_sha256,
            memory,
        )
        self.provenance = dict(provenance or {})
        self.device = compute.choose_device(device)
        if self.device.type == "cpu":
            compute.keep_freed_memory()
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.guard, self._recognizer = guard, recognizer
        self._asked_precision: Precision | None = precision
        self._probe: Probe | None = None
        self.engine = engine
        self._engine_seconds: dict[str, float] | None = None
        self._prompts: dict[int | None, Tensor] = {}
        if engine is not None and engine.header is not None:
            self._probe = Probe(engine.header.precision, {}, 0, None, engine.header.bytes_per_pixel)

    @property
    def probe(self) -> Probe:
        """What short runs on this device have shown; measured at first use, once per process and weights."""
        if self._probe is None:
            key = (self.weights_sha256, str(self.device), self._asked_precision, torch.get_num_threads())
            if self.weights_sha256 is None or key not in _PROBES:
                # 64 is the smallest side at which every stage of the networks has pixels to spare.
                side = -(-64 // self.spec.multiple_of) * self.spec.multiple_of
                _PROBES[key] = compute.probe_network(
                    self._run,
                    self.device,
                    side,
                    self._asked_precision,
                    self._probe_strips if self._has_strips else None,
                )
            self._probe = _PROBES[key]
        return self._probe

    @property
    def precision(self) -> Precision:
        """What is computed in."""
        header = None if self.engine is None else self.engine.header
        return self.probe.precision if header is None else header.precision

    def choose_engine(self, name: str) -> None:
        """Let an engine run the network: one of `engines.ENGINES`, or "auto" for the fastest here.

        What must be exported or measured for that is remembered in the user's cache folder.

        Raises:
            InputError: no such engine, it is not installed, or the device is not the CPU.
            UnsupportedDtypeError: ONNX Runtime is to compute in bf16.
            ExportError: the engine does not give the network's result.
        """
        engines.check_engine(name)
        if name == "torch" or (name == "auto" and self.device.type != "cpu"):
            return
        if self.device.type != "cpu":
            raise InputError(f"{name} runs on the CPU only; the device is {self.device}. Give --device cpu.")
        header = self.header(self._asked_precision or "float32")
        found = engines.prepare(name, self.network, self.spec, header)
        if name != "auto":
            self.engine = found[name]
            return
        picture, prompt = compute.probe_picture(256)[0], 0 if self.spec.guided else None

        def run_by(engine: Engine | None) -> Callable[[], object]:
            def run() -> None:
                self.engine = engine
                self._restore(picture, prompt, None)

            return run

        runs = {"torch": run_by(None)} | {name: run_by(engine) for name, engine in found.items()}
        choice = engines.choose(runs, self.weights_sha256, self._asked_precision)
        self.engine, self._engine_seconds = found.get(choice.engine), choice.seconds

    def header(self, precision: Precision = "float32") -> engines.Header:
        """What an exported file of the network, to be run in `precision`, says about itself."""
        return engines.Header(
            self.spec.name,
            dataclasses.asdict(self.network.config),  # type: ignore[arg-type]
            self.name,
            self.weights_sha256,
            self.provenance,
            self.probe.bytes_per_pixel,
            precision=precision,
        )

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
        degraded = self.read(image) if isinstance(image, (str, os.PathLike)) else _open(image)
        seconds = {"read": time.perf_counter() - start}
        report = dataclasses.replace(
            self.describe(), strength=kept.plain, diagnosis=diagnosis, seconds=seconds
        )
        if report.untouched:
            return Restoration(degraded, report, image)
        if diagnosis is None and self.recognizes:
            report = self._recognized(degraded, report)
            if report.untouched:
                if progress is not None:
                    progress(1, 1)
                return Restoration(degraded, report, image)
        prompt = self._prompt(report.diagnosis)
        opened = time.perf_counter()
        restored, plan, guards = self._restore(degraded.pixels, prompt, progress)
        whole = isinstance(plan, StripPlan)
        if report.guards.get("light_kept"):
            restored = keep_light(degraded.pixels, restored)
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
        light_kept: bool = False,
    ) -> Tensor:
        """The restored (3, H, W) of one in [0, 1], without guard, recognizer and report: a frame of a film.

        Args:
            degraded, diagnosis, strength: as for a call.
            light_kept: scale it so that local means of light are the input's (`pellucid.light`).

        Raises:
            InputError: a diagnosis that can't be used, or none for a guided network.
            RestorationError: as a call.
        """
        restored = self._restore(degraded, self._prompt(diagnosis), None)[0]
        if light_kept:
            restored = keep_light(degraded, restored)
        return (strength or Strength()).mix(degraded, restored)

    def read(self, path: str | os.PathLike[str], *, limits: Limits | None = None) -> ImageBuffer:
        """A picture file, as `pellucid.image_io.read_image` reads it.

        What the memory budget has no room for is kept in files: the picture, its result, and what is written.

        Raises:
            PellucidError: as there.
        """
        header = read_header(path)
        memory = self.memory
        if memory is None or self.device.type != "cpu":
            memory = compute.free_memory(torch.device("cpu")) * compute.MEMORY_SHARE
        needed = BYTES_AROUND * header.width * header.height
        folder, disk = compute.choose_scratch()
        in_file = needed > memory and needed < disk
        return read_image(path, limits=limits, folder=folder if in_file else None)

    def check_diagnosis(self, diagnosis: str) -> None:
        """Refuse a diagnosis that a call would refuse, before there is a picture.

        Raises:
            InputError: the network is blind, or has no such prompt.
        """
        self._prompt(diagnosis)

    @property
    def recognizer(self) -> Recognizer:
        """What finds out what is wrong, where nobody has said it."""
        if self._recognizer is None:
            self._recognizer = Recognizer.load()
        return self._recognizer

    @property
    def recognizes(self) -> bool:
        """Whether a recognizer is asked where nobody says what is wrong.

        One was given, or the embedded one is needed, by the guard or a guided network, and is there.
        """
        needed = self.guard or self.spec.guided
        return self._recognizer is not None or (needed and RECOGNIZER in weights.names())

    def _recognized(self, degraded: ImageBuffer, report: Report) -> Report:
        """The report, with what the recognizer found, what a guided network is told, and the verdict."""
        found = self.recognizer(degraded)
        alone = self.leaves_alone(found)
        verdicts = {"left_alone": alone, "light_kept": not alone and self.keeps_light(found)}
        prompt = found.prompt(self.network.config.prompts) if self.spec.guided else None  # type: ignore[union-attr, arg-type]
        return dataclasses.replace(
            report,
            diagnosis=prompt,
            recognized=found.to_dict(),
            guards={verdict: True for verdict, holds in verdicts.items() if holds},
            seconds=report.seconds | {"recognize": found.seconds},
        )

    def leaves_alone(self, found: Diagnosis) -> bool:
        """Whether the guard is on, and surely nothing is wrong that these weights mend.

        What they do not mend stands under `no_gain` in their provenance: kinds of degradation at which they
        won nothing on validation pictures.
        """
        return self.guard and found.shows_only(self.provenance.get("no_gain", ()))

    def keeps_light(self, found: Diagnosis) -> bool:
        """Whether the guard is on, and surely nothing is there that changes light."""
        return self.guard and found.keeps_light

    def _prompt(self, diagnosis: str | None) -> int | None:
        if not self.spec.guided:
            if diagnosis is not None:
                raise InputError(_blind(self.name, diagnosis))
            return None
        prompts = list(self.network.config.prompts)  # type: ignore[union-attr, arg-type]
        if diagnosis is None:
            raise InputError(
                f"{self.name} is guided: it must be told what is wrong. "
                f"Give one of its prompts, {', '.join(prompts)}, as diagnosis (--prompt)."
            )
        if diagnosis not in prompts:
            raise InputError(unknown_name(f"prompt of {self.name}", str(diagnosis), prompts))
        return prompts.index(diagnosis)

    def _restore(
        self, degraded: Tensor, prompt: int | None, progress: Progress | None
    ) -> tuple[Tensor, TilePlan | StripPlan, dict[str, bool]]:
        """The network's (3, H, W) for a (3, H, W), the plan that worked, and the guards' verdicts."""
        _, height, width = degraded.shape
        replanned = False
        in_file = scratch.folder_of(degraded) is not None
        if strips := self._plan_strips(*self._padded(degraded), self.precision, in_file):
            try:
                restored, strips, redone = self._restore_strips(degraded, strips, prompt, progress)
                return restored, strips, {"redone_in_float32": redone, "replanned": False}
            except (RuntimeError, MemoryError, MemoryBudgetError) as error:
                if not isinstance(error, MemoryBudgetError) and not compute.is_out_of_memory(error):
                    raise
            replanned = True
        limit = self._tile_pixels()
        budget = limit
        while True:
            plan = plan_tiles(height, width, multiple_of=self.spec.multiple_of, max_pixels=budget)
            if plan is None:
                raise MemoryBudgetError(self._no_room(height, width, limit, budget < limit))
            try:
                restored, redone = self._restore_tiles(degraded, plan, prompt, progress)
                return restored, plan, {"redone_in_float32": redone, "replanned": replanned}
            except (RuntimeError, MemoryError) as error:
                if not compute.is_out_of_memory(error):
                    raise
            # Out here the traceback, and the tensors that its frames hold, are gone.
            budget, replanned = plan.tile_height * plan.tile_width // 2, True
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @property
    def _has_strips(self) -> bool:
        """Whether pictures may be restored in strips, rather than in tiles."""
        if self.device.type != "cpu" or not hasattr(self.network, "forward_strips"):
            return False
        return not any(
            module._forward_hooks or module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
            for module in self.network.modules()
        )

    def strip_cost(self, precision: Precision) -> StripCost:
        """What the network takes in strips, measured at first use on the smallest picture."""
        key = repr(self.network.config), precision
        if key not in _COSTS:
            side, workspace = self.spec.multiple_of, Workspace(_DTYPES[precision])
            picture = compute.probe_picture(side)[0]
            peak = compute.peak_bytes(lambda: self._run_strips(picture, workspace, 0))
            values = workspace.peak_map_bytes / workspace.dtype.itemsize / side**2
            _COSTS[key] = StripCost(values, workspace.widest / side, peak, workspace.passes)
        return _COSTS[key]

    def _padded(self, picture: Tensor) -> tuple[int, int]:
        """Height and width of (3, H, W), grown to the network's multiple."""
        multiple = self.spec.multiple_of
        return -(-picture.shape[1] // multiple) * multiple, -(-picture.shape[2] // multiple) * multiple

    def _budget(self) -> int:
        """Bytes that a restoration may take."""
        free = compute.free_memory(self.device) * compute.MEMORY_SHARE
        return int(free if self.memory is None else self.memory)

    def _plan_strips(
        self, height: int, width: int, precision: Precision, in_file: bool = False
    ) -> StripPlan | None:
        if not self._has_strips:
            return None
        faster = self._tile_pixels() + 1  # one tile is the whole too
        if self.engine is None:
            faster = min(int(self.network.strips_from), faster)  # type: ignore[arg-type]
        if height * width < faster:
            return None
        _, disk = compute.choose_scratch()
        return plan_strips(
            height,
            width,
            self.strip_cost(precision),
            _DTYPES[precision],
            memory=self._budget(),
            disk=disk,
            picture_in_file=in_file,
        )

    def _restore_strips(
        self, degraded: Tensor, plan: StripPlan, prompt: int | None, progress: Progress | None
    ) -> tuple[Tensor, StripPlan, bool]:
        """The network's (3, H, W), the plan that was kept, and whether it had to be redone in float32."""
        size, planned = self._padded(degraded), self.precision

        def run(precision: Precision) -> Tensor:
            nonlocal plan
            if precision != planned:  # whose maps are twice as large
                again = self._plan_strips(*size, precision, scratch.folder_of(degraded) is not None)
                if again is None:
                    raise MemoryBudgetError("Strips in float32 take more than the budget.")
                plan = again
            passes = plan.passes

            def step() -> None:
                if progress is not None:
                    progress(workspace.passes, passes)

            workspace = Workspace(
                _DTYPES[precision],
                strip_bytes=plan.strip_bytes,
                folder=compute.choose_scratch()[0] if plan.in_files else None,
                step=step,
            )
            picture = pad_picture(degraded, *size)
            self._run_strips(picture, workspace, prompt)
            return picture

        restored, redone = self._finite(run)
        return restored[:, : degraded.shape[1], : degraded.shape[2]], plan, redone

    @torch.inference_mode()
    def _run_strips(self, picture: Tensor, workspace: Workspace, prompt: int | None) -> None:
        """Turn (3, h, w), sides being the network's multiples, into the network's output."""
        arguments = (prompt,) if self.spec.guided else ()
        self.network.forward_strips(picture, workspace, *arguments)  # type: ignore[operator, misc]

    def _probe_strips(self, degraded: Tensor, precision: Precision) -> Tensor:
        """The network's (1, 3, h, w) for one, in strips of the usual height."""
        picture = degraded[0].clone()
        self._run_strips(picture, Workspace(_DTYPES[precision]), 0)
        return picture[None]

    def _tile_pixels(self) -> int:
        if self.memory is not None:
            return int(self.memory / self.probe.bytes_per_pixel)
        pixels = int(self._budget() / self.probe.bytes_per_pixel)
        return min(pixels, compute.CPU_TILE_PIXELS) if self.device.type == "cpu" else pixels

    def _no_room(self, height: int, width: int, limit: int, replanned: bool) -> str:
        sides = [min(side, smallest_tile(self.spec.multiple_of)) for side in (height, width)]
        least = math.ceil(sides[0] * sides[1] * self.probe.bytes_per_pixel / 1e6)
        given = math.floor(limit * self.probe.bytes_per_pixel / 1e6)
        found = "more than the device could give" if replanned else f"the budget is {given:,} MB"
        return (
            f"A picture of {width:,} x {height:,} pixels needs tiles of at least {sides[1]} x {sides[0]}, "
            f"for which {self.name} takes about {least:,} MB; {found}. "
            "Raise it with --memory, free memory, or take a smaller model."
        )

    def _restore_tiles(
        self, degraded: Tensor, plan: TilePlan, prompt: int | None, progress: Progress | None
    ) -> tuple[Tensor, bool]:
        height, width = degraded.shape[1:]
        padded = pad_picture(degraded, plan.height, plan.width)
        if len(plan) == 1:
            restored, redone = self._run_finite(padded[None], prompt)
            if progress is not None:
                progress(1, 1)
            return restored[:, :height, :width], redone
        kept, redone = scratch.zeros_like(padded, padded.shape), False
        tiles = zip(plan, self._run_tiles(padded, plan, prompt), strict=True)
        for done, (tile, (restored, again)) in enumerate(tiles, start=1):
            rows, columns = tile.rows, tile.columns
            redone |= again
            weight = _weights(rows)[:, None] * _weights(columns)  # of the part that is kept
            kept_rows, kept_columns = _kept(rows), _kept(columns)
            part = restored[
                :,
                kept_rows.start - rows.start : kept_rows.stop - rows.start,
                kept_columns.start - columns.start : kept_columns.stop - columns.start,
            ]
            kept[:, kept_rows, kept_columns] += part * weight
            scratch.touch(restored.nbytes + part.nbytes)
            if progress is not None:
                progress(done, len(plan))
        return kept[:, :height, :width], redone

    def _run_tiles(self, padded: Tensor, plan: TilePlan, prompt: int | None) -> Iterator[tuple[Tensor, bool]]:
        """Per tile the network's (3, h, w), on the CPU, and whether it had to be redone in float32."""

        def reads() -> Iterator[Tensor]:
            for tile in plan:
                rows, columns = tile.rows, tile.columns
                yield padded[:, rows.start : rows.stop, columns.start : columns.stop]

        batch = self._batch(plan)
        if batch == 1 and self.device.type == "cpu":
            yield from (self._run_finite(read[None], prompt) for read in reads())
            return
        precision = self.precision
        pipeline = Pipeline(
            lambda degraded: self._run(degraded, precision, prompt),
            self.device,
            batch,
            repeats=len(plan) >= GRAPH_FROM * batch,
        )
        for read, restored in zip(reads(), pipeline(reads()), strict=True):
            yield (restored, False) if _is_finite(restored) else self._run_finite(read[None], prompt)

    def _batch(self, plan: TilePlan) -> int:
        """How many tiles are computed at once: what the memory holds on a GPU, one on the CPU."""
        if self.device.type == "cpu":
            return 1
        room = self._tile_pixels() // (plan.tile_height * plan.tile_width)
        return max(1, min(MOST_AT_ONCE, len(plan), room))

    def _run_finite(self, read: Tensor, prompt: int | None) -> tuple[Tensor, bool]:
        """The network's output for one tile, on the CPU, and whether it had to be redone in float32."""
        degraded = read.to(self.device)
        return self._finite(lambda precision: self._run(degraded, precision, prompt)[0].cpu())

    def _finite(self, run: Callable[[Precision], Tensor]) -> tuple[Tensor, bool]:
        """What `run` gives in the precision that was chosen, else in float32, and whether it had to be."""
        precision = self.precision
        restored = run(precision)
        if _is_finite(restored):
            return restored, False
        if precision != "float32":
            del restored
            restored = run("float32")
            if _is_finite(restored):
                return restored, True
        raise NonFiniteOutputError(
            f"{self.name} gives NaN or infinity for this picture in float32 too, so no result was kept. "
            "Check the weights (pellucid doctor), or try another model."
        )

    @torch.inference_mode()
    def _run(self, degraded: Tensor, precision: Precision, prompt: int | None = 0) -> Tensor:
        """The network's output in float32 for (1, 3, h, w) on the device, sides being its multiples."""
        if self.engine is not None:
            return self.engine(degraded, prompt)
        arguments = [degraded.contiguous(memory_format=torch.channels_last)]
        if self.spec.guided:
            arguments.append(self._prompt_on_device(prompt))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return self.network(*arguments).float()

    def _prompt_on_device(self, prompt: int | None) -> Tensor:
        """(1,), made once: a CUDA graph can't be recorded while it is."""
        if prompt not in self._prompts:
            self._prompts[prompt] = torch.tensor([prompt], device=self.device)
        return self._prompts[prompt]


_PROBES: dict[tuple[str | None, str, str | None, int], Probe] = {}
_COSTS: dict[tuple[str, Precision], StripCost] = {}  # by the network's configuration


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
        guard: give a picture back as it is where the recognizer surely finds nothing wrong that the weights
            mend (`TorchRestorer.leaves_alone`).
        engine: "torch"; "onnxruntime" or "openvino" (extra `export`), which run pictures that fit in one
            piece, on the CPU, from a file that is exported once; or "auto", the fastest of them
            by a short probe, remembered for this machine.

    Raises:
        UnknownNameError: no such weights.
        CheckpointError: a file that can't be used; HashMismatchError if embedded weights were altered.
        InputError: neither a name nor a path, no such device or engine, or memory below 1.
        UnsupportedDtypeError: no such precision, or not by this engine.
        ExportError: the engine does not give the network's result.

    >>> load("nonsense")
    Traceback (most recent call last):
    pellucid.errors.UnknownNameError: There are no weights called 'nonsense'. ...
    """
    if not isinstance(name_or_path, (str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"The model is of type {type(name_or_path).__name__}; expected the name of weights or a path. "
            "The names are listed by: pellucid models"
        )
    engines.check_engine(engine)
    file = weights.find(name_or_path)
    if file.path.suffix in engines.EXPORTED_SUFFIXES:
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
        name=file.name,
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


def pad_picture(pixels: Tensor, height: int, width: int) -> Tensor:
    """A copy of (C, H, W), grown to (C, height, width) downwards and to the right.

    It is reflected, then replicated. A picture in a file is copied to a file.
    """
    channels, own_height, own_width = pixels.shape
    padded = scratch.zeros_like(pixels, (channels, height, width))
    for rows in scratch.bands(own_height, pixels[:, 0].nbytes):
        padded[:, rows, :own_width] = pixels[:, rows]
        padded[:, rows, own_width:] = pixels[:, rows][:, :, _mirrored(own_width, width)]
    padded[:, own_height:] = padded[:, _mirrored(own_height, height)]
    return padded


def _mirrored(size: int, padded: int) -> list[int]:
    """What stands in for the pixels from `size` to `padded`; a reflection can't be longer than its object."""
    return [max(0, 2 * size - 2 - position) for position in range(size, padded)]


def _is_finite(x: Tensor) -> bool:
    """Whether all of (C, H, W) float32 are finite: then so is their float64 sum, which takes no memory."""
    bands = scratch.bands(x.shape[1], x[:, 0].nbytes)
    return all(math.isfinite(float(x[:, rows].sum(dtype=torch.float64))) for rows in bands)


def _kept(span: Span) -> slice:
    return slice(span.fade_in[0], span.fade_out[1])


def _weights(span: Span) -> Tensor:
    """The weight of each kept pixel along one axis; with the neighbors' they sum to one."""

    def ramp(fade: tuple[int, int]) -> Tensor:
        length = fade[1] - fade[0]
        return (torch.arange(length) + 0.5) / max(length, 1)

    plateau = torch.ones(span.fade_out[0] - span.fade_in[1])
    return torch.cat([ramp(span.fade_in), plateau, 1 - ramp(span.fade_out)])


def _open(image: Picture) -> ImageBuffer:
    if isinstance(image, ImageBuffer):
        if not image.pixels.numel() or not _is_finite(image.pixels):
            raise InputError(
                f"The picture is {image.width} x {image.height} pixels, or holds NaN or infinity; expected "
                "at least one pixel, and numbers from 0 to 1. Repair it first."
            )
        return image
    if isinstance(image, np.ndarray):
        return image_from_array(image)
    if isinstance(image, Tensor):
        return image_from_tensor(image)
    if isinstance(image, bytes):
        return decode_image(image)
    if not isinstance(image, (str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"The picture is of type {type(image).__name__}; expected a path, bytes, an array, a tensor or "
            "an ImageBuffer. Convert it first."
        )
    return read_image(image)


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def _blind(name: str, diagnosis: str) -> str:
    return (
        f"{name} is blind: it finds out itself and takes no diagnosis, but {diagnosis!r} was given. "
        "Leave it out."
    )
