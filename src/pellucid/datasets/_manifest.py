"""What a data set's manifest says, checked strictly; all faults of a manifest are reported together."""

import re
import string
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pellucid.errors import InputError, UnknownNameError
from pellucid.registry import unknown_name

Size = tuple[int, int]  # width, height
Values = Mapping[str, tuple[str, ...]]  # name of a group -> the values that it takes

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NOTHING: Values = MappingProxyType({})


@dataclass(frozen=True)
class Split:
    """What the field knows of one split.

    Attributes:
        name: "train" or "test".
        degraded: accepted numbers of degraded pictures; empty where the set holds clean pictures alone.
        clean: accepted numbers of clean pictures. Two numbers where two versions are in use.
        sizes: allowed sizes of degraded pictures (and of clean ones, unless `clean_sizes` says otherwise);
            empty where pictures have many sizes.
        clean_sizes: allowed sizes of clean pictures.
        per_clean: degraded pictures of each clean one, where that is fixed.
        border: a clean picture may be larger than its degraded partner by so many pixels on each side.
        known: the values of the pattern's groups, where they can be told beforehand.
    """

    name: str
    degraded: tuple[int, ...] = ()
    clean: tuple[int, ...] = ()
    sizes: tuple[Size, ...] = ()
    clean_sizes: tuple[Size, ...] = ()
    per_clean: int | None = None
    border: int = 0
    known: Values = field(default_factory=lambda: _NOTHING)


@dataclass(frozen=True)
class Layout:
    """How one split lies on the disks of a project's users.

    Attributes:
        name: of the layout; the splits of one project share it.
        split: the split's name.
        users: projects whose instructions ask for it.
        folders: where it lies below the project's root, most particular first; patterns start there.
        pattern: the whole path of a degraded picture (of any picture, if there are clean ones alone), with
            named groups.
        clean: path of its clean partner, with the groups in braces; the first that exists is taken. Empty
            where there are no pairs.
        beside: whole paths of files that may lie here and are none of this set.
        examples: paths that `pattern` matches.
        known: as in `Split`, where this layout numbers its files in its own way.
    """

    name: str
    split: str
    users: tuple[str, ...]
    folders: tuple[str, ...]
    pattern: re.Pattern[str]
    clean: tuple[str, ...]
    beside: tuple[re.Pattern[str], ...]
    examples: tuple[str, ...]
    known: Values

    def partners(self, match: re.Match[str]) -> list[str]:
        """The paths that the clean partner of a degraded picture may have."""
        return [template.format_map(match.groupdict()) for template in self.clean]


@dataclass(frozen=True)
class Manifest:
    """A data set: where it comes from, on which terms, and how to know it on a disk.

    Attributes:
        name: as on the command line.
        title: as papers write it.
        kind: what is wrong with its degraded pictures; "clean" if it has none.
        origin, license, citation: whose it is. A license that nobody stated is said to be so.
        notes: what a user should know.
        splits: by name.
        layouts: in the order in which equals are tried.
    """

    name: str
    title: str
    kind: str
    origin: str
    license: str
    citation: str
    notes: tuple[str, ...]
    splits: Mapping[str, Split]
    layouts: tuple[Layout, ...]

    def known(self, layout: Layout) -> Values:
        """The values that a layout's groups take."""
        return {**self.splits[layout.split].known, **layout.known}


def plain(value: str) -> str:
    """A number without its leading zeros, which repackaged sets add and drop; other values as they are."""
    return (value.lstrip("0") or "0") if value.isdecimal() else value


