import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid import models
from pellucid.checkpoint import Checkpoint
from pellucid.diagnosis import Recognizer, calibrate, conclude, with_haze_from_afar
from pellucid.errors import CheckpointError, InputError
from pellucid.image import ImageBuffer
from pellucid.models.recognizer import SCALES, Answers, RecognizerConfig, RecognizerNetwork
from pellucid.restorer import load

CONFIG = RecognizerConfig(familiar=2.0)
KINDS = CONFIG.kinds


def answers(nothing: float = -5.0, novelty: float = 1.0, **logits: float) -> Answers:
    """Of one picture; kinds that are not named are surely absent, strengths are the least that count."""
    row = [logits.get(kind, -5.0) for kind in KINDS]
    strengths = [SCALES[kind].encode(SCALES[kind].least) for kind in KINDS]
    return Answers(torch.tensor([[*row, nothing]]), torch.tensor([strengths]), torch.tensor([novelty]))


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(RecognizerNetwork(CONFIG))


def test_what_is_there_is_named_by_its_probability():
    found = conclude(answers(noise=2.0, rain=4.0), CONFIG)
    assert (found.verdict, found.present, found.sure) == ("degraded", ("rain", "noise"), True)
    assert found.strengths == {"rain": pytest.approx(3), "noise": pytest.approx(4)}
    assert found.probabilities["rain"] == pytest.approx(0.982, abs=1e-3)
    assert json.loads(json.dumps(found.to_dict()))["present"] == ["rain", "noise"]


@pytest.mark.parametrize("pixels", [torch.zeros(3, 0, 5), torch.full((3, 40, 40), torch.nan)])
def test_what_is_no_picture_is_refused(recognizer, pixels):
    with pytest.raises(InputError):
        recognizer(ImageBuffer(pixels))


def test_restorers_share_the_embedded_recognizer():
    first, second = load(), load()
    assert first.recognizer is second.recognizer


def test_nothing_wrong_is_said_where_nothing_is():
    found = conclude(answers(nothing=4.0), CONFIG)
    assert (found.verdict, found.present, found.sure) == ("nothing wrong", (), True)
    assert str(found) == "nothing wrong"


@pytest.mark.parametrize(
    "case",
    [
        answers(nothing=0.0),
        answers(nothing=4.0, blur=-0.4),
        answers(nothing=4.0, novelty=2.5),
        answers(noise=5.0, novelty=2.5),
    ],
)
def test_what_is_not_known_is_unknown(case):
    found = conclude(case, CONFIG)
    assert (found.verdict, found.present, found.sure) == ("unknown", (), False)


def test_a_kind_left_open_makes_the_rest_unsure():
    found = conclude(answers(noise=5.0, blur=0.2), CONFIG)
    assert found.verdict == "degraded"
    assert not found.sure


def test_calibration_stretches_and_shifts():
    config = replace(CONFIG, slopes=(2.0,) * 7, offsets=(1.0,) * 7)
    assert calibrate(torch.zeros(7), CONFIG).tolist() == [0.5] * 7
    assert torch.allclose(calibrate(torch.ones(7), config), torch.tensor(3.0).sigmoid())


@pytest.mark.parametrize(
    ("prompts", "prompt"),
    [
        (("haze", "rain", "noise"), "rain"),
        (("haze", "noise"), "noise"),
        (("noise_15", "noise_25", "noise_50"), "noise_15"),
        (("portrait",), None),
    ],
)
def test_a_guided_network_is_told_what_is_most_probable_of_its_prompts(prompts, prompt):
    assert conclude(answers(rain=4.0, noise=2.0), CONFIG).prompt(prompts) == prompt


def test_noise_is_told_by_the_nearest_level():
    strong = answers(noise=4.0)
    strong.strengths[0, 0] = SCALES["noise"].encode(40.0)
    assert conclude(strong, CONFIG).prompt(("noise_15", "noise_25", "noise_50")) == "noise_50"


