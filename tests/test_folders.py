from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid import write_image
from pellucid.arrays import image_from_array
from pellucid.data import Mixer, Task
from pellucid.errors import RecipeError
from pellucid.folders import FolderBank, load_folders
from pellucid.recipe import Recipe
from pellucid.train import train

RAIN = Task("rain", 1, "rain100l", repeat=3)
NOISE = Task("noise", 1, "bsd400", "gaussian_noise", sigma=25)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(path: Path, level: int, size: tuple[int, int] = (37, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(image_from_array(np.full((*size, 3), level, dtype=np.uint8)), path, overwrite=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two rain pairs, rainy = clean + 100, and three clean photographs, in the layouts that users have."""
    for i in (1, 2):
        write(tmp_path / f"rain100l/rainy/rain-{i}.png", 100 + i)
        write(tmp_path / f"rain100l/gt/norain-{i}.png", i)
    for i, name in enumerate(("2018", "2092", "3063")):
        write(tmp_path / f"bsd400/{name}.jpg", 60 * (i + 1))
    return tmp_path


def load(root: Path) -> dict[str, FolderBank]:
    return load_folders(root, [RAIN, Task("noise", 1, "bsd400", "gaussian_noise")]).banks


def test_pairs_stay_together(root: Path) -> None:
    planes = load(root)["rain100l"].crops(20, 16, rng())
    assert planes.shape == (20, 6, 16, 16)
    clean, rainy = (planes[:, part] * 255 for part in (slice(0, 3), slice(3, 6)))
    assert torch.equal(rainy.round(), clean.round() + 100)
    assert set(clean.round().unique().tolist()) == {1.0, 2.0}


def test_crops_may_stay_upright(root: Path) -> None:
    darker_above = np.repeat(np.arange(32, dtype=np.uint8)[:, None, None] * 8, 48, axis=1).repeat(3, axis=2)
    write_image(image_from_array(darker_above), root / "bsd400/2018.jpg", overwrite=True)
    bank, first = load(root)["bsd400"], torch.zeros(40, dtype=torch.int64)
    shares = [
        float((crops[:, 0, 0] < crops[:, 0, -1]).all(dim=1).float().mean())
        for crops in (bank.crops(40, 16, rng(), first, upright=upright) for upright in (1.0, 0.0))
    ]
    assert shares[0] == 1 and 0 < shares[1] < 0.5


def test_clean_pictures_have_three_planes_and_can_be_named(root: Path) -> None:
    crops = load(root)["bsd400"].crops(2, 16, rng(), torch.tensor([2, 0]))
    assert crops.shape == (2, 3, 16, 16)
    assert (crops[:, 0, 0, 0] * 255).round().tolist() == [180, 60]


def test_pictures_are_cut_to_multiples_of_sixteen(root: Path) -> None:
    assert load(root)["bsd400"].picture(0).shape == (3, 32, 48)


def test_a_mixer_takes_folders_as_it_takes_shards(root: Path) -> None:
    mixer = Mixer(load_folders(root, [RAIN]), [RAIN], "counted")
    assert mixer.epoch == 6
    degraded, clean, tasks = mixer.batch(4, 16, rng())
    assert torch.equal((degraded * 255).round(), (clean * 255).round() + 100)
    assert tasks == [RAIN] * 4


def test_the_hash_tells_folders_apart(root: Path) -> None:
    before = load_folders(root, [RAIN]).data_hash
    assert load_folders(root, [RAIN]).data_hash == before
    (root / "rain100l/rainy/rain-2.png").unlink()
    assert load_folders(root, [RAIN]).data_hash != before


def test_all_that_is_missing_is_told_at_once(root: Path) -> None:
    tasks = [RAIN, Task("haze", 1, "reside_ots"), Task("clean", 1, "clean")]
    with pytest.raises(RecipeError) as caught:
        load_folders(root, tasks)
    told = str(caught.value)
    assert told.startswith("2 faults of the data:")
    assert "holds nothing of RESIDE" in told and "the source 'clean' is made of shards" in told


def test_a_root_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    tasks = [Task("rain", 1, "rain100l"), Task("blur", 1, "gopro")]
    with pytest.raises(RecipeError, match="1 fault of the data") as raised:
        load_folders(tmp_path / "nowhere", tasks)
    assert str(raised.value).count("nowhere") == 1


def test_partners_of_two_sizes_are_refused(root: Path) -> None:
    write(root / "rain100l/gt/norain-1.png", 1, size=(64, 50))
    with pytest.raises(
        RecipeError, match=r"rain-1.png is, with its partner, 48x64 and 48x32; expected one size"
    ):
        load(root)["rain100l"].crops(1, 16, rng(), torch.tensor([0]))


def test_a_training_by_folders_needs_no_validation(root: Path, write_shards: Callable[..., Path]) -> None:
    recipe = Recipe(
        "t", "daair_s", (RAIN,), mixing="counted", patch=16, batch=4, steps=2, precision="32-true"
    )
    assert train(recipe, root, root / "run", device="cpu").is_file()


def test_training_says_what_is_missing_of_a_set(root: Path, tmp_path: Path, capsys) -> None:
    (root / "rain100l/gt/norain-2.png").unlink()
    recipe = Recipe("tiny", "daair_s", (RAIN, NOISE), patch=16, batch=4, steps=1, precision="32-true")
    train(recipe, root, tmp_path / "run", device="cpu")
    said = capsys.readouterr().err
    assert (
        f"rain100l: 1 of 200 pairs. See why with: pellucid data verify rain100l {root / 'rain100l'}" in said
    )
    assert "bsd400: 3 of 400 pictures. See why with:" in said
