"""`pellucid recipe list`, `show` and `copy`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli._shared import AsJson, parse_path

recipe = typer.Typer(
    help="The recipes that come with pellucid: list them, show one, or copy it to change it.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(help="A shipped recipe's name.")]


@recipe.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes with their networks and kinds."""
    from rich.console import Console
    from rich.table import Table

    from pellucid.cli._shared import print_json
    from pellucid.recipe import load_recipe, shipped_recipes

    loaded = [load_recipe(name) for name in shipped_recipes()]
    rows: list[dict[str, Any]] = [
        {"name": r.name, "model": r.model, "kinds": list(dict.fromkeys(task.kind for task in r.tasks))}
        for r in loaded
    ]
    if as_json:
        print_json(rows, indent=2)
        return
    table = Table("recipe", "model", "kinds", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], row["model"], ", ".join(row["kinds"]))
    Console(soft_wrap=True).print(table)


@recipe.command("show")
def show_recipe(name: Name) -> None:
    """Print a recipe's file: command, cost and expected score at its head."""
    from pellucid.recipe import recipe_text

    typer.echo(recipe_text(name), nl=False)


@recipe.command("copy")
def copy_recipe(
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", parser=parse_path, help="The new file; default: the name and .toml, here."
        ),
    ] = None,
) -> None:
    """Copy a recipe's file, to change it and to train by it: `pellucid train FILE`."""
    from pellucid.errors import OutputExistsError
    from pellucid.recipe import recipe_text

    target, text = output or Path(f"{name}.toml"), recipe_text(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise OutputExistsError(f"{target} exists already. Name another file with -o.") from error
    typer.echo(str(target))