def fields(template: str) -> set[str]:
    """What a template has in braces.

    Raises:
        ValueError: its braces don't match.
    """
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def names() -> list[str]:
    """Names of the manifests inside the package."""
    folder = resources.files("pellucid") / "datasets"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_manifest(name_or_path: str) -> Manifest:
    """A manifest by its shipped name, or from a .toml file.

    Raises:
        UnknownNameError: neither a shipped name nor a file.
        InputError: every fault of the manifest, in one message.
    """
    try:
        if name_or_path in names():
            file = resources.files("pellucid") / "datasets" / f"{name_or_path}.toml"
        elif not (file := Path(name_or_path)).is_file():
            raise UnknownNameError(unknown_name("data set", name_or_path, names()))
        values = tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name_or_path} is not valid TOML: {error}. Correct that line.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name_or_path} can't be read: {error}. Give a TOML file in UTF-8.") from error
    return parse_manifest(values, Path(name_or_path).stem if Path(name_or_path).suffix else name_or_path)


def parse_manifest(values: dict[str, Any], name: str) -> Manifest:
    """A manifest from plain values, as TOML gives them.

    Raises:
        InputError: every fault of the manifest, in one message.
    """
    table = _Table(values, "", [])
    text = {key: table.text(key) for key in ("title", "kind", "origin", "license", "citation")}
    notes = table.texts("notes", needed=False)
    splits = {key: _split(key, inner) for key, inner in table.tables("splits").items()}
    layouts = [_layout(inner) for inner in table.rows("layouts")]
    table.end()
    for layout in layouts:
        _check(layout, splits, table.faults)
    if table.faults:
        listing = "".join(f"\n  - {fault}" for fault in table.faults)
        raise InputError(f"{name} has {len(table.faults)} fault{'s' * (len(table.faults) > 1)}:{listing}")
    return Manifest(name=name, **text, notes=notes, splits=splits, layouts=tuple(layouts))


def _split(name: str, table: "_Table") -> Split:
    split = Split(
        name,
        degraded=table.numbers("degraded"),
        clean=table.numbers("clean"),
        sizes=table.sizes("sizes"),
        clean_sizes=table.sizes("clean_sizes"),
        per_clean=next(iter(table.numbers("per_clean")), None),
        border=next(iter(table.numbers("border")), 0),
        known=table.known(),
    )
    if not split.clean:
        table.faults.append(f"{table.where}clean is missing: the number of clean pictures")
    table.end()
    return split


def _layout(table: "_Table") -> Layout:
    paired = "degraded" in table.values
    layout = Layout(
        name=table.text("name"),
        split=table.text("split"),
        users=table.texts("users"),
        folders=table.texts("folders", needed=False),
        pattern=table.pattern("degraded" if paired else "picture"),
        clean=table.texts("clean") if paired else (),
        beside=tuple(table.compiled(text, "beside") for text in table.texts("beside", needed=False)),
        examples=table.texts("examples"),
        known=table.known(),
    )
    table.end()
    return layout


def _check(layout: Layout, splits: Mapping[str, Split], faults: list[str]) -> None:
    """What a layout says that its split or its own pattern contradicts."""
    where = f"layout {layout.name}, {layout.split}: "
    groups = set(layout.pattern.groupindex)
    split = splits.get(layout.split)
    if split is None:
        faults.append(where + unknown_name("split", layout.split, list(splits)))
    elif bool(split.degraded) != bool(layout.clean):
        faults.append(f"{where}the split counts degraded pictures if and only if the layout has pairs")
    for template in layout.clean:
        try:
            asked = fields(template) - groups
        except ValueError as error:
            faults.append(f"{where}the clean template {template!r} can't be read: {error}")
            continue
        if asked:
            faults.append(f"{where}the clean template asks for {sorted(asked)}, no groups of the pattern")
    if strange := {*(split.known if split else ()), *layout.known} - groups:
        faults.append(f"{where}values of {sorted(strange)} are known, but the pattern has no such groups")
    faults += [
        f"{where}the example {example!r} does not match {layout.pattern.pattern!r}"
        for example in layout.examples
        if not layout.pattern.fullmatch(example)
    ]


