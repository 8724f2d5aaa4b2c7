"""Makes the statistics that `niqe` compares with: `python benchmarks/fit_niqe.py SHARDS`.

SHARDS is a shard folder. Taken are the clean training pictures of its folder `hq`, freely licensed
photographs as JPEG of quality 90 with a long side of 768 pixels.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from pellucid.data import read_rgb8
from pellucid.metrics import niqe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--output", type=Path, default=niqe.MODEL)
    arguments = parser.parse_args()
    files = json.loads((arguments.shards / "manifest.json").read_text("utf-8"))["files"]
    chosen = sorted(
        (f for f in files if f["path"].startswith("hq/") and (f["role"], f["split"]) == ("clean", "train")),
        key=lambda f: f["path"],
    )
    with torch.inference_mode():
        mean, covariance = niqe.fit_model(
            read_rgb8(arguments.shards / f["path"]).permute(2, 0, 1).double() / 255 for f in chosen
        )
    listing = "".join(f"{f['path']} {f['sha256']}\n" for f in chosen)
    origin = {
        "pictures": str(len(chosen)),
        "data_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "what": "sharp blocks of freely licensed photographs, by the method of Mittal et al., 2013",
    }
    save_file({"mean": mean.clone(), "covariance": covariance.clone()}, arguments.output, origin)
    print(f"{arguments.output}: {len(chosen)} pictures")


if __name__ == "__main__":
    main()
