"""Routers are seen as they decide, and their choices counted."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pellucid import write_image
from pellucid.arrays import image_from_array
from pellucid.errors import InputError
from pellucid.explain import explain_folders, explain_picture, explain_shards
from pellucid.explain.routing import (
    count_choices,
    mutual_information,
    short_name,
    summarize_choices,
    watching_routers,
)
from pellucid.image import ImageBuffer
from pellucid.light import LightRule
from pellucid.models.daair import Router
from pellucid.runner import NetworkRunner

BLOCKS = ["encoder.0.0", "encoder.1.0", "encoder.1.1", "decoder.0.0"]


def picture(seed: int = 0, height: int = 24, width: int = 40) -> ImageBuffer:
    return ImageBuffer(torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)))


def test_choices_are_the_routers_own(routed):
    """What the hooks tell equals what the routers return, by a hook of the test's own."""
    routed.describe()
    told = []
    for module in routed.network.modules():
        if isinstance(module, Router):
            module.register_forward_hook(lambda _m, _a, out: told.append((out[0].item(), out[1].item())))
    explanation = explain_picture(routed, picture())
    assert [choice.block for choice in explanation.routing] == BLOCKS
    for choice, (expert, gate) in zip(explanation.routing, told, strict=True):
        assert (choice.expert, choice.tiles) == (expert, (expert,))
        assert choice.confidence == pytest.approx(gate, abs=1e-6)
        assert choice.confidence == max(choice.probabilities)
        assert sum(choice.probabilities) == pytest.approx(1, abs=1e-6)


