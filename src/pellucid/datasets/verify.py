"""A folder held against the manifest of a data set: what is missing, extra, mis-paired, or wrong in size.

Pairs follow the manifest's rules alone: a regular expression on the whole path of a degraded picture, below
the layout's folder, and a template for the path of its clean partner. A folder called `lowlight` or `deblur`
above them changes nothing.
"""

import filecmp
import os
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pellucid.datasets._manifest import Layout, Manifest, Size, fields, load_manifest, plain
from pellucid.datasets.files import check_regular, picture_size, read_pixels, walk
from pellucid.errors import InputError, PellucidError, UnknownNameError
from pellucid.registry import unknown_name

KINDS = ("missing", "extra", "mispaired", "size", "undecodable")
Progress = Callable[[int, int], None]  # called with (files done, files in all)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: one of `KINDS`.
        path: below the folder that was given; empty for files that can only be counted.
        what: found and expected, in words.
        count: files that this stands for.
    """

    kind: str
    path: str
    what: str
    count: int = 1


@dataclass(frozen=True)
class SplitReport:
    """One split as found.

    Attributes:
        split, layout: which.
        folder: where the layout begins, below the folder that was given.
        degraded, clean: pictures found; `degraded` is none for a set of clean pictures.
        expected_degraded, expected_clean: the accepted numbers.
        faults: all that is wrong, in the order of `KINDS`.
    """

    split: str
    layout: str
    folder: str
    degraded: int | None
    clean: int
    expected_degraded: tuple[int, ...]
    expected_clean: tuple[int, ...]
    faults: tuple[Fault, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Files at fault, by kind."""
        found = Counter[str]()
        for fault in self.faults:
            found[fault.kind] += fault.count
        return {kind: found[kind] for kind in KINDS}


@dataclass(frozen=True)
class Verification:
    """A folder as found.

    Attributes:
        dataset, folder: what was asked.
        splits: the splits that the folder holds.
        absent: splits of the set of which the folder holds nothing.
    """

    dataset: str
    folder: str
    splits: tuple[SplitReport, ...]
    absent: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Nothing is wrong with the splits that are there."""
        return not any(report.faults for report in self.splits)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        splits = [{**asdict(report), "counts": report.counts} for report in self.splits]
        return {**asdict(self), "splits": splits, "ok": self.ok}


def verify(
    dataset: str | Manifest,
    folder: str | os.PathLike[str],
    *,
    layout: str | None = None,
    split: str | None = None,
    decode: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Hold a folder against the manifest of a data set.

    The layout is the one that explains most files; it may begin in the folder itself or, as its project's
    instructions have it, below.

    Args:
        dataset: name of a shipped manifest, a .toml file, or a manifest.
        folder: the data set's folder, or the project's root.
        layout: look for this one only.
        split: look for this one only.
        decode: decode every picture. Without it sizes come from the headers, and a picture counts as whole if
            its end is there.
        progress: called with (pictures done, pictures in all).

    Raises:
        UnknownNameError: no such data set, layout or split.
        InputError: the folder can't be listed, or holds nothing of the data set.
    """
    manifest = dataset if isinstance(dataset, Manifest) else load_manifest(dataset)
    rules = _chosen(manifest, layout, split)
    root = Path(folder)
    files = {path.relative_to(root).as_posix() for path in walk(root)}
    places = _places(manifest, rules, files)
    if not places:
        if layout is None or split is None:
            raise InputError(_nothing(manifest, rules, root))
        places = {"": rules[0]}
    checks = [_Check(rule, root / base, base, _below(base, files, places)) for base, rule in places.items()]
    total, done = sum(len(check.pictures) for check in checks), 0
    for check in checks:
        for path in check.pictures:
            check.look(path, decode)
            done += 1
            if progress is not None:
                progress(done, total)
    reports = tuple(check.report() for check in checks)
    found = {report.split for report in reports}
    absent = tuple(name for name in manifest.splits if name not in found and split in (None, name))
    return Verification(manifest.name, os.fspath(folder), reports, absent)


