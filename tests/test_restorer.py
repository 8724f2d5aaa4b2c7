from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.toys import BLIND, GUIDED, Toy, ToyConfig, toy
from torch import Tensor, nn

from pellucid import ImageBuffer, compute, read_image, runner, scratch, write_image
from pellucid.arrays import image_from_array
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.diagnosis import Recognizer
from pellucid.errors import (
    CheckpointError,
    InputError,
    UnknownNameError,
    UnsafeCheckpointError,
)
from pellucid.light import LightRule
from pellucid.models import ModelSpec
from pellucid.models.recognizer import SCALES, Answers, RecognizerConfig
from pellucid.restorer import IdentityRestorer, TorchRestorer, _embedded_recognizer, load
from pellucid.strength import Strength
from pellucid.tiling import smallest_tile


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_what_memory_has_no_room_for_is_kept_in_files(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "choose_scratch", lambda: (tmp_path, 10**9))
    monkeypatch.setattr(scratch, "TRIM_BYTES", 100_000)
    source = tmp_path / f"source{suffix}"
    write_image(image_from_array(np.random.default_rng(0).integers(0, 255, (333, 410, 3), np.uint8)), source)
    tool = toy(memory=int(smallest_tile(8) ** 2 * toy().probe.bytes_per_pixel) + 1)
    for name, read in (("memory", read_image(source)), ("files", tool.read(source))):
        restored = tool(read, strength={"noise": 0.5})
        assert restored.report.tiles > 1
        assert (scratch.folder_of(read.pixels) == tmp_path) == (name == "files")
        assert (scratch.folder_of(restored.image.pixels) == tmp_path) == (name == "files")
        restored.save(tmp_path / f"{name}{suffix}")
    assert toy(memory=10**9).read(source).pixels.equal(read.pixels)
    del read, restored
    assert (tmp_path / f"memory{suffix}").read_bytes() == (tmp_path / f"files{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_what_no_disk_has_room_for_is_read_into_memory(tmp_path, monkeypatch):
    source = tmp_path / "source.png"
    write_image(image_from_array(np.zeros((20, 30, 3), np.uint8)), source)
    for disk, folder in ((10**6, tmp_path), (1000, None)):
        monkeypatch.setattr(compute, "choose_scratch", lambda disk=disk: (tmp_path, disk))
        assert scratch.folder_of(toy(memory=1000).read(source).pixels) == folder


def test_strength_mixes_and_zero_is_the_input():
    picture, restorer = torch.rand(3, 20, 20), toy()
    full = restorer(picture).tensor
    assert torch.allclose(restorer(picture, strength=0.25).tensor, 0.75 * picture + 0.25 * full, atol=1e-6)
    nothing = restorer(picture, strength=0)
    assert torch.equal(nothing.tensor, picture)
    assert nothing.report.tiles == 0


def test_light_and_detail_have_strengths_of_their_own():
    restorer = toy()
    picture = torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(0))
    restoration = restorer(picture, strength={"low_light": 1, "noise": 0.25})
    expected = Strength(1, 0.25).mix(picture, restorer(picture).tensor)
    assert torch.equal(restoration.tensor, expected)
    assert restoration.report.strength == {"tone": 1.0, "detail": 0.25}
    assert torch.equal(restorer(picture, strength=Strength(0, 0)).tensor, picture)
    with pytest.raises(InputError, match="told apart"):
        restorer(picture, strength={"rain": 1, "noise": 0.25})


@pytest.mark.parametrize(
    "strength",
    [-0.1, 1.01, float("nan"), float("inf"), "0.5", b"1", None, 1j, np.ones(2), torch.ones(2), 10**400],
)
@pytest.mark.parametrize("restorer", [toy(), IdentityRestorer()], ids=["torch", "identity"])
def test_a_strength_out_of_range_is_refused(restorer, strength):
    with pytest.raises(InputError, match="strength"):
        restorer(torch.rand(3, 8, 8), strength=strength)


class Brighter(Toy):
    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        return super().forward(x) * 3 - 0.5


