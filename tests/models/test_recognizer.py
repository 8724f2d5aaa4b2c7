"""What is particular to the recognizer."""

import dataclasses
import json
import math

import pytest
import torch

from pellucid import models
from pellucid.checkpoint import Checkpoint
from pellucid.degradations.gaussian_noise import GaussianNoise
from pellucid.degradations.jpeg import Jpeg, JpegParams
from pellucid.errors import InputError
from pellucid.models.recognizer import SCALES, BlockSpectrum, RecognizerConfig, RecognizerNetwork, mirrored

SPEC = models.get("recognizer")
KINDS = SPEC.config.kinds


@pytest.fixture(scope="module")
def network() -> RecognizerNetwork:
    torch.manual_seed(0)
    return RecognizerNetwork(RecognizerConfig()).eval()


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_it_has_under_a_million_parameters_as_stated(network):
    count = sum(p.numel() for p in network.parameters())
    assert count == SPEC.parameters < 1_000_000
    assert not SPEC.restores and "recognizer" not in models.restoring()


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (128, 128), (200, 150), (500, 400)])
def test_any_size_is_answered(network, size):
    with torch.inference_mode():
        answers = network(pictures(2, *size))
    assert answers.logits.shape == (2, len(KINDS) + 1)
    assert answers.strengths.shape == (2, len(KINDS))
    assert answers.novelty.shape == (2,)
    assert all(answer.isfinite().all() for answer in answers)


def test_batch_equals_singles(network):
    x = pictures(3, 150, 200)
    with torch.inference_mode():
        batch, singles = network(x), [network(x[i : i + 1]) for i in range(3)]
    for i, answer in enumerate(batch):
        assert torch.allclose(answer, torch.cat([single[i] for single in singles]), atol=1e-4)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    network = RecognizerNetwork(RecognizerConfig()).train()
    answers = network(pictures(4, 128, 128))
    (answers.logits.square().sum() + answers.strengths.square().sum()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_checkpoint_brings_back_network_and_calibration(network, tmp_path):
    config = dataclasses.replace(network.config, slopes=(1.5,) * 7, offsets=(0.25,) * 7, familiar=2.0)
    calibrated = RecognizerNetwork(config)
    calibrated.load_state_dict(network.state_dict())
    path = tmp_path / "r.safetensors"
    Checkpoint.from_network("recognizer", calibrated.eval()).write(path)
    rebuilt = Checkpoint.read(path).build().eval()
    assert rebuilt.config == config
    x = pictures(1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(rebuilt(x).logits, network(x).logits)


def test_a_config_from_before_calibration_is_read():
    values = json.loads(json.dumps(dataclasses.asdict(SPEC.config)))
    for added in ("slopes", "offsets", "familiar"):
        del values[added]
    assert SPEC.config_from(values) == SPEC.config


def test_crops_are_native_on_jpegs_grid_and_spread(network):
    marks = torch.arange(300 * 400).float().reshape(1, 1, 300, 400).expand(1, 3, 300, 400)
    crops, _ = network.look(marks)
    starts = {(int(c[0, 0, 0]) // 400, int(c[0, 0, 0]) % 400) for c in crops[0]}
    assert len(starts) == crops.shape[1] == 9
    assert all(top % 8 == left % 8 == 0 for top, left in starts)
    assert {top for top, _ in starts} == {0, 80, 168} and {left for _, left in starts} == {0, 136, 272}


def test_the_block_spectrum_sees_jpeg_on_its_grid_only():
    """Coefficients are zero much more often on JPEG's grid than beside it; without JPEG they are not."""
    smooth = torch.nn.functional.interpolate(pictures(1, 16, 16), (128, 128), mode="bicubic").clamp(0, 1)
    textured = (smooth + 0.05 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(2))).clamp(
        0, 1
    )
    compressed = Jpeg().apply(textured, JpegParams((30,), (False,)))
    spectrum = BlockSpectrum()
    difference = slice(4 * 64, 5 * 64)  # zeros on the grid minus zeros beside it
    with torch.inference_mode():
        plain, jpeg = (spectrum(x[:, None])[0, difference].mean() for x in (textured, compressed))
    assert jpeg > 0.2
    assert plain.abs() < 0.02


def test_the_block_spectrum_grows_with_noise():
    clean = torch.full((1, 3, 128, 128), 0.5)
    levels = []
    for sigma in (5.0, 20.0):
        noisy = GaussianNoise((sigma,), truncate=False)
        degraded = noisy.apply(clean, noisy.draw(torch.Generator().manual_seed(0), 1))
        with torch.inference_mode():
            levels.append(BlockSpectrum()(degraded[:, None])[0, 1:64].mean())  # mean log magnitude
    assert levels[1] - levels[0] == pytest.approx(math.log(4), abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_strengths_are_decoded_as_encoded_and_stay_in_range(kind):
    scale = SCALES[kind]
    assert scale.decode(scale.encode(scale.least)) == pytest.approx(scale.least)
    assert scale.decode(1e6) == scale.high
    assert scale.decode(-1e6) == pytest.approx(scale.low, abs=1e-6)
    assert (scale.presence(scale.least), scale.presence(scale.negligible)) == (1.0, 0.0)
    assert math.isnan(scale.presence((scale.least + scale.negligible) / 2))


def test_a_better_jpeg_is_a_weaker_one():
    assert SCALES["jpeg"].presence(20) == 1.0
    assert SCALES["jpeg"].presence(95) == 0.0


def test_a_small_picture_is_continued_by_its_mirror_image(network):
    row = torch.arange(3.0).expand(1, 1, 2, 3)
    assert mirrored(row, 1, 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert mirrored(row, 2, 3) is row
    assert mirrored(row, 1, 4, whole=True)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0]
    assert mirrored(row, 1, 7, whole=True)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0] * 2
    small = pictures(1, 60, 70)
    with torch.inference_mode():
        crops, _ = network.look(small)
    assert torch.equal(crops[:, 0], mirrored(small, 128, 128))


@pytest.mark.parametrize("axes", [0, 5000])
def test_it_has_no_more_axes_than_features(axes: int):
    with pytest.raises(InputError, match=f"{axes} axes; expected 1 to "):
        RecognizerNetwork(RecognizerConfig(axes=axes))


def test_novelty_is_what_the_main_axes_of_training_leave(network):
    """Features of training differ along two directions; as far along a third is strange."""
    rng = torch.Generator().manual_seed(0)
    taught = RecognizerNetwork(dataclasses.replace(network.config, axes=2)).eval()
    width = taught.norm.num_features
    taught.norm.running_mean += 7  # features are told from what is usual
    directions = torch.linalg.qr(torch.randn(width, 3, generator=rng)).Q.T
    along = 20 * torch.randn(500, 2, generator=rng) @ directions[:2]
    features = 7 + along + 0.1 * torch.randn(500, width, generator=rng)
    strange = 7 + 28 * directions[2:]
    with torch.inference_mode():
        before = taught.conclude(features).novelty.mean()
        assert taught.conclude(strange).novelty < 2 * before  # no further from the mean than others
        taught.learn_axes(features)
        known = taught.conclude(features).novelty
        assert known.mean() == pytest.approx(1, abs=0.05) and known.max() < 1.5
        assert taught.conclude(strange).novelty > 50
