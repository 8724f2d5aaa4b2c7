"""Learned perceptual distance, by the package `lpips` where it is installed."""

import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.metrics._measure import Measure, checked_pair

LEAST_SIDE = 32  # AlexNet's last layers have no pixels below


def lpips_alex(restored: Tensor, clean: Tensor) -> float:
    """LPIPS 0.1 on AlexNet's features, by its authors' package; 0 for equal pictures.

    Args:
        restored: (3, H, W) or (B, 3, H, W) floating point in [0, 1], sides of at least 32.
        clean: of the same shape.

    Returns:
        The mean over the batch, computed in float32.

    Raises:
        InputError: another shape, dtype or range; or the package or its weights are not installed.
    """
    restored, clean = checked_pair(restored, clean, LEAST_SIDE)
    network = load_network()
    with torch.inference_mode():
        return float(network(restored.float(), clean.float(), normalize=True).double().mean())


@cache
def load_network() -> Any:
    """The authors' network. Nothing is downloaded.

    Raises:
        InputError: the package or its weights are not installed.
    """
    try:
        package = import_module("lpips")
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision of another torch
        raise InputError(
            f"lpips_alex needs the package lpips, which can't be imported ({error}). Install it, with a "
            "torchvision that fits the torch in use, or leave lpips_alex out."
        ) from error
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not any(folder.glob("alexnet-owt-*.pth")):
        raise InputError(
            f"lpips_alex needs AlexNet's weights, which are not in {folder}; pellucid downloads none. Put "
            "torchvision's alexnet-owt-7be5be79.pth there, or leave lpips_alex out."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by names that are deprecated
        return package.LPIPS(net="alex", verbose=False).eval()


MEASURES = (
    Measure(
        "lpips_alex",
        lpips_alex,
        0.0,
        "",
        "Zhang et al., CVPR 2018, version 0.1",
        digits=4,
        lower_is_better=True,
        prepare=load_network,
    ),
)
