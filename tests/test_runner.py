import pytest
import torch
from tests.toys import Toy, ToyConfig, toy
from torch import Tensor

from pellucid import compute, models
from pellucid.errors import (
    InputError,
    MemoryBudgetError,
    NonFiniteOutputError,
)
from pellucid.restorer import TorchRestorer, load
from pellucid.runner import pad_picture
from pellucid.tiling import smallest_tile


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (8, 16), (33, 65)])
def test_any_size_comes_back(size):
    restoration = toy()(torch.rand(3, *size))
    assert restoration.tensor.shape == (3, *size)
    assert not restoration.tensor.is_inference()
    assert restoration.report.tiles == 1


def test_tiles_agree_with_the_whole():
    picture = torch.rand(3, 333, 410)
    whole = toy(memory=10**9)(picture)
    per_pixel = toy().probe.bytes_per_pixel
    calls = []
    tiled = toy(memory=int(smallest_tile(8) ** 2 * per_pixel) + 1)(
        picture, progress=lambda done, total: calls.append((done, total))
    )
    assert whole.report.tiles == 1
    assert tiled.report.tiles >= 6
    assert calls == [(i + 1, tiled.report.tiles) for i in range(tiled.report.tiles)]
    assert torch.allclose(tiled.tensor, whole.tensor, atol=1e-6)


def test_the_real_small_network_runs_in_tiles(small_weights, monkeypatch):
    picture = compute.probe_picture(240)[0]
    restorer = load(small_weights, device="cpu", precision="float32", memory=10**9)
    monkeypatch.setattr(restorer.network, "strips_from", 0)
    strips = restorer(picture)
    monkeypatch.setattr(restorer, "_plan_strips", lambda *_: None)
    whole = restorer(picture)
    assert strips.report.strips is not None
    assert whole.report.strips is None
    assert torch.allclose(strips.tensor, whole.tensor, atol=1e-5)
    restorer.memory = int(smallest_tile(16) ** 2 * restorer.probe.bytes_per_pixel) + 1
    tiled = restorer(picture)
    assert (whole.report.tiles, tiled.report.tiles) == (1, 4)
    # Channel weights and routes come from what a tile sees, so tiles differ by a little, nowhere by much.
    assert float((whole.tensor - tiled.tensor).abs().mean()) < 0.01


def test_the_default_budget_caps_tiles_on_the_cpu():
    assert 0 < toy()._tile_pixels() <= compute.CPU_TILE_PIXELS


def test_a_budget_too_small_is_refused():
    with pytest.raises(MemoryBudgetError, match=r"300 x 200 pixels .* at least 144 x 144.*--memory"):
        toy(memory=1000)(torch.rand(3, 200, 300))


class Hungry(Toy):
    """Runs out of memory above so many pixels."""

    limit = 0

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        if x.shape[2] * x.shape[3] > self.limit:
            raise torch.OutOfMemoryError("no")
        return super().forward(x)


def test_out_of_memory_means_smaller_tiles():
    network, picture = Hungry(ToyConfig()), torch.rand(3, 300, 300)
    network.limit = 200 * 200
    restoration = toy(network)(picture)
    assert restoration.report.guards == {"redone_in_float32": False, "replanned": True}
    assert torch.allclose(restoration.tensor, toy()(picture).tensor, atol=1e-6)
    network.limit = 100 * 100
    with pytest.raises(MemoryBudgetError, match="more than the device could give"):
        toy(network)(picture)


class Overflowing(Toy):
    """Not finite in bf16, and if asked not in float32 either."""

    always = False

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        restored = super().forward(x)
        bad = self.always or torch.is_autocast_enabled("cpu")
        return restored * float("inf") if bad else restored


def test_non_finite_output_is_redone_in_float32_then_refused():
    network, picture = Overflowing(ToyConfig()), torch.rand(3, 20, 20)
    restoration = toy(network, precision="bf16")(picture)
    assert restoration.report.guards["redone_in_float32"]
    assert torch.equal(restoration.tensor, toy()(picture).tensor)
    network.always = True
    with pytest.raises(NonFiniteOutputError, match="float32"):
        toy(network, precision="bf16")(picture)
    with pytest.raises(NonFiniteOutputError):
        toy(network)(picture)


def test_bf16_is_close_to_float32():
    picture = compute.probe_picture(64)[0]
    difference = toy(precision="bf16")(picture).tensor - toy()(picture).tensor
    assert 0 < float(difference.square().mean().sqrt()) <= compute.CLOSENESS


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="fp8"):
        toy(precision="fp8")
    for memory in (0, float("nan"), float("inf"), "2GB"):
        with pytest.raises(InputError, match="memory"):
            toy(memory=memory)


def test_padding_reflects_then_replicates():
    row = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert pad_picture(row, 2, 8).tolist() == [[[1, 2, 3, 2, 1, 1, 1, 1]] * 2]
    assert torch.equal(pad_picture(row, 1, 3), row)


def test_the_probe_runs_once_per_process_and_weights(small_weights, monkeypatch):
    first = load(small_weights, device="cpu", precision="float32").probe
    monkeypatch.setattr(compute, "probe_network", None)
    assert load(small_weights, device="cpu", precision="float32").probe is first


@pytest.mark.parametrize("name", models.restoring())
def test_every_structure_can_be_restored_with(name):
    spec = models.get(name)
    if spec.parameters > 3_000_000:
        pytest.skip("the large structures share their code with the small ones")
    restorer = TorchRestorer(spec.build(spec.config), spec, device="cpu", precision="float32")
    diagnosis = spec.config.prompts[0] if spec.guided else None
    assert restorer(torch.rand(3, 20, 9), diagnosis=diagnosis).tensor.shape == (3, 20, 9)
