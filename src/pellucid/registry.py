"""A folder is a registry: each public module of a package offers named things.

The folder is scanned once, at first look-up. A module that fails to import fails loudly, and a name that
two modules claim is an error. Modules whose name starts with an underscore are machinery and are skipped.
"""

import difflib
import pkgutil
from collections.abc import Iterable
from functools import cached_property
from importlib import import_module
from typing import Generic, Protocol, TypeVar

from pellucid.errors import DuplicateNameError, UnknownNameError


class Named(Protocol):
    """Anything with a `name`."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """The things that the modules of `package` list in their tuple called `attribute`."""

    def __init__(self, package: str, attribute: str, what: str) -> None:
        self.package, self.attribute, self.what = package, attribute, what

    @cached_property
    def _entries(self) -> dict[str, T]:
        entries: dict[str, T] = {}
        for module_info in pkgutil.iter_modules(import_module(self.package).__path__):
            if module_info.name.startswith("_"):
                continue
            module = import_module(f"{self.package}.{module_info.name}")
            offered: Iterable[T] = getattr(module, self.attribute)
            for entry in offered:
                if entry.name in entries:
                    raise DuplicateNameError(
                        f"{module.__name__} defines the {self.what} {entry.name!r}, which already exists. "
                        "Rename one of the two."
                    )
                entries[entry.name] = entry
        return dict(sorted(entries.items()))

    def names(self) -> list[str]:
        """All names, sorted."""
        return list(self._entries)

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            UnknownNameError: nothing has this name; the message offers the nearest.
        """
        if name in self._entries:
            return self._entries[name]
        raise UnknownNameError(unknown_name(self.what, name, self.names()))


def unknown_name(what: str, name: str, known: list[str]) -> str:
    """The sentence for a `name` that is not among `known`."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known) or 'none'}."
    return f"There is no {what} called {name!r}. {hint}"