def find_pairs(
    dataset: str | Manifest, folder: str | os.PathLike[str], split: str
) -> list[tuple[str | None, str]]:
    """The pictures of a data set's split below a folder: (degraded, clean) paths, sorted, relative to it.

    A data set of clean pictures has none as degraded; a degraded picture without its partner is left out.

    Raises:
        UnknownNameError: no such data set or split.
        InputError: the folder can't be listed, or holds nothing of this split.
    """
    manifest = dataset if isinstance(dataset, Manifest) else load_manifest(dataset)
    rules = _chosen(manifest, None, split)
    root = Path(folder)
    files = {path.relative_to(root).as_posix() for path in walk(root)}
    places = _places(manifest, rules, files)
    pairs: list[tuple[str | None, str]] = []
    for base, rule in places.items():
        check = _Check(rule, root / base, base, _below(base, files, places))
        pairs += [(base + degraded, base + clean) for degraded, clean in check.partner.items()]
        if not rule.layout.clean:
            pairs += [(None, base + path) for path in check.degraded]
    if not pairs:
        raise InputError(_nothing(manifest, rules, root))
    return sorted(pairs, key=lambda pair: (pair[1], pair[0] or ""))


class _Rules:
    """A layout with what its split knows, prepared for many paths."""

    def __init__(self, manifest: Manifest, layout: Layout) -> None:
        self.layout, self.split = layout, manifest.splits[layout.split]
        self.known = manifest.known(layout)
        self.allowed = {group: {plain(v) for v in values} for group, values in self.known.items()}
        groups = list(layout.pattern.groupindex)
        # The groups that tell one clean picture from another, and those that tell its degraded ones apart.
        self.identity = [g for g in groups if not layout.clean or g in fields(layout.clean[0])]
        self.others = [g for g in groups if g not in self.identity]
        self.clean_patterns = [
            re.compile(
                "".join(
                    re.escape(text) + (f"(?P<{name}>[^/]+)" if name else "")
                    for text, name, _, _ in string.Formatter().parse(template)
                )
            )
            for template in layout.clean
        ]
        variants = [self.known.get(group, ()) for group in self.others]
        every = [tuple(plain(v) for v in values) for values in product(*variants)]
        self.variants = every if not self.others or self.split.per_clean == len(every) else None

    def unknown(self, groups: Mapping[str, str]) -> str | None:
        """Which value of a path is none of the set's, in words."""
        for name, value in groups.items():
            if name in self.allowed and plain(value) not in self.allowed[name]:
                return f"{name} {value} is none of the set's"
        return None

    def key(self, groups: Mapping[str, str]) -> tuple[str, ...]:
        """Which clean picture."""
        return tuple(plain(groups[name]) for name in self.identity)

    def variant(self, groups: Mapping[str, str]) -> tuple[str, ...]:
        """Which degraded one of it."""
        return tuple(plain(groups[name]) for name in self.others)

    def path_like(self, sibling: str, groups: Mapping[str, str]) -> str:
        """The path of a picture that is missing, from that of another one."""
        match = self.layout.pattern.fullmatch(sibling)
        assert match is not None
        path = sibling
        for name in sorted(groups, key=match.start, reverse=True):
            start, end = match.span(name)
            path = path[:start] + _written(groups[name], like=match[name]) + path[end:]
        return path


def _written(value: str, like: str) -> str:
    """A value as file names of one folder have it, with zeros before it if they have them."""
    if not (value.isdecimal() and like.isdecimal()) or len(value) == len(like):
        return value
    return plain(value).zfill(len(like)) if like.startswith("0") else plain(value)


