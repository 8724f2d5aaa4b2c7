"""`pellucid efficiency`."""

from typing import Annotated

import typer

from pellucid.cli._shared import AsJson, Device, PrecisionName


def efficiency(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Structure, weights or file, repeatable. Default: every structure."),
    ] = None,
    size: Annotated[
        list[int] | None, typer.Option(help="Side of the square picture, repeatable. Default: 224 and 256.")
    ] = None,
    runs: Annotated[
        int, typer.Option(min=0, help="For the median latency; 0 only counts, which is quick.")
    ] = 5,
    device: Device = None,
    precision: PrecisionName = None,
    as_json: AsJson = False,
) -> None:
    """Measure what networks cost: parameters, multiply-adds, latency, memory.

    Multiply-adds are those of convolutions and matrix products, once as the paper's figure draws the network,
    once as it is run here. See docs/evaluation.md.
    """
    from rich.table import Table

    from pellucid import models
    from pellucid.cli._shared import print_json, say, wide_console
    from pellucid.evaluate.efficiency import SIZES, Efficiency, measure_efficiency

    rows: list[Efficiency] = []
    for name in model or models.restoring():
        say(f"{name} ...")
        rows.append(measure_efficiency(name, size or SIZES, runs=runs, device=device, precision=precision))
    if as_json:
        print_json([row.to_dict() for row in rows], indent=2)
        return
    table = Table(
        *("model", "parameters", "size", "GMAC", "GMAC as run", "median latency", "peak memory"),
        box=None,
        pad_edge=False,
    )
    for row in rows:
        for cost in row.costs:
            timed = cost.seconds is not None and cost.peak_bytes is not None
            table.add_row(
                row.model,
                f"{row.parameters:,}",
                str(cost.size),
                f"{cost.gmac:.2f}",
                f"{cost.gmac_run:.2f}",
                f"{cost.seconds:.3f} s ({cost.fastest:.3f} to {cost.slowest:.3f})" if timed else "-",
                f"{cost.peak_bytes / 1e6:,.0f} MB" if timed and cost.peak_bytes else "-",
            )
    wide_console().print(table)
    for row in rows:
        if row.runs:
            print(
                f"{row.model}: {row.runs} runs on {row.device}, {row.precision}, {row.threads} threads, "
                f"torch {row.torch}"
            )
