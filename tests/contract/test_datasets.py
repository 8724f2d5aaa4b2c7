"""What every manifest of a data set owes: its layouts, built by their own rules, are found whole; each fault
that is put into them is named."""

import io
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from PIL import Image

from pellucid.datasets import Layout, Manifest, Split, load_manifest, names, parse_manifest
from pellucid.datasets.verify import KINDS, Fault, Verification, find_pairs, verify
from pellucid.recipe import KINDS as RECIPE_KINDS

ENTRIES = [
    pytest.param(name, number, id=f"{name}-{layout.name}-{layout.split}")
    for name in names()
    for number, layout in enumerate(load_manifest(name).layouts)
]
DOCS = Path(__file__).parents[2] / "docs" / "data.md"
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}
STRANGE = (24, 17)  # a size that no data set allows


@cache
def picture(size: tuple[int, int], suffix: str, level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (level, 80, 200)).save(stream, FORMATS[suffix])
    return stream.getvalue()


class Built:
    """One layout in a folder, with its examples alone, and a manifest that expects no more."""

    def __init__(self, manifest: Manifest, layout: Layout, root: Path) -> None:
        self.root, self.layout, self.full = root, layout, manifest.splits[layout.split]
        self.base = root / (layout.folders[0] if layout.folders else "")
        self.partner = {path: self.match(path) for path in self.complete()}
        split = self.full
        for path, clean in self.partner.items():
            self.write(path, split.sizes, 10)
            if clean:
                self.write(clean, split.clean_sizes or split.sizes, 200)
        cleans = {clean for clean in self.partner.values() if clean} or set(self.partner)
        scaled = replace(
            split,
            degraded=(len(self.partner),) if split.degraded else (),
            clean=(len(cleans),),
            known=MappingProxyType(self.seen(split.known)),
        )
        own = replace(layout, known=MappingProxyType(self.seen(layout.known)))
        self.manifest = replace(
            manifest,
            splits={**manifest.splits, split.name: scaled},
            layouts=tuple(own if other is layout else other for other in manifest.layouts),
        )

    def complete(self) -> list[str]:
        """The examples, with all versions of each clean picture where their number is fixed."""
        layout, split = self.layout, self.full
        if split.per_clean is None:
            return list(layout.examples)
        paths: list[str] = []
        for example in layout.examples:
            match = layout.pattern.fullmatch(example)
            assert match is not None
            others = [group for group in layout.pattern.groupindex if f"{{{group}}}" not in layout.clean[0]]
            for values in product(*(split.known[group] for group in others)):
                path = example
                for group, value in sorted(
                    zip(others, values, strict=True), key=lambda pair: -match.start(pair[0])
                ):
                    path = path[: match.start(group)] + value + path[match.end(group) :]
                paths.append(path)
        by_name = {re.sub(r"part\d", "", path): path for path in paths}
        return sorted(by_name.values())

    def match(self, path: str) -> str | None:
        match = self.layout.pattern.fullmatch(path)
        assert match is not None
        return next(iter(self.layout.partners(match)), None)

    def seen(self, known: Any) -> dict[str, tuple[str, ...]]:
        """Of the values that are known, those of the examples: a layout of a set's size would be slow."""
        found: dict[str, tuple[str, ...]] = {}
        for group, values in known.items():
            matches = (self.layout.pattern.fullmatch(path) for path in self.partner)
            there = {match[group].lstrip("0") for match in matches if match}
            found[group] = tuple(value for value in values if value.lstrip("0") in there)
        return found

    def write(self, path: str, sizes: tuple[tuple[int, int], ...], level: int) -> None:
        file = self.base / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(sizes[0] if sizes else (40, 30), file.suffix, level))

    def verify(self, **options: Any) -> Verification:
        options = {"layout": self.layout.name, "split": self.layout.split, **options}
        return verify(self.manifest, self.root, **options)

    def shown(self, path: str) -> str:
        return (self.base / path).relative_to(self.root).as_posix()

    def faults(self) -> dict[str, list[Fault]]:
        found = self.verify()
        assert not found.ok
        (report,) = found.splits
        return {kind: [fault for fault in report.faults if fault.kind == kind] for kind in KINDS}


