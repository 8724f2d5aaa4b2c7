import math

import pytest
import torch

from pellucid.metrics.psnr_rgb import psnr_rgb


def test_a_known_value():
    clean = torch.zeros(3, 8, 8)
    assert psnr_rgb(clean + 0.1, clean) == pytest.approx(20)


def test_equal_pictures_are_infinitely_alike():
    assert psnr_rgb(torch.rand(3, 4, 4).clone(), torch.ones(3, 4, 4)) < math.inf
    assert psnr_rgb(torch.ones(3, 4, 4), torch.ones(3, 4, 4)) == math.inf


def test_one_pixel_is_enough():
    assert psnr_rgb(torch.ones(3, 1, 1), torch.zeros(3, 1, 1)) == 0
