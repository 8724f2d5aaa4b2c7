"""The command line: one command per module of this folder, which holds a function of its own name, or a Typer
application of that name where the command has commands of its own.

Modules whose name starts with an underscore are machinery. Heavy packages are imported inside the functions,
so that `pellucid --help` never waits for torch.
"""

import pkgutil
from importlib import import_module
from typing import Annotated

import typer

from pellucid import __version__


def create_app() -> typer.Typer:
    """The application with every command of this folder."""
    app = typer.Typer(
        name="pellucid",
        help="Clean photographs from noisy, hazy, rainy, blurred or dark ones, with one blind network.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # a fault of pellucid itself shows Python's own traceback
        rich_markup_mode=None,
    )
    app.callback()(_options)
    for module_info in pkgutil.iter_modules(__path__):
        if not module_info.name.startswith("_"):
            module = import_module(f"{__name__}.{module_info.name}")
            command = getattr(module, module_info.name)
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=module_info.name)
            else:
                app.command(module_info.name)(command)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pellucid {__version__}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


__all__ = ["create_app"]