def test_output_stays_in_range():
    ramp = torch.linspace(0, 1, 40).expand(3, 40, 40)
    restored = toy(Brighter(ToyConfig()), guard=False)(ramp).tensor
    assert float(restored.min()) == 0
    assert float(restored.max()) == 1


def test_nan_is_refused():
    with pytest.raises(InputError, match="NaN"):
        toy()(np.full((4, 4), np.nan))


def test_guided_networks_are_told_what_is_wrong(monkeypatch):
    picture, restorer = torch.rand(3, 16, 16), toy(spec=GUIDED)
    blurred = toy()(picture).tensor
    assert torch.allclose(restorer(picture, diagnosis="rain").tensor, blurred * 0.5, atol=1e-6)
    haze = restorer(picture, diagnosis="haze")
    assert torch.allclose(haze.tensor, blurred * 0.25, atol=1e-6)
    assert haze.report.diagnosis == "haze"
    monkeypatch.setattr("pellucid.restorer.RECOGNIZER", "nobody")
    with pytest.raises(InputError, match="rain, haze"):
        restorer(picture)
    with pytest.raises(InputError, match="Did you mean rain"):
        restorer(picture, diagnosis="rian")
    with pytest.raises(InputError, match="no prompt of toy_guided called '5'"):
        restorer(picture, diagnosis=5)
    for blind in (toy(), IdentityRestorer()):
        for strength in (1, 0):
            with pytest.raises(InputError, match="blind"):
                blind(picture, diagnosis="rain", strength=strength)


@pytest.mark.parametrize("restorer", [toy(), IdentityRestorer()], ids=["torch", "identity"])
def test_a_buffer_without_a_picture_is_refused(restorer):
    with pytest.raises(InputError, match="at least one pixel"):
        restorer(ImageBuffer(torch.zeros(3, 0, 4)))


@pytest.mark.parametrize("value", [-0.1, 1.2, 255, torch.nan, torch.inf])
def test_a_buffer_out_of_range_is_refused_as_a_tensor_is(value):
    pixels, alpha = torch.full((3, 4, 5), 0.5), torch.ones(1, 4, 5)
    pixels[1, 2, 3] = value
    with pytest.raises(InputError, match=r"The picture holds values from .*; expected 0 to 1\. Divide"):
        toy()(ImageBuffer(pixels))
    alpha[0, 2, 3] = value
    with pytest.raises(InputError, match=r"The picture's alpha holds values from .*; expected 0 to 1\."):
        toy()(ImageBuffer(torch.rand(3, 4, 5), alpha))


@pytest.mark.parametrize("strength", [0, 1])
def test_a_buffer_in_training_is_a_picture_like_others(strength):
    pixels, alpha = torch.rand(3, 9, 8), torch.rand(1, 9, 8)
    expected = toy()(ImageBuffer(pixels, alpha), strength=strength).array
    given = ImageBuffer(pixels.requires_grad_(), alpha.requires_grad_())
    restoration = toy()(given, strength=strength)
    assert np.array_equal(restoration.array, expected)
    assert not restoration.tensor.requires_grad


@pytest.mark.parametrize("restorer", [toy(), IdentityRestorer()], ids=["torch", "identity"])
def test_progress_ends_at_strength_zero_too(restorer):
    told = []
    restorer(torch.rand(3, 9, 8), strength=0, progress=lambda *parts: told.append(parts))
    assert told == [(1, 1)]


def test_load_a_file(small_weights):
    restorer = load(small_weights, device="cpu", precision="float32")
    report = restorer(torch.rand(3, 40, 60)).report
    assert (report.model, report.device, report.precision) == ("small", "cpu", "float32")
    assert report.weights_sha256 == hash_file(small_weights)
    assert report.to_dict()["tile_size"] == (48, 64)


