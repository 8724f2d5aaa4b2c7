import copy
import dataclasses
import functools
import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.toys import shaken
from torch import Tensor, nn

from pellucid import compute, models, scratch, strips
from pellucid.compute import probe_picture
from pellucid.errors import MemoryBudgetError
from pellucid.layers import Downsample, Upsample, channel_attention_scores
from pellucid.restorer import TorchRestorer
from pellucid.strips import (
    ChannelSimilarity,
    Linear,
    Window,
    Workspace,
    convolve,
    downsample,
    plan_strips,
    upsample,
)

FEW = {"encoder_blocks": (1, 2, 1, 1), "decoder_blocks": (1, 2, 1)}
# The papers' blocks, fewer and narrower; odd hidden widths, so that filling them up is seen.
SHRUNK = {
    "dfpir": ("dfpir", {"dim": 12, "num_blocks": (1, 2, 1, 1), "num_refinement_blocks": 1}),
    "dfpir_learned": (
        "dfpir_s_learned",
        {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1},
    ),
    "daair": ("daair", {"dim": 12, **FEW}),
    "daair_figure": (
        "daair",
        {"dim": 8, **FEW, "query": "controller", "inner_residual": False, "kernel_size": 5},
    ),
    "daair_s": ("daair_s", {"dim": 12, **FEW}),
    "daair_s_controller": ("daair_s", {"dim": 8, **FEW, "query": "controller"}),
}


@functools.cache
def network(name: str) -> nn.Module:
    spec, config = SHRUNK[name]
    result = shaken(models.get(spec), 0.05, **config)
    result.strips_from = 0
    return result


def multiple(name: str) -> int:
    return models.get(SHRUNK[name][0]).multiple_of


def prompts(name: str) -> tuple[int, ...]:
    return (1,) if "dfpir" in name else ()


def picture(height: int, width: int) -> Tensor:
    return probe_picture(max(height, width))[0, :, :height, :width].contiguous()


def in_strips(name: str, degraded: Tensor, **options) -> Tensor:
    restored = degraded.clone()
    with torch.inference_mode():
        network(name).forward_strips(restored, Workspace(**options), *prompts(name))
    return restored


def whole(name: str, degraded: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(name)(degraded[None], *prompts(name))[0]


@pytest.mark.parametrize("name", SHRUNK)
@settings(max_examples=8, deadline=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 5), strip_bytes=st.integers(1, 60_000))
def test_strips_equal_the_whole(name, rows, columns, strip_bytes):
    degraded = picture(rows * multiple(name), columns * multiple(name))
    restored, expected = in_strips(name, degraded, strip_bytes=strip_bytes), whole(name, degraded)
    assert float((expected - degraded).abs().max()) > 0.05  # the network does something
    assert torch.allclose(restored, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SHRUNK)
def test_strips_equal_the_whole_in_float64(name):
    degraded = picture(5 * multiple(name), 3 * multiple(name)).double()
    exact, restored = copy.deepcopy(network(name)).double(), degraded.clone()
    with torch.inference_mode():
        exact.forward_strips(restored, Workspace(torch.float64, strip_bytes=5000), *prompts(name))
        expected = exact(degraded[None], *prompts(name))[0]
    assert torch.allclose(restored, expected, rtol=0, atol=1e-12)


# The 8 channels of the one left out flip what is selected.
@pytest.mark.parametrize("name", sorted(SHRUNK.keys() - {"dfpir_learned"}))
def test_bfloat16_is_close(name):
    degraded = picture(6 * multiple(name), 4 * multiple(name))
    coarse = in_strips(name, degraded, dtype=torch.bfloat16, strip_bytes=9000)
    exact = whole(name, degraded)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = whole(name, degraded)
    assert coarse.dtype == torch.float32
    # No farther off than autocast, which rounds at other places.
    assert 0 < float((coarse - exact).square().mean()) < 2 * float((autocast - exact).square().mean())


@pytest.mark.parametrize("name", SHRUNK)
def test_maps_in_files_change_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "TRIM_BYTES", 1000)
    degraded = picture(6 * multiple(name), 4 * multiple(name))
    in_files = in_strips(name, degraded, folder=tmp_path, strip_bytes=3000)
    assert torch.equal(in_files, in_strips(name, degraded, strip_bytes=3000))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(tmp_path):
    with pytest.raises(MemoryBudgetError, match="TMPDIR"):
        Workspace(folder=tmp_path).create_map(2**20, 2**20, 2**10)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("heights", [(1, 1, 1, 1, 1, 1), (4, 2), (6,), (2, 1, 3), (1, 5)])
