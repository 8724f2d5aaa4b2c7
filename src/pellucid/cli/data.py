"""`pellucid data`: own pictures to train on, the field's data sets on disk, and leaks between the two."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli._shared import AsJson, parse_path

if TYPE_CHECKING:
    from pellucid.datasets import Split
    from pellucid.datasets.verify import SplitReport

data = typer.Typer(
    help="Data sets on disk: make one of own pictures, list those that are known, verify a folder, look for "
    "leaks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_NAMED = 10  # faults of one kind that are printed


@data.command()
def prepare(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            help="Folder of clean pictures, searched in depth; with --kind, one that holds two folders, "
            "degraded and clean, with pictures of the same names.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            parser=parse_path,
            help="Folder of shards to add them to; made if it is not there.",
        ),
    ],
    kind: Annotated[
        str | None, typer.Option(help="What is wrong with degraded pictures: low_light, blur, noise or haze.")
    ] = None,
    drawings: Annotated[
        bool, typer.Option("--drawings", help="These are drawings, pages and screens, no photographs.")
    ] = False,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the scenes for validation.")
    ] = 0.1,
    long_side: Annotated[
        int,
        typer.Option(min=0, help="Pixels to which larger clean pictures are reduced; 0 keeps their size."),
    ] = 768,
    as_json: AsJson = False,
) -> None:
    """Make a folder to train on of own pictures, or add to one.

    Exit code 1 if a picture could not be taken.
    """
    from dataclasses import asdict

    from pellucid.cli._shared import print_json
    from pellucid.datasets.prepare import prepare_shards

    with _bar("Preparing") as progress:
        found = prepare_shards(
            folder,
            output,
            kind=kind,
            drawings=drawings,
            held_out=held_out,
            long_side=long_side or None,
            progress=progress,
        )
    if as_json:
        print_json(asdict(found), indent=2)
    else:
        for reason in found.left_out.values():
            print(f"left out: {reason}")
        print(
            f"{output}: {found.train:,} added for training, {found.val:,} for validation; "
            f"{found.known:,} were there, {len(found.left_out):,} left out"
        )
    if found.left_out:
        raise typer.Exit(1)


@data.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the data sets that are known, with origin and license; downloads are the user's own."""
    from pellucid.cli._shared import print_json
    from pellucid.datasets import load_manifest, names

    manifests = [load_manifest(name) for name in names()]
    if as_json:
        rows = [
            {
                "name": manifest.name,
                "title": manifest.title,
                "kind": manifest.kind,
                "splits": {
                    split.name: {"degraded": list(split.degraded), "clean": list(split.clean)}
                    for split in manifest.splits.values()
                },
                "layouts": [
                    {
                        "name": layout.name,
                        "split": layout.split,
                        "users": list(layout.users),
                        "folders": list(layout.folders),
                        "pattern": layout.pattern.pattern,
                        "clean": list(layout.clean),
                        "examples": list(layout.examples),
                    }
                    for layout in manifest.layouts
                ],
                "origin": manifest.origin,
                "license": manifest.license,
                "citation": manifest.citation,
                "notes": list(manifest.notes),
            }
            for manifest in manifests
        ]
        print_json({"datasets": rows}, indent=2)
        return
    for manifest in manifests:
        pictures = ", ".join(f"{name} {_numbers(split)}" for name, split in manifest.splits.items())
        print(f"{manifest.name} ({manifest.kind}): {pictures}")
        print(f"  {manifest.origin}")
        print(f"  license: {manifest.license}")


