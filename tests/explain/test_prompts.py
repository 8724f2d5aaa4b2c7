"""What the prompts of a DFPIR do differently."""

import json

import pytest
import torch

from pellucid.explain import explain_picture
from pellucid.explain.prompts import _view, compare_prompts
from pellucid.image import ImageBuffer

BLOCKS = [
    "encoder.0.perturbation",
    "encoder.1.perturbation",
    "encoder.2.perturbation",
    "bottleneck.perturbation",
]


def picture(height: int = 24, width: int = 40) -> ImageBuffer:
    return ImageBuffer(torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)))


def test_matrices_compare_every_two_prompts(guided):
    found = explain_picture(guided, picture(), diagnosis="rain").prompts
    assert (found.prompts, found.told, found.side) == (("noise", "rain", "haze"), "rain", (24, 40))
    assert [view.block for view in found.blocks] == BLOCKS
    for view in found.blocks:
        for matrix in (view.slots_differ, view.displacement, view.masks_differ):
            assert matrix.shape == (3, 3)
            assert torch.equal(matrix, matrix.T)
            assert not matrix.diagonal().any()
        permutations = guided.network.get_submodule(view.block).permutations
        differ = (permutations[0] != permutations[2]).double().mean()
        assert view.slots_differ[0, 2] == differ > 0.5
    json.dumps(found.to_dict(), allow_nan=False)


def test_outputs_differ_as_the_restorer_s_do(guided):
    found = explain_picture(guided, picture(), diagnosis="rain").prompts
    one, other = (guided(picture(), diagnosis=name).image.pixels for name in ("noise", "haze"))
    rms = (one - other).square().mean().sqrt().item() * 255
    assert found.outputs_differ[0, 2].item() == pytest.approx(rms, rel=1e-4)
    assert rms > 0.01


def test_masks_keep_nine_tenths_of_each_row_and_are_the_attention_s(guided):
    rows = {}
    for path in BLOCKS:
        module = guided.network.get_submodule(path).cross_attn
        attention = module.attention
        module.attention = lambda q, k, f=attention, p=path: rows.setdefault(p, f(q, k))
    found = compare_prompts(guided, picture().pixels, "noise")  # the first call is under the first prompt
    for view in found.blocks:
        assert torch.equal(view.masks[0], rows[view.block][0] > 0)
        assert torch.equal(view.masks.sum(-1), torch.full(view.masks.shape[:3], 7))  # of 8 channels per head


def test_known_permutations_and_masks_give_known_numbers():
    permutations = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0]])
    masks = torch.ones(3, 1, 2, 2, dtype=torch.bool)
    masks[0, 0, 0, 0] = masks[0, 0, 1, 1] = masks[1, 0, 0, 0] = masks[1, 0, 1, 0] = False
    view = _view("bottleneck", permutations, masks)
    assert view.slots_differ.tolist() == [[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]]
    assert view.displacement[0].tolist() == [0, 0.125, 0.5]
    assert view.masks_differ[0, 1] == view.masks_differ[1, 0] == 0.5
    assert view.masks_differ[2].tolist() == [0, 0, 0]  # it drops nothing


def test_large_pictures_are_compared_by_their_center(guided, monkeypatch):
    monkeypatch.setattr("pellucid.explain.prompts.CROP", 16)
    x = picture().pixels
    center = compare_prompts(guided, x, "rain")
    assert center.side == (16, 16)
    alone = compare_prompts(guided, x[:, 4:20, 12:28].contiguous(), "rain")
    assert torch.equal(center.outputs_differ, alone.outputs_differ)