@pytest.mark.parametrize("default", [torch.float64, torch.device("meta")])
def test_torchs_defaults_and_random_numbers_are_left_alone(default, small_weights, tmp_path, monkeypatch):
    noise = torch.rand(3, 150, 200, generator=torch.Generator().manual_seed(0))
    path = write_image(ImageBuffer(noise), tmp_path / "noise.png")
    in_tiles = toy(memory=int(smallest_tile(8) ** 2 * toy().probe.bytes_per_pixel) + 1)

    def restored():
        monkeypatch.setattr(runner, "_PROBES", {})
        _embedded_recognizer.cache_clear()
        restorer = load(small_weights, device="cpu", precision="float32")
        whole = restorer(path, strength={"haze": 1, "noise": 0.5})
        tiled = in_tiles(path)
        assert whole.report.recognized is not None
        assert tiled.report.tiles > 1
        return np.stack([whole.array, tiled.array])

    expected, random = restored(), torch.get_rng_state()
    if isinstance(default, torch.device):
        with default:
            found = restored()
    else:
        torch.set_default_dtype(default)
        try:
            found = restored()
        finally:
            torch.set_default_dtype(torch.float32)
    assert np.array_equal(found, expected)
    assert torch.equal(torch.get_rng_state(), random)


def test_load_refuses(tmp_path, small_weights):
    with pytest.raises(UnknownNameError):
        load("nonsense")
    with pytest.raises(CheckpointError, match="can't be read"):
        load(tmp_path / "missing.safetensors")
    for nothing in (None, 5, b"daair_s.5task"):
        with pytest.raises(InputError, match="expected the name of weights or a path"):
            load(nothing)
    with pytest.raises(InputError, match="There is no engine called 'None'"):
        load(engine=None)
    torch.save({}, tmp_path / "official.pth")
    with pytest.raises(UnsafeCheckpointError):
        load(tmp_path / "official.pth")
    checkpoint = Checkpoint.read(small_weights)
    del checkpoint.tensors["stem.weight"]
    checkpoint.write(tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match="lacks stem"):
        load(tmp_path / "short.safetensors")


@pytest.mark.parametrize("picture", [None, 5, [[0.5]]])
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(InputError, match="The picture is of type"):
        IdentityRestorer()(picture)


class Oracle(nn.Module):
    """A recognizing network that always answers the same."""

    def __init__(self, nothing: float = -5.0, **logits: float) -> None:
        super().__init__()
        self.config = RecognizerConfig()
        row = [logits.get(kind, -5.0) for kind in self.config.kinds]
        strengths = [SCALES[kind].encode(30.0) for kind in self.config.kinds]
        self.answers = Answers(torch.tensor([[*row, nothing]]), torch.tensor([strengths]), torch.ones(1))
        self.asked = 0

    def forward(self, x):
        self.asked += 1
        return self.answers


def guarded(oracle: Oracle, spec: ModelSpec = BLIND, *, guard: bool = True) -> TorchRestorer:
    return toy(spec=spec, guard=guard, recognizer=Recognizer(oracle, name="oracle"))


def test_a_good_picture_is_left_alone_bit_by_bit(tmp_path):
    restorer = guarded(Oracle(nothing=5.0))
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    told: list[tuple[int, int]] = []
    restoration = restorer(array, progress=lambda *parts: told.append(parts))
    assert np.array_equal(restoration.array, array)
    assert restoration.report.guards == {"left_alone": True}
    assert told == [(1, 1)]  # it is done
    assert restoration.report.tiles == 0
    assert restoration.report.recognized["verdict"] == "nothing wrong"
    assert restoration.report.seconds.keys() == {"read", "recognize"}
    tensor = torch.rand(3, 40, 50, dtype=torch.float64)
    assert torch.equal(restorer(tensor).tensor, tensor)
    source = tmp_path / "a.jpg"
    write_image(image_from_array(array), source)
    restorer(source).save(tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("oracle", "guard"),
    [(Oracle(nothing=5.0), False), (Oracle(noise=5.0), True), (Oracle(nothing=0.0, haze=-1.5), True)],
)
def test_any_other_picture_is_restored(oracle, guard):
    """Without the guard, where something is wrong, and where something may be."""
    picture = torch.rand(3, 40, 50)
    restoration = guarded(oracle, guard=guard)(picture)
    assert not torch.equal(restoration.tensor, picture)
    assert "left_alone" not in restoration.report.guards
    assert restoration.report.recognized is not None