def test_looking_changes_nothing_and_leaves_no_hook(routed):
    plain = routed(picture()).image.pixels
    explained = explain_picture(routed, picture())
    # In strips sums run in another order.
    assert torch.allclose(explained.restored.pixels, plain, rtol=0, atol=1e-5)
    modules = list(routed.network.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    with pytest.raises(InputError, match="takes no diagnosis"):
        explain_picture(routed, picture(), diagnosis="rain")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_every_tile_has_its_choice(routed, monkeypatch):
    monkeypatch.setattr(NetworkRunner, "_batch", lambda *_: 4)  # as on a GPU
    routed.memory = int(16_000 * routed.probe.bytes_per_pixel)
    explanation = explain_picture(routed, picture(1, 64, 500))
    assert explanation.report.tiles > 1
    assert all(len(choice.tiles) == explanation.report.tiles for choice in explanation.routing)


def test_a_tile_that_was_not_finite_is_not_counted(routed):
    """Stands for bf16 that overflows: the network's first call is spoiled, the restorer's second is not."""
    routed.describe()
    routed._probe = routed.probe.__class__(**{**vars(routed.probe), "precision": "bf16"})
    calls = []

    def spoil(_module: nn.Module, _arguments: object, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * float("nan") if len(calls) == 1 else output

    routed.network.register_forward_hook(spoil)
    explanation = explain_picture(routed, picture())
    assert explanation.report.guards["redone_in_float32"]
    assert len(calls) == 2
    assert [len(choice.tiles) for choice in explanation.routing] == [1, 1, 1, 1]


def test_reduced_copies_are_not_counted(routed, monkeypatch):
    """Of a picture that is seen from afar, the choices are those at full size."""
    plain = explain_picture(routed, picture(2, 96, 160)).routing
    asked = []
    monkeypatch.setattr(routed, "light_rule", lambda *size: asked.append(size) or LightRule(views=(3, 5)))
    monkeypatch.setattr(routed, "guard", True)
    monkeypatch.setattr(routed, "leaves_alone", lambda _: False)
    explained = explain_picture(routed, picture(2, 96, 160))
    assert explained.report.guards["light_from_afar"] and len(asked) == 1
    assert explained.routing == plain


def test_most_tiles_decide_and_probabilities_are_means():
    calls = [
        {"encoder.0.0.learner.router": (expert, torch.tensor(probabilities))}
        for expert, probabilities in ((1, [0.2, 0.8]), (0, [0.9, 0.1]), (1, [0.4, 0.6]))
    ]
    (choice,) = summarize_choices(calls)
    assert (choice.block, choice.expert, choice.tiles) == ("encoder.0.0", 1, (1, 0, 1))
    assert choice.probabilities == pytest.approx((0.5, 0.5))
    assert short_name(choice.block) == "E1.1"
    assert short_name("decoder.2.0") == "D3.1"
    assert short_name("middle") == "middle"


def test_the_probe_is_not_watched(routed):
    routed.describe()
    with watching_routers(routed) as calls:
        routed(picture())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("counts", "bits"),
    [
        ([[5, 0], [0, 5]], 1.0),
        ([[5, 5], [5, 5]], 0.0),
        ([[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 4]], 2.0),
        ([[7, 0], [3, 0]], 0.0),
        ([[2, 0], [1, 1]], 0.3112781244591328),  # worked out by hand: 1.5 - 0.75 log2 3
    ],
)
def test_mutual_information_is_what_theory_says(counts, bits):
    assert mutual_information(torch.tensor(counts)).item() == pytest.approx(bits, abs=1e-12)


def test_choices_are_counted_by_block_kind_and_expert():
    kind = torch.tensor([0, 0, 1])
    expert = torch.tensor([[2, 0], [2, 1], [0, 1]])
    counts = count_choices(kind, expert, 2, 3)
    assert counts.tolist() == [[[0, 0, 2], [1, 0, 0]], [[1, 1, 0], [0, 1, 0]]]


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for kind, light in (("dark", 20), ("light", 200)):
        (tmp_path / kind).mkdir()
        for i in range(6):
            pixels = (light + rng.integers(0, 40, (20, 30, 3))).astype(np.uint8)
            write_image(image_from_array(pixels), tmp_path / kind / f"{i}.png")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "dark" / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_router_that_tells_kinds_apart_has_their_entropy_and_beats_chance(routed, folders):
    with torch.no_grad():
        routed.network.stem.weight.fill_(1 / 27)  # the first block sees local means
    block = routed.network.encoder[0][0]
    block.norm1.forward = lambda x: x
    block.learner.router.forward = _split_at_a_half
    table = explain_folders(routed, folders, limit=5)
    assert table.kinds == ("dark", "light")
    assert table.counts.shape == (4, 2, 3)
    assert table.counts.sum(-1).tolist() == [[5, 5]] * 4
    assert table.kind_bits == pytest.approx(1)
    assert table.counts[0].tolist() == [[5, 0, 0], [0, 0, 5]]
    assert table.bits[0].item() == pytest.approx(1)
    assert table.chance_bits[0] < 0.9
    assert (table.bits <= table.kind_bits + 1e-9).all()


def _split_at_a_half(x: torch.Tensor, _trial: None) -> tuple[torch.Tensor, torch.Tensor]:
    light = x.mean((1, 2, 3)) > 0.5
    return light.long() * 2, torch.ones(len(x))


def test_shards_give_a_row_for_each_kind(routed, shards):
    seen = []
    table = explain_shards(routed, shards, limit=2, crop=32, progress=seen.append)
    assert {"rain", "noise_15", "low_light", "clean"} <= set(table.kinds)
    assert seen == list(range(1, len(seen) + 1))
    values = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert values["experts"] == 3
    assert sum(values["pictures"].values()) == len(seen)
    assert len(values["data_sha256"]) == 64
    assert [block["block"] for block in values["blocks"]] == BLOCKS
    for block in values["blocks"]:
        assert {kind: sum(row) for kind, row in block["counts"].items()} == values["pictures"]
        assert all(1 / 3 <= confidence <= 1 for confidence in block["confidence"].values())


def test_what_makes_no_table_is_refused(routed, guided, folders, tmp_path):
    with pytest.raises(InputError, match="told has no routers"):
        explain_folders(guided, folders)
    with pytest.raises(InputError, match="can't be listed"):
        explain_folders(routed, tmp_path / "nowhere")
    with pytest.raises(InputError, match="0 sub-folders with pictures"):
        explain_folders(routed, folders / "dark")
    with pytest.raises(InputError, match="limit is 0"):
        explain_folders(routed, folders, limit=0)
