"""A module imports only from layers with a smaller number; brothers on one layer do not know each other.

And what could run code of a file stands in one place alone.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "pellucid"
LAYERS = (
    {"errors"},
    {"registry", "access", "scratch", "srgb", "typed"},  # raise errors, or nothing
    {"image", "tiling", "layers", "degradations", "metrics", "drawn", "strength", "light"},
    {"strips"},  # of layers; networks describe theirs in their own files
    {"losses", "models", "arrays"},
    {"image_io", "checkpoint", "weights", "data", "compute"},
    {"picture"},  # files, arrays and tensors alike
    {
        "codec",
        "diagnosis",
        "engines",
        "labels",
        "pipeline",
    },  # a recognizer before the restorer, and what it is trained on
    {"restoration", "runner"},  # what comes back; a network over a picture of any size
    {"restorer", "datasets"},
    {"recipe", "folders", "one_call"},  # a recipe names the sources and tasks of data, and the data sets
    {"evaluate", "explain", "batch", "video", "convert"},
    {"training_run", "cluster"},  # what all training shares; batches on many machines
    {"train", "train_recognizer"},
    {"service", "app"},  # doors of their own
    {"cli"},  # which a command opens
)
NUMBER = {name: number for number, names in enumerate(LAYERS) for name in names}
DOORS = {"__init__", "__main__"}  # the public names and the command stand above all layers


def unit(path: Path) -> str:
    """The name of the module or folder just below the package."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The units of pellucid that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "pellucid":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pellucid."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pellucid.")}
    return found


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if unit(path) not in DOORS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path):
    own = unit(path)
    assert own in NUMBER, f"{own} has no layer: add it to the table here and in the design"
    wrong = {name for name in imported(path) - {own} if NUMBER.get(name, 99) >= NUMBER[own]}
    assert not wrong, f"{own} imports {sorted(wrong)}, which are not below it; move what it needs down"


UNPICKLING = {f"{module}.{name}" for module in ("torch", "torch.jit", "pickle") for name in ("load", "loads")}


def test_nothing_is_unpickled_but_by_convert_and_there_only_tensors():
    found: list[tuple[str, str]] = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in UNPICKLING:
                found.append((path.name, ast.unparse(node)))
            elif isinstance(node, ast.ImportFrom):
                assert not UNPICKLING & {f"{node.module}.{name.name}" for name in node.names}, path
            elif isinstance(node, ast.Import):  # under another name it would not be found
                assert all(a.asname is None for a in node.names if a.name in ("torch", "pickle")), path
    ((file, call),) = found
    assert file == "convert.py" and "weights_only=True" in call