def test_a_picture_that_surely_shows_no_kind_is_left_alone_though_the_verdict_is_unknown():
    restorer, picture = guarded(Oracle(nothing=0.0)), torch.rand(3, 40, 50)
    report = restorer(picture).report
    assert (report.recognized["verdict"], report.guards) == ("unknown", {"left_alone": True})


def test_a_picture_that_is_too_small_to_show_anything_is_left_alone():
    restorer, picture = guarded(Oracle(noise=5.0)), torch.rand(3, 40, 50)
    reports = [restorer(pixels).report for pixels in (picture[:, :31], picture)]
    assert [report.guards.get("left_alone", False) for report in reports] == [True, False]


@pytest.mark.parametrize(("haze", "alone"), [(-2.9, True), (-2.6, False)])  # probabilities of 0.052 and 0.069
def test_a_trace_of_a_kind_is_enough_to_restore_what_is_not_rather_good(haze, alone):
    """More than 0.06, as many real hazy photographs get."""
    report = guarded(Oracle(nothing=0.0, haze=haze))(torch.rand(3, 40, 50)).report
    assert report.guards.get("left_alone", False) is alone


@pytest.mark.parametrize(("nothing", "alone"), [(0.1, True), (-0.1, False)])  # probabilities of 0.52 and 0.48
def test_a_familiar_picture_is_spared_if_rather_nothing_is_wrong(nothing, alone):
    report = guarded(Oracle(nothing=nothing, haze=-0.1))(torch.rand(3, 40, 50)).report
    assert (report.recognized["verdict"], report.guards.get("left_alone", False)) == ("unknown", alone)


@pytest.mark.parametrize(
    ("oracle", "size", "alone"),
    [
        (Oracle(nothing=5.0), (40, 50), True),
        (Oracle(nothing=0.1, haze=-0.1), (40, 50), True),
        (Oracle(nothing=5.0, haze=0.1), (40, 50), False),
        (Oracle(nothing=0.0), (40, 50), False),
    ],
)
def test_a_strange_picture_is_spared_if_rather_nothing_is_wrong(oracle, size, alone):
    """What must be done without being sure is as little as can be."""
    restorer = guarded(oracle)
    restorer.recognizer.config = replace(restorer.recognizer.config, familiar=-1.0)
    report = restorer(torch.rand(3, *size)).report
    assert (report.recognized["verdict"], report.guards.get("left_alone", False)) == ("unknown", alone)


@pytest.mark.parametrize(
    ("oracle", "alone"),
    [(Oracle(jpeg=5.0), True), (Oracle(jpeg=5.0, haze=-1.5), False), (Oracle(noise=5.0, rain=5.0), False)],
)
def test_a_guided_network_is_spared_what_it_can_not_be_told_of(oracle, alone):
    """Its prompts name rain and haze, and not JPEG; a blind network needs none."""
    picture = torch.rand(3, 40, 50)
    assert guarded(oracle, GUIDED)(picture).report.guards.get("left_alone", False) is alone
    assert "left_alone" not in guarded(oracle)(picture).report.guards


def test_light_is_kept_by_what_each_kind_has_and_not_by_the_verdict():
    """In a film frames vote on both: one in which nothing is wrong may still have a faint haze."""
    restorer = guarded(Oracle(nothing=5.0, haze=-1.0))
    found = restorer.recognizer(torch.rand(3, 40, 50))
    assert (found.verdict, restorer.leaves_alone(found)) == ("nothing wrong", True)
    assert not restorer.light_rule(found, 40, 50).kept


