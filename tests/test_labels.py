import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid import degradations
from pellucid.data import Task, load_shards, validation_pairs
from pellucid.degradations.defocus_blur import DefocusBlurParams
from pellucid.degradations.gaussian_noise import GaussianNoise
from pellucid.degradations.haze import Haze
from pellucid.errors import RecipeError
from pellucid.labels import (
    KINDS,
    LabelledPictures,
    Truth,
    _streaks,
    degrade_labelled,
    measure_strength,
    strange_pictures,
    validation_pictures,
    validation_shards,
    with_drawn,
)
from pellucid.models.recognizer import SCALES


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def banks(shards: Path):
    return with_drawn(load_shards(shards, "train"), 9)


def test_drawings_that_the_data_hold_are_half_of_what_is_drawn(tmp_path: Path, write_shards):
    rows = [({"path": f"{i}.png", "role": "drawing", "split": "train"}, drawing(i)) for i in range(2)]
    bank = with_drawn(load_shards(write_shards(tmp_path, rows), "train"), 9).banks["drawn"]
    assert bank.names[:9] == ("0.png", "1.png") * 4 + ("drawn/0",)
    assert len(bank) == 8 + 9
    assert torch.equal((bank.picture(3) * 255).round().byte(), torch.from_numpy(drawing(1)).permute(2, 0, 1))
    few = with_drawn(load_shards(tmp_path, "train"), 1).banks["drawn"]  # none is left out
    assert few.names == ("0.png", "1.png", "drawn/0")


def test_no_drawing_is_both_trained_and_validated_on(shards: Path, monkeypatch):
    monkeypatch.setattr("pellucid.labels.VALIDATION_DRAWN", 6)
    pictures = load_shards(shards, "val")
    training = with_drawn(pictures, 6).banks["drawn"].clean_pictures()
    validation = validation_shards(pictures).banks["drawn"].clean_pictures()
    for one, other in itertools.product(training, list(validation)):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("gray", [0, 1])
def test_noise_in_gray_pictures_is_gray(gray, tmp_path: Path, write_shards):
    flat = np.full((48, 48, 3), 128, np.uint8)
    shards = load_shards(
        write_shards(tmp_path, [({"path": "0.png", "role": "clean", "split": "train"}, flat)]), "train"
    )
    noise = LabelledPictures(shards, [Task("noise", 1, "clean", "gaussian_noise", sigma=25.0)], 40, gray)
    pictures, presence, strengths = noise.draw(4, rng())
    assert bool((pictures[:, :1] == pictures[:, 1:]).all()) == gray
    assert pictures.std(dim=(2, 3)).mul(255) == pytest.approx(25, rel=0.1)
    assert presence[:, KINDS.index("noise")].tolist() == [1] * 4
    assert SCALES["noise"].decode(float(strengths[0, KINDS.index("noise")])) == pytest.approx(25)


def test_film_grain_is_noise_and_often_alike_in_all_channels(tmp_path: Path, write_shards):
    flat = np.full((48, 48, 3), 128, np.uint8)
    shards = load_shards(
        write_shards(tmp_path, [({"path": "0.png", "role": "clean", "split": "train"}, flat)]), "train"
    )
    pictures, presence, strengths = LabelledPictures(
        shards, [Task("noise", 1, "clean", "film_grain")], 40
    ).draw(24, rng())
    alike = [bool((picture[:1] == picture).all()) for picture in pictures]
    assert 6 <= sum(alike) <= 18
    noise = KINDS.index("noise")
    for picture, present, strength in zip(pictures, presence[:, noise], strengths[:, noise], strict=True):
        sigma = SCALES["noise"].decode(float(strength))
        assert picture.std(dim=(1, 2)).mean().mul(255) == pytest.approx(sigma, rel=0.12)
        assert present == 1 or (present.isnan() and sigma < 4)


def test_pairs_may_be_gray(banks):
    pairs = LabelledPictures(banks, [Task("low_light", 1, "low_light_pairs")], 40, gray=1)
    pictures, presence, _ = pairs.draw(3, rng())
    assert torch.equal(pictures[:, :1].expand(-1, 3, -1, -1), pictures)
    assert presence[:, KINDS.index("low_light")].tolist() == [1] * 3


