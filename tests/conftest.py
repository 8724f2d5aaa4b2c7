"""Settings and fixtures for all tests."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# Tiny tensors gain nothing from threads, and threads that wait for each other lose much on busy cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory) -> Path:
    """A checkpoint `small.safetensors` of a fresh `daair_s` that changes pictures a little."""
    from pellucid import models
    from pellucid.checkpoint import Checkpoint

    spec = models.get("daair_s")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = spec.build(spec.config)
        torch.nn.init.normal_(network.head.weight, std=0.01)  # fresh, it is zero
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    Checkpoint.from_network(spec.name, network).write(path)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Very small networks as files, by structure, some way into training."""
    from tests.toys import shaken

    from pellucid import models
    from pellucid.checkpoint import Checkpoint

    tiny = {
        "daair_s": {"encoder_blocks": (1, 1), "decoder_blocks": (1,), "num_experts": 2, "rank": 4},
        "dfpir_s": {"num_blocks": (1,) * 4, "num_heads": (1,) * 4, "prompts": ("rain", "haze")},
    }
    found = {}
    for model, numbers in tiny.items():
        spec = models.get(model)
        network = shaken(spec, 0.05, dim=4, **numbers)
        found[model] = tmp_path_factory.mktemp("tiny") / f"{model}.safetensors"
        Checkpoint.from_network(model, network, {"seed": 7}).write(found[model])
    return found


WriteShards = Callable[[Path, Sequence[tuple[dict[str, Any], np.ndarray]]], Path]


@pytest.fixture(scope="session")
def write_shards() -> WriteShards:
    """`write_shards(folder, [(row of the manifest, uint8 pixels), ...])` makes a shard folder."""
    import pyvips

    def write(folder: Path, files: Sequence[tuple[dict[str, Any], np.ndarray]]) -> Path:
        rows = []
        for row, pixels in files:
            path = folder / row["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            pyvips.Image.new_from_array(pixels).write_to_file(str(path))
            rows.append({"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **row})
        (folder / "manifest.json").write_text(json.dumps({"files": rows}))
        return folder

    return write


@pytest.fixture(scope="session")
def shards(tmp_path_factory, write_shards: WriteShards) -> Path:
    """A shard folder with tiny smooth pictures of every role, in both splits."""
    rng = np.random.default_rng(0)

    def smooth(low: float, high: float) -> np.ndarray:
        y, x = np.mgrid[0:48, 0:56] / 50
        waves = [np.sin(rng.uniform(1, 8) * y + rng.uniform(1, 8) * x + rng.uniform(0, 6)) for _ in range(3)]
        return (low + (high - low) * (np.stack(waves, axis=2) + 1) / 2).astype(np.uint8)

    files: list[tuple[dict[str, Any], np.ndarray]] = []
    for split, count in (("train", 2), ("val", 1)):
        for i in range(count):
            scene = f"{split}/{{}}/{i}.png"
            clean = smooth(20, 200)
            streaks = np.where(rng.random((48, 56)) < 0.1, 80, 0).astype(np.uint8)
            files += [
                ({"path": f"clean/{split}-{i}.png", "role": "clean"}, clean),
                (
                    {"path": scene.format("streak"), "role": "rain-streak", "gt": f"clean/{split}-{i}.png"},
                    streaks,
                ),
                ({"path": scene.format("rgb"), "role": "haze-clean"}, smooth(0, 255)),
                (
                    {
                        "path": scene.format("depth"),
                        "role": "haze-depth",
                        "rgb": scene.format("rgb"),
                        "depth_scale": 0.8,
                    },
                    smooth(0, 255)[:24, :28, 0],
                ),
            ]
            for kind, degraded, good in (
                ("lowlight", "low", "high"),
                ("deblur", "blur", "sharp"),
                ("noise", "noisy", "gt"),
                ("haze", "hazy", "gt"),
            ):
                clean = smooth(0, 255)
                files += [
                    ({"path": f"{kind}/{scene.format(good)}", "role": f"{kind}-{good}"}, clean),
                    ({"path": f"{kind}/{scene.format(degraded)}", "role": f"{kind}-{degraded}"}, clean // 3),
                ]
            for row, _ in files:
                row.setdefault("split", split)
    return write_shards(tmp_path_factory.mktemp("shards"), files)