@pytest.mark.parametrize(
    ("oracle", "guard", "kept"),
    [
        (Oracle(blur=5.0), True, True),
        (Oracle(nothing=0.0, blur=-1.5), True, True),  # unknown
        (Oracle(blur=5.0), False, False),
        (Oracle(blur=5.0, haze=-2.4), True, True),  # 0.08
        (Oracle(blur=5.0, haze=-1.5), True, True),  # 0.18, beside a blur
        (Oracle(blur=5.0, haze=1.0), True, False),
        (Oracle(jpeg=5.0, haze=-1.5), True, False),
        (Oracle(low_light=5.0), True, False),
        (Oracle(noise=5.0), True, False),
        (Oracle(rain=5.0), True, False),
    ],
)
def test_light_is_kept_where_surely_nothing_changed_it(oracle, guard, kept):
    restorer, picture = guarded(oracle, guard=guard), torch.rand(3, 40, 50)
    restoration = restorer(picture)
    assert restoration.report.guards.get("light_kept", False) == kept
    radius = restorer.recognizer(picture).blur_radius
    assert torch.equal(restoration.tensor, restorer.run(picture, light=LightRule(kept, radius)))
    assert not torch.equal(restorer.run(picture), restorer.run(picture, light=LightRule(kept=True)))


@pytest.mark.parametrize(("oracle", "radius"), [(Oracle(blur=5.0), 30.0), (Oracle(jpeg=5.0), 0.0)])
def test_the_radius_of_the_blur_that_was_found_parts_coarse_from_fine(oracle, radius, monkeypatch):
    restorer, asked = guarded(oracle), []
    monkeypatch.setattr(
        "pellucid.light.keep_all_but_blur", lambda _, restored, radius: asked.append(radius) or restored
    )
    restorer(torch.rand(3, 40, 50))
    restorer.run(torch.rand(3, 40, 50), light=LightRule(kept=True, blur_radius=7.0))
    assert asked == [pytest.approx(radius, rel=0.01), 7.0]


