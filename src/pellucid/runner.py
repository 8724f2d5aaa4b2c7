"""A network over one picture of any size, on any device, within a memory budget.

It knows padding, strips, tiles, precision and engines; what is wrong with a picture, and what becomes of the
result, is the restorer's.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import compute, engines, scratch
from pellucid.compute import Precision, Probe
from pellucid.engines import Engine
from pellucid.errors import InputError, MemoryBudgetError, NonFiniteOutputError
from pellucid.image import is_finite
from pellucid.models import ModelSpec
from pellucid.pipeline import GRAPH_FROM, MOST_AT_ONCE, Pipeline
from pellucid.strength import as_number
from pellucid.strips import StripCost, StripPlan, Workspace, plan_strips
from pellucid.tiling import Span, TilePlan, plan_tiles, smallest_tile

Progress = Callable[[int, int], None]  # called with (parts done, parts in all): tiles, or passes in strips
_DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}
_PROBES: dict[tuple[str | None, str, str | None, int], Probe] = {}
_COSTS: dict[tuple[str, Precision], StripCost] = {}  # by the network's configuration


class NetworkRunner:
    """A network of pellucid, run by torch.

    Pictures are padded to the network's multiple (reflected, then replicated where too small). On the CPU
    they are restored as a whole under the memory budget: small ones in one piece, larger ones in strips (see
    `pellucid.strips`). Where that can't be, on other devices, and for a network watched through hooks, which
    would not see its strips, they are cut into feathered tiles, run in channels_last; on a GPU in batches,
    but under hooks one by one. Running out of memory means tiles, then smaller ones.

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
        engine: Engine | None = None,
    ) -> None:
        """Wrap `network`, which is moved to the device and frozen.

        Args:
            network: built by `spec`.
            spec: its structure.
            name: for reports and messages; default: the structure's.
            weights_sha256: of the file that the weights come from.
            provenance: of the checkpoint that they come from.
            device: "cuda", "mps" or "cpu"; default: the first of them that works.
            precision: "float32" or "bf16"; default: bf16 where a probe finds it faster, and within half a
                gray level (root mean square) of float32.
            memory: bytes that a restoration may take. Default: half of what is free, and on the CPU no tile
                beyond one megapixel, since larger ones are slower.
            engine: of an exported file; then the network need only have its `config`.

        Raises:
            InputError: no such device or precision, or memory below 1.
        """
        asked_precision = compute.check_precision(precision)
        if memory is not None and not 1 <= as_number(memory) < math.inf:
            raise InputError(
                f"The memory given is {memory!r}; expected a number of bytes, at least 1. "
                "Leave it out to choose."
            )
        self.spec, self.name, self.memory = spec, name or spec.name, memory
        self.weights_sha256 = weights_sha256
        self.provenance = dict(provenance or {})
        self.device = compute.choose_device(device)
        if self.device.type == "cpu":
            compute.keep_freed_memory()
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._asked_precision: Precision | None = asked_precision
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
                self.restore_pixels(picture, prompt, None)

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

    def restore_pixels(
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
        on_cpu = self.device.type == "cpu"
        return on_cpu and hasattr(self.network, "forward_strips") and not self._watched

    @property
    def _remembers(self) -> bool:
        """Whether a module keeps what it saw, which a recorded graph would not see again."""
        return any(getattr(module, "remembers", False) for module in self.network.modules())

    @property
    def _watched(self) -> bool:
        """Whether somebody looks at the network through hooks: then each part of a picture is a call."""
        return any(
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
        if self._watched or (batch == 1 and self.device.type == "cpu"):
            yield from (self._run_finite(read[None], prompt) for read in reads())
            return
        precision = self.precision
        pipeline = Pipeline(
            lambda degraded: self._run(degraded, precision, prompt),
            self.device,
            batch,
            repeats=len(plan) >= GRAPH_FROM * batch and not self._remembers,
        )
        for read, restored in zip(reads(), pipeline(reads()), strict=True):
            yield (restored, False) if is_finite(restored) else self._run_finite(read[None], prompt)

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
        if is_finite(restored):
            return restored, False
        if precision != "float32":
            del restored
            restored = run("float32")
            if is_finite(restored):
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


def _kept(span: Span) -> slice:
    return slice(span.fade_in[0], span.fade_out[1])


def _weights(span: Span) -> Tensor:
    """The weight of each kept pixel along one axis; with the neighbors' they sum to one."""

    def ramp(fade: tuple[int, int]) -> Tensor:
        length = fade[1] - fade[0]
        return (torch.arange(length, **plain) + 0.5) / max(length, 1)

    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # as the picture
    plateau = torch.ones(span.fade_out[0] - span.fade_in[1], **plain)
    return torch.cat([ramp(span.fade_in), plateau, 1 - ramp(span.fade_out)])