@pytest.fixture
def built(tmp_path: Path) -> Callable[[str, int], Built]:
    def build(name: str, number: int) -> Built:
        manifest = load_manifest(name)
        return Built(manifest, manifest.layouts[number], tmp_path)

    return build


def test_the_fields_data_sets_are_there() -> None:
    assert {
        *(
            "bsd400",
            "wed",
            "cbsd68",
            "kodak24",
            "urban100",
            "rain100l",
            "rain100h",
            "reside_ots",
            "sots_outdoor",
        ),
        *("sots_indoor", "gopro", "lol_v1", "cdd11"),
    } <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_manifest_says_whose_the_set_is(name: str) -> None:
    manifest = load_manifest(name)
    assert manifest.name == name
    assert manifest.kind in RECIPE_KINDS
    assert manifest.origin.startswith("https://")
    assert len(manifest.license) > 5 and re.search(r"\b(19|20)\d\d\b", manifest.citation)
    assert {layout.split for layout in manifest.layouts} == set(manifest.splits) <= {"train", "test"}
    keys = [(layout.name, layout.split) for layout in manifest.layouts]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", names())
def test_known_values_agree_with_the_counts(name: str) -> None:
    """Where the pictures can be listed, the list has as many as the field counts."""
    manifest = load_manifest(name)
    for layout in manifest.layouts:
        split, known = manifest.splits[layout.split], manifest.known(layout)
        groups = list(layout.pattern.groupindex)
        if all(group in known for group in groups):
            number = 1
            for group in groups:
                assert len(set(known[group])) == len(known[group])
                number *= len(known[group])
            assert number in (split.degraded or split.clean)
        if split.per_clean:
            assert split.degraded == tuple(n * split.per_clean for n in split.clean)


@pytest.mark.parametrize(("name", "number"), ENTRIES)
def test_a_whole_layout_is_found_whole(name: str, number: int, built) -> None:
    folder = built(name, number)
    found = folder.verify()
    assert found.ok, found
    (report,) = found.splits
    assert folder.root / report.folder == folder.base
    assert found.to_dict()["ok"] is True
    assert folder.verify(decode=True).ok

    pairs = find_pairs(folder.manifest, folder.root, folder.layout.split)
    wanted = [
        (folder.shown(path), folder.shown(clean)) if clean else (None, folder.shown(path))
        for path, clean in folder.partner.items()
    ]
    assert sorted(pairs, key=str) == sorted(wanted, key=str)


@pytest.mark.parametrize(("name", "number"), ENTRIES)
def test_the_layout_is_recognized_from_its_own_folder(name: str, number: int, built) -> None:
    """From the folder in which the paths begin, also where two layouts share patterns."""
    folder = built(name, number)
    (report,) = verify(folder.manifest, folder.base).splits
    assert report.split == folder.layout.split
    assert not report.faults


def likely(path: str) -> str:
    """A path without what the rules leave open."""
    return re.sub(r"part\d/|(?:train|test)/(?=\d+\.jpg)|(?<=/)a(?=\d+\.jpg)", "", path)


@pytest.mark.parametrize(("name", "number"), ENTRIES)
def test_a_missing_picture_is_named(name: str, number: int, built) -> None:
    folder = built(name, number)
    path = sorted(folder.partner)[-1]
    (folder.base / path).unlink()
    faults = folder.faults()
    assert [kind for kind in KINDS if faults[kind]] == ["missing"]
    # How strong the haze of a lonely clean picture of SOTS was can't be told: that picture is named.
    named = folder.partner[path] if name == "sots_outdoor" else path
    (fault,) = faults["missing"]
    assert likely(fault.path) == likely(folder.shown(named or path))
    assert sum(fault.count for fault in faults["missing"]) == 1


@pytest.mark.parametrize(
    ("name", "number"), [e for e in ENTRIES if load_manifest(e.values[0]).kind != "clean"]
)  # type: ignore[arg-type]
def test_a_missing_clean_partner_is_named(name: str, number: int, built) -> None:
    folder = built(name, number)
    clean = sorted({c for c in folder.partner.values() if c})[-1]
    (folder.base / clean).unlink()
    faults = folder.faults()
    assert [fault.path for fault in faults["missing"]] == [folder.shown(clean)]
    assert "clean partner of" in faults["missing"][0].what