@pytest.fixture
def dark(tmp_path: Path, write_shards):
    """A dark pair in color: a board of pixels, and half of its values."""
    board = (np.indices((96, 96)).sum(0) % 2)[..., None] * np.array([200, 150, 80])
    rows = [
        ({"path": f"{role}/0.png", "role": f"lowlight-{role}", "split": "train"}, values.astype(np.uint8))
        for role, values in (("high", board), ("low", board // 2))
    ]
    return load_shards(write_shards(tmp_path, rows), "train")


@pytest.mark.parametrize("share", [{"gray": 1.0}, {"tones": 1.0}])
def test_neither_gray_nor_other_tones_change_what_a_pair_shows(dark, share):
    tasks, kind = [Task("low_light", 1, "low_light_pairs")], KINDS.index("low_light")
    strengths = LabelledPictures(dark, tasks, 40).draw(4, rng())[2][:, kind]
    changed = LabelledPictures(dark, tasks, 40, **share).draw(4, rng())[2][:, kind]
    assert torch.allclose(changed, strengths, atol=1e-3)


def test_pairs_keep_their_pixels_and_lie_on_jpegs_grid_as_files_do(dark):
    pictures = LabelledPictures(dark, [Task("low_light", 1, "low_light_pairs")], 40)
    assert pictures.draw(8, rng())[0].std(dim=(2, 3)).min() > 0.05  # the board was not reduced
    rows = torch.arange(200.0)[None, :, None].expand(3, 200, 200)
    tops = [pictures._region(rows, rng(seed), native=True)[0, 0, 0].item() for seed in range(60)]
    assert 30 < sum(top % 8 == 0 for top in tops) < 60


def test_half_are_mirrored_and_half_of_what_is_no_pair_is_reduced(dark):
    pictures, ramp = (
        LabelledPictures(dark, [Task("low_light", 1, "low_light_pairs")], 40),
        torch.arange(200.0),
    )
    ramp = (ramp / 199).expand(3, 200, 200)
    pairs, others = (
        [pictures._region(ramp, rng(seed), native=native)[0, 0] for seed in range(60)]
        for native in (True, False)
    )
    for rows in (pairs, others):
        assert 20 < sum(bool(row[0] > row[-1]) for row in rows) < 40  # mirrored
    pairs, others = ([199 * float(row.amax() - row.amin()) for row in rows] for rows in (pairs, others))
    assert pairs == pytest.approx([39] * 60, abs=1e-3)
    assert 20 < sum(width > 45 for width in others) < 40
    assert 80 < max(others) < 100


def test_rain_that_is_to_be_drawn_is_drawn(banks):
    task, planes = Task("rain", 1, "clean", "rain_streaks"), torch.full((1, 3, 40, 40), 0.3)
    for seed in range(6):
        drawn = degrade_labelled(task, planes, rng(seed), {})
        assert torch.equal(degrade_labelled(task, planes, rng(seed), banks.banks).picture, drawn.picture)


def test_small_streak_planes_are_doubled_whole_so_that_any_part_may_be_taken(tmp_path: Path, write_shards):
    rows = [
        ({"path": "clean.png", "role": "clean", "split": "train"}, np.zeros((48, 56, 3), np.uint8)),
        (
            {"path": "rain.png", "role": "rain-streak", "split": "train", "gt": "clean.png"},
            np.random.default_rng(0).integers(0, 256, (48, 56), np.uint8),
        ),
    ]
    bank = load_shards(write_shards(tmp_path, rows), "train").banks["rain_pairs"]
    plane = bank.picture(0)[3:4]
    doubled = torch.cat([plane, plane.flip(2)], dim=2)
    doubled = torch.cat([doubled, doubled.flip(1)], dim=1)
    four = torch.cat([doubled, doubled.flip(1)], dim=1)
    for seed in range(20):
        source = rng(seed)
        torch.randint(1, (), generator=source)  # the plane
        top, left = (int(torch.rand((), generator=source) * n) for n in (192 - 100 + 1, 112 - 70 + 1))
        expected = four[None, :, top : top + 100, left : left + 70]
        assert torch.equal(_streaks(bank, (100, 70), rng(seed)), expected)


def test_what_degrades_a_picture_is_known_though_its_file_had_a_history(banks):
    planes = torch.rand(1, 4, 64, 64, generator=rng())
    truth = degrade_labelled(Task("jpeg", 1, "depth", "jpeg"), planes, rng(), banks.banks).truth
    assert "jpeg" in truth.strengths and not truth.hidden


def test_a_real_pair_is_not_made_dark(banks):
    planes = torch.rand(1, 6, 32, 32, generator=rng())
    task = Task("blur", 1, "blur_pairs")
    kinds = {k for seed in range(60) for k in degrade_labelled(task, planes, rng(seed), {}).truth.strengths}
    assert kinds == {"blur", "noise", "jpeg"}


def drawing(i: int) -> np.ndarray:
    return np.full((20, 30, 3), 40 * i, np.uint8)


def test_presence_is_one_zero_or_open():
    truth = Truth({"noise": 25.0, "blur": 0.7, "haze": None, "jpeg": 95.0}, hidden={"rain"})
    presence = dict(zip(KINDS, truth.presence().tolist(), strict=False))
    assert (presence["noise"], presence["haze"], presence["low_light"], presence["jpeg"]) == (1, 1, 0, 0)
    assert math.isnan(presence["blur"]) and math.isnan(presence["rain"])
    assert truth.presence()[-1] == 0  # something is wrong
    assert Truth().presence().tolist() == [0] * len(KINDS) + [1]
    assert math.isnan(Truth({"blur": 0.7}).presence()[-1])


def test_strengths_are_learned_where_there_is_something_to_learn():
    truth = Truth({"noise": 25.0, "haze": None, "jpeg": 95.0, "rain": 9.0}, hidden={"rain"})
    encoded = dict(zip(KINDS, truth.encoded().tolist(), strict=True))
    assert encoded["noise"] == pytest.approx(SCALES["noise"].encode(25.0))
    assert all(math.isnan(encoded[kind]) for kind in KINDS if kind != "noise")


@pytest.mark.parametrize("size", [(64, 64), (40, 90)])
def test_camera_noise_and_rain_are_measured_from_the_pictures(size):
    before = torch.full((1, 3, *size), 0.5)
    after = before + 10 / 255
    assert measure_strength("camera_noise", None, before, after) == pytest.approx(10, rel=1e-4)
    assert measure_strength("film_grain", None, before, after) == pytest.approx(10, rel=1e-4)
    assert measure_strength("rain_pairs", None, before, after) == pytest.approx(10, rel=1e-4)


def test_haze_is_the_share_of_light_lost():
    clean, operator = torch.rand(1, 3, 64, 64, generator=rng()), Haze()
    params = operator.draw(rng(), 1)
    depth = torch.full((1, 1, 64, 64), 0.5)
    hazy = operator.apply(clean, params, depth=depth)
    expected = 1 - math.exp(-params.beta[0] * 0.5)
    assert measure_strength("haze", params, clean, hazy) == pytest.approx(expected, abs=1e-4)


def test_darkness_is_counted_in_stops():
    light = torch.full((1, 3, 32, 32), 0.8)
    dark = light * 0.25 ** (1 / 2.2)  # a quarter of the linear light
    for name in ("low_light_pairs", "low_light", "underexposure"):
        assert measure_strength(name, None, light, dark) == pytest.approx(2, abs=0.01)


def test_blur_is_the_kernels_radius():
    x = torch.zeros(1, 3, 8, 8)
    wide = measure_strength("defocus_blur", DefocusBlurParams((6.0,), (1.0,)), x, x)
    assert wide == pytest.approx(6 / math.sqrt(2), rel=0.03)  # of a full disc
    assert measure_strength("defocus_blur", DefocusBlurParams((0.0,), (1.0,)), x, x) == 0


def test_every_operator_but_the_composite_has_a_strength():
    clean = torch.rand(1, 3, 64, 64, generator=rng())
    for name in degradations.names():
        operator = degradations.get(name)
        params = operator.draw(rng(3), 1)
        strength = measure_strength(name, params, clean, operator.apply(clean, params))
        assert (strength is None) == (name == "composite"), name


def test_what_nobody_can_see_has_no_label(banks):
    flat = torch.full((1, 3, 64, 64), 0.5)
    labelled = degrade_labelled(Task("blur", 1, "clean", "motion_blur"), flat, rng(), banks.banks)
    assert math.isnan(labelled.truth.presence()[KINDS.index("blur")])


def test_a_composite_names_all_its_parts(banks):
    textured = torch.rand(1, 3, 64, 64, generator=rng(5))
    for seed in range(5):
        params = degradations.get("composite").draw(rng(seed), 1)
        kinds = {degradations.get(part.name).kind for part in params.parts[0]}  # type: ignore[attr-defined]
        labelled = degrade_labelled(
            Task("composite", 1, "clean", "composite"), textured, rng(seed), banks.banks
        )
        assert set(labelled.truth.strengths) == kinds


def test_drawings_are_neither_hazy_nor_dark(banks):
    page = banks.banks["drawn"].picture(2)[None]
    for seed in range(12):
        task = Task("composite", 1, "drawn", "composite")
        assert not {"haze", "low_light"} & set(
            degrade_labelled(task, page, rng(seed), banks.banks).truth.strengths
        )


def test_batches_repeat_themselves(banks):
    tasks = [
        Task("clean", 1, "drawn"),
        Task("rain", 1, "clean", "rain_streaks", streaks=True),
        Task("blur", 1, "blur_pairs"),
    ]
    pictures = LabelledPictures(banks, tasks, 40)
    first, again, other = pictures.draw(6, rng(1)), pictures.draw(6, rng(1)), pictures.draw(6, rng(2))
    assert first[0].shape == (6, 3, 40, 40)
    assert first[1].shape == (6, len(KINDS) + 1) and first[2].shape == (6, len(KINDS))
    assert first[0].min() >= 0 and first[0].max() <= 1
    assert all(torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_clean_tasks_give_the_clean_side_of_every_source(banks):
    for source in banks.banks:
        x, presence, _ = LabelledPictures(banks, [Task("clean", 1, source)], 40).draw(2, rng())
        assert x.shape == (2, 3, 40, 40)
        if source == "depth":  # these are JPEG files, and show it
            assert presence[:, KINDS.index("jpeg")].isnan().all() and presence[:, -1].isnan().all()
        else:
            assert (presence[:, -1] == 1).all(), source


def test_a_source_that_is_not_there_is_refused(banks):
    with pytest.raises(RecipeError, match="sources nonsense, which the data lacks"):
        LabelledPictures(banks, [Task("clean", 1, "nonsense")], 40)


def test_validation_pictures_are_those_of_restoration(shards: Path):
    loaded = load_shards(shards, "val")
    restoration = {name: degraded for name, degraded, _ in validation_pairs(loaded)}
    seen = {name: labelled for name, _, labelled in validation_pictures(with_drawn(loaded, 9))}
    assert set(restoration) < set(seen)
    for name, degraded in restoration.items():
        if name != "composite":  # there, rain may be made by real streaks
            assert torch.equal(seen[name].picture, degraded[0]), name
    assert seen["noise_25"].truth.strengths == {"noise": 25.0}
    assert seen["clean"].truth.strengths == {}
    for name in ("gray_clean", "gray_noise", "gray_blur"):
        assert torch.equal(seen[name].picture[[1, 1, 1]], seen[name].picture), name
    assert set(seen["gray_noise"].truth.strengths) == {"noise"}
    assert not torch.equal(seen["composite"].picture, seen["composite_more"].picture)


def test_noise_is_told_by_its_sigma(banks):
    clean = torch.full((1, 3, 64, 64), 0.5)
    operator = GaussianNoise((20.0,), truncate=False)
    params = operator.draw(rng(), 1)
    assert measure_strength("gaussian_noise", params, clean, operator.apply(clean, params)) == 20.0


def test_strange_pictures_are_pictures():
    pictures = dict(strange_pictures())
    assert len(pictures) >= 8
    for name, picture in pictures.items():
        assert picture.shape == (3, 192, 256), name
        assert picture.min() >= 0 and picture.max() <= 1, name
