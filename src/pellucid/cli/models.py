"""`pellucid models`."""

from typing import Any

from pellucid.cli._shared import AsJson


def models(as_json: AsJson = False) -> None:
    """List the networks and the weights that come with pellucid."""
    from rich.console import Console
    from rich.table import Table

    from pellucid import models as structures
    from pellucid import weights
    from pellucid.checkpoint import Checkpoint
    from pellucid.cli._shared import print_json

    rows: list[dict[str, Any]] = []
    for name in structures.names():
        spec = structures.get(name)
        kind = ("guided" if spec.guided else "blind") if spec.restores else "recognizes"
        rows.append({"name": name, "parameters": spec.parameters, "kind": kind, "paper": spec.paper})
    embedded: list[dict[str, Any]] = []
    for name in weights.names():
        file = weights.find(name)
        checkpoint = Checkpoint.read(file.path, sha256=file.sha256)
        embedded.append(
            {
                "name": name,
                "structure": checkpoint.model,
                "parameters": structures.get(checkpoint.model).parameters,
                "bytes": file.bytes,
                "license": file.license,
                "sha256": file.sha256,
                "validation": checkpoint.provenance.get("validation", {}),
                "default": name == weights.DEFAULT,
            }
        )
    if as_json:
        print_json({"structures": rows, "weights": embedded}, indent=2)
        return
    console = Console(soft_wrap=True)
    table = Table("structure", "parameters", "kind", "paper", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], f"{row['parameters']:,}", row["kind"], row["paper"])
    console.print(table)
    console.print()
    table = Table(
        "weights", "structure", "size", "license", "SHA-256", "gain, dB PSNR", box=None, pad_edge=False
    )
    for row in embedded:
        table.add_row(
            row["name"] + (" (default)" if row["default"] else ""),
            row["structure"],
            f"{row['bytes'] / 1e6:.1f} MB",
            row["license"],
            row["sha256"][:16],
            _gains(row["validation"]),
        )
    console.print(table if embedded else "No weights are embedded in this installation.")


def _gains(validation: dict[str, Any]) -> str:
    """What validation measured, as the training's provenance holds it, on one line."""
    pairs = {kind: row for kind, row in validation.items() if row["input"] is not None}
    return ", ".join(f"{kind} {row['output'] - row['input']:+.1f}" for kind, row in pairs.items())
