"""Equal pictures through a network in batches, copied while a GPU computes, repeated by a CUDA graph."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

Run = Callable[[Tensor], Tensor]
GRAPH_FROM = 4  # batches from which a graph's warm-up is worth its time
MOST_AT_ONCE = 16  # pictures of a batch
CLOSENESS = 1e-2  # between a graph and the plain way, in [0, 1]: sums in bf16 hang on their order


class Pipeline:
    """Runs a network on pictures of one size, and gives results back in order.

    On CUDA a batch is copied to the device while the one before is computed and the one before that is copied
    back; elsewhere everything waits for everything. No more than two batches are under way at once.

    Args:
        run: gives (B, 3, H, W) for (B, 3, H, W), both on `device`.
        device: where it computes.
        batch: B; the last batch is filled up with its last picture, so that B stays what it is.
        repeats: whether enough batches will come for a CUDA graph (`GRAPH_FROM`).
    """

    def __init__(self, run: Run, device: torch.device, batch: int = 1, *, repeats: bool = False) -> None:
        self.device, self.batch = device, batch
        self._run = run
        if device.type == "cuda":
            self._arriving, self._leaving = torch.cuda.Stream(device), torch.cuda.Stream(device)
            self._run = Replay(run) if repeats else run

    def __call__(self, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
        """Results (3, H, W) on the CPU for pictures (3, H, W) on the CPU, which are taken as they are needed.

        Raises:
            Exception: whatever `run` raises.
        """
        remaining = iter(pictures)
        advance = self._advance_cuda if self.device.type == "cuda" else self._advance
        under_way: deque[tuple[Callable[[], Tensor], int]] = deque()
        while group := list(islice(remaining, self.batch)):
            filled = torch.stack(group + group[-1:] * (self.batch - len(group)))
            under_way.append((advance(filled), len(group)))
            if len(under_way) == 2:
                yield from _first(under_way)
        while under_way:
            yield from _first(under_way)

    def _advance(self, batch: Tensor) -> Callable[[], Tensor]:
        restored = self._run(batch.to(self.device)).cpu()
        return lambda: restored

    def _advance_cuda(self, batch: Tensor) -> Callable[[], Tensor]:
        """Queue a batch, and give what waits for its result."""
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._arriving):
            degraded = batch.pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(self._arriving)
        degraded.record_stream(computing)
        restored = self._run(degraded)
        self._leaving.wait_stream(computing)
        with torch.cuda.stream(self._leaving):
            result = torch.empty(restored.shape, dtype=restored.dtype, pin_memory=True)
            result.copy_(restored, non_blocking=True)
            restored.record_stream(self._leaving)
            arrived = self._leaving.record_event()

        def wait() -> Tensor:
            arrived.synchronize()
            return result

        return wait


def _first(under_way: deque[tuple[Callable[[], Tensor], int]]) -> Iterator[Tensor]:
    """The results of the batch that was queued first, without what filled it up."""
    wait, count = under_way.popleft()
    return iter(wait()[:count])


class Replay:
    """A network as a CUDA graph: recorded once for one shape, then replayed without a call per step.

    The first batch is computed plainly, and the graph's result for it is compared. If recording fails, or the
    two differ, everything is computed plainly.

    Args:
        run: makes no tensor from the host's values, which can't be recorded.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._graph: Any = None  # torch.cuda.CUDAGraph
        self._given = self._made = torch.empty(0)
        self.refused: str | None = None  # why there is no graph

    def __call__(self, degraded: Tensor) -> Tensor:
        """The restored (B, 3, H, W)."""
        if self.refused is not None:
            return self._run(degraded)
        if self._graph is None:
            restored = self._run(degraded)
            try:
                self._record(degraded)
                if not self._is_close(self._replay(degraded), restored):
                    self.refused = "its result differs"
            except RuntimeError as error:  # out of memory too: plainly there may be enough
                self.refused = str(error)
            if self.refused is not None:
                self._graph = None
            return restored
        return self._replay(degraded)

    def _record(self, degraded: Tensor) -> None:
        self._given = degraded.clone(memory_format=torch.preserve_format)
        aside = torch.cuda.Stream(degraded.device)
        aside.wait_stream(torch.cuda.current_stream(degraded.device))
        with torch.cuda.stream(aside):  # libraries choose their kernels now, not while it is recorded
            for _ in range(2):
                self._run(self._given)
        torch.cuda.current_stream(degraded.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._made = self._run(self._given)
        self._graph = graph

    def _replay(self, degraded: Tensor) -> Tensor:
        self._given.copy_(degraded)
        self._graph.replay()
        return self._made.clone()  # the next replay writes to the same memory

    @staticmethod
    def _is_close(made: Tensor, expected: Tensor) -> bool:
        return torch.allclose(made, expected, rtol=0, atol=CLOSENESS, equal_nan=True)
