"""What the prompts of a DFPIR do differently: permutations, attention masks, and the restored picture."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.explain._watch import has, rounded, watching
from pellucid.image import ImageBuffer
from pellucid.layers import split_heads
from pellucid.models.dfpir import PerturbationBlock, SelectiveCrossAttention
from pellucid.restorer import TorchRestorer

CROP = 256  # pixels: side of the center on which the prompts are compared


@dataclass(frozen=True)
class PerturbationView:
    """One perturbation block under every prompt; P prompts, C channels, h heads, c channels per head.

    Attributes:
        block: its path in the network.
        slots_differ: (P, P) share of the 2C slots that two prompts fill with different channels.
        displacement: (P, P) mean distance between a channel's slots under two prompts, as a share of 2C; 1/3
            for two permutations drawn by chance.
        masks_differ: (P, P) share of the attention entries dropped under one prompt that the other keeps.
        masks: (P, h, c, c) the entries kept, rows are queries.
    """

    block: str
    slots_differ: Tensor
    displacement: Tensor
    masks_differ: Tensor
    masks: Tensor


@dataclass(frozen=True)
class PromptComparison:
    """What changes with the prompt, on the center of one picture.

    Attributes:
        prompts: names, in the order of all matrices.
        told: the prompt that the picture was restored with.
        side: height and width of the center, in pixels.
        outputs_differ: (P, P) root mean square difference of the restored pictures, in gray levels of 255.
        blocks: in the order of the forward pass.
    """

    prompts: tuple[str, ...]
    told: str
    side: tuple[int, int]
    outputs_differ: Tensor
    blocks: tuple[PerturbationView, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; of the masks, what share of a row is kept."""
        return rounded(
            {
                "prompts": self.prompts,
                "told": self.told,
                "center": {"height": self.side[0], "width": self.side[1]},
                "outputs_differ": self.outputs_differ,
                "blocks": [
                    {
                        "block": view.block,
                        "slots_differ": view.slots_differ,
                        "displacement": view.displacement,
                        "masks_differ": view.masks_differ,
                        "kept": float(view.masks.float().mean()),
                    }
                    for view in self.blocks
                ],
            }
        )


def perturbs(restorer: TorchRestorer) -> bool:
    """Whether the network has perturbation blocks that show: an engine has no hooks."""
    return restorer.engine is None and has(restorer.network, PerturbationBlock)


def compare_prompts(restorer: TorchRestorer, degraded: Tensor, told: str) -> PromptComparison:
    """Run the center of (3, H, W) in [0, 1] under every prompt and compare."""
    network = restorer.network
    prompts: tuple[str, ...] = tuple(network.config.prompts)  # type: ignore[union-attr, arg-type]
    top, left = (max(0, length - CROP) // 2 for length in degraded.shape[1:])
    center = ImageBuffer(degraded[:, top : top + CROP, left : left + CROP].contiguous())

    restorer.describe()  # and the probe's own runs are over
    outputs: list[Tensor] = []
    masks: dict[str, list[Tensor]] = {}
    with watching(network, SelectiveCrossAttention, _mask) as calls:
        for prompt in prompts:
            outputs.append(restorer(center, diagnosis=prompt).image.pixels)
            for path, mask in calls[-1].items():
                masks.setdefault(path.removesuffix(".cross_attn"), []).append(mask)
    blocks = (
        _view(path, network.get_submodule(path).permutations.cpu(), torch.stack(kept))  # type: ignore[union-attr, operator]
        for path, kept in masks.items()
    )
    flat = torch.stack(outputs).flatten(1).double()
    differences = torch.stack([(flat - row).square().mean(-1).sqrt() * 255 for row in flat])
    return PromptComparison(prompts, told, (center.height, center.width), differences, tuple(blocks))


def _mask(module: SelectiveCrossAttention, arguments: tuple[Tensor, Tensor], _: Tensor) -> Tensor:
    """The entries (h, c, c) that the attention keeps, worked out once more from what it was given."""
    x, source = arguments
    query = module.query_depthwise(module.query(x))
    key = module.key_value_depthwise(module.key_value(source)).chunk(2, dim=1)[0]
    rows = module.attention(*(split_heads(part, module.num_heads) for part in (query, key)))
    return rows[0].cpu() > 0


def _view(path: str, permutations: Tensor, masks: Tensor) -> PerturbationView:
    slots = permutations.argsort(-1).double()  # (P, 2C) where each channel goes
    dropped = (~masks).flatten(1).double()  # (P, h*c*c)
    alike = (dropped @ dropped.T) / dropped.sum(-1, keepdim=True).clamp_min(1)
    return PerturbationView(
        path,
        (permutations[:, None] != permutations[None]).double().mean(-1),
        (slots[:, None] - slots[None]).abs().mean(-1) / slots.shape[1],
        torch.where(dropped.sum(-1, keepdim=True) > 0, 1 - alike, 0.0),
        masks,
    )
