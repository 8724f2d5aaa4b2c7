"""What this machine computes with: device, free memory, and a probe of what a network costs on it."""

import ctypes
import math
import os
import platform
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.errors import InputError, UnsupportedDtypeError

Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")

CLOSENESS = 0.5 / 255  # bf16 may differ from float32 by half a gray level, root mean square
MEMORY_SHARE = 0.5  # of what is free: the rest is for the picture, its result and everybody else
HEADROOM = 2.0  # workspaces and the picture itself: a process grew by 1.7 times the tensors at 1000 x 1000
# Beyond, time per pixel triples: big buffers go back to the system after each step.
CPU_TILE_PIXELS = 1024 * 1024
UNKNOWN_MEMORY = 2 * 2**30  # bytes, taken as free where the system says nothing (Windows)
KEPT_BLOCK, KEPT_FREE = 32 * 2**20, 64 * 2**20  # bytes: the most that glibc's own rule comes to


def choose_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the first of cuda, mps and cpu on which a small sum comes out right.

    Raises:
        InputError: the device is not there, or does not compute.
    """
    if name is not None:
        try:
            if _computes(device := torch.device(name)):
                return device
        except (RuntimeError, AssertionError) as error:  # torch's words for a name it doesn't know
            raise InputError(_no_device(name)) from error
        raise InputError(_no_device(name))
    return next(torch.device(kind) for kind in ("cuda", "mps", "cpu") if _computes(torch.device(kind)))


def _computes(device: torch.device) -> bool:
    if device.type not in ("cuda", "mps", "cpu"):
        return False
    if device.type != "cpu" and not getattr(torch, device.type).is_available():
        return False
    try:
        return float(torch.ones(8, device=device).sum()) == 8.0
    except (RuntimeError, AssertionError):  # a driver too old, a card without kernels, an index too high
        return False


def _no_device(name: str) -> str:
    usable = [kind for kind in ("cuda", "mps", "cpu") if _computes(torch.device(kind))]
    return (
        f"The device {name!r} can't be used on this machine; usable: {', '.join(usable)}. "
        "Leave it out to choose."
    )


def free_memory(device: torch.device) -> int:
    """Bytes free on `device`; on the CPU (and mps, which shares its memory) the least of what is left.

    Left by the system, and by each control group (of version 2) that the process is in.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    free: list[int] = []
    if (meminfo := Path("/proc/meminfo")).exists():
        lines = meminfo.read_text(encoding="ascii").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    free += _left_by_groups()
    if not free and hasattr(os, "sysconf"):  # macOS: half of the memory that is built in
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(free, default=UNKNOWN_MEMORY)


def _left_by_groups() -> Iterator[int]:
    root, own = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
    lines = own.read_text(encoding="utf-8", errors="replace").splitlines() if own.exists() else []
    name = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for group in (root / name, *(root / name).parents):
        try:
            limit = int((group / "memory.max").read_text(encoding="ascii"))  # "max" where there is none
            taken = int((group / "memory.current").read_text(encoding="ascii"))
            for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
                if line.startswith("inactive_file "):  # files that were read: given back when asked for
                    taken -= int(line.split()[1])
        except (OSError, ValueError):
            continue
        yield max(0, limit - taken)


def check_precision(precision: str | None) -> Precision | None:
    """The same, if a network can be computed in it; none leaves the choice to a probe.

    Raises:
        InputError: it is not one of `PRECISIONS`.
    """
    if precision is None or precision in PRECISIONS:
        return precision
    raise InputError(
        f"The precision {precision!r} is not known; expected one of {', '.join(PRECISIONS)}. "
        "Leave it out to choose."
    )


