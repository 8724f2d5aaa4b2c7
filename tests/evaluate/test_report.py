import base64
import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pellucid.errors import InputError
from pellucid.evaluate import PictureScores, Scores, evaluate_suite
from pellucid.evaluate.report import STRIP_WIDTH, Cases, check_suffix, comparison, render
from pellucid.image_io import decode_image
from pellucid.restorer import IdentityRestorer


@pytest.fixture
def result(root):
    return evaluate_suite(IdentityRestorer(), root, "3task", measures=["ciede2000"])


def picture_scores(name: str, gain: float) -> PictureScores:
    return PictureScores(name, Scores(20.0, 0.5), Scores(20.0 + gain, 0.6), {})


def test_our_row_stands_before_the_published_ones(result):
    rows = comparison(result)
    assert rows[0][:3] == ["method", "parameters", "SOTS outdoor"]
    assert rows[1][0] == "identity (ours)"
    first = result.sets["sots_outdoor"].output
    assert rows[1][2] == f"{first.psnr:.2f}/{first.ssim:.3f}"
    assert ["DaAIR", "6M", "32.30/0.981"] in [row[:3] for row in rows]
    assert {len(row) for row in rows} == {len(rows[0])}


def test_markdown_has_whole_tables(result):
    text = render(result, ".md", {})
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) == 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "identity (ours)" in text
    assert "ciede2000 (lower is better)" in text
    assert result.sets["rain100l"].data_sha256[:16] in text


def test_a_table_for_machines_has_every_number_with_its_origin(result):
    rows = list(csv.DictReader(io.StringIO(render(result, ".csv", {}))))
    ours = [row for row in rows if row["source"] == "measured"]
    assert [row["set"] for row in ours] == [*result.sets, "average"]
    haze = result.sets["sots_outdoor"]
    assert float(ours[0]["psnr_high"]) == pytest.approx(haze.measures["psnr_rgb"].output.high, abs=1e-6)
    assert (ours[0]["n"], ours[0]["protocol"], ours[0]["data_sha256"]) == ("2", "papers", haze.data_sha256)
    daair = [row for row in rows if row["method"] == "DaAIR"]
    assert [row["psnr"] for row in daair if row["set"] == "average"] == ["32.510000"]
    assert all("survey" in row["source"] and row["protocol"] == "" for row in daair)


class Page(HTMLParser):
    """Counts what a page opens and closes, and keeps its pictures and links."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        values = dict(attributes)
        assert not {"href", "onload", "onclick"} & set(values)
        if tag == "img":
            self.pictures.append(values["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class Brighter(IdentityRestorer):
    """Wins more on some pictures than on others."""

    def __call__(self, image, **options):
        restoration = super().__call__(image, **options)
        pixels = (restoration.image.pixels * 1.5).clamp(0, 1)
        return replace(restoration, image=replace(restoration.image, pixels=pixels))


def test_the_page_needs_nothing_but_itself(root):
    cases: dict[str, Cases] = {}
    strange = root / "rain100l"
    for side in ("clean", "degraded"):
        (strange / side / "4.png").rename(strange / side / "<b>&4.png")
    result = evaluate_suite(Brighter(), root, "3task", witness=lambda s: cases.setdefault(s.key, Cases()))
    text = render(result, ".html", cases)
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "b"}
    assert "url(" not in text
    assert len(page.pictures) == 3 * (2 + 4 + 3 * 2)  # of five pictures, the two worst and the two best
    for source in page.pictures:
        assert source.startswith("data:image/jpeg;base64,")
    decoded = decode_image(base64.b64decode(page.pictures[0].partition(",")[2]))
    assert (decoded.height, decoded.width) == (32, 48)
    for words in ("SOTS outdoor", "Beside the published", "worst: ", "identity (ours)"):
        assert words in text


def test_the_worst_and_the_best_are_kept():
    cases = Cases()
    picture = torch.rand(3, 16, 16)
    for name, gain in (("a", 1.0), ("b", 5.0), ("c", -2.0), ("d", 3.0), ("e", 4.0), ("f", 0.5)):
        cases(picture_scores(name, gain), picture, picture, picture)
    assert [(word, case.scores.name) for word, case in cases.shown()] == [
        ("worst", "c"),
        ("worst", "f"),
        ("best", "b"),
        ("best", "e"),
    ]


def test_a_picture_of_a_small_set_is_shown_once():
    cases = Cases()
    cases(picture_scores("a", 1.0), *[torch.rand(3, 16, 16)] * 3)
    assert [(word, case.scores.name) for word, case in cases.shown()] == [("worst", "a")]


def test_large_pictures_are_shrunk():
    cases = Cases()
    cases(picture_scores("a", 1.0), *[torch.rand(3, 100, 2 * STRIP_WIDTH)] * 3)
    shown = decode_image(cases.worst[0].strip[1])
    assert (shown.height, shown.width) == (50, STRIP_WIDTH)


def test_a_report_of_another_kind_is_refused():
    with pytest.raises(InputError, match=r"\.md, \.csv, \.html"):
        check_suffix(Path("report.pdf"))
