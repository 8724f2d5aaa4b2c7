"""Shards, crops, mixes and validation pairs, on tiny shard folders."""

import builtins
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import pyvips
import torch

from pellucid import degradations
from pellucid.data import (
    DEPTH_STEPS,
    PAIR_ROLES,
    SOURCES,
    VALIDATION_TASKS,
    Mixer,
    PictureBank,
    Shards,
    Task,
    center_crop,
    load_shards,
    read_rgb8,
    validation_pairs,
    write_rgb8,
)
from pellucid.errors import RecipeError, UnreadableImageError
from pellucid.image_io import read_image
from pellucid.labels import with_drawn
from pellucid.recipe import KINDS


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(height: int, width: int, picture: int, planes: int = 4) -> torch.Tensor:
    """A picture whose pixels say where they are: (H, W, K) of row, column, picture, then row + column."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    values = [row, column, torch.full_like(row, picture), row + column]
    return torch.stack(values[:planes], dim=2).byte()


@pytest.fixture(scope="module")
def bank() -> PictureBank:
    sizes = [(20, 30), (40, 17), (16, 16)]
    pictures = [coordinates(height, width, i) for i, (height, width) in enumerate(sizes)]
    return PictureBank.from_pictures(pictures, ["a", "b", "c"])


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let these packages seem not installed."""
    genuine = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name.split(".")[0] in packages:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return genuine(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)


# Banks


def test_picture_gives_what_was_put_in(bank: PictureBank) -> None:
    assert len(bank) == 3
    for i, (height, width) in enumerate([(20, 30), (40, 17), (16, 16)]):
        expected = coordinates(height, width, i).permute(2, 0, 1).float() / 255
        assert torch.equal(bank.picture(i), expected)


def test_crops_are_pieces_of_pictures(bank: PictureBank) -> None:
    crops = (bank.crops(300, 16, rng()) * 255).round().int()
    assert crops.shape == (300, 4, 16, 16)
    row, column, picture, total = crops.unbind(1)
    assert torch.equal(total, row + column), "the planes of one crop show different places"
    heights, widths = torch.tensor([20, 40, 16]), torch.tensor([30, 17, 16])
    which = picture[:, 0, 0].long()
    assert torch.equal(picture, which[:, None, None].expand_as(picture).int()), "one crop of two pictures"
    assert set(which.tolist()) == {0, 1, 2}
    assert (row < heights[which][:, None, None]).all() and (column < widths[which][:, None, None]).all()
    # Each crop holds a square of 16 x 16 neighbors, each of them once.
    for r, c in zip(row, column, strict=True):
        assert r.max() - r.min() == 15 and c.max() - c.min() == 15
        assert len(set(zip(r.flatten().tolist(), c.flatten().tolist(), strict=True))) == 256


def test_crops_reach_every_place() -> None:
    bank = PictureBank.from_pictures([coordinates(18, 19, 0)], ["a"])
    crops = (bank.crops(300, 16, rng()) * 255).round().int()
    corners = {(int(c[0].min()), int(c[1].min())) for c in crops}
    assert corners == {(top, left) for top in range(3) for left in range(4)}


def test_crops_take_all_eight_orientations_alike() -> None:
    bank = PictureBank.from_pictures([coordinates(16, 16, 0, planes=3)], ["a"])
    original = coordinates(16, 16, 0, planes=3)[..., :2].permute(2, 0, 1).int()
    orientations = {
        tuple(torch.rot90(x, k, (1, 2)).flatten().tolist()): (k, flipped)
        for flipped, x in ((False, original), (True, original.flip(2)))
        for k in range(4)
    }
    assert len(orientations) == 8
    crops = (bank.crops(800, 16, rng()) * 255).round().int()[:, :2]
    found = [orientations[tuple(crop.flatten().tolist())] for crop in crops]
    counts = {orientation: found.count(orientation) for orientation in orientations.values()}
    assert min(counts.values()) > 60, counts  # the identity, (0, False), among them