def test_all_sorts_of_pictures_are_taken(recognizer, tmp_path):
    from pellucid.image_io import write_image

    pixels = (torch.rand(3, 50, 60, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    image = ImageBuffer(pixels)
    write_image(image, tmp_path / "a.png")
    array = (pixels.permute(1, 2, 0) * 255).round().byte().numpy()
    found = [recognizer(p).probabilities for p in (image, pixels, array, tmp_path / "a.png")]
    assert all(other == pytest.approx(found[0], abs=1e-3) for other in found)
    with pytest.raises(InputError):
        recognizer(np.zeros((5, 5, 2), np.uint8))


def test_small_pictures_are_unknown(recognizer):
    assert recognizer(torch.rand(3, 31, 200)).verdict == "unknown"
    assert not recognizer(torch.rand(3, 31, 200)).familiar
    small = conclude(answers(noise=5.0), CONFIG, large_enough=False)
    assert (small.verdict, small.familiar) == ("unknown", False)


@pytest.mark.parametrize(("levels", "plain"), [(0, True), (1, True), (2, False)])
def test_nothing_is_wrong_with_one_color(levels: int, plain: bool, monkeypatch) -> None:
    asked: list[torch.Tensor] = []
    network = torch.nn.Module()
    network.config = CONFIG
    dark = Recognizer(network)
    monkeypatch.setattr(dark, "ask", lambda pixels: asked.append(pixels) or answers(low_light=5.0))
    picture = torch.full((3, 40, 50), 10 / 255)
    picture[1, 7, 9] += levels / 255
    found = dark.diagnose(picture)
    assert found.verdict == ("nothing wrong" if plain else "degraded")
    assert found.needs_nothing() is plain
    assert len(asked) == (not plain)


def test_beside_a_blur_a_trace_of_haze_changes_no_light():
    assert conclude(answers(blur=5.0, haze=-0.1), CONFIG).keeps_light
    assert not conclude(answers(blur=5.0, haze=0.1), CONFIG).keeps_light  # present
    assert not conclude(answers(blur=-0.1, haze=-0.1), CONFIG).keeps_light  # nor is the blur


def test_the_radius_of_a_blur_is_told_where_it_is_present():
    assert (
        conclude(answers(blur=5.0), CONFIG).blur_radius
        == conclude(answers(blur=5.0), CONFIG).strengths["blur"]
        > 0
    )
    assert conclude(answers(noise=5.0), CONFIG).blur_radius == 0


@pytest.mark.parametrize(
    ("found", "hazy"),
    [
        ({"haze": 0.1}, True),
        ({"haze": -0.1}, False),
        ({"haze": 5.0, "noise": 5.0}, True),
        ({"haze": 5.0, "low_light": 5.0}, False),
        ({"haze": 5.0, "novelty": 2.5}, False),
    ],
)
def test_a_hazy_picture_is_familiar_and_not_dark(found, hazy):
    assert conclude(answers(**found), CONFIG).is_hazy == hazy


NEAR, FAR = {"nothing": 3.0, "jpeg": 1.0}, {"nothing": -3.0, "haze": 5.0}


@pytest.mark.parametrize(
    ("near", "far", "present"),
    [
        (NEAR, FAR, ("haze", "jpeg")),
        ({"nothing": 5.0}, FAR, ("haze",)),
        (NEAR | {"novelty": 2.5}, FAR, ()),
        (NEAR, FAR | {"haze": 2.1}, ("jpeg",)),  # 0.89
        (NEAR, FAR | {"haze": 2.3}, ("haze", "jpeg")),  # 0.91
        (NEAR, FAR | {"low_light": 5.0}, ("jpeg",)),
        (NEAR, FAR | {"novelty": 2.5}, ("jpeg",)),
        (NEAR, FAR | {"noise": 5.0}, ("haze", "jpeg")),  # detail is told at full size
        (NEAR | {"low_light": 1.0}, FAR, ("low_light", "jpeg")),
        (NEAR | {"haze": 0.5}, FAR, ("jpeg", "haze")),
    ],
)
def test_haze_that_is_sure_from_afar_is_there(near, far, present):
    near, far = conclude(answers(**near), CONFIG), conclude(answers(**far), CONFIG)
    found = with_haze_from_afar(near, lambda: far)
    assert sorted(found.present) == sorted(present)
    if found is not near:
        assert found.present[0] == "haze" and found.is_hazy and found.verdict == "degraded"
        assert found.probabilities == near.probabilities | {"haze": far.probabilities["haze"]}
        assert found.strengths == near.strengths | {"haze": far.strengths["haze"]}
        assert found.nothing_wrong == far.nothing_wrong < near.nothing_wrong


@pytest.mark.parametrize(("size", "present"), [((800, 900), ("haze", "jpeg")), ((700, 800), ("jpeg",))])
def test_large_pictures_are_looked_at_from_afar_too(size, present, recognizer, monkeypatch):
    monkeypatch.setattr(
        recognizer, "ask", lambda pixels: answers(**(FAR if pixels.shape[2:] == (267, 300) else NEAR))
    )
    assert recognizer(torch.rand(3, *size)).present == present


def test_of_a_strange_or_small_picture_it_is_not_sure_that_its_light_was_kept():
    assert conclude(answers(blur=5.0), CONFIG).keeps_light
    assert not conclude(answers(blur=5.0, novelty=2.5), CONFIG).keeps_light
    assert not conclude(answers(blur=5.0), CONFIG, large_enough=False).keeps_light


def test_files_of_other_networks_are_refused_both_ways(small_weights, tmp_path):
    with pytest.raises(CheckpointError, match="holds a daair_s, which restores pictures"):
        Recognizer.load(small_weights)
    path = tmp_path / "r.safetensors"
    Checkpoint.from_network("recognizer", RecognizerNetwork(CONFIG)).write(path)
    assert Recognizer.load(path).name == "r"
    with pytest.raises(InputError, match="holds a recognizer, which restores nothing"):
        load(path)


def test_the_kinds_are_those_of_the_scales():
    assert models.get("recognizer").config.kinds == tuple(SCALES)
