"""`pellucid doctor`."""

from typing import Any

import typer

from pellucid.cli._shared import AsJson, Device


def doctor(device: Device = None, as_json: AsJson = False) -> None:
    """Say what this machine computes with, check the embedded weights, and measure one run.

    Exit code 1 if something is wrong.
    """
    import platform
    import time
    from importlib import metadata

    import torch

    from pellucid import __version__, compute, weights
    from pellucid.checkpoint import Checkpoint
    from pellucid.cli._shared import print_json
    from pellucid.errors import PellucidError
    from pellucid.restorer import load

    chosen = compute.choose_device(device)
    found: dict[str, Any] = {
        "pellucid": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type,
        "threads": torch.get_num_threads(),
        "free_memory": compute.free_memory(chosen),
        "versions": {name: metadata.version(name) for name in ("torch", "numpy", "pyvips", "safetensors")},
        "weights": {},
        "run": None,
        "problems": [],
    }
    for name in weights.names():
        try:
            file = weights.find(name)
            Checkpoint.read(file.path, sha256=file.sha256).build()
            found["weights"][name] = {"sha256": file.sha256, "verified": True}
        except PellucidError as error:
            found["weights"][name] = {"verified": False}
            found["problems"].append(str(error))
    if weights.DEFAULT not in found["weights"]:
        found["problems"].append(
            f"The default weights {weights.DEFAULT} are not embedded; install pellucid again."
        )
    elif found["weights"][weights.DEFAULT]["verified"]:
        restorer = load(device=device, guard=False)
        probe, picture = restorer.probe, compute.probe_picture(256)[0]
        restorer(picture)
        start = time.perf_counter()
        report = restorer(picture).report
        found["run"] = {
            "model": report.model,
            "picture": [256, 256],
            "seconds": time.perf_counter() - start,
            "precision": report.precision,
            "probe": {
                "side": probe.side,
                "seconds": probe.seconds,
                "difference": probe.difference,
                "bytes_per_pixel": probe.bytes_per_pixel,
            },
        }
    if as_json:
        print_json(found, indent=2)
    else:
        _print(found)
    if found["problems"]:
        raise typer.Exit(1)


def _print(found: dict[str, Any]) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(f"pellucid {found['pellucid']}, Python {found['python']}, {found['system']}")
    print(versions)
    print(f"device: {found['device']}, {found['threads']} threads, {found['free_memory'] / 1e9:.1f} GB free")
    for name, row in found["weights"].items():
        state = f"SHA-256 {row['sha256'][:16]}... verified" if row["verified"] else "can't be used"
        print(f"weights: {name}, {state}")
    if run := found["run"]:
        probe = run["probe"]
        times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in probe["seconds"].items())
        difference = (
            "did not run" if probe["difference"] is None else f"{probe['difference'] * 255:.2f} gray levels"
        )
        print(
            f"probe at {probe['side']} x {probe['side']}: {times}; bf16 off by {difference}: "
            f"{run['precision']} is taken"
        )
        print(f"memory: {probe['bytes_per_pixel']:,.0f} bytes per pixel of a tile")
        print(f"run: 256 x 256 pixels in {run['seconds']:.3f} s")
    for problem in found["problems"]:
        print(f"problem: {problem}")
