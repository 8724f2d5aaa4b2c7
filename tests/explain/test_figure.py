"""Figures hold what they should, where they should."""

import dataclasses

import numpy as np
import pytest
import pyvips
import torch

import pellucid
from pellucid.explain import draw_explanation, draw_routing_table, explain_picture, explain_shards
from pellucid.explain.canvas import AFTER, DIVERGING, INK, SEQUENTIAL, Canvas, _letters, paint, shrink
from pellucid.explain.figure import HEAD, MARGIN, TITLE, WIDTH
from pellucid.image import ImageBuffer
from pellucid.restoration import Report


def picture(height: int = 24, width: int = 40) -> ImageBuffer:
    return ImageBuffer(torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)))


def test_colors_follow_their_scale():
    colors = paint(np.array([[-9.0, -1.0, 0.0, 1.0, 9.0]]), -1, 1, DIVERGING)[0]
    assert colors.tolist() == [list(DIVERGING[i]) for i in (0, 0, 2, 4, 4)]
    assert paint(np.array([[0.5]]), 0, 0, SEQUENTIAL).shape == (1, 1, 3)  # an empty range


def test_pictures_are_fitted_into_their_box():
    x = torch.rand(3, 20, 40)
    assert shrink(x, 10, 10).shape == (3, 5, 10)
    assert torch.allclose(shrink(x, 10, 10)[:, 0, 0], x[:, :4, :4].mean((1, 2)))
    assert torch.equal(shrink(x, 100, 45)[:, ::2, ::2], x)
    assert torch.equal(shrink(x, 45, 45), x)
    assert shrink(torch.rand(3, 1, 1000), 10, 10).shape == (3, 1, 10)


@pytest.mark.parametrize("x", [-8, 3, 56])
def test_words_are_cut_off_at_the_edge(x):
    sheet = Canvas(60, 20)
    width = sheet.text(x, 2, "<b>&\udcff word\n")
    assert width > 0
    assert sheet.pixels.shape == (20, 60, 3)
    outside = Canvas(60, 20)
    outside.text(x, 500, "word")
    assert (outside.pixels == 255).all()


def test_a_libvips_without_text_leaves_words_out(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise pyvips.Error('class "text" not found')

    monkeypatch.setattr(pyvips.Image, "text", refuse)
    _letters.cache_clear()
    sheet = Canvas(60, 20)
    sheet.text(3, 3, "words")
    assert (sheet.pixels == 255).all()
    _letters.cache_clear()


def test_a_figure_shows_before_after_and_the_choices(routed):
    explanation = explain_picture(routed, picture())
    figure = draw_explanation(explanation)
    assert figure.dtype == np.uint8
    assert figure.shape[1:] == (WIDTH, 3)
    grown = (explanation.degraded.pixels * 255).round().byte().permute(1, 2, 0).numpy()
    y, x = HEAD + TITLE, MARGIN
    assert np.array_equal(figure[y + 7 : y + 24 * 7 - 7 : 7, x + 7 : x + 40 * 7 - 7 : 7], grown[1:-1, 1:-1])
    without = draw_explanation(dataclasses.replace(explanation, routing=None))
    assert without.shape[0] < figure.shape[0]
    rows = figure[without.shape[0] - MARGIN :]
    corner = np.all(rows == INK, axis=2)
    frames = sum(
        bool(corner[i : i + 24, j : j + 2].all()) for i, j in _starts(corner)
    )  # a left side of 24 dark rows
    assert frames >= len(explanation.routing)


def _starts(dark: np.ndarray) -> list[tuple[int, int]]:
    """Where a dark pixel has none above it and none to its left."""
    above = np.pad(dark, ((1, 0), (0, 0)))[:-1]
    left = np.pad(dark, ((0, 0), (1, 0)))[:, :-1]
    return [tuple(place) for place in np.argwhere(dark & ~above & ~left)]


@pytest.mark.parametrize("size", [(1, 1), (300, 9), (9, 300)])
def test_pictures_of_every_shape_are_drawn(routed, size):
    figure = draw_explanation(explain_picture(routed, picture(*size)))
    assert figure.shape[1] == WIDTH
    assert len(np.unique(figure.reshape(-1, 3), axis=0)) > 20


def test_a_picture_that_the_guard_leaves_alone_asked_no_router():
    flat = ImageBuffer(torch.full((3, 64, 64), 0.5))
    explanation = explain_picture(pellucid.load(), flat)
    assert explanation.report.tiles == 0 and explanation.routing is None
    assert draw_explanation(explanation).shape[1] == WIDTH


def test_prompts_are_drawn_with_their_masks(guided):
    explanation = explain_picture(guided, picture(), diagnosis="rain")
    figure = draw_explanation(explanation)
    without = draw_explanation(dataclasses.replace(explanation, prompts=None))
    assert figure.shape[0] > without.shape[0] + 400
    masks = figure[-250:]
    assert np.all(masks == AFTER, axis=2).sum() > 100  # entries that only the prompt told keeps


def test_a_table_of_many_blocks_grows_wide(routed, shards):
    table = explain_shards(routed, shards, limit=1, crop=16)
    figure = draw_routing_table(table)
    assert figure.shape[1] == WIDTH
    counts, confidence = table.counts.repeat(15, 1, 1), table.confidence.repeat(15, 1)
    many = dataclasses.replace(
        table,
        blocks=table.blocks * 15,
        counts=counts,
        confidence=confidence,
        bits=table.bits.repeat(15),
        chance_bits=table.chance_bits.repeat(15),
        report=Report("x" * 30, None, "cpu", "float32", 0, (0, 0), 1.0, None, {}, {}),
    )
    assert draw_routing_table(many).shape[1] > WIDTH