class _Check:
    """One split in one place."""

    def __init__(self, rules: _Rules, folder: Path, base: str, files: set[str]) -> None:
        self.rules, self.folder, self.base = rules, folder, base
        self.faults: list[Fault] = []
        self.sizes: dict[str, Size] = {}
        self.degraded: dict[str, dict[str, str]] = {}  # path -> groups; all pictures, if there are no pairs
        self.partner: dict[str, str] = {}
        self.orphans: dict[str, dict[str, str]] = {}  # clean pictures without a degraded one
        rest = self._sort_out(files)
        self._pair(files)
        self._explain(rest - set(self.partner.values()))
        self.named = Counter[str]()  # pictures that are missing and could be named, by side
        self._complete()
        self._count()
        self.pictures = sorted({*self.degraded, *self.partner.values(), *self.orphans})

    def _fault(self, kind: str, path: str, what: str, count: int = 1) -> None:
        self.faults.append(Fault(kind, self.base + path if path else "", what, count))

    def _sort_out(self, files: set[str]) -> set[str]:
        """Take the degraded pictures; gives what is left."""
        seen: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
        rest: set[str] = set()
        for path in sorted(files):
            match = self.rules.layout.pattern.fullmatch(path)
            if match is None:
                rest.add(path)
                continue
            groups = match.groupdict("")
            key = self.rules.key(groups), self.rules.variant(groups)
            if unknown := self.rules.unknown(groups):
                self._fault("extra", path, unknown)
            elif key in seen:
                self._fault("extra", path, f"by its name the same picture as {self.base}{seen[key]}")
            else:
                seen[key] = path
                self.degraded[path] = groups
        return rest

    def _pair(self, files: set[str]) -> None:
        for path, groups in self.degraded.items():
            candidates = [template.format_map(groups) for template in self.rules.layout.clean]
            present = [candidate for candidate in candidates if candidate in files]
            if len(present) > 1:
                names = " and ".join(self.base + name for name in present)
                self._fault("mispaired", path, f"has {len(present)} clean partners: {names}")
            if present:
                self.partner[path] = present[0]

    def _explain(self, rest: set[str]) -> None:
        """Every file that is neither degraded nor a partner: a lonely clean picture, a neighbor, or extra."""
        partners = set(self.partner.values())
        for path in sorted(rest):
            matches = (pattern.fullmatch(path) for pattern in self.rules.clean_patterns)
            groups = next((match.groupdict() for match in matches if match), None)
            if groups is not None and path not in partners:
                if unknown := self.rules.unknown(groups):
                    self._fault("extra", path, unknown)
                else:
                    self.orphans[path] = groups
            elif not any(pattern.fullmatch(path) for pattern in self.rules.layout.beside):
                self._fault("extra", path, "no rule of the layout knows it")

    def _complete(self) -> None:
        """Name what is missing, as far as names can be told."""
        rules, sibling = self.rules, min(self.degraded, default=self.rules.layout.examples[0])
        cleans: dict[tuple[str, ...], dict[str, str]] = {}
        there: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
        for path, groups in self.degraded.items():
            key = rules.key(groups)
            if rules.layout.clean and path not in self.partner and key not in cleans:
                wanted = rules.layout.clean[0].format_map(groups)
                self._missing("clean", wanted, f"the clean partner of {self.base}{path}")
            cleans[key] = {name: groups[name] for name in rules.identity}
            there[key].add(rules.variant(groups))
        for path, groups in self.orphans.items():
            cleans[rules.key(groups)] = groups
            if rules.variants is None:
                self._missing("degraded", path, "no degraded picture of this clean one")
        for key, groups in cleans.items():
            for variant in rules.variants or ():
                if variant not in there[key]:
                    wanted = rules.path_like(
                        sibling, {**groups, **dict(zip(rules.others, variant, strict=True))}
                    )
                    clean = rules.layout.clean[0].format_map(groups)
                    self._missing("degraded", wanted, f"degraded picture of {self.base}{clean}")
        if len(rules.identity) == 1 and (values := rules.known.get(rules.identity[0])):
            for value in values:
                if (plain(value),) not in cleans:
                    self._absent(rules.path_like(sibling, {rules.identity[0]: value}), value)

    def _missing(self, side: str, path: str, what: str) -> None:
        self.named[side] += 1
        self._fault("missing", path, what)

    def _absent(self, path: str, value: str) -> None:
        """A picture of which nothing is there; `path` is its likely name."""
        what = f"nothing of {self.rules.identity[0]} {value} is here"
        if not self.rules.layout.clean:
            self._missing("clean", path, what)
            return
        match = self.rules.layout.pattern.fullmatch(path)
        assert match is not None
        versions = len(self.rules.variants or ((),))
        self.named["degraded"] += versions
        self.named["clean"] += 1
        more = f", {versions - 1} more like it" if versions > 1 else ""
        clean = self.base + self.rules.layout.partners(match)[0]
        self._fault("missing", path, f"{what}: this{more} and the clean partner {clean}", versions + 1)

    def _count(self) -> None:
        """What is missing or too much, though no name tells."""
        split = self.rules.split
        found = {"degraded": len(self.degraded), "clean": len({*self.partner.values(), *self.orphans})}
        if not self.rules.layout.clean:
            found = {"clean": len(self.degraded)}
        for side, number in found.items():
            there = number + self.named[side]
            target = min(getattr(split, side), key=lambda n: abs(n - there))
            if there < target:
                what = f"{target - there:,} more {side} pictures, whose names can't be told"
                what += f"; {number:,} of {target:,} are there{self._without_files()}"
                self._fault("missing", "", what, target - there)
            elif there > target:
                what = f"{number:,} {side} pictures are there; expected {target:,}"
                self._fault("extra", "", what, there - target)

    def _without_files(self) -> str:
        """Values of which there is nothing at all, for example a whole scene."""
        lacking = [
            f"{group} {value}"
            for group in self.rules.identity
            for value in self.rules.known.get(group, ())
            if not any(plain(groups[group]) == plain(value) for groups in self.degraded.values())
        ]
        return f"; nothing of {', '.join(lacking)}" if lacking else ""

    def look(self, path: str, decode: bool) -> None:
        """Learn a picture's size."""
        file = self.folder / path
        try:
            if decode:
                check_regular(file)
                height, width = read_pixels(file).shape[:2]
                self.sizes[path] = width, height
            else:
                self.sizes[path] = picture_size(file)
        except (PellucidError, OSError) as error:
            self._fault("undecodable", path, str(error))

    def report(self) -> SplitReport:
        """All that was found, once every picture was looked at."""
        paired, split = bool(self.rules.layout.clean), self.rules.split
        cleans = sorted({*self.partner.values(), *self.orphans}) if paired else sorted(self.degraded)
        if paired:
            self._check_sizes(self.degraded, split.sizes)
        self._check_sizes(cleans, split.clean_sizes or split.sizes)
        for path, clean in self.partner.items():
            self._check_pair(path, clean)
        return SplitReport(
            split=split.name,
            layout=self.rules.layout.name,
            folder=self.base.removesuffix("/"),
            degraded=len(self.degraded) if paired else None,
            clean=len(cleans),
            expected_degraded=split.degraded,
            expected_clean=split.clean,
            faults=tuple(sorted(self.faults, key=_order)),
        )

    def _check_sizes(self, paths: Iterable[str], allowed: Sequence[Size]) -> None:
        for path in paths:
            if allowed and path in self.sizes and self.sizes[path] not in allowed:
                expected = " or ".join(_shown(size) for size in allowed)
                self._fault("size", path, f"is {_shown(self.sizes[path])}; expected {expected}")

    def _check_pair(self, path: str, clean: str) -> None:
        if path not in self.sizes or clean not in self.sizes:
            return
        border = self.rules.split.border
        small, large = self.sizes[path], self.sizes[clean]
        if large not in (small, (small[0] + 2 * border, small[1] + 2 * border)):
            what = f"is {_shown(small)}, its clean partner {self.base}{clean} is {_shown(large)}"
            self._fault("mispaired", path, what)
        elif filecmp.cmp(self.folder / path, self.folder / clean, shallow=False):
            self._fault("mispaired", path, f"holds the same bytes as its clean partner {self.base}{clean}")