@pytest.mark.parametrize(("name", "number"), ENTRIES)
def test_an_extra_file_is_named(name: str, number: int, built) -> None:
    folder = built(name, number)
    place = Path(sorted(folder.partner)[0]).parent
    folder.write((place / "holiday.png").as_posix(), (), 9)
    faults = folder.faults()
    assert [fault.path for fault in faults["extra"]] == [folder.shown((place / "holiday.png").as_posix())]
    assert not any(faults[kind] for kind in KINDS if kind != "extra")


@pytest.mark.parametrize(("name", "number"), [e for e in ENTRIES if e.values[0] not in ("wed", "urban100")])
def test_a_wrong_size_is_named(name: str, number: int, built) -> None:
    folder = built(name, number)
    path, clean = sorted(folder.partner.items())[0]
    folder.write(path, (STRANGE,), 10)
    faults = folder.faults()
    expected = ({"size"} if folder.full.sizes else set()) | ({"mispaired"} if clean else set())
    assert expected
    assert {kind for kind in KINDS if faults[kind]} == expected
    for kind in expected:
        assert [fault.path for fault in faults[kind]] == [folder.shown(path)]
        assert "24x17" in faults[kind][0].what


@pytest.mark.parametrize(("name", "number"), ENTRIES)
def test_a_file_cut_short_is_named(name: str, number: int, built) -> None:
    folder = built(name, number)
    path = sorted(folder.partner)[0]
    content = (folder.base / path).read_bytes()
    (folder.base / path).write_bytes(content[: len(content) // 2])
    faults = folder.faults()
    assert [fault.path for fault in faults["undecodable"]] == [folder.shown(path)]


def table_of_sets() -> str:
    """As in docs/data.md."""

    def number(accepted: tuple[int, ...]) -> str:
        return " or ".join(f"{n:,}" for n in accepted)

    lines = ["| data set | pictures | license |", "|---|---|---|"]
    for name in names():
        manifest = load_manifest(name)
        pictures: list[str] = []
        for split in manifest.splits.values():
            if split.degraded == split.clean:
                pictures.append(f"{split.name} {number(split.clean)} pairs")
            else:
                degraded = f"{number(split.degraded)} degraded of " if split.degraded else ""
                pictures.append(f"{split.name} {degraded}{number(split.clean)} clean")
        row = (
            f"| [{manifest.title}]({manifest.origin}) `{name}` | {', '.join(pictures)} | {manifest.license} |"
        )
        lines.append(row)
    return "\n".join(lines)


def table_of_layouts() -> str:
    """As in docs/data.md."""
    lines = ["| data set, split | users | folder | picture | clean partner |", "|---|---|---|---|---|"]
    for name in names():
        for layout in load_manifest(name).layouts:
            match = layout.pattern.fullmatch(layout.examples[0])
            assert match is not None
            clean = " or ".join(f"`{path}`" for path in layout.partners(match)) or "-"
            folder = f"`{layout.folders[0]}`" if layout.folders else "-"
            users = ", ".join(layout.users)
            lines.append(
                f"| `{name}` {layout.split} | {users} | {folder} | `{layout.examples[0]}` | {clean} |"
            )
    return "\n".join(lines)


@pytest.mark.skipif(not DOCS.exists(), reason="a source distribution comes without docs")
def test_the_docs_list_every_set_and_layout() -> None:
    text = DOCS.read_text("utf-8")
    for table in (table_of_sets(), table_of_layouts()):
        assert table in text, f"replace the table of {DOCS} by:\n{table}"


@pytest.mark.skipif(not DOCS.exists(), reason="a source distribution comes without docs")
def test_the_docs_example_is_a_manifest() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    split = parse_manifest(tomllib.loads(example), "example").splits["train"]
    assert split.degraded == (300,) and len(split.known["id"]) == 100


def test_splits_of_many_pictures_have_the_papers_numbers() -> None:
    """142,431 items an epoch: 3 x 3 x 5,144 for noise, 120 x 200 for rain, 72,135 for haze."""

    def count(name: str) -> int:
        split: Split = load_manifest(name).splits["train"]
        return (split.degraded or split.clean)[0]

    noise = 9 * (count("bsd400") + count("wed"))
    assert (noise, 120 * count("rain100l"), count("reside_ots")) == (46_296, 24_000, 72_135)
    assert noise + 120 * count("rain100l") + count("reside_ots") == 142_431
