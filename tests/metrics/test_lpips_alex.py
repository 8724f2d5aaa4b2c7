import sys
from types import SimpleNamespace

import pytest
import torch

from pellucid.errors import InputError
from pellucid.metrics import lpips_alex

PICTURE = torch.zeros(3, 32, 32)


@pytest.fixture(autouse=True)
def no_network_is_kept():
    lpips_alex.load_network.cache_clear()
    yield
    lpips_alex.load_network.cache_clear()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match=r"needs the package lpips.*leave lpips_alex out"):
        lpips_alex.lpips_alex(PICTURE, PICTURE)


def test_missing_weights_are_named_and_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace())  # building a network would fail
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"AlexNet's weights.*alexnet-owt-7be5be79.pth"):
        lpips_alex.lpips_alex(PICTURE, PICTURE)


def test_a_picture_too_small_for_its_layers_is_refused():
    with pytest.raises(InputError, match="at least 32"):
        lpips_alex.lpips_alex(PICTURE[:, :31], PICTURE[:, :31])
