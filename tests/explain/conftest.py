"""Small restorers whose routers and prompts have something to say."""

import dataclasses

import pytest
import torch

from pellucid import models
from pellucid.models.daair import DaAIR, DaAIRConfig, RankProjection, Router
from pellucid.models.dfpir import DFPIR, DFPIRConfig
from pellucid.restorer import TorchRestorer

TINY_DAAIR = DaAIRConfig(
    dim=8, encoder_blocks=(1, 2), decoder_blocks=(1,), num_heads=(1, 2), rank=4, num_experts=3
)
TINY_DFPIR = DFPIRConfig(
    dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, prompts=("noise", "rain", "haze")
)


@pytest.fixture
def routed() -> TorchRestorer:
    torch.manual_seed(0)
    network = DaAIR(TINY_DAAIR)
    for module in network.modules():
        if isinstance(module, Router):
            torch.nn.init.normal_(module.linear.weight, std=4)
        if isinstance(module, RankProjection):
            torch.nn.init.normal_(module.weight, std=0.3)
    spec = dataclasses.replace(models.get("daair"), config=TINY_DAAIR)
    return TorchRestorer(network, spec, name="tiny", device="cpu", precision="float32")


@pytest.fixture
def guided() -> TorchRestorer:
    torch.manual_seed(0)
    spec = dataclasses.replace(models.get("dfpir"), config=TINY_DFPIR)
    return TorchRestorer(DFPIR(TINY_DFPIR), spec, name="told", device="cpu", precision="float32")
