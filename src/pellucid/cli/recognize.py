"""`pellucid recognize`: what is wrong with pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli._shared import AsJson, parse_path
from pellucid.errors import InputError

if TYPE_CHECKING:
    from pellucid.diagnosis import Diagnosis, Recognizer


def recognize(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(parser=parse_path, help="Pictures, and folders of pictures.", show_default=False),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="Instead: a shard folder; measure the recognizer on its validation pictures.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Name of a recognizer's weights, or a .safetensors file.")
    ] = "recognizer",
    results: Annotated[
        Path, typer.Option(parser=parse_path, help="With --shards: folder in which <weights>.csv is written.")
    ] = Path("results"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which degradations pictures show, how strong they are, and how sure that is.

    "unknown" is said where the recognizer can't tell.
    What can't be read is listed at the end, with exit code 1. See docs/models/recognizer.md.
    """
    if bool(inputs) == (shards is not None):
        found = "Both pictures and --shards were" if inputs else "Neither a picture nor --shards was"
        raise InputError(f"{found} given; expected one of them. Example: pellucid recognize photo.jpg")
    from pellucid.diagnosis import Recognizer

    recognizer = Recognizer.load(model)
    if shards is not None:
        _measure(recognizer, shards, results, overwrite=overwrite, as_json=as_json)
        return
    _recognize(recognizer, inputs or [], as_json=as_json)


def _recognize(recognizer: "Recognizer", inputs: list[Path], *, as_json: bool) -> None:
    from pellucid.cli._progress import print_failures
    from pellucid.cli._shared import print_json
    from pellucid.errors import PellucidError
    from pellucid.image_io import IMAGE_SUFFIXES, read_image

    single = len(inputs) == 1 and not inputs[0].is_dir()
    pictures, failures = _pictures(inputs, IMAGE_SUFFIXES)
    for path in pictures:
        try:
            diagnosis = recognizer(read_image(path))
        except PellucidError as error:
            if as_json:
                problem = {"type": type(error).__name__, "message": str(error)}
                print_json({"input": str(path), "ok": False, "error": problem})
            if single:
                raise
            failures.append((path, str(error)))
            continue
        if as_json:
            print_json({"input": str(path), "ok": True, "diagnosis": diagnosis.to_dict()})
        else:
            print(f"{path}: {_line(diagnosis)}", flush=True)
    if failures:
        print_failures(failures, "not recognized")
        raise typer.Exit(1)


def _pictures(inputs: list[Path], suffixes: tuple[str, ...]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The files as given, and in place of a folder the pictures below it, as `restore` takes them.

    Returns:
        The pictures; and the folders that can't be listed, with the reason.

    Raises:
        InputError: an input is missing, or nothing is left.
    """
    from pellucid.cli._jobs import Jobs, walk

    found, aside = list[Path](), Jobs()
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path} does not exist. Check the name.")
        if path.is_dir():
            found += walk(path, suffixes, aside)
        else:
            found.append(path)
    if not found and not aside.unreadable:
        raise InputError(
            f"There are no pictures in {', '.join(map(str, inputs))}; expected files ending in "
            f"{', '.join(suffixes)}."
        )
    return found, aside.unreadable


def _line(diagnosis: "Diagnosis") -> str:
    from pellucid.diagnosis import describe_strength

    if diagnosis.verdict == "degraded":
        return ", ".join(
            f"{kind} {diagnosis.probabilities[kind]:.0%} ({describe_strength(kind, strength)})"
            for kind, strength in diagnosis.strengths.items()
        )
    if diagnosis.verdict == "nothing wrong":
        return f"nothing wrong {diagnosis.nothing_wrong:.0%}"
    if not diagnosis.familiar:
        return "unknown (too small, or unlike the pictures of training)"
    ranked = sorted(diagnosis.probabilities.items(), key=lambda pair: -pair[1])
    return "unknown (" + ", ".join(f"{kind} {p:.0%}" for kind, p in ranked[:2]) + ")"


def _measure(
    recognizer: "Recognizer", shards: Path, results: Path, *, overwrite: bool, as_json: bool
) -> None:
    from pellucid.cli._shared import print_json, say
    from pellucid.evaluate.recognition import evaluate_recognizer
    from pellucid.image_io import check_writable, write_bytes

    if results.exists() and not results.is_dir():
        raise InputError(f"{results} is a file; --results expects a folder. Name another.")
    target = results / f"{recognizer.name}.csv"
    results.mkdir(parents=True, exist_ok=True)
    check_writable(target, overwrite=overwrite)
    scores, table = evaluate_recognizer(recognizer, shards)
    write_bytes(table.encode(), target, overwrite=overwrite)
    say(f"{target} is written.")
    if as_json:
        print_json(scores, indent=2)
    else:
        _print(scores)


def _print(scores: dict[str, Any]) -> None:
    from rich.table import Table

    from pellucid.cli._shared import wide_console

    console = wide_console()
    table = Table("kind", "pictures", "F1", "hit", "missed", "false", "rest", "strength off by", box=None)
    for part in ("single", "composite"):
        for kind, found in scores["kinds"].items():
            row = found[part]
            cells = [row[key] for key in ("f1", "hit", "missed", "false", "rest", "absolute_error")]
            table.add_row(kind, part, *("-" if cell is None else str(cell) for cell in cells))
    console.print(table)
    console.print()
    table = Table("row", "n", "degraded", "nothing wrong", "unknown", *scores["kinds"], box=None)
    for row, found in scores["rows"].items():
        names = ("n", "degraded", "nothing wrong", "unknown", *scores["kinds"])
        table.add_row(row, *(str(found[name]) for name in names))
    console.print(table)
    console.print()
    macro, sigma = scores["macro_f1"], scores["sigma_error"]
    print(f"macro F1: {_told(macro['single'])} on single kinds, {_told(macro['composite'])} on composites")
    print(f"sigma of Gaussian noise: off by {_told(sigma['gaussian'])} (mean relative error)")
    print(
        f"expected calibration error: {_told(scores['calibration_error'])} of the kinds, "
        f"{_told(scores['calibration_error_nothing_wrong'])} of nothing wrong"
    )
    strange = ", ".join(f"{name}: {verdict}" for name, verdict in scores["strange"].items())
    print(f"strange pictures: {strange}")


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