def _expanded(text: str) -> tuple[str, ...]:
    """The words of `text`; one like 001..100 stands for all numbers between, with as many zeros."""
    words: list[str] = []
    for word in text.split():
        if match := _RANGE.fullmatch(word):
            width = len(match[1]) if match[1].startswith("0") else 0
            words += [str(n).zfill(width) for n in range(int(match[1]), int(match[2]) + 1)]
        else:
            words.append(word)
    return tuple(words)


class _Table:
    """A table of TOML that remembers what was asked for; wrong and unknown values go to `faults`."""

    def __init__(self, values: Any, where: str, faults: list[str]) -> None:
        self.where, self.faults = where, faults
        self.asked: set[str] = set()
        self.values: dict[str, Any] = values if isinstance(values, dict) else {}
        if not isinstance(values, dict):
            faults.append(f"{where}this is {values!r}; expected a table")

    def _get(self, key: str, needed: bool, expected: str, fits: Callable[[Any], bool]) -> Any:
        self.asked.add(key)
        value = self.values.get(key)
        if value is None:
            if needed:
                self.faults.append(f"{self.where}{key} is missing; expected {expected}")
        elif fits(value):
            return value
        else:
            self.faults.append(f"{self.where}{key} is {value!r}; expected {expected}")
        return None

    def text(self, key: str) -> str:
        return self._get(key, True, "text", lambda v: isinstance(v, str) and bool(v.strip())) or ""

    def texts(self, key: str, *, needed: bool = True) -> tuple[str, ...]:
        def fits(value: Any) -> bool:
            items: list[Any] = value if isinstance(value, list) else [value]
            return bool(items) and all(isinstance(item, str) for item in items)

        value = self._get(key, needed, "text, or a list of texts", fits)
        return () if value is None else (value,) if isinstance(value, str) else tuple(value)

    def numbers(self, key: str) -> tuple[int, ...]:
        def fits(value: Any) -> bool:
            items: list[Any] = value if isinstance(value, list) else [value]
            return bool(items) and all(type(item) is int and item > 0 for item in items)

        value = self._get(key, False, "a number above zero, or a list of them", fits)
        return () if value is None else (value,) if isinstance(value, int) else tuple(value)

    def sizes(self, key: str) -> tuple[Size, ...]:
        sizes: list[Size] = []
        for text in self.texts(key, needed=False):
            if match := re.fullmatch(r"(\d+)x(\d+)", text):
                sizes.append((int(match[1]), int(match[2])))
            else:
                self.faults.append(f"{self.where}{key} holds {text!r}; expected WIDTHxHEIGHT")
        return tuple(sizes)

    def known(self) -> Values:
        table = self._get("known", False, "a table", lambda v: isinstance(v, dict)) or {}
        inner = _Table(table, f"{self.where}known.", self.faults)
        return {key: _expanded(inner.text(key)) for key in table}

    def pattern(self, key: str) -> re.Pattern[str]:
        return self.compiled(self.text(key), key)

    def compiled(self, text: str, key: str) -> re.Pattern[str]:
        try:
            return re.compile(text)
        except re.error as error:
            self.faults.append(f"{self.where}{key} {text!r} is no regular expression: {error}")
            return re.compile("")

    def tables(self, key: str) -> "dict[str, _Table]":
        value = self._get(key, True, "tables", lambda v: isinstance(v, dict) and bool(v)) or {}
        return {name: _Table(inner, f"{key}.{name}: ", self.faults) for name, inner in value.items()}

    def rows(self, key: str) -> "list[_Table]":
        value = self._get(key, True, "a list of tables", lambda v: isinstance(v, list) and bool(v)) or []
        return [_Table(inner, f"{key}.{i}: ", self.faults) for i, inner in enumerate(value)]

    def end(self) -> None:
        """Report the keys that nobody asked for."""
        self.faults += [
            self.where + unknown_name("key", key, sorted(self.asked))
            for key in self.values
            if key not in self.asked
        ]