def test_a_window_gives_the_rows_of_the_whole_convolution(kernel_size, heights):
    x = torch.randn(sum(heights), 5, 3)
    weight = torch.randn(3, 1, kernel_size, kernel_size)
    window, parts, centers, start = Window(kernel_size), [], [], 0
    for height in heights:
        window.room(x[start : start + height], 3).copy_(x[start : start + height])
        start += height
        rows = window.rows(last=start == len(x))
        parts.append(convolve(rows, weight))
        centers.append(rows[kernel_size // 2 : len(rows) - kernel_size // 2].clone())
    expected = nn.functional.conv2d(x.permute(2, 0, 1), weight, padding=kernel_size // 2, groups=3)
    assert torch.allclose(torch.cat(parts).permute(2, 0, 1), expected, atol=1e-5)
    assert torch.equal(torch.cat(centers), x)


def test_convolve_copies_nothing():
    rows, weight = torch.randn(6, 8, 16), torch.randn(16, 1, 3, 3)
    with compute._LiveBytes() as counter:
        result = convolve(rows, weight)
    assert result.is_contiguous()
    assert counter.peak <= weight.nbytes + result.nbytes


@pytest.mark.parametrize("strip_bytes", [1, 2000, 10**6])
def test_down_and_up_are_those_of_the_layers(strip_bytes):
    down, up = Downsample(8), Upsample(8)
    x = torch.randn(1, 8, 12, 10)
    work = Workspace(strip_bytes=strip_bytes)
    with torch.inference_mode():
        features = work.create_map(12, 10, 8)
        features.parts[0].copy_(x[0].permute(1, 2, 0))
        for layer, run in ((down, downsample), (up, upsample)):
            result = run(features, layer.conv).parts[0].permute(2, 0, 1)
            assert torch.allclose(result, layer(x)[0], atol=1e-5)


def test_similarity_is_that_of_the_layers():
    query_key = torch.randn(40, 3, 24)
    similarity, temperature = ChannelSimilarity(3), torch.rand(3, 1, 1)
    for strip in query_key.split((1, 20, 19)):
        similarity.add(strip.clone())  # its values are lost
    query, key = query_key.flatten(0, 1).t().view(2, 1, 3, 4, 120)
    expected = channel_attention_scores(query, key, temperature)
    assert torch.allclose(similarity.scores(temperature), expected, atol=1e-6)


def test_maps_side_by_side_are_written_each_in_its_part():
    work = Workspace(strip_bytes=1)
    left, right = work.create_map(3, 4, 2), work.create_map(3, 4, 1)
    both = left.beside(right)
    x, linear = torch.randn(3, 4, 5), Linear(torch.randn(5, 3), torch.randn(3))
    both.sweep(3).write(x, linear)
    both.sweep(3).add(x, linear)
    assert both.channels == 3
    strips_read = torch.cat([rows for rows, _ in both.sweep(3)])
    assert torch.allclose(strips_read, 2 * (x @ linear.weight + linear.bias), atol=1e-5)
    assert work.map_bytes == work.peak_map_bytes == 3 * 4 * 3 * 4
    del left, both
    assert work.map_bytes == 3 * 4 * 4


def restorer(name: str, **options) -> TorchRestorer:
    spec = models.get(SHRUNK[name][0])
    spec = dataclasses.replace(spec, config=network(name).config)
    return TorchRestorer(network(name), spec, **{"device": "cpu", "precision": "float32"} | options)


def diagnosis(name: str) -> str | None:
    return network(name).config.prompts[1] if prompts(name) else None


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["dfpir", "daair", "daair_s"])
@pytest.mark.parametrize("strip_bytes", [1, 2**17])
def test_no_more_memory_is_used_than_planned(name, precision, strip_bytes, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_BYTES", strip_bytes)
    tool, degraded = restorer(name, precision=precision, memory=10**9), picture(45, 32)
    plan = tool._plan_strips(48, 32, precision)
    assert (plan.rows == 1) == (strip_bytes == 1)
    used = compute.peak_bytes(lambda: tool(degraded, diagnosis=diagnosis(name)))
    assert plan.map_bytes < used <= plan.bytes


@pytest.mark.parametrize("name", ["dfpir", "daair", "daair_s"])
def test_the_restorer_takes_strips_and_says_so(name):
    tool, calls = restorer(name), []
    degraded = picture(50, 41)
    done = tool(degraded, diagnosis=diagnosis(name), progress=lambda *call: calls.append(call))
    plan = done.report.strips
    assert (done.report.tiles, plan.in_files) == (1, False)
    assert done.report.tile_size == tuple(-(-side // multiple(name)) * multiple(name) for side in (50, 41))
    assert calls == [(i + 1, plan.passes) for i in range(plan.passes)]
    assert done.report.to_dict()["strips"]["passes"] == plan.passes
    handle = network(name).register_forward_hook(lambda *_: None)
    try:
        watched = tool(degraded, diagnosis=diagnosis(name))
    finally:
        handle.remove()
    assert watched.report.strips is None
    assert torch.allclose(watched.tensor, done.tensor, rtol=0, atol=1e-5)


def test_a_small_picture_is_restored_in_one_piece_if_that_fits(monkeypatch):
    tool, degraded = restorer("daair_s", memory=10**9), picture(64, 48)
    expected = tool(degraded)
    monkeypatch.setattr(network("daair_s"), "strips_from", 64 * 48 + 1)
    whole = tool(degraded)
    assert (whole.report.strips, whole.report.tiles) == (None, 1)
    assert torch.allclose(whole.tensor, expected.tensor, rtol=0, atol=1e-5)
    assert tool(picture(64, 64)).report.strips is not None
    tool.memory = int(64 * 48 * tool.probe.bytes_per_pixel) - 1
    assert tool(degraded).report.strips is not None


def test_what_was_not_finite_is_planned_anew_in_float32(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**16)
    tool, degraded = restorer("daair", precision="bf16", memory=10**9), picture(160, 160)
    expected = restorer("daair")(degraded)
    inner = tool._run_strips

    def overflow(pixels, workspace, prompt):
        inner(pixels, workspace, prompt)
        if workspace.dtype == torch.bfloat16:
            pixels[0, 0, 0] = float("inf")

    monkeypatch.setattr(tool, "_run_strips", overflow)
    coarse = tool._plan_strips(160, 160, "bf16")
    tool.memory = coarse.bytes + coarse.map_bytes // 2  # float32 maps are twice as large
    redone = tool(degraded)
    assert redone.report.guards == {"redone_in_float32": True, "replanned": False}
    assert redone.report.strips.in_files
    assert redone.report.strips.bytes <= tool.memory
    assert torch.allclose(redone.tensor, expected.tensor, rtol=0, atol=1e-5)
    tool.memory = 10**9
    monkeypatch.setattr(tool, "_plan_strips", lambda *asked: coarse if "bf16" in asked else None)
    tiled = tool(degraded)  # strips in float32 have no room at all
    assert (tiled.report.strips, tiled.report.guards["replanned"]) == (None, True)


def test_a_small_budget_moves_maps_to_files_then_means_tiles(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_BYTES", 2**16)
    tool, degraded = restorer("daair", memory=10**9), picture(160, 160)
    ample = tool(degraded)
    tool.memory = ample.report.strips.bytes - ample.report.strips.map_bytes // 4
    tight = tool(degraded)
    assert tight.report.strips.in_files
    assert tight.report.strips.bytes <= tool.memory < ample.report.strips.bytes
    assert torch.allclose(tight.tensor, ample.tensor, rtol=0, atol=1e-5)

    def full(*_):
        raise MemoryBudgetError("The disk is full.")

    monkeypatch.setattr(Workspace, "create_map", full)
    with pytest.raises(MemoryBudgetError, match="the budget is"):
        tool(degraded)
    tool.memory = 10**9
    tiled = tool(degraded)
    assert tiled.report.strips is None
    assert tiled.report.guards["replanned"]


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 9000),
    width=st.integers(1, 9000),
    memory=st.integers(10**6, 10**11),
    disk=st.sampled_from([0, 10**9, 10**12]),
)
def test_a_plan_keeps_to_memory_and_disk(height, width, memory, disk):
    cost = strips.StripCost(map_values=45.0, widest=96.0, fixed_bytes=10**6, passes=90)
    plan = plan_strips(height, width, cost, torch.float32, memory=memory, disk=disk)
    if plan is None:
        least = 10**6 + 24 * height * width + 16 * width * 96 * 4
        assert memory < least + height * width * 45 * 4
        assert memory < least or disk < height * width * 45 * 4
        return
    assert plan.bytes <= memory
    assert plan.rows >= 1
    assert plan.map_bytes == height * width * 45 * 4
    assert plan.in_files or plan.bytes > plan.map_bytes
    assert not plan.in_files or plan.map_bytes <= disk


def test_a_picture_in_a_file_takes_its_result_there():
    cost = strips.StripCost(map_values=45.0, widest=96.0, fixed_bytes=10**6, passes=90)
    size, given = (10_000, 10_000), {"memory": 2 * 10**9, "disk": 10**11}
    assert plan_strips(*size, cost, torch.float32, **given) is None
    plan = plan_strips(*size, cost, torch.float32, **given, picture_in_file=True)
    assert plan is not None
    assert plan.in_files
    assert plan.bytes < 10**9


def test_no_folder_is_needed_in_memory(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    assert in_strips("daair", picture(16, 16)).shape == (3, 16, 16)
