"""What the shipped weights must not miss, on photographs that they were not trained on."""

import numpy as np
import pytest
import torch
from skimage import data

from pellucid import load
from pellucid.degradations.film_grain import FilmGrain, FilmGrainParams
from pellucid.diagnosis import Recognizer
from pellucid.metrics.psnr_rgb import psnr_rgb
from pellucid.srgb import to_encoded, to_linear


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


def noisy(photograph: np.ndarray, sigma: float, channels: int) -> np.ndarray:
    noise = np.random.default_rng(3).normal(0, sigma, (*photograph.shape[:2], channels))
    return np.clip(photograph + noise, 0, 255).round().astype(np.uint8)


GRAY = np.repeat(data.camera()[:304, :400, None], 3, axis=2)
COLOR = data.coffee()[:304, :400]


@pytest.mark.parametrize("sigma", [15, 25, 50])
@pytest.mark.parametrize(
    ("photograph", "channels"),
    [(COLOR, 3), (COLOR, 1), (GRAY, 1)],
    ids=["a color photograph", "grain in a color photograph", "a gray photograph"],
)
def test_noise_is_seen(recognizer, photograph, channels, sigma):
    found = recognizer(noisy(photograph, sigma, channels))
    assert "noise" in found.present and not found.needs_nothing()
    assert found.strengths["noise"] == pytest.approx(sigma, rel=0.3)


@pytest.mark.parametrize("side", [64, 96, 120])
def test_noise_is_seen_in_a_picture_smaller_than_a_crop(recognizer, side):
    found = recognizer(noisy(data.astronaut()[60 : 60 + side, 180 : 180 + side], 25, 3))
    assert "noise" in found.present


@pytest.mark.parametrize("photograph", [GRAY, COLOR], ids=["gray", "color"])
def test_clean_photographs_need_nothing(recognizer, photograph):
    assert recognizer(photograph).needs_nothing()


@pytest.mark.parametrize("stops", [2, 3.5])
@pytest.mark.parametrize("photograph", [data.rocket(), data.chelsea()], ids=["rocket", "chelsea"])
def test_underexposure_without_noise_is_seen(recognizer, photograph, stops):
    light = torch.from_numpy(photograph.copy()).permute(2, 0, 1).float() / 255
    assert recognizer(light).needs_nothing()
    found = recognizer((to_encoded(to_linear(light) / 2**stops) * 255).round() / 255)
    assert "low_light" in found.present and not found.needs_nothing()


def plain(*color: int) -> torch.Tensor:
    return torch.tensor(color)[:, None, None].expand(3, 128, 160) / 255


RAMP = (torch.linspace(0, 1, 128)[:, None] + torch.linspace(0, 1, 160)) / 2


PLAIN = {
    "black": plain(0, 0, 0),
    "nearly black": plain(10, 10, 10),
    "dark": plain(33, 25, 23),
    "red": plain(200, 30, 40),
    "pale": plain(240, 240, 235),
    "white": plain(255, 255, 255),
    "ramp": RAMP.expand(3, -1, -1),
    "dark ramp": 0.2 * RAMP.expand(3, -1, -1),
    "blue ramp": plain(120, 170, 230) * RAMP,
}


@pytest.mark.parametrize("name", PLAIN)
def test_flat_colors_and_ramps_come_back(name):
    picture = PLAIN[name].contiguous()
    restored = load(device="cpu", precision="float32")(picture).tensor
    assert psnr_rgb(restored[None], picture[None]) > 44


@pytest.mark.parametrize(("model", "least"), [("daair_s.5task", 3), ("dfpir_s.5task", 1.5)])
@pytest.mark.parametrize("softness", [0.0, 0.6])
def test_film_grain_is_removed(model, least, softness):
    clean = torch.from_numpy(GRAY[100:228, 150:278].copy()).permute(2, 0, 1)[None].float() / 255
    grainy = FilmGrain().apply(clean, FilmGrainParams((25.0,), (softness,), (0.0,), (3,)))
    restorer = load(model, device="cpu")
    restored = restorer.run(grainy[0], diagnosis="noise" if restorer.prompts else None)[None]
    gain = psnr_rgb(restored.clamp(0, 1), clean) - psnr_rgb(grainy, clean)
    assert gain > least
