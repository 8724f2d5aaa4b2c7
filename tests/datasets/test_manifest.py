"""Manifests of data sets: read strictly, all faults at once."""

import re
from pathlib import Path

import pytest

from pellucid.datasets import load_manifest, names, parse_manifest
from pellucid.errors import InputError, UnknownNameError

GOOD = """
title = "Tiny"
kind = "rain"
origin = "https://example.org"
license = "CC0"
citation = "Nobody. Nothing. 2024"

[splits.train]
degraded = [4, 2]
clean = 2
sizes = "8x6"
known.id = "1 08..10"

[[layouts]]
name = "ours"
split = "train"
users = "us"
degraded = 'wet/(?P<id>[0-9]+)\\.png'
clean = ["dry/{id}.png", "dry/{id}.jpg"]
examples = "wet/1.png"
"""


def write(folder: Path, text: str) -> str:
    (folder / "tiny.toml").write_text(text)
    return str(folder / "tiny.toml")


def test_a_users_own_manifest_is_read(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD))
    split, (layout,) = manifest.splits["train"], manifest.layouts
    assert (manifest.name, manifest.license, manifest.notes) == ("tiny", "CC0", ())
    assert (split.degraded, split.clean, split.sizes, split.border) == ((4, 2), (2,), ((8, 6),), 0)
    assert manifest.known(layout) == {"id": ("1", "08", "09", "10")}
    assert (layout.users, layout.folders, layout.beside) == (("us",), (), ())
    match = layout.pattern.fullmatch("wet/08.png")
    assert match and layout.partners(match) == ["dry/08.png", "dry/08.jpg"]


def test_a_layout_can_number_its_files_in_its_own_way(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path, GOOD + 'known.id = "1..3"\n'))
    assert manifest.known(manifest.layouts[0]) == {"id": ("1", "2", "3")}


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace('title = "Tiny"', "title = 7").replace('license = "CC0"', 'licence = "CC0"')
    text = (
        text.replace('"8x6"', '"8 by 6"').replace("clean = 2", "clean = 0").replace("(?P<id>", "(?P<number>")
    )
    with pytest.raises(InputError) as caught:
        load_manifest(write(tmp_path, text + "speed = 3\n"))
    told = str(caught.value)
    assert "has 10 faults:" in told
    for words in (
        "title is 7; expected text",
        "license is missing",
        "There is no key called 'licence'. Did you mean license?",
        "splits.train: sizes holds '8 by 6'; expected WIDTHxHEIGHT",
        "splits.train: clean is 0; expected a number above zero, or a list of them",
        "splits.train: clean is missing",
        "layouts.0: There is no key called 'speed'",
        "the clean template asks for ['id']",
        "values of ['id'] are known, but the pattern has no such groups",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[0-9]+", "[0-9+", "is no regular expression"),
        ('split = "train"', 'split = "trane"', "There is no split called 'trane'. Did you mean train?"),
        ('examples = "wet/1.png"', 'examples = "dry/1.png"', "the example 'dry/1.png' does not match"),
        ("degraded = [4, 2]", "", "if and only if the layout has pairs"),
        ('"dry/{id}.png"', '"dry/{id.png"', "the clean template 'dry/{id.png' can't be read"),
        ('"dry/{id}.png"', '"dry/{}.png"', "the clean template asks for ['']"),
        ("[[layouts]]", "[layouts]", "expected a list of tables"),
        ('title = "Tiny"', 'title = "Tiny', "is not valid TOML"),
    ],
)
def test_a_fault_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError, match=re.escape(said)):
        load_manifest(write(tmp_path, GOOD.replace(old, new)))


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no data set called 'rain100'. Did you mean rain100"):
        load_manifest("rain100")


def test_a_table_that_is_none_is_told() -> None:
    values = dict.fromkeys(("title", "kind", "origin", "license", "citation"), "x")
    with pytest.raises(InputError, match=r"splits.train: this is 3; expected a table"):
        parse_manifest({**values, "splits": {"train": 3}, "layouts": [{}]}, "x")


def test_names_are_sorted_stems() -> None:
    assert names() == sorted(names()) and "lol_v1" in names()
