"""A folder as a registry: what is found, what is skipped, and what is refused."""

import sys
from pathlib import Path

import pytest

from pellucid.errors import DuplicateNameError, UnknownNameError
from pellucid.registry import Registry, unknown_name

THING = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Thing:
    name: str

THINGS = ({},)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`package(zebra="Thing('stripes')")` makes a package with this module and gives its name."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    def make(**modules: str) -> str:
        folder = tmp_path / "drawer"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for name, things in modules.items():
            (folder / f"{name}.py").write_text(THING.format(things))
        return "drawer"

    yield make
    for name in set(sys.modules) - known:
        if name.split(".")[0] == "drawer":
            del sys.modules[name]


def registry(package: str) -> Registry:
    return Registry(package, "THINGS", "thing")


def test_names_are_sorted_and_got(package) -> None:
    things = registry(package(zebra="Thing('a'), Thing('c')", ant="Thing('b')"))
    assert things.names() == ["a", "b", "c"]
    assert things.get("b").name == "b"


def test_machinery_is_skipped(package) -> None:
    assert registry(package(_machinery="Thing('hidden')", ant="Thing('seen')")).names() == ["seen"]


def test_the_folder_is_scanned_once_at_first_look_up(package, tmp_path: Path) -> None:
    things = registry(package(ant="Thing('a')"))
    assert "drawer" not in sys.modules
    assert things.names() == ["a"]
    (tmp_path / "drawer" / "bee.py").write_text(THING.format("Thing('b')"))
    assert things.names() == ["a"]


def test_two_of_a_name_are_refused(package) -> None:
    things = registry(package(ant="Thing('same')", bee="Thing('same')"))
    with pytest.raises(
        DuplicateNameError, match=r"^drawer\.bee defines the thing 'same', which already exists"
    ):
        things.names()


def test_a_module_that_fails_fails_loudly(package) -> None:
    with pytest.raises(ZeroDivisionError):
        registry(package(ant="Thing(1 / 0)")).names()


def test_a_module_that_offers_nothing_fails_loudly(package, tmp_path: Path) -> None:
    name = package(ant="Thing('a')")
    (tmp_path / "drawer" / "bee.py").write_text("")
    with pytest.raises(AttributeError, match="THINGS"):
        registry(name).names()


def test_an_unknown_name_offers_the_nearest(package) -> None:
    things = registry(package(ant="Thing('gaussian_noise'), Thing('haze')"))
    with pytest.raises(
        UnknownNameError, match=r"^There is no thing called 'gausian_noise'\. Did you mean gaussian"
    ):
        things.get("gausian_noise")


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (["haze", "rain"], "There is no thing called 'qqq'. Known: haze, rain."),
        ([], "There is no thing called 'qqq'. Known: none."),
    ],
)
def test_nothing_near_lists_all(known: list[str], sentence: str) -> None:
    assert unknown_name("thing", "qqq", known) == sentence