def _order(fault: Fault) -> tuple[int, bool, list[tuple[int, str]]]:
    """By kind, what can only be counted last, numbers in names by their value."""
    parts = re.split(r"(\d+)", fault.path)
    return (
        KINDS.index(fault.kind),
        not fault.path,
        [(int(p), "") if p.isdecimal() else (-1, p) for p in parts],
    )


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _chosen(manifest: Manifest, layout: str | None, split: str | None) -> list[_Rules]:
    known = sorted({entry.name for entry in manifest.layouts})
    if layout is not None and layout not in known:
        raise UnknownNameError(unknown_name(f"layout of {manifest.name}", layout, known))
    if split is not None and split not in manifest.splits:
        raise UnknownNameError(unknown_name(f"split of {manifest.name}", split, list(manifest.splits)))
    entries = [e for e in manifest.layouts if layout in (None, e.name) and split in (None, e.split)]
    if not entries:
        raise UnknownNameError(
            f"The layout {layout} of {manifest.name} has no split {split}. Leave out one of the two."
        )
    return [_Rules(manifest, entry) for entry in entries]


def _places(manifest: Manifest, rules: Iterable[_Rules], files: set[str]) -> dict[str, _Rules]:
    """Where layouts begin, below the root: the best one for each place and each split."""
    candidates: list[tuple[int, int, int, str, _Rules]] = []
    for number, rule in enumerate(rules):
        expected = max(rule.split.degraded or rule.split.clean)
        for base in _bases(rule.layout):
            degraded = pairs = 0
            for groups in _explained(rule, base, files):
                degraded += 1
                pairs += any(base + t.format_map(groups) in files for t in rule.layout.clean)
            if degraded:
                candidates.append((-degraded - pairs, abs(expected - degraded), number, base, rule))
    chosen: dict[str, _Rules] = {}
    for *_, base, rule in sorted(candidates, key=lambda c: c[:4]):
        if base not in chosen and rule.split.name not in {other.split.name for other in chosen.values()}:
            chosen[base] = rule
    order = list(manifest.splits)
    return dict(sorted(chosen.items(), key=lambda item: order.index(item[1].split.name)))


