"""The command line, run in this process."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pellucid.__main__ import main


class Result(NamedTuple):
    """What a run of the command left behind."""

    code: int
    out: str
    err: str


def exit_code(monkeypatch, *arguments: object) -> int:
    """What `pellucid` with these arguments ends with."""
    monkeypatch.setattr(sys, "argv", ["pellucid", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Result]:
    """`run("models", "--json")` gives exit code, stdout and stderr of that command."""
    monkeypatch.setenv("COLUMNS", "200")  # tables don't wrap

    def call(*arguments: object) -> Result:
        code = exit_code(monkeypatch, *arguments)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def lock(monkeypatch) -> Callable[[str], None]:
    """`lock("name")` makes folders of that name ones that can't be listed, for root too."""
    listed = os.scandir

    def call(name: str) -> None:
        def scandir(path: str | os.PathLike[str]) -> object:
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied")
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return call
