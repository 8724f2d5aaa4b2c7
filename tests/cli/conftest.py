"""The command line, run in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from pellucid.__main__ import main


class Result(NamedTuple):
    """What a run of the command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Result]:
    """`run("models", "--json")` gives exit code, stdout and stderr of that command."""
    monkeypatch.setenv("COLUMNS", "200")  # tables don't wrap

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["pellucid", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call
