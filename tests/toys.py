"""A tiny network whose results can be told by hand, a restorer around it, random weights, a picture."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pellucid.models import ModelSpec
from pellucid.restorer import TorchRestorer


@dataclass(frozen=True)
class ToyConfig:
    prompts: tuple[str, ...] = ("rain", "haze")


class Toy(nn.Module):
    """A blur that sees two pixels far, so that tiles must agree exactly; guided, it darkens by its prompt."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.blur = nn.Conv2d(3, 3, 5, padding=2, bias=False, groups=3)
        nn.init.constant_(self.blur.weight, 1 / 25)

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        assert x.shape[2] % 8 == x.shape[3] % 8 == 0
        x = self.blur(x)
        return x if prompt is None else x * (0.5 - 0.25 * prompt)[:, None, None, None]


BLIND = ModelSpec("toy", ToyConfig(), Toy, "none", guided=False, multiple_of=8, parameters=75)


GUIDED = ModelSpec("toy_guided", ToyConfig(), Toy, "none", guided=True, multiple_of=8, parameters=75)


def toy(network: nn.Module | None = None, spec: ModelSpec = BLIND, **options) -> TorchRestorer:
    options = {"device": "cpu", "precision": "float32"} | options
    return TorchRestorer(network or Toy(ToyConfig()), spec, **options)


def shaken(spec: ModelSpec, scale: float, **numbers: Any) -> nn.Module:
    """A network some way into training: fresh ones hold zeros that hide what is behind them.

    `numbers` replace those of its configuration.
    """
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(0)
        network = spec.build(replace(spec.config, **numbers))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    return network.eval()


def photograph(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A smooth picture with much to see, another one for every seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
