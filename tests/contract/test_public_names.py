"""The public surface: a name appears or disappears by decision, has a docstring, and its examples run."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid import restorer

# To add or remove a public name, change this list in the same commit, and say so in the CHANGELOG.
PUBLIC = [
    "Checkpoint",
    "ImageBuffer",
    "PellucidError",
    "Report",
    "Restoration",
    "Restorer",
    "__version__",
    "load",
    "read_image",
    "restore",
    "write_image",
]


def test_the_surface_is_as_decided():
    assert sorted(pellucid.__all__) == PUBLIC
    assert dir(pellucid) == PUBLIC
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pellucid.nonsense


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_every_public_name_is_explained(name):
    thing = getattr(pellucid, name)
    assert thing.__module__.startswith("pellucid.")
    assert thing.__doc__
    run_examples(thing, name)


@pytest.mark.parametrize("name", ["IdentityRestorer", "TorchRestorer"])
def test_every_restorer_is_explained(name):
    run_examples(getattr(restorer, name), name)


def run_examples(thing: object, name: str) -> None:
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    runner = doctest.DocTestRunner(optionflags=flags)
    globs = vars(sys.modules[thing.__module__]).copy()
    for example in doctest.DocTestFinder(recurse=False).find(thing, name, globs=globs):
        result = runner.run(example)
        assert result.failed == 0


def test_the_block_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pellucid.write_image(pellucid.ImageBuffer(torch.full((3, 32, 32), 0.5)), "photo.jpg")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(block, {})


def test_importing_pellucid_is_light():
    code = "import pellucid, sys; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pyvips')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