def test_a_share_of_the_crops_stays_upright_and_is_mirrored_at_most() -> None:
    bank = PictureBank.from_pictures([coordinates(16, 16, 0, planes=3)], ["a"])
    original = coordinates(16, 16, 0, planes=3)[..., :2].permute(2, 0, 1).int()

    def found(upright: float) -> tuple[int, int]:
        crops = (bank.crops(800, 16, rng(), upright=upright) * 255).round().int()[:, :2]
        as_it_is, mirrored = (
            sum(torch.equal(crop, x) for crop in crops) for x in (original, original.flip(2))
        )
        return as_it_is, mirrored

    as_it_is, mirrored = found(1.0)
    assert as_it_is + mirrored == 800 and min(as_it_is, mirrored) > 340
    assert sum(found(0.5)) / 800 == pytest.approx(0.5 + 0.5 * 2 / 8, abs=0.06)


def test_an_upright_mix_has_upright_crops_and_streaks(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    seen: list[tuple[str, float]] = []

    class Noting:
        def __init__(self, name: str) -> None:
            self.name = name

        def __len__(self) -> int:
            return len(loaded.banks[self.name])

        def crops(self, *arguments, upright: float = 0.0, **keywords) -> torch.Tensor:
            seen.append((self.name, upright))
            return loaded.banks[self.name].crops(*arguments, upright=upright, **keywords)

    noted = Shards({name: Noting(name) for name in ("clean", "rain_pairs")}, "")
    rain = Task("rain", 1, "clean", "rain_streaks", streaks=True)
    Mixer(noted, [rain], upright=0.7).batch(2, 16, rng())
    assert seen == [("clean", 0.7), ("rain_pairs", 0.7)]


def test_a_small_picture_repeats_its_edge() -> None:
    bank = PictureBank.from_pictures([coordinates(16, 20, 0)], ["a"])
    crops = (bank.crops(40, 24, rng()) * 255).round().int()
    assert crops.shape == (40, 4, 24, 24)
    for crop in crops:
        places, repeats = crop[0].flatten().bincount(minlength=16), crop[1].flatten().bincount(minlength=20)
        assert (places[:15] == 24).all() and places[15] == 9 * 24
        assert (repeats[:19] == 24).all() and repeats[19] == 5 * 24


def test_crops_follow_the_generator(bank: PictureBank) -> None:
    assert torch.equal(bank.crops(4, 16, rng(1)), bank.crops(4, 16, rng(1)))
    assert not torch.equal(bank.crops(4, 16, rng(1)), bank.crops(4, 16, rng(2)))


def test_to_keeps_everything(bank: PictureBank) -> None:
    moved = Shards({"clean": bank}, "hash").to("cpu")
    assert moved.data_hash == "hash"
    assert moved.banks["clean"].names == ("a", "b", "c")
    assert torch.equal(moved.banks["clean"].picture(1), bank.picture(1))


# Loading


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_source_is_read(shards: Path, split: str) -> None:
    loaded = load_shards(shards, split)
    assert set(loaded.banks) == set(SOURCES) - {"drawn"}  # made, not read (pellucid.drawn)
    planes = {source: bank.planes.shape[1] for source, bank in loaded.banks.items()}
    assert planes == {"clean": 3, "rain_pairs": 4, "depth": 4, **dict.fromkeys(PAIR_ROLES, 6)}
    assert all(len(bank) == {"train": 2, "val": 1}[split] for bank in loaded.banks.values())


def test_pairs_belong_together(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    for source in PAIR_ROLES:  # the fixture's degraded pictures are a third of the clean ones
        planes = loaded.banks[source].planes.int()
        assert torch.equal(planes[:, 3:], planes[:, :3] // 3), source


def test_rain_pairs_hold_the_ground_truth_and_its_streaks(shards: Path) -> None:
    bank = load_shards(shards, "val").banks["rain_pairs"]
    assert torch.equal(bank.planes[:, :3], read_rgb8(shards / "clean/val-0.png").flatten(0, 1))
    assert torch.equal(bank.planes[:, 3], read_rgb8(shards / "val/streak/0.png")[..., 0].flatten())


def test_depth_is_scaled_and_cropped(tmp_path: Path, write_shards) -> None:
    depth = np.full((30, 40), 255, np.uint8)
    depth[:, :20] = 51
    picture = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
    write_shards(
        tmp_path,
        [
            ({"path": "rgb.png", "split": "train", "role": "haze-clean"}, picture),
            (
                {
                    "path": "d.png",
                    "split": "train",
                    "role": "haze-depth",
                    "rgb": "rgb.png",
                    "depth_scale": 1.5,
                },
                depth,
            ),
        ],
    )
    bank = load_shards(tmp_path, "train").banks["depth"]
    planes = (bank.picture(0) * 255).round()
    assert planes.shape == (4, 50, 70), "the frame of 10 pixels is cut off"
    assert torch.equal(planes[:3].byte().permute(1, 2, 0), torch.from_numpy(picture[10:, 10:]))
    assert planes[3, 0, 0] == round(0.3 * DEPTH_STEPS)  # 51 / 255 * 1.5
    assert planes[3, 0, -1] == round(1.5 * DEPTH_STEPS)


def test_depth_reaches_the_haze_in_its_own_unit(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    task, bank = Task("haze", 1, "depth", "haze"), loaded.banks["depth"]
    planes = bank.picture(0)[None]
    degraded, clean = Mixer(loaded, [task]).pairs(task, planes, rng())
    operator = degradations.get("haze")
    expected = operator.apply(clean, operator.draw(rng(), 1), depth=planes[:, 3:] * 255 / DEPTH_STEPS)
    torch.testing.assert_close(degraded, expected)
    assert 0.4 < planes[:, 3:].max() * 255 / DEPTH_STEPS <= 0.8  # the fixture's scale
    assert not torch.equal(degraded, clean)


@pytest.mark.parametrize("how", ["same path", "same bytes", "linked"])
def test_what_validation_uses_never_trains(tmp_path: Path, write_shards, how: str) -> None:
    def picture(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 200, (20, 20, 3), dtype=np.uint8)

    streak = {"path": "streak.png", "split": "val", "role": "rain-streak", "gt": "truth.png"}
    files = [
        (streak, picture(0)[..., 0]),
        ({"path": "free.png", "split": "train", "role": "clean"}, picture(1)),
        ({"path": "truth.png", "split": "train", "role": "clean"}, picture(2)),
    ]
    if how == "same bytes":
        files.append(({"path": "copy.png", "split": "train", "role": "clean"}, picture(2)))
    if how == "linked":  # other streaks on the same ground truth
        other = {"path": "other.png", "split": "train", "role": "rain-streak", "gt": "truth.png"}
        files.append((other, picture(3)[..., 0]))
    loaded = load_shards(write_shards(tmp_path, files), "train")
    assert loaded.banks["clean"].names == ("free.png",)
    assert list(loaded.banks) == ["clean"]
    assert load_shards(tmp_path, "val").banks["rain_pairs"].names == ("streak.png",)


def test_hash_tells_data_apart(shards: Path, tmp_path: Path, write_shards) -> None:
    assert load_shards(shards, "train").data_hash == load_shards(shards, "train").data_hash
    assert load_shards(shards, "train").data_hash != load_shards(shards, "val").data_hash
    picture = np.zeros((20, 20, 3), np.uint8)
    row = {"path": "a.png", "split": "train", "role": "clean"}
    before = load_shards(write_shards(tmp_path, [(row, picture)]), "train").data_hash
    assert load_shards(write_shards(tmp_path, [(row, picture + 1)]), "train").data_hash != before


ROW = {"path": "a.png", "split": "train", "role": "clean", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ("[]", "list indices"),
        ('{"files": 3}', "not iterable"),
        ('{"files": ["a.png"]}', "'str' object"),
        ("{}", "'files'"),
        (json.dumps({"files": [{"path": "a.png"}]}), "a.png lacks role, sha256, split"),
        (json.dumps({"files": [{**ROW, "role": "rain-streak"}]}), "a.png lacks gt"),
        (json.dumps({"files": [{**ROW, "split": "vall"}]}), "a.png: There is no split called 'vall'"),
        (json.dumps({"files": [{**ROW, "role": "Clean"}]}), "a.png: There is no role called 'Clean'"),
        (json.dumps({"files": [{**ROW, "sha256": None}]}), "sha256 of a.png is None; expected a text"),
        (
            json.dumps({"files": [{**ROW, "depth_scale": "x"}]}),
            "depth_scale of a.png is 'x'; expected a number",
        ),
        (json.dumps({"files": [{**ROW, "role": "haze-depth"}]}), "a.png lacks depth_scale, rgb"),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path: Path, manifest: str | None, said: str) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(RecipeError, match=r"no shard folder.*Give the folder") as caught:
        load_shards(tmp_path, "train")
    assert said in str(caught.value)


def test_missing_files_are_counted(tmp_path: Path, write_shards) -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    write_shards(tmp_path, [({**ROW, "path": name}, picture) for name in ("a.png", "b.png", "c.png")])
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.png").unlink()
    with pytest.raises(RecipeError, match=r"^2 files of .*manifest.json are missing, the first is b.png"):
        load_shards(tmp_path, "train")


def test_a_missing_ground_truth_is_missed(tmp_path: Path, write_shards) -> None:
    row = {"path": "s.png", "split": "train", "role": "rain-streak", "gt": "gt.png"}
    write_shards(tmp_path, [(row, np.zeros((20, 20), np.uint8))])
    with pytest.raises(RecipeError, match=r"1 files .* the first is gt.png"):
        load_shards(tmp_path, "train")


def test_a_lone_half_of_a_pair_is_refused(tmp_path: Path, write_shards) -> None:
    row = {"path": "x/high/1.png", "split": "train", "role": "lowlight-high"}
    write_shards(tmp_path, [(row, np.zeros((20, 20, 3), np.uint8))])
    with pytest.raises(RecipeError, match=r"x/high/1.png has no partner of the role lowlight-low"):
        load_shards(tmp_path, "train")


def test_pairs_that_can_not_be_told_apart_are_refused(tmp_path: Path, write_shards) -> None:
    files = [
        (
            {"path": f"{name}_{side}/1.png", "split": "train", "role": f"lowlight-{side}"},
            np.zeros((20, 20, 3), np.uint8),
        )
        for name in ("lol", "smid")
        for side in ("high", "low")
    ]
    with pytest.raises(RecipeError, match=r"lol_high/1.png and smid_high/1.png claim the same partner"):
        load_shards(write_shards(tmp_path, files), "train")


def test_a_degraded_picture_without_its_clean_one_is_refused(tmp_path: Path, write_shards) -> None:
    files = [
        (
            {"path": f"x/{side}.png", "split": "train", "role": f"lowlight-{role}"},
            np.zeros((20, 20, 3), np.uint8),
        )
        for side, role in (("high/1", "high"), ("low/1", "low"), ("low/2", "low"))
    ]
    with pytest.raises(RecipeError, match=r"x/low/2.png has no partner of the role lowlight-high"):
        load_shards(write_shards(tmp_path, files), "train")


def test_pairs_of_two_sizes_are_refused(tmp_path: Path, write_shards) -> None:
    files = [
        (
            {"path": f"x/{side}/1.png", "split": "train", "role": f"lowlight-{side}"},
            np.zeros((20, w, 3), np.uint8),
        )
        for side, w in (("high", 20), ("low", 24))
    ]
    with pytest.raises(RecipeError, match="different sizes, 20x20 and 24x20"):
        load_shards(write_shards(tmp_path, files), "train")


def test_a_tiny_picture_is_refused(tmp_path: Path, write_shards) -> None:
    row = {"path": "a.png", "split": "train", "role": "clean"}
    write_shards(tmp_path, [(row, np.zeros((15, 30, 3), np.uint8))])
    with pytest.raises(RecipeError, match=r"a.png is 30x15 pixels; expected sides of at least 16"):
        load_shards(tmp_path, "train")


def test_other_bytes_than_listed_are_refused(tmp_path: Path, write_shards) -> None:
    row = {"path": "a.png", "split": "train", "role": "clean", "sha256": "0" * 64}
    write_shards(tmp_path, [(row, np.zeros((20, 20, 3), np.uint8))])
    with pytest.raises(UnreadableImageError, match=r"a.png does not hold the bytes that manifest.json lists"):
        load_shards(tmp_path, "train")


# Reading pictures


@pytest.fixture(params=["libvips", "Pillow"])
def library(request, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "Pillow":
        pytest.importorskip("PIL")
        without(monkeypatch, "pyvips")
    return request.param


@pytest.mark.parametrize("content", [b"", b"hello", "cut"])
def test_a_broken_picture_is_refused(tmp_path: Path, library: str, content: bytes | str) -> None:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    pyvips.Image.new_from_array(pixels).write_to_file(str(path))
    path.write_bytes(path.read_bytes()[:4000] if content == "cut" else content)
    with pytest.raises(UnreadableImageError, match=r"a.png can't be decoded .* Get the file again"):
        read_rgb8(path)
    row = {**ROW, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [row]}))
    with pytest.raises(UnreadableImageError):
        load_shards(tmp_path, "train")


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_both_libraries_give_the_same_pixels(tmp_path: Path, monkeypatch, bands: int) -> None:
    pytest.importorskip("PIL")
    pixels = np.random.default_rng(0).integers(0, 256, (17, 23, bands), dtype=np.uint8)
    pyvips.Image.new_from_array(pixels).write_to_file(str(tmp_path / "a.png"))
    through_vips = read_rgb8(tmp_path / "a.png")
    without(monkeypatch, "pyvips")
    through_pillow = read_rgb8(tmp_path / "a.png")
    assert through_vips.shape == (17, 23, 3) and through_vips.dtype == torch.uint8
    assert torch.equal(through_vips, through_pillow)
    assert torch.equal(through_vips[..., 0], torch.from_numpy(pixels[..., 0]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_are_read_upright_as_evaluation_reads_them(
    tmp_path: Path, library: str, orientation: int, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    image = pyvips.Image.new_from_array(np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8))
    image = image.copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    image.write_to_file(str(path))
    upright = (read_image(path).pixels * 255).round().to(torch.uint8).permute(1, 2, 0)
    assert (upright.shape[0] == 23) == (orientation >= 5)
    pixels = read_rgb8(path)
    assert pixels.shape == upright.shape
    assert float((pixels.float() - upright.float()).abs().max()) <= 2  # two decoders of JPEG


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_floating_point_is_read_as_evaluation_reads_it(tmp_path: Path, library: str, bands: int) -> None:
    if library == "Pillow" and bands > 1:
        pytest.skip("Pillow reads no floating-point colors")
    samples = np.random.default_rng(0).random((17, 23, bands), dtype=np.float32)
    interpretation = "b-w" if bands == 1 else "srgb"
    image = pyvips.Image.new_from_array(samples).copy(interpretation=interpretation)
    image.write_to_file(str(tmp_path / "a.tif"))
    pixels = read_image(tmp_path / "a.tif").pixels.permute(1, 2, 0) * 255
    read = read_rgb8(tmp_path / "a.tif")
    assert read.shape == (17, 23, 3) and read.dtype == torch.uint8
    assert float((read.float() - pixels).abs().max()) <= 0.51


def test_written_pixels_are_read_back(tmp_path: Path, library: str) -> None:
    pixels = torch.randint(256, (3, 17, 23), generator=rng(), dtype=torch.uint8).permute(1, 2, 0)
    for _ in range(2):  # the second time it replaces the first
        write_rgb8(pixels, tmp_path / "a.png")
        assert torch.equal(read_rgb8(tmp_path / "a.png"), pixels)


def test_without_any_library_the_remedy_is_named(shards: Path, monkeypatch) -> None:
    without(monkeypatch, "pyvips", "PIL")
    with pytest.raises(RecipeError, match=r"not installed.*pip install 'pyvips\[binary\]' pillow"):
        load_shards(shards, "val")


# Mixing


def test_rain_pairs_are_clean_plus_streaks(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    task = Task("rain", 1, "rain_pairs")
    planes = loaded.banks["rain_pairs"].crops(6, 32, rng())
    degraded, clean = Mixer(loaded, [task]).pairs(task, planes, rng())
    stored = (planes * 255).round().int()
    assert torch.equal((clean * 255).round().int(), stored[:, :3])
    assert torch.equal((degraded * 255).round().int(), (stored[:, :3] + stored[:, 3:]).clamp(0, 255))
    assert (stored[:, :3] + stored[:, 3:] > 255).any(), "nothing was clipped"


def test_real_pairs_pass_unchanged(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    for source in PAIR_ROLES:
        task = Task("noise", 1, source)
        planes = loaded.banks[source].crops(3, 16, rng())
        degraded, clean = Mixer(loaded, [task]).pairs(task, planes, rng())
        assert torch.equal(clean, planes[:, :3]) and torch.equal(degraded, planes[:, 3:])


def test_clean_pairs_are_equal(shards: Path) -> None:
    task = Task("clean", 1, "clean")
    degraded, clean, tasks = Mixer(load_shards(shards, "train"), [task]).batch(3, 16, rng())
    assert torch.equal(degraded, clean)
    assert tasks == [task] * 3


def test_a_named_sigma_is_the_papers_noise(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    task = Task("noise", 1, "clean", "gaussian_noise", sigma=25)
    degraded, clean = Mixer(loaded, [task]).pairs(task, torch.full((4, 3, 64, 64), 0.5), rng())
    levels = degraded * 255
    assert torch.equal(levels, levels.round())
    assert ((degraded - clean) * 255).std().item() == pytest.approx(25, rel=0.03)


def test_streak_planes_serve_other_pictures(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    task = Task("rain", 1, "clean", "rain_streaks", streaks=True)
    planes = loaded.banks["clean"].crops(2, 32, rng())
    degraded, clean = Mixer(loaded, [task]).pairs(task, planes, rng(5))
    expected_rng, operator = rng(5), degradations.get("rain_streaks")
    params = operator.draw(expected_rng, 2)
    streaks = loaded.banks["rain_pairs"].crops(2, 32, expected_rng)[:, 3:]
    assert streaks.any()
    assert torch.equal(degraded, operator.apply(clean, params, streaks=streaks))


def test_batches_follow_the_weights(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    tasks = [Task("clean", 3, "clean"), Task("noise", 1, "camera_noise_pairs"), Task("blur", 0, "blur_pairs")]
    degraded, clean, drawn = Mixer(loaded, tasks).batch(2000, 16, rng())
    kinds = [task.kind for task in drawn]
    assert degraded.shape == clean.shape == (2000, 3, 16, 16)
    assert degraded.dtype == clean.dtype == torch.float32
    assert kinds.count("clean") / 2000 == pytest.approx(0.75, abs=0.04)
    assert kinds.count("noise") + kinds.count("clean") == 2000
    # The kinds name the pairs they stand beside.
    assert [bool((d != c).any()) for d, c in zip(degraded, clean, strict=True)] == [
        k == "noise" for k in kinds
    ]


@pytest.mark.parametrize(
    ("kind", "source", "operator"),
    [("noise", "clean", "gaussian_noise"), ("rain", "rain_pairs", None), ("blur", "blur_pairs", None)],
)
def test_a_share_of_the_samples_has_no_color(
    kind: str, source: str, operator: str | None, shards: Path
) -> None:
    mixer = Mixer(load_shards(shards, "train"), [Task(kind, 1, source, operator)], gray=0.3)
    degraded, clean, _ = mixer.batch(300, 16, rng())
    gray = [[bool((sample == sample[1]).all()) for sample in side] for side in (degraded, clean)]
    assert gray[0] == gray[1]
    assert sum(gray[0]) / 300 == pytest.approx(0.3, abs=0.08)


def test_a_share_of_the_samples_is_paler_or_darker(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    tasks = [Task("clean", 1, "clean"), Task("rain", 1, "rain_pairs")]
    degraded, toned, _ = Mixer(loaded, tasks[:1], tones=0.3).batch(300, 16, rng())
    _, plain, _ = Mixer(loaded, tasks[:1]).batch(300, 16, rng())
    assert torch.equal(degraded, toned)
    changes = (toned - plain).mean(dim=(1, 2, 3))
    assert float((changes != 0).float().mean()) == pytest.approx(0.3, abs=0.08)
    assert min((changes > 0).sum(), (changes < 0).sum()) > 20
    # A real pair stays as it is.
    paired = [Mixer(loaded, tasks[1:], tones=tones).batch(20, 16, rng())[1] for tones in (0.0, 1.0)]
    assert torch.equal(*paired)


def test_a_task_joins_when_its_share_of_the_run_is_over(shards: Path) -> None:
    tasks = [Task("clean", 1, "clean"), Task("noise", 9, "camera_noise_pairs", starts_at=0.25)]
    mixer = Mixer(load_shards(shards, "train"), tasks)
    assert set(mixer.batch(100, 16, rng(), done=0.2)[2]) == {tasks[0]}
    assert mixer.batch(1000, 16, rng(), done=0.25)[2].count(tasks[1]) / 1000 == pytest.approx(0.9, abs=0.04)


def counted(lengths: dict[str, int], tasks: list[Task]) -> Mixer:
    """A mixer over sources of so many pictures, of two pixels each that hold the picture's number."""
    banks = {
        name: PictureBank.from_pictures(
            [torch.full((2, 2, 6), i % 256, dtype=torch.uint8) for i in range(length)], ["x"] * length
        )
        for name, length in lengths.items()
    }
    return Mixer(Shards(banks, ""), tasks, "counted", seed=1)


def test_an_epoch_is_counted_as_the_papers_count() -> None:
    lengths = {"bsd400": 400, "wed": 4744, "rain100l": 200, "reside_ots": 72_135}
    tasks = [
        Task("noise", 1, source, "gaussian_noise", sigma=sigma, repeat=3)
        for source in ("bsd400", "wed")
        for sigma in (15, 25, 50)
    ]
    tasks += [Task("rain", 1, "rain100l", repeat=120), Task("haze", 1, "reside_ots")]
    assert counted(lengths, tasks).epoch == 142_431


def test_a_counted_epoch_holds_every_picture_as_often_as_asked() -> None:
    tasks = [Task("rain", 1, "a", repeat=3), Task("haze", 1, "b")]
    mixer = counted({"a": 2, "b": 5}, tasks)
    assert mixer.epoch == 11
    orders: list[list[tuple[str, float]]] = []
    for epoch in range(2):
        seen: list[tuple[str, float]] = []
        for first in range(11 * epoch, 11 * (epoch + 1)):
            _, clean, (task,) = mixer.batch(1, 2, rng(), first=first)
            seen.append((task.kind, round(clean[0, 0, 0, 0].item() * 255)))
        wanted = [("rain", i) for i in range(2) for _ in range(3)] + [("haze", i) for i in range(5)]
        assert sorted(seen) == sorted(wanted)
        orders.append(seen)
    assert orders[0] != orders[1]  # shuffled anew
    _, clean, drawn = mixer.batch(11, 2, rng(), first=0)
    again = [mixer.batch(1, 2, rng(), first=first)[2][0] for first in range(11)]
    assert sorted(drawn, key=tasks.index) == sorted(again, key=tasks.index)


def test_batches_follow_the_generator(shards: Path) -> None:
    tasks = [Task("noise", 1, "clean", "gaussian_noise"), Task("rain", 1, "rain_pairs")]
    mixer = Mixer(load_shards(shards, "train"), tasks)
    first, again, other = (mixer.batch(4, 16, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and first[2] == again[2]
    assert not torch.equal(first[0], other[0])


def test_a_task_without_its_data_is_refused(shards: Path) -> None:
    loaded = load_shards(shards, "train")
    few = Shards({"clean": loaded.banks["clean"]}, "")
    tasks = [Task("haze", 1, "haze_pairs"), Task("rain", 1, "clean", "rain_streaks", streaks=True)]
    with pytest.raises(RecipeError, match=r"'haze_pairs'.*'rain_pairs'.* The data has: clean\. Remove"):
        Mixer(few, tasks)


# Validation


def test_validation_pairs_are_the_same_at_every_call(shards: Path) -> None:
    loaded = with_drawn(load_shards(shards, "val"), 9)
    first, again = (list(validation_pairs(loaded)) for _ in range(2))
    assert list(dict.fromkeys(pair[0] for pair in first)) == [name for name, _ in VALIDATION_TASKS]
    for (_, degraded, clean), (_, degraded2, clean2) in zip(first, again, strict=True):
        assert torch.equal(degraded, degraded2) and torch.equal(clean, clean2)
        assert degraded.shape == clean.shape and all(side % 16 == 0 for side in clean.shape[2:])
        assert degraded.min() >= 0 and degraded.max() <= 1
    same = [name for name, degraded, clean in first if torch.equal(degraded, clean)]
    assert set(same) == {"clean", "clean_drawn"}


def test_validation_knows_every_kind() -> None:
    assert {task.kind for _, task in VALIDATION_TASKS} == set(KINDS)


def test_validation_noise_is_the_papers(shards: Path) -> None:
    pairs = {
        name: (degraded, clean) for name, degraded, clean in validation_pairs(load_shards(shards, "val"))
    }
    for sigma in (15, 25, 50):
        degraded, clean = pairs[f"noise_{sigma}"]
        levels = degraded * 255
        assert torch.equal(levels, levels.round()), "8 bits"
        middle = (clean > 0.35) & (clean < 0.65)  # far from both ends, nothing is clipped much
        assert ((degraded - clean)[middle].std() * 255).item() == pytest.approx(sigma, rel=0.1)


def test_a_limit_takes_the_first_pictures(shards: Path) -> None:
    loaded = load_shards(shards, "train")  # two pictures of each
    whole = list(validation_pairs(loaded))
    first = list(validation_pairs(loaded, limit=1))
    assert len(whole) == 2 * len(first)
    for limited, full in zip(first, whole[::2], strict=True):
        assert limited[0] == full[0] and torch.equal(limited[1], full[1]) and torch.equal(limited[2], full[2])
    assert list(validation_pairs(loaded, limit=0)) == []


def test_validation_takes_some_kinds(shards: Path) -> None:
    loaded = load_shards(shards, "val")
    names = [name for name, _, _ in validation_pairs(loaded, kinds={"rain", "haze"})]
    assert names == ["rain", "haze_depth", "haze_outdoor"]


def test_validation_takes_what_the_data_has(shards: Path) -> None:
    loaded = load_shards(shards, "val")
    few = Shards({"rain_pairs": loaded.banks["rain_pairs"]}, "")
    assert [name for name, _, _ in validation_pairs(few)] == ["rain"]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (47, 33), (50, 64)])
def test_center_crop(height: int, width: int) -> None:
    x = torch.arange(height * width).reshape(1, height, width)
    cropped = center_crop(x, 16)
    rows, columns = cropped.shape[1:]
    assert rows == height - height % 16 and columns == width - width % 16
    top, left = (height - rows) // 2, (width - columns) // 2
    assert torch.equal(cropped, x[:, top : top + rows, left : left + columns])
