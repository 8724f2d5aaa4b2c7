import pytest
import torch

from pellucid.metrics.ciede2000 import ciede2000, color_difference, lab

# From the table of Sharma, Wu and Dalal, 2005: pairs that sit at the turns of the formula.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
    ((50.0, -0.001, 2.49), (50.0, 0.0009, -2.49), 4.8045),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (50.0, 3.1736, 0.5854), 1.0),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
    ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("one", "other", "expected"), SHARMA)
def test_the_published_differences_come_out(one, other, expected):
    one, other = (torch.tensor(color, dtype=torch.float64).view(1, 3, 1, 1) for color in (one, other))
    assert float(color_difference(one, other)) == pytest.approx(expected, abs=5e-5)
    assert float(color_difference(other, one)) == pytest.approx(expected, abs=5e-5)


def test_known_colors_in_lab():
    red_white = torch.tensor([[1.0, 0, 0], [1, 1, 1]], dtype=torch.float64).T.view(1, 3, 1, 2)
    found = lab(red_white)[0, :, 0].T
    expected = torch.tensor([[53.24, 80.09, 67.2], [100, 0, 0]], dtype=torch.float64)
    assert (found - expected).abs().max() < 0.02


def test_half_of_the_pixels_off_is_half_the_difference():
    clean = torch.full((3, 4, 4), 0.5)
    restored = clean.clone()
    restored[0] = 0.6
    whole = ciede2000(restored, clean)
    restored[:, :2] = clean[:, :2]
    assert ciede2000(restored, clean) == pytest.approx(whole / 2, rel=1e-12)
