"""`pellucid train`: a network from a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli._shared import parse_path
from pellucid.errors import InputError


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a .toml file.")],
    data: Annotated[
        Path,
        typer.Option(
            parser=parse_path,
            help="Folder of shards, with its manifest.json, or below which the recipe's data sets lie.",
        ),
    ],
    validation: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, help="Folder of shards to validate on; default: that of --data, if it is one."
        ),
    ] = None,
    test: Annotated[
        list[Path] | None,
        typer.Option(
            parser=parse_path,
            help="Folder of test pictures that must not be trained on; may be given several times.",
        ),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Train though test pictures are among the training pictures.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(parser=parse_path, help="Folder of the run; default: runs/ and the recipe's name."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Wall-clock budget of the whole run, instead of the recipe's steps; kept by --resume."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Optimizer steps of the whole run, instead of the recipe's; kept by --resume."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last saved state.")] = False,
    start_from: Annotated[
        str | None,
        typer.Option(help="Weights that a new run starts with: a name from `pellucid models`, or a path."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Data-parallel processes that share the batch; on a CPU one per core is fastest."
        ),
    ] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, help="Machines, where a scheduler starts this command on each.")
    ] = 1,
    validate_every: Annotated[float, typer.Option(help="Minutes between validations.")] = 15.0,
    save_every: Annotated[float, typer.Option(help="Minutes between saved states.")] = 3.0,
    validation_limit: Annotated[
        int, typer.Option(min=1, help="Pictures per kind in validations while training.")
    ] = 4,
) -> None:
    """Train a network by a recipe, with averaged weights, validation per kind, and exact resuming.

    A recognizer is trained in one process, while the others draw pictures, and calibrated at the end.
    """
    from pellucid import models
    from pellucid.recipe import load_recipe
    from pellucid.train import train as run_training
    from pellucid.train_recognizer import train_recognizer

    loaded = load_recipe(recipe)
    if test:
        _check_leaks({task.source for task in loaded.tasks}, data, test, allow_leak)
    if not models.get(loaded.model).restores:
        for option, given in (("--validation", validation is not None), ("--nodes", nodes > 1)):
            if given:
                raise InputError(
                    f"{option} does not go with {loaded.model}, which one machine trains and validates "
                    "on --data. Leave it out."
                )
        weights = train_recognizer(
            loaded,
            data,
            run or Path("runs") / loaded.name,
            minutes=minutes,
            steps=steps,
            resume=resume,
            start_from=start_from,
            validate_every=validate_every,
            save_every=save_every,
            validation_limit=validation_limit,
            device=device,
            processes=processes,
        )
        typer.echo(f"weights: {weights}")
        return
    weights = run_training(
        loaded,
        data,
        run or Path("runs") / loaded.name,
        validation_data=validation,
        minutes=minutes,
        steps=steps,
        resume=resume,
        start_from=start_from,
        validate_every=validate_every,
        save_every=save_every,
        validation_limit=validation_limit,
        device=device,
        processes=processes,
        nodes=nodes,
    )
    if _is_first():
        typer.echo(f"weights: {weights}")


def _is_first() -> bool:
    """Whether this process is the one of several that speaks."""
    from torch import distributed

    return not distributed.is_initialized() or distributed.get_rank() == 0


def _check_leaks(sources: set[str], data: Path, test: list[Path], allow_leak: bool) -> None:
    """Compare what training reads with the test pictures, as near as evaluate will, and say what came out."""
    from pellucid import datasets
    from pellucid.cli._shared import progress_bar, say
    from pellucid.datasets.files import folder_of
    from pellucid.datasets.leak import NEAR, refuse_leaks
    from pellucid.datasets.verify import find_pairs

    training: list[Path] = []
    for source in sorted(sources & set(datasets.names())):
        root = folder_of(data, source)
        training += [root / path for pair in find_pairs(source, root, "train") for path in pair if path]
    with progress_bar() as bar:
        row = bar.add_task("Comparing", total=None)
        report = refuse_leaks(
            training or [data],
            test,
            allow_leak=allow_leak,
            near=NEAR,
            progress=lambda done, total: bar.update(row, completed=done, total=total),
        )
    say(f"leak check: {report}")