def _bases(layout: Layout) -> list[str]:
    """The root itself, and every end of the layout's usual folders."""
    bases = {""}
    for folder in layout.folders:
        parts = folder.split("/")
        bases |= {"/".join(parts[i:]) + "/" for i in range(len(parts))}
    return sorted(bases)


def _explained(rules: _Rules, base: str, files: Iterable[str]) -> Iterator[dict[str, str]]:
    """The groups of the degraded pictures of a layout that begins at `base`."""
    for path in files:
        if path.startswith(base) and (match := rules.layout.pattern.fullmatch(path, len(base))):
            groups = match.groupdict("")
            if rules.unknown(groups) is None:
                yield groups


def _below(base: str, files: set[str], places: Iterable[str]) -> set[str]:
    """The files of one place, less those of places inside it."""
    inner = [other for other in places if other != base and other.startswith(base)]
    return {
        path[len(base) :]
        for path in files
        if path.startswith(base) and not any(path.startswith(other) for other in inner)
    }


def _nothing(manifest: Manifest, rules: Iterable[_Rules], root: Path) -> str:
    examples = [f"{rule.layout.examples[0]} ({rule.layout.name}, {rule.split.name})" for rule in rules]
    return (
        f"{root} holds nothing of {manifest.title} in a layout that is known. Expected a path such as "
        f"{', or '.join(examples)}. Give the folder in which it begins."
    )