@pytest.mark.parametrize(
    ("oracle", "size", "guard", "views"),
    [
        (Oracle(haze=5.0), (600, 1000), True, (2, 3, 4)),
        (Oracle(haze=5.0, noise=5.0), (600, 1000), True, (2, 3, 4)),
        (Oracle(haze=5.0), (500, 800), True, ()),
        (Oracle(haze=5.0, low_light=5.0), (600, 1000), True, ()),
        (Oracle(haze=5.0), (600, 1000), False, ()),
        (Oracle(haze=-0.1), (600, 1000), True, ()),
        (Oracle(noise=5.0), (600, 1000), True, ()),
    ],
)
def test_haze_is_seen_from_afar_in_large_pictures(oracle, size, guard, views, monkeypatch):
    shapes = []
    monkeypatch.setattr(
        "pellucid.light.take_light_from_afar",
        lambda degraded, restored, cell, seen: shapes.extend(far.shape for far in seen) or restored + 0.25,
    )
    restorer, picture = guarded(oracle, guard=guard), torch.rand(3, *size)
    restoration = restorer(picture)
    assert restoration.report.guards.get("light_from_afar", False) == bool(views)
    assert shapes == [(3, -(-size[0] // k), -(-size[1] // k)) for k in views]
    alone = restorer.run(picture)
    assert torch.allclose(restoration.tensor, (alone + 0.25 * bool(views)).clamp(0, 1), atol=1e-6)


def test_a_guided_network_sees_haze_at_full_size():
    restorer = guarded(Oracle(haze=3.0, noise=3.0), GUIDED)
    found = restorer.recognizer(torch.rand(3, 40, 40))
    assert found.is_hazy and restorer.light_rule(found, 800, 800) == LightRule()


def test_what_the_copies_take_more_than_the_usual_is_told(monkeypatch):
    monkeypatch.setattr("pellucid.light.VIEWS", (64, 96))
    monkeypatch.setattr("pellucid.light.LARGE", 100)
    restorer = guarded(Oracle(haze=5.0))
    usual, sizes = restorer.restore_pixels, []

    def remedied(degraded, *arguments):
        restored, plan, guards = usual(degraded, *arguments)
        sizes.append(degraded.shape[1:])
        return restored, plan, guards | {"redone_in_float32": degraded.shape[1] == 50}

    monkeypatch.setattr(restorer, "restore_pixels", remedied)
    guards = restorer(torch.rand(3, 150, 200)).report.guards
    assert (guards["redone_in_float32"], guards["replanned"]) == (True, False)
    # Whoever watches the network finds the picture's own run last.
    assert sizes == [(75, 100), (50, 67), (150, 200)]


def test_light_is_not_kept_where_the_picture_is_too_small_to_tell():
    assert "light_kept" not in guarded(Oracle(blur=5.0))(torch.rand(3, 31, 50)).report.guards


class Contrast(Toy):
    """Takes every picture for hazy."""

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        return 2 * x - 0.5


def test_light_comes_from_afar_in_files_as_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.light.LARGE", 100)
    restorer = guarded(Oracle(haze=5.0))
    picture = torch.rand(3, 401, 430)
    in_file = scratch.create(tuple(picture.shape), picture.dtype, tmp_path)
    in_file.copy_(picture)
    restored = restorer(ImageBuffer(in_file))
    assert restored.report.guards["light_from_afar"]
    assert torch.allclose(restored.tensor, restorer(picture).tensor, atol=1e-6)
    assert not torch.allclose(restored.tensor, restorer.run(picture).clamp(0, 1), atol=1e-3)


def test_light_is_kept_in_files_as_in_memory(tmp_path):
    found = Recognizer(Oracle(jpeg=5.0), name="oracle")
    restorer = toy(Contrast(ToyConfig()), guard=True, recognizer=found)
    picture = (0.5 + 0.2 * torch.linspace(0, 20, 70).sin())[None, :, None].expand(3, 70, 50).clone()
    in_file = scratch.create(tuple(picture.shape), picture.dtype, tmp_path)
    in_file.copy_(picture)
    restored = restorer(ImageBuffer(in_file)).tensor
    assert torch.equal(restored, restorer(picture).tensor)
    assert (restored - picture).abs().mean() < 0.3 * (restorer.run(picture) - picture).abs().mean()


def test_a_guided_network_is_told_by_the_recognizer_and_the_report_says_so():
    report = guarded(Oracle(rain=2.0, noise=4.0), GUIDED)(torch.rand(3, 40, 50)).report
    assert report.diagnosis == "rain"  # the toy knows no noise
    assert report.recognized["present"] == ["noise", "rain"]
    assert report.recognized["strengths"]["rain"] == pytest.approx(30.0)


def test_the_callers_word_overrides_the_recognizer():
    oracle = Oracle(nothing=5.0)
    report = guarded(oracle, GUIDED)(torch.rand(3, 40, 50), diagnosis="haze").report
    assert (report.diagnosis, report.recognized, oracle.asked) == ("haze", None, 0)


def test_strength_zero_asks_nobody():
    oracle = Oracle(nothing=5.0)
    assert guarded(oracle)(torch.rand(3, 40, 50), strength=0).report.recognized is None
    assert oracle.asked == 0


def test_a_network_whose_prompts_the_recognizer_does_not_know_must_be_told():
    config = ToyConfig(prompts=("scratches",))
    oracle = Recognizer(Oracle(rain=2.0))
    with pytest.raises(InputError, match="must be told what is wrong"):
        toy(Toy(config), GUIDED, recognizer=oracle)(torch.rand(3, 40, 50))


def test_weights_of_a_run_are_called_as_their_recipe(small_weights, tmp_path):
    """Every training calls its file weights.safetensors."""
    checkpoint = Checkpoint.read(small_weights)
    for recipe, stem, expected in (
        ({"name": "daair.rain"}, "weights", "daair.rain"),
        ({"name": "daair.rain"}, "mine", "mine"),
        ({"name": "../elsewhere"}, "weights", "weights"),
        (None, "weights", "weights"),
    ):
        file = tmp_path / f"{stem}.safetensors"
        replace(checkpoint, provenance={"recipe": recipe}).write(file)
        assert load(file, device="cpu", precision="float32").describe().model == expected