@data.command()
def verify(
    name: Annotated[str, typer.Argument(help="A known data set (see: pellucid data list), or a .toml file.")],
    folder: Annotated[
        Path,
        typer.Argument(parser=parse_path, help="The data set's folder, or the root of the project's data."),
    ],
    layout: Annotated[str | None, typer.Option(help="Look for this layout only.")] = None,
    split: Annotated[str | None, typer.Option(help="Look for this split only: train or test.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every picture instead of reading headers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a data set's folder lacks, has too much, pairs wrongly, or holds in a wrong size.

    Exit code 1 if anything is wrong.
    """
    from pellucid.cli._shared import print_json
    from pellucid.datasets.verify import verify as run

    with _bar("Verifying") as progress:
        found = run(name, folder, layout=layout, split=split, decode=decode, progress=progress)
    if as_json:
        print_json(found.to_dict(), indent=2)
    else:
        for report in found.splits:
            _print_split(found.dataset, report)
        for absent in found.absent:
            print(f"{found.dataset} {absent}: nothing of it is here")
    if not found.ok:
        raise typer.Exit(1)


@data.command()
def leak(
    train: Annotated[
        list[Path],
        typer.Option(
            parser=parse_path, help="Folder of training pictures, or of shards; may be given several times."
        ),
    ],
    test: Annotated[
        list[Path],
        typer.Option(parser=parse_path, help="Folder of test pictures; may be given several times."),
    ],
    near: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=32,
            help="Report near copies too, whose perceptual hashes differ in so many of 64 bits or fewer. 8 "
            "finds copies that were saved again or resized.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for test pictures among training pictures, by content: equal files, equal pixels, near copies.

    Exit code 1 if there is one, or if a picture can't be read and so can't be ruled out.
    """
    from pellucid.cli._shared import print_json
    from pellucid.datasets.leak import find_leaks

    with _bar("Comparing") as progress:
        report = find_leaks(train, test, near=near, progress=progress)
    if as_json:
        print_json(report.to_dict(), indent=2)
    else:
        for found in report.leaks:
            distance = "" if found.distance is None else f", {found.distance} bits"
            print(f"{found.test} is {found.train} ({found.by}{distance})")
        for reason in report.unread.values():
            print(f"not compared: {reason}")
        print(
            f"{report.leaked:,} of {report.test:,} test pictures are among {report.train:,} training pictures"
        )
    if report.leaks or report.unread:
        raise typer.Exit(1)


@data.command(hidden=True)  # new weights carry them; this is for those that were trained before
def remember(
    checkpoint: Annotated[
        Path, typer.Argument(parser=parse_path, metavar="WEIGHTS", help="Safetensors of pellucid.")
    ],
    train: Annotated[
        Path, typer.Option(parser=parse_path, help="Folder of shards that the weights were trained on.")
    ],
) -> None:
    """Write the hashes of their training pictures into weights, so that evaluate can name a leak.

    The tensors stay as they are; the file's SHA-256 changes.
    """
    from pellucid.datasets.training_pictures import add_training_pictures

    pictures = add_training_pictures(checkpoint, train)
    print(f"{checkpoint}: {len(pictures):,} clean training pictures")


def _numbers(split: "Split") -> str:
    counts = split.degraded or split.clean
    return " or ".join(f"{n:,}" for n in counts) + (" degraded" if split.degraded else "")


def _print_split(dataset: str, report: "SplitReport") -> None:
    where = f" in {report.folder}" if report.folder else ""
    print(f"{dataset} {report.split}, layout {report.layout}{where}")
    for side, number, expected in (
        ("degraded", report.degraded, report.expected_degraded),
        ("clean", report.clean, report.expected_clean),
    ):
        if number is not None:
            print(f"  {side}: {number:,} of {' or '.join(f'{n:,}' for n in expected)}")
    for kind, count in report.counts.items():
        print(f"  {kind}: {count:,}")
        faults = [fault for fault in report.faults if fault.kind == kind]
        for fault in faults[:_NAMED]:
            print(f"    {fault.path}{': ' if fault.path else ''}{fault.what}")
        if len(faults) > _NAMED:
            print(f"    and {len(faults) - _NAMED:,} more; all with --json")


@contextmanager
def _bar(title: str) -> Generator[Callable[[int, int], None]]:
    """A progress bar on stderr, if that is a terminal."""
    from pellucid.cli._shared import progress_bar

    with progress_bar() as bar:
        task = bar.add_task(title, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress
