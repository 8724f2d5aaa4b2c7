"""Batches give what one picture after the other gives; a CUDA graph is taken only if it gives the same."""

import pytest
import torch

from pellucid import pipeline
from pellucid.compute import probe_picture
from pellucid.errors import NonFiniteOutputError
from pellucid.pipeline import Pipeline, Replay
from pellucid.restorer import TorchRestorer, load
from pellucid.runner import NetworkRunner
from pellucid.tiling import smallest_tile

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7])
def test_results_come_in_order_and_batches_keep_their_size(batch):
    sizes = []

    def run(x):
        sizes.append(len(x))
        return x * 2

    pictures = torch.rand(5, 3, 4, 6)
    results = list(Pipeline(run, CPU, batch)(iter(pictures)))
    assert torch.equal(torch.stack(results), pictures * 2)
    assert set(sizes) == {batch}


def test_pictures_are_taken_as_they_are_needed():
    taken = []

    def pictures():
        for i in range(20):
            taken.append(i)
            yield torch.full((3, 2, 2), float(i))

    for done, result in enumerate(Pipeline(lambda x: x, CPU, 2)(pictures())):
        assert result[0, 0, 0] == done
        assert len(taken) <= done // 2 * 2 + 4


def test_errors_arrive():
    def run(_):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        list(Pipeline(run, CPU, 2)([torch.zeros(3, 2, 2)]))


@pytest.fixture(params=["daair_s", "dfpir_s"])
def restorer(request, tiny_checkpoints, monkeypatch) -> TorchRestorer:
    """A budget that leads to tiles."""
    made = load(tiny_checkpoints[request.param], device="cpu", precision="float32", guard=False)
    made.memory = int(smallest_tile(made.spec.multiple_of) ** 2 * made.probe.bytes_per_pixel) + 1
    monkeypatch.setattr(NetworkRunner, "_has_strips", False)
    return made


def restore(restorer: TorchRestorer, picture, seen=None):
    progress = None if seen is None else lambda done, total: seen.append((done, total))
    diagnosis = "haze" if restorer.spec.guided else None
    return restorer(picture, diagnosis=diagnosis, progress=progress)


@pytest.mark.parametrize("batch", [2, 3])
def test_a_picture_in_batches_of_tiles_is_that_of_single_tiles(restorer, batch, monkeypatch):
    picture = probe_picture(330)[0]
    expected = restore(restorer, picture)
    assert expected.report.tiles > 4
    monkeypatch.setattr(TorchRestorer, "_batch", lambda *_: batch)
    seen = []
    done = restore(restorer, picture, seen)
    assert torch.allclose(done.tensor, expected.tensor, rtol=0, atol=1e-5)
    assert done.report.tiles == expected.report.tiles
    assert seen == [(i + 1, done.report.tiles) for i in range(done.report.tiles)]


def test_one_tile_that_is_not_finite_is_redone_alone(restorer, monkeypatch):
    monkeypatch.setattr(TorchRestorer, "_batch", lambda *_: 3)
    picture, run, calls = probe_picture(330)[0], TorchRestorer._run, []
    expected = restore(restorer, picture)

    def spoiled(self, degraded, precision, prompt=0):
        restored = run(self, degraded, "float32", prompt).clone()
        calls.append((len(degraded), precision))
        if precision == "bf16":
            restored[-1] = torch.nan
        return restored

    monkeypatch.setattr(TorchRestorer, "_run", spoiled)
    monkeypatch.setattr(TorchRestorer, "precision", "bf16")
    done = restore(restorer, picture)
    assert done.report.guards["redone_in_float32"]
    assert calls.count((1, "float32")) == done.report.tiles // 3  # what fills up the last batch is dropped
    assert torch.allclose(done.tensor, expected.tensor, rtol=0, atol=1e-5)
    monkeypatch.setattr(TorchRestorer, "precision", "float32")
    monkeypatch.setattr(TorchRestorer, "_run", lambda self, x, *_: torch.full_like(x, torch.nan))
    with pytest.raises(NonFiniteOutputError):
        restore(restorer, picture)


class Recorded(Replay):
    """A graph that is recorded without a GPU: its replay gives what a function says."""

    def __init__(self, run, replayed) -> None:
        super().__init__(run)
        self.replayed, self.recorded = replayed, 0

    def _record(self, degraded):
        self.recorded += 1
        self._graph = object()

    def _replay(self, degraded):
        return self.replayed(degraded)


@pytest.mark.parametrize(
    ("replayed", "refused"),
    [
        (lambda x: x * 2 + 1e-3, None),
        (lambda x: x * 2 + 0.1, "its result differs"),
        (lambda x: x * torch.nan, "its result differs"),
        (lambda x: (_ for _ in ()).throw(RuntimeError("no stream")), "no stream"),
    ],
)
def test_a_graph_is_replayed_only_if_its_first_result_is_the_plain_one(replayed, refused):
    plain = []

    def run(x):
        plain.append(len(x))
        return x * 2

    graph, picture = Recorded(run, replayed), torch.rand(2, 3, 4, 4)
    for _ in range(3):
        result = graph(picture)
        assert torch.allclose(result, picture * 2, atol=2e-3)
    assert graph.refused == refused
    assert graph.recorded == 1
    assert len(plain) == (1 if refused is None else 3)


def test_a_network_that_is_watched_has_a_call_for_each_tile(restorer, monkeypatch):
    monkeypatch.setattr(TorchRestorer, "_batch", lambda *_: 3)
    calls = []
    restorer.network.register_forward_hook(lambda _network, _arguments, output: calls.append(len(output)))
    assert calls == [1] * restore(restorer, probe_picture(330)[0]).report.tiles


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graph_and_copies_on_a_gpu_give_the_plain_result(restorer, monkeypatch):
    on_gpu = TorchRestorer(restorer.network, restorer.spec, device="cuda", precision="float32")
    on_gpu.memory = restorer.memory
    picture = probe_picture(500)[0]
    monkeypatch.setattr(pipeline, "Replay", lambda run: run)
    monkeypatch.setattr(TorchRestorer, "_batch", lambda *_: 1)
    expected = restore(on_gpu, picture)
    monkeypatch.undo()
    done = restore(on_gpu, picture)
    assert torch.allclose(done.tensor, expected.tensor, rtol=0, atol=1e-4)
