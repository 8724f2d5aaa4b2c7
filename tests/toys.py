"""A tiny network whose results can be told by hand, a restorer around it; networks with random weights."""

from dataclasses import dataclass, replace
from typing import Any

import torch
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