def processor_name() -> str:
    """The processor's name, as far as the system says it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def choose_scratch() -> tuple[Path, int]:
    """A folder for large files that vanish again, and the bytes that they may take there.

    The folder is the system's choice for temporary files, which TMPDIR directs. Where nothing directs it, it
    is /var/tmp if that can be written: elsewhere temporary files often lie in memory. Such a folder gives
    nothing.
    """
    directed = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    lasting = Path("/var/tmp")
    usable = not directed and lasting.is_dir() and os.access(lasting, os.W_OK | os.X_OK)
    folder = lasting if usable else Path(tempfile.gettempdir())
    if _is_in_memory(folder.resolve()):
        return folder, 0
    return folder, int(shutil.disk_usage(folder).free * MEMORY_SHARE)


def _is_in_memory(folder: Path) -> bool:
    """Whether the file system that holds a folder keeps its files in memory, as far as the system says."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return False
    kinds: dict[str, str] = {}
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, place, kind = line.split(" ")[:3]
        kinds[place] = kind  # the last one lies on top
    holder = next(place for place in map(str, (folder, *folder.parents)) if place in kinds or place == "/")
    return kinds.get(holder) in ("tmpfs", "ramfs")


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MB of freed memory for the next step of a network, on Linux.

    Else every tensor of a strip would go back to the system and come anew as pages of zeros, which took a
    twentieth to a fifth of a network's time. For the whole process; who has set glibc's own variables
    (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`) is not overruled.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(-3, KEPT_BLOCK)  # M_MMAP_THRESHOLD
        mallopt(-1, KEPT_FREE)  # M_TRIM_THRESHOLD


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of torch or of Python, has said no."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and tells_of_no_memory(str(error))
    )


def tells_of_no_memory(sentence: str) -> bool:
    """Whether these are an allocator's words: "Failed to allocate memory", "std::bad_alloc"."""
    return "bad_alloc" in sentence or ("alloc" in sentence and "memory" in sentence)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors made while it is active, and remembers the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A view of what was there before, such as a weight, is nothing new.
        old = {t.untyped_storage() for t in _tensors((*args, *(kwargs or {}).values()))}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if not isinstance(tensor, Tensor):
                continue
            if (storage := tensor.untyped_storage()) not in self._seen and storage not in old:
                self._seen.add(storage)
                weakref.finalize(storage, self._release, storage.nbytes())
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
        return result

    def _release(self, size: int) -> None:
        self.now -= size


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the arguments of an operator, where lists hold some too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def imitates_bf16(device: torch.device) -> bool:
    """Whether a device has no arithmetic for bf16, and is much slower in it than in float32.

    So are x86 processors without AVX-512. Of others nothing is said.
    """
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


@dataclass(frozen=True)
class Probe:
    """What short runs of a network on a device have shown.

    Attributes:
        precision: the faster one whose result is close enough.
        seconds: per precision, one run on a picture of `side` x `side`; empty if no comparison was asked for.
        side: of the square picture, in pixels.
        difference: root mean square of bf16 minus float32, in [0, 1]; none if bf16 did not run or
            was not finite.
        bytes_per_pixel: of tensors alive at once in float32, with headroom.
    """

    precision: Precision
    seconds: dict[str, float]
    side: int
    difference: float | None
    bytes_per_pixel: float


Run = Callable[[Tensor, Precision], Tensor]


def probe_network(
    run: Run, device: torch.device, side: int, precision: Precision | None = None, timed: Run | None = None
) -> Probe:
    """Measure `run` on `device`: memory always; time and closeness of bf16 unless `precision` is given.

    Args:
        run: gives the restored (1, 3, S, S) for a degraded one on `device`, in the precision asked for.
        device: where it computes.
        side: S of the smallest picture that says something about memory, a multiple of what the network
            asks; times are taken at 2S, and at 4S if that is quick.
        precision: the user's word, which is taken.
        timed: what takes the place of `run` in all but memory, if pictures are restored by other means.

    Raises:
        UnsupportedDtypeError: the precision that was given can't be computed.
    """
    picture, counter = probe_picture(side).to(device), _LiveBytes()
    with counter:
        run(picture, "float32")
    bytes_per_pixel = counter.peak / side**2 * HEADROOM
    run = timed or run
    if precision is not None:
        try:
            run(picture, precision)
        except RuntimeError as error:
            raise UnsupportedDtypeError(
                f"The network can't be computed in {precision} on {device.type}: {error}. "
                "Leave --precision out."
            ) from error
        return Probe(precision, {}, side, None, bytes_per_pixel)
    exact, took = _timed(run, picture := probe_picture(side * 2).to(device), "float32")
    if quick := took < 0.1:  # overheads fade only on a larger picture
        exact, took = _timed(run, picture := probe_picture(side * 4).to(device), "float32")
    seconds: dict[str, float] = {"float32": took}
    try:
        coarse, seconds["bf16"] = _timed(run, picture, "bf16")
        if quick:  # by now both are warm
            seconds = {name: min(_timed(run, picture, name)[1] for _ in range(2)) for name in PRECISIONS}
    except RuntimeError:  # this device has no bf16 kernel for some step
        return Probe("float32", seconds, picture.shape[-1], None, bytes_per_pixel)
    difference = float((coarse - exact).square().mean().sqrt())
    faster = seconds["bf16"] < 0.9 * seconds["float32"]  # within a tenth: not worth the rounding
    chosen: Precision = "bf16" if faster and difference <= CLOSENESS else "float32"  # NaN is not close
    finite = difference if math.isfinite(difference) else None
    return Probe(chosen, seconds, picture.shape[-1], finite, bytes_per_pixel)


def probe_picture(side: int) -> Tensor:
    """A fixed picture (1, 3, side, side) in [0, 1]: soft waves in three colors, with noise of sigma 13."""
    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are
    ramp = torch.linspace(0, 1, side, **plain)
    waves = torch.stack([torch.sin(k * ramp[:, None] * 9) * torch.cos(k * ramp[None] * 7) for k in (1, 2, 3)])
    noise = torch.randn(waves.shape, generator=torch.Generator("cpu").manual_seed(0), **plain)
    return (0.5 + 0.4 * waves + 0.05 * noise).clamp(0, 1)[None]


def _timed(run: Run, picture: Tensor, precision: Precision) -> tuple[Tensor, float]:
    """What `run` gives, and how many seconds it takes."""
    start = time.perf_counter()
    restored = run(picture, precision)
    _wait(picture.device)
    return restored, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors that `run` made and that lived at once; weights from before not counted."""
    with _LiveBytes() as counter:
        run()
    return counter.peak
