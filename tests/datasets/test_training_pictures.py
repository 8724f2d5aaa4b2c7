"""What weights remember of their training pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.checkpoint import Checkpoint
from pellucid.data import load_shards
from pellucid.datasets.training_pictures import (
    KEY,
    TrainingPictures,
    add_training_pictures,
    hash_training_pictures,
)
from pellucid.errors import CheckpointError
from pellucid.folders import FolderBank


def photograph(seed: int, size: tuple[int, int] = (96, 64)) -> torch.Tensor:
    """(H, W, 3) uint8, smooth, another one for every seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)))


def test_a_picture_is_known_again_when_changed_a_little():
    known = TrainingPictures.of(photograph(seed) for seed in range(10))
    assert len(known) == 10
    assert all(known.holds(photograph(seed)) for seed in range(10))
    assert known.holds(photograph(3, (48, 32)))
    assert known.holds(photograph(3) // 2)
    assert known.holds(photograph(3)[2:-2, 3:-3])
    assert not any(known.holds(photograph(seed)) for seed in range(10, 30))


def test_the_distance_is_that_of_leaks():
    from pellucid.datasets.leak import perceptual_hash

    first, second = perceptual_hash(photograph(1)), perceptual_hash(photograph(2))
    assert first is not None and second is not None
    distance = int((first != second).sum())
    known = TrainingPictures.of([photograph(1)])
    assert known.holds(photograph(2), near=distance)
    assert not known.holds(photograph(2), near=distance - 1)


def test_copies_count_once_and_flat_colors_not_at_all():
    flat = torch.full((40, 50, 3), 77, dtype=torch.uint8)
    known = TrainingPictures.of([photograph(1), photograph(1), flat])
    assert len(known) == 1
    assert not known.holds(flat)
    assert not TrainingPictures().holds(photograph(1))


def test_they_survive_a_checkpoints_header():
    known = TrainingPictures.of(photograph(seed) for seed in range(5))
    stored = json.loads(json.dumps(known.to_dict()))
    assert stored["count"] == 5
    assert len(stored["perceptual_hashes"]) == 56  # 40 bytes in base64
    assert TrainingPictures.from_provenance({KEY: stored}) == known
    assert TrainingPictures.from_provenance({}) is None
    assert TrainingPictures.from_provenance({KEY: None}) is None
    assert TrainingPictures.from_provenance({KEY: TrainingPictures().to_dict()}) == TrainingPictures()


@pytest.mark.parametrize(
    "stored",
    ["x", {"count": 1}, {"count": 1, "perceptual_hashes": "$"}, {"count": 2, "perceptual_hashes": "AAAA"}],
)
def test_damaged_hashes_are_refused(stored):
    with pytest.raises(CheckpointError, match="hashes of its training pictures are damaged"):
        TrainingPictures.from_provenance({KEY: stored})


def test_those_of_a_shard_folder_are_added_to_finished_weights(shards, small_weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(small_weights.read_bytes())
    before = Checkpoint.read(path)
    added = add_training_pictures(path, shards)
    after = Checkpoint.read(path)
    assert TrainingPictures.from_provenance(after.provenance) == added
    assert after.provenance == {**before.provenance, KEY: added.to_dict()}
    assert all(torch.equal(after.tensors[name], t) for name, t in before.tensors.items())
    assert {t.dtype for t in after.tensors.values()} == {t.dtype for t in before.tensors.values()}
    for bank in load_shards(shards, "train").banks.values():
        assert all(added.holds(picture, near=0) for picture in bank.clean_pictures())
    assert add_training_pictures(path, shards) == added


def test_other_data_than_the_weights_name_are_refused(shards, small_weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint = Checkpoint.read(small_weights)
    Checkpoint(
        checkpoint.model, checkpoint.config, checkpoint.tensors, {"training_data_sha256": "ab" * 32}
    ).write(path)
    with pytest.raises(CheckpointError, match="was trained on data with the hash abab"):
        add_training_pictures(path, shards)


def test_a_run_takes_the_sources_of_its_tasks_and_keeps_them(shards, tmp_path):
    training, said = load_shards(shards, "train"), []
    known = hash_training_pictures(tmp_path, training, ["clean"], start=None, resumed=False, say=said.append)
    assert known == TrainingPictures.of(training.banks["clean"].clean_pictures())
    assert said[-1].startswith("2 clean training pictures hashed in ")
    said.clear()
    again = hash_training_pictures(tmp_path, training, ["clean"], start=None, resumed=True, say=said.append)
    assert (again, said) == (known, [])
    more = hash_training_pictures(
        tmp_path, training, ["haze_pairs"], start=None, resumed=True, say=said.append
    )
    assert more is not None and known is not None and len(more) == 4 and set(known.hashes) < set(more.hashes)


def test_a_run_remembers_what_its_start_was_trained_on(shards, tmp_path):
    training, said = load_shards(shards, "train"), []
    start = {KEY: TrainingPictures.of([photograph(1)]).to_dict()}
    known = hash_training_pictures(tmp_path, training, ["clean"], start=start, resumed=False, say=said.append)
    assert known is not None and len(known) == 3 and known.holds(photograph(1))


def test_what_started_from_the_unknown_stays_unknown(shards, tmp_path):
    training, said = load_shards(shards, "train"), []
    assert (
        hash_training_pictures(tmp_path, training, ["clean"], start={}, resumed=False, say=said.append)
        is None
    )
    assert "carry no hashes" in said[-1]
    assert (
        hash_training_pictures(tmp_path, training, ["clean"], start=None, resumed=True, say=said.append)
        is None
    )


def test_a_run_begun_without_is_unknown(shards, tmp_path):
    training, said = load_shards(shards, "train"), []
    assert (
        hash_training_pictures(tmp_path, training, ["clean"], start=None, resumed=True, say=said.append)
        is None
    )


def test_of_folders_each_clean_picture_is_read_once_and_whole(tmp_path: Path):
    for name, seed in (("clean/1.png", 1), ("a/1_1.png", 1), ("a/1_2.png", 1), ("clean/2.png", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(photograph(seed, (99, 67)).numpy()).save(tmp_path / name)
    pairs = [("a/1_1.png", "clean/1.png"), ("a/1_2.png", "clean/1.png"), (None, "clean/2.png")]
    pictures = list(FolderBank("mine", tmp_path, pairs).clean_pictures())
    assert [tuple(p.shape) for p in pictures] == [(67, 99, 3)] * 2
    assert torch.equal(pictures[0], photograph(1, (99, 67)))


def test_the_hash_of_a_picture_never_changes() -> None:
    """Weights carry hashes of pictures that are not at hand any more."""
    y, x = torch.arange(64)[:, None], torch.arange(96)
    planes = ((y * y + 3 * x * y) // 7 % 256, (5 * x + y * x // 9) % 256, (x * x // 11 + 2 * y) % 256)
    known = TrainingPictures.of([torch.stack(planes, dim=2).byte()])
    assert [found.hex() for found in known.hashes] == ["80072e2c3daa7a7f"]
