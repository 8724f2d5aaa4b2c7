"""What holds for every command."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer

from pellucid import cli


def commands() -> Iterator[Callable[..., None]]:
    for module in pkgutil.iter_modules(cli.__path__):
        if not module.name.startswith("_"):
            command: Any = getattr(importlib.import_module(f"pellucid.cli.{module.name}"), module.name)
            is_group = isinstance(command, typer.Typer)
            yield from (one.callback for one in command.registered_commands) if is_group else (command,)


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: command.__name__)
def test_an_empty_path_is_refused(command: Callable[..., None]) -> None:
    """As of an unset variable: it would be the current folder."""
    for name, hint in get_type_hints(command, include_extras=True).items():
        if get_origin(hint) is Annotated and "Path" in str(get_args(hint)[0]):
            kind = get_args(hint)[0]
            assert Path in (kind, *get_args(kind), *(a for k in get_args(kind) for a in get_args(k)))
            assert hint.__metadata__[0].parser, f"give {name} parser=parse_path"
