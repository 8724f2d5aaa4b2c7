"""Where a test set lies below a folder: as degraded/ and clean/, or in a layout that its manifest knows."""

from dataclasses import dataclass
from pathlib import Path

from pellucid.datasets import load_manifest
from pellucid.datasets.files import folder_of
from pellucid.datasets.verify import SplitReport, find_pairs, verify
from pellucid.errors import InputError
from pellucid.evaluate.pairs import PictureSet, list_clean, list_pairs

_UNUSABLE = ("mispaired", "undecodable")  # faults of pictures that are not measured


@dataclass(frozen=True)
class Found:
    """A test set that is there.

    Attributes:
        pictures: to measure on.
        where: in words, for people.
        faults: files at fault, as `pellucid data verify` counts them.
        remarks: sentences about what is wrong, or ambiguous.
    """

    pictures: PictureSet
    where: str
    faults: int = 0
    remarks: tuple[str, ...] = ()


def find_set(root: Path, name: str) -> Found | str:
    """The test split of a data set below `root`, or a sentence that says what is not there.

    `root/name/degraded` and `root/name/clean` come first (clean alone for a set without pairs), then the
    layouts of the data set's manifest, in `root/name` and below `root` where their projects keep them.
    Mis-paired and damaged pictures of a layout are named in the remarks and left out.

    Raises:
        InputError: the first form is there, but empty or without partners.
    """
    manifest = load_manifest(name)
    paired = bool(manifest.splits["test"].degraded)
    sides = [root / name / side for side in (("degraded", "clean") if paired else ("clean",))]
    absent = [str(side) for side in sides if not side.is_dir()]
    plain = None
    if not absent:
        pictures = list_pairs(root / name) if paired else list_clean(root / name)
        plain = Found(pictures, f"{root / name} (degraded and clean)" if paired else str(sides[0]))
    try:
        laid_out = _find_layout(root, name)
    except InputError as error:
        return plain or f"there is no folder {' and no folder '.join(absent)}. {error}"
    if plain is None:
        return laid_out
    both = f"{manifest.title} is there twice, in {plain.where} and in {laid_out.where}: the first is taken."
    return Found(plain.pictures, plain.where, remarks=(both,))


def _find_layout(root: Path, name: str) -> Found:
    """The set in a layout of its manifest."""
    folder = folder_of(root, name)
    try:
        report = verify(name, folder, split="test").splits[0]
    except InputError:
        if folder == root:
            raise
        folder = root
        report = verify(name, folder, split="test").splits[0]
    pairs = find_pairs(name, folder, "test")
    unusable = {fault.path for fault in report.faults if fault.kind in _UNUSABLE}
    base = f"{report.folder}/" if report.folder else ""
    usable = tuple(
        (degraded and degraded.removeprefix(base), clean.removeprefix(base))
        for degraded, clean in pairs
        if not unusable & {degraded, clean}
    )
    where = f"{folder / report.folder} (layout {report.layout})"
    remarks = _remarks(name, folder, where, report, left_out=len(pairs) - len(usable))
    if not usable:
        raise InputError(remarks[0])
    return Found(PictureSet(folder / report.folder, usable), where, sum(report.counts.values()), remarks)


def _remarks(name: str, folder: Path, where: str, report: SplitReport, *, left_out: int) -> tuple[str, ...]:
    """What is wrong with the set, as `pellucid data verify` says it: counts, with the first of each kind."""
    parts: list[str] = []
    for kind, count in report.counts.items():
        first = next((fault for fault in report.faults if fault.kind == kind), None)
        if first is not None:
            parts.append(f"{count:,} {kind} (first: {first.path}{': ' if first.path else ''}{first.what})")
    if not parts:
        return ()
    some = f" {left_out:,} of its pairs are left out." if left_out else ""
    title = load_manifest(name).title
    return (
        f"{title} in {where}: {'; '.join(parts)}.{some} See all with: pellucid data verify {name} {folder}",
    )
