"""The tree of errors: drawn once, and true."""

import ast
import re
from pathlib import Path

import pytest

import pellucid
from pellucid import errors

ROW = re.compile(
    r"^(?P<branch>[│├└─ ]*)(?P<name>\w+Error)\s+(?P<what>\S.*\S)\s+HTTP (?P<http>\d+), exit (?P<exit>\d)$"
)


def drawn() -> dict[str, tuple[str | None, int, int]]:
    """The docstring's tree: each name with its parent, HTTP status and exit code."""
    tree: dict[str, tuple[str | None, int, int]] = {}
    ancestors: list[str] = []
    for line in errors.__doc__.splitlines():
        if row := ROW.match(line):
            depth = len(row["branch"]) // 4
            ancestors[depth:] = [row["name"]]
            parent = ancestors[depth - 1] if depth else None
            tree[row["name"]] = (parent, int(row["http"]), int(row["exit"]))
    return tree


def defined() -> dict[str, type[errors.PellucidError]]:
    return {name: value for name, value in vars(errors).items() if isinstance(value, type)}


def test_the_tree_holds_every_error_and_no_other() -> None:
    assert set(drawn()) == set(defined())
    assert len(drawn()) > 15


@pytest.mark.parametrize("name", defined())
def test_an_error_is_where_the_tree_draws_it(name: str) -> None:
    parent, http_status, exit_code = drawn()[name]
    error = defined()[name]
    assert error.__bases__ == ((defined()[parent],) if parent else (Exception,))
    assert (error.http_status, error.exit_code) == (http_status, exit_code)
    assert 400 <= error.http_status < 600 and 1 <= error.exit_code <= 4
    assert error.__doc__


def test_the_package_raises_leaves_of_the_tree() -> None:
    """Errors that are raised on purpose: a leaf, or the general one of a family for what has no leaf."""
    root = Path(pellucid.__file__).parent
    ours = {"InputError", "CheckpointError", "RecipeError"}  # families with cases too few to name
    leaves = set(defined()) - {parent for parent, _, _ in drawn().values()}
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(base, ast.Name) and base.id.endswith("Error") for base in node.bases
            ):
                assert path.name == "errors.py", f"{path.name} defines {node.name}; put it into errors.py"
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                raised = getattr(node.exc.func, "id", "")
                if raised in defined():
                    assert raised in leaves | ours, f"{path.name} raises {raised}; raise one of its leaves"
