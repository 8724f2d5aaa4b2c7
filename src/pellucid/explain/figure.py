"""An explanation as one figure, (H, W, 3) uint8."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pellucid.explain.canvas import (
    AFTER,
    BEFORE,
    DIVERGING,
    FAINT,
    HEAT,
    INK,
    LINE,
    SEQUENTIAL,
    Canvas,
    Color,
    Pixels,
    evened,
    paint,
    picture,
    plain_width,
    shrink,
)
from pellucid.explain.change import Spectrum
from pellucid.explain.pictures import Explanation
from pellucid.explain.prompts import PerturbationView, PromptComparison
from pellucid.explain.routing import Choice, RoutingTable, short_name

WIDTH, MARGIN, GAP = 1240, 24, 16
PANEL = (WIDTH - 2 * MARGIN - 3 * GAP) // 4  # four in a row
TITLE, SCALE = 24, 22  # heights of a panel's title and color scale
HEAD = 40
LEAST_CHANGE = 2.0  # units of L*a*b* that a scale spans at least: else rounding would look like work
MATRIX_NOTES = (
    "slots moved: mean way of a channel between two prompts, as a share of all slots; by chance 0.33",
    "masks differ: share of the attention entries dropped under one prompt that the other keeps",
    "restored pictures differ: root mean square, in gray levels of 255",
)
KEPT_BY_BOTH, ONLY_TOLD, ONLY_OTHER, DROPPED = (225, 225, 225), AFTER, BEFORE, (60, 60, 60)


def draw_explanation(explanation: Explanation) -> Pixels:
    """Before, after and the change; the spectra; the routing or the prompts, where the network has them."""
    parts = [_pictures(explanation), _spectra(explanation.spectrum)]
    if explanation.routing:
        parts.append(_routing(explanation.routing))
    if explanation.prompts is not None:
        parts += [_prompts(explanation.prompts), _masks(explanation.prompts)]
    report = explanation.report
    told = f", told {report.diagnosis}" if report.diagnosis else ""
    plural = "s" if report.tiles != 1 else ""
    tiles = f"{report.tiles} tile{plural} of {report.tile_size[1]} x {report.tile_size[0]}"
    size = f"{explanation.degraded.width} x {explanation.degraded.height} pixels"
    return _stack(f"{report.model}{told}", f"{size}, {tiles}, {report.precision} on {report.device}", parts)


def _stack(title: str, facts: str, parts: Sequence[Canvas]) -> Pixels:
    width = max(part.pixels.shape[1] for part in parts)
    sheet = Canvas(width, HEAD + sum(part.pixels.shape[0] for part in parts) + MARGIN)
    end = MARGIN + sheet.text(MARGIN, 14, title, size=17, bold=True)
    sheet.text(end + GAP, 17, facts, size=13, color=FAINT)
    y = HEAD
    for part in parts:
        sheet.paste(0, y, part.pixels)
        y += part.pixels.shape[0]
    return sheet.pixels


def _column(index: int) -> int:
    return MARGIN + index * (PANEL + GAP)


def _pictures(explanation: Explanation) -> Canvas:
    lightness, color = explanation.change.lightness, explanation.change.color
    wide = min(PANEL, 320 * lightness.shape[1] // lightness.shape[0]) or 1
    shown = [shrink(x.pixels, wide, 320) for x in (explanation.degraded, explanation.restored)]
    change = [shrink(x[None], wide, 320)[0] for x in (lightness, color)]
    # The 99th percentile, so that some odd pixels don't pale all others.
    tops = [max(LEAST_CHANGE, float(np.quantile(evened(x.abs()), 0.99))) for x in change]
    sheet = Canvas(WIDTH, TITLE + shown[0].shape[1] + SCALE + GAP)
    panels = [picture(x) for x in shown]
    panels += [paint(evened(change[0]), -tops[0], tops[0], DIVERGING)]
    panels += [paint(evened(change[1]), 0, tops[1], SEQUENTIAL)]
    titles = ("before", "after", "change of lightness L*", "change of color a*b*")
    for i, (title, pixels) in enumerate(zip(titles, panels, strict=True)):
        sheet.text(_column(i), 4, title, size=13, bold=True)
        sheet.paste(_column(i), TITLE, pixels)
        sheet.frame(_column(i), TITLE, pixels.shape[1], pixels.shape[0])
    y = TITLE + shown[0].shape[1] + 4
    seen, mean = explanation.change.seen, explanation.change.ciede2000
    facts = f"seen on {seen:.0%} of the pixels; mean CIEDE2000 {mean:.2f}"
    sheet.text(_column(0), y, facts, size=11, color=FAINT)
    sheet.scale(_column(2), y, PANEL, DIVERGING, f"-{tops[0]:.1f} darker", f"lighter +{tops[0]:.1f}")
    sheet.scale(_column(3), y, PANEL, SEQUENTIAL, "0", f"{tops[1]:.1f}")
    return sheet


def _spectra(spectrum: Spectrum) -> Canvas:
    side = min(PANEL, 240)
    sheet = Canvas(WIDTH, TITLE + side + SCALE + GAP)
    maps = [_square(x, side) for x in (spectrum.before_map, spectrum.after_map)]
    low, high = float(np.quantile(evened(maps[0]), 0.02)), float(np.quantile(evened(maps[0]), 0.998))
    for i, (title, values) in enumerate(zip(("before", "after"), maps, strict=True)):
        sheet.text(_column(i), 4, f"spectrum {title}", size=13, bold=True)
        sheet.paste(_column(i), TITLE, paint(evened(values), low, high, HEAT))
        sheet.scale(_column(i), TITLE + side + 4, side, HEAT, f"{low:.0f} dB", f"{high:.0f} dB")
    _curves(sheet, spectrum, _column(2) + 36, TITLE, 2 * PANEL + GAP - 36, side)
    return sheet


def _square(values: Tensor, side: int) -> Tensor:
    """(N, N) as (side, side): means if larger, the nearest value if smaller."""
    if len(values) > side:
        return torch.nn.functional.interpolate(values[None, None], size=(side, side), mode="area")[0, 0]
    index = torch.arange(side) * len(values) // side
    return values[index][:, index]


def _curves(sheet: Canvas, spectrum: Spectrum, x: int, y: int, width: int, height: int) -> None:
    sheet.text(x, y - 20, "power by frequency", size=13, bold=True)
    curves = torch.stack([spectrum.before, spectrum.after])
    step = 10 if float(curves.max() - curves.min()) <= 50 else 20
    low, high = (round(float(edge)) * step for edge in (curves.min() // step, -(-curves.max() // step)))
    high = max(high, low + step)

    def place(frequency: float, power: float) -> tuple[float, float]:
        return x + width * frequency / 0.5, y + height * (high - power) / (high - low)

    for level in range(low, high + 1, step):
        row = round(place(0, level)[1])
        sheet.fill(x, row, width, 1, LINE)
        sheet.text(x - 6, row - 8, f"{level}", size=11, color=FAINT, anchor="right")
    for tick in (0.1, 0.2, 0.3, 0.4, 0.5):
        sheet.text(round(place(tick, 0)[0]), y + height + 4, f"{tick}", size=11, color=FAINT, anchor="middle")
    sheet.text(x, y + height + 4, "cycles per pixel", size=11, color=FAINT)
    for row, (name, values, color) in enumerate(
        (("before", spectrum.before, BEFORE), ("after", spectrum.after, AFTER))
    ):
        points = [place(*point) for point in zip(spectrum.frequency.tolist(), values.tolist(), strict=True)]
        sheet.curve(points if len(points) > 1 else [points[0], points[0]], color)
        sheet.fill(x + width - 86, y + 11 + 20 * row, 22, 3, color)
        sheet.text(x + width - 58, y + 4 + 20 * row, name, size=12)
    sheet.text(x + width, y - 18, "dB", size=11, color=FAINT, anchor="right")


def _routing(routing: Sequence[Choice]) -> Canvas:
    """Experts down, blocks across: how probable each expert was, and a frame around the chosen one."""
    experts, left = len(routing[0].probabilities), MARGIN + 70
    cell = min(56, (WIDTH - left - MARGIN) // len(routing))
    tall = 26
    sheet = Canvas(WIDTH, 2 * TITLE + tall * experts + SCALE + GAP + 8)
    sheet.text(MARGIN, 4, "experts chosen, block by block", size=13, bold=True)
    for e in range(experts):
        sheet.text(left - 10, 2 * TITLE + tall * e + 5, f"expert {e}", color=FAINT, anchor="right")
    for i, choice in enumerate(routing):
        x = left + i * cell
        name = short_name(choice.block)
        size = next((s for s in (12, 11, 10, 9) if plain_width(name, s) <= cell - 5), 8)
        sheet.text(x + cell // 2, TITLE + 6, name, size=size, anchor="middle", color=FAINT)
        for e, probability in enumerate(choice.probabilities):
            y, chosen = 2 * TITLE + tall * e, e == choice.expert
            sheet.paste(
                x, y, paint(np.full((tall - 2, cell - 2), probability), 0, 1, SEQUENTIAL).astype(np.uint8)
            )
            if chosen:
                sheet.frame(x, y, cell - 2, tall - 2, INK, 2)
            ink: Color = (255, 255, 255) if probability > 0.55 else (INK if chosen else FAINT)
            size = 11 if cell >= 28 else 9
            sheet.text(
                x + cell // 2 - 1, y + 4, f"{100 * probability:.0f}", size=size, anchor="middle", color=ink
            )
    y = 2 * TITLE + tall * experts + 4
    sheet.scale(left, y, 260, SEQUENTIAL, "0", "100 %")
    words = f"probability by the router, {100 / experts:.0f} without opinion; the frame is the choice"
    several = len(routing[0].tiles)
    if several > 1:
        words += f", of most of {several} tiles; probabilities are means over tiles"
    sheet.text(left + 260 + GAP, y, words, size=11, color=FAINT)
    return sheet


def _prompts(comparison: PromptComparison) -> Canvas:
    """Matrices of prompts against prompts: permutations, masks, and the restored pictures."""
    names, count = comparison.prompts, len(comparison.prompts)
    matrices: list[tuple[str, Tensor, float]] = []
    matrices += [(f"{_place(view)}: slots moved", view.displacement, 0.4) for view in comparison.blocks]
    matrices += [(f"{_place(view)}: masks differ", view.masks_differ, 1.0) for view in comparison.blocks]
    top = max(1.0, float(comparison.outputs_differ.max()))
    matrices.append(("restored pictures differ", comparison.outputs_differ, top))
    label = min(90, max(plain_width(name, 11) for name in names))
    cell = max(6, min(30, (PANEL - label - 8) // count))
    tall = TITLE + label + 6 + cell * count + SCALE + GAP
    across = 4
    rows = -(-len(matrices) // across)
    sheet = Canvas(WIDTH, TITLE + rows * tall)
    side = " x ".join(str(length) for length in reversed(comparison.side))
    sheet.text(MARGIN, 4, f"what the prompts change (central {side} pixels)", size=13, bold=True)
    if len(matrices) % across == 1:  # the last matrix is alone in its row; beside it is room
        for row, words in enumerate(MATRIX_NOTES):
            top = TITLE + (rows - 1) * tall + TITLE + label + 20 * row
            sheet.text(_column(1), top, words, size=11, color=FAINT)
    for n, (title, values, high) in enumerate(matrices):
        x, y = _column(n % across), TITLE + n // across * tall
        sheet.text(x, y + 2, title, size=12)
        x, y = x + label + 6, y + TITLE + label + 4
        for i, name in enumerate(names):
            told = name == comparison.told
            ink = INK if told else FAINT
            sheet.text(
                x - 5, y + i * cell + cell // 2 - 8, name, size=11, color=ink, anchor="right", bold=told
            )
            sheet.text(
                x + i * cell + cell // 2,
                y - 4,
                name,
                size=11,
                color=ink,
                anchor="middle",
                bold=told,
                upright=True,
            )
        colors = paint(evened(values), 0, high, SEQUENTIAL)
        sheet.paste(x, y, colors.repeat(cell, 0).repeat(cell, 1))
        sheet.frame(x, y, cell * count, cell * count)
        ends = ("0", f"{high:.2g}")
        sheet.scale(x, y + cell * count + 3, min(cell * count, 140), SEQUENTIAL, *ends)
    return sheet


def _place(view: PerturbationView) -> str:
    parts = view.block.split(".")
    return f"skip {int(parts[1]) + 1}" if parts[0] == "encoder" and len(parts) > 1 else parts[0]


def _masks(comparison: PromptComparison) -> Canvas:
    """The attention masks of the prompt told beside those of the prompt whose picture differs most."""
    told = comparison.prompts.index(comparison.told)
    other = int(comparison.outputs_differ[told].argmax())
    tiles = [_mask_tile(view.masks[told], view.masks[other]) for view in comparison.blocks]
    tall = max(tile.shape[0] for tile in tiles)
    sheet = Canvas(WIDTH, 2 * TITLE + tall + SCALE + GAP)
    if other == told:
        title = f"attention masks under {comparison.told} (no prompt gives another picture)"
    else:
        title = f"attention masks under {comparison.told} and {comparison.prompts[other]}, head by head"
    sheet.text(MARGIN, 4, title, size=13, bold=True)
    for i, (view, tile) in enumerate(zip(comparison.blocks, tiles, strict=True)):
        sheet.text(_column(i), TITLE + 2, _place(view), size=12)
        sheet.paste(_column(i), 2 * TITLE, tile)
    x, y = MARGIN, 2 * TITLE + tall + 5
    for words, color in (
        ("kept by both", KEPT_BY_BOTH),
        (f"by {comparison.told} only", ONLY_TOLD),
        (f"by {comparison.prompts[other]} only", ONLY_OTHER),
        ("dropped by both", DROPPED),
    ):
        sheet.fill(x, y + 2, 12, 12, color)
        x += 18 + sheet.text(x + 18, y, words, size=11, color=FAINT) + GAP
    return sheet


def _mask_tile(told: Tensor, other: Tensor) -> Pixels:
    """Masks (h, c, c) of two prompts in one picture, heads from left to right in rows."""
    heads, rows, _ = told.shape
    across = min(heads, max(1, PANEL // (rows + 2)), 4)
    down = -(-heads // across)
    table = np.asarray([DROPPED, ONLY_OTHER, ONLY_TOLD, KEPT_BY_BOTH], np.uint8)
    code = (told.long() * 2 + other.long()).numpy()
    tile = np.full((down * (rows + 2), across * (rows + 2), 3), 255, np.uint8)
    for head in range(heads):
        y, x = head // across * (rows + 2), head % across * (rows + 2)
        tile[y : y + rows, x : x + rows] = table[code[head]]
    factor = max(1, min(PANEL // tile.shape[1], PANEL // tile.shape[0]))
    return tile.repeat(factor, 0).repeat(factor, 1)


def draw_routing_table(table: RoutingTable) -> Pixels:
    """Information per block above, kinds against experts below: each kind's pictures by expert."""
    blocks, kinds, experts = table.counts.shape
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in table.kinds]
    totals = table.counts[0].sum(-1)
    labels = [f"{name} ({int(n)})" for name, n in zip(names, totals, strict=True)]
    left = MARGIN + max(plain_width(label) for label in (*labels, "bits 0.00")) + 12
    cell = max(6, min(20, (WIDTH - left - MARGIN) // (blocks * experts) - 1))
    step, tall, chart = cell * experts + 6, 22, 130
    width = max(WIDTH, left + blocks * step + MARGIN)
    sheet = Canvas(width, 2 * TITLE + chart + TITLE + tall * kinds + SCALE + 2 * GAP)
    sheet.text(MARGIN, 4, "mutual information of kind and expert, bits", size=13, bold=True)
    top = max(0.1, float(torch.maximum(table.bits, table.chance_bits).max()))
    base = 2 * TITLE + chart
    for level in np.linspace(0, top, 3):
        y = base - round(chart * level / top)
        sheet.fill(left, y, blocks * step - 6, 1, LINE)
        sheet.text(left - 8, y - 8, f"{level:.2f}", size=11, color=FAINT, anchor="right")
    shares = (table.counts.double() / totals[:, None]).numpy()
    size = 11 if step >= 30 else 9
    for i, block in enumerate(table.blocks):
        x, bits, chance = left + i * step, float(table.bits[i]), float(table.chance_bits[i])
        bar, mark = round(chart * bits / top), round(chart * chance / top)
        sheet.fill(x, base - bar, step - 6, bar, AFTER if bits > chance + 1e-6 else FAINT)
        sheet.fill(x, base - mark - 1, step - 6, 2, BEFORE)
        middle = x + (step - 6) // 2
        if step >= 30:
            sheet.text(middle, base - max(bar, mark) - 17, f"{bits:.2f}", size=11, anchor="middle")
        sheet.text(middle, base + 5, short_name(block), size=size, anchor="middle", color=FAINT)
        for k in range(kinds):
            colors = paint(shares[i, k][None], 0, 1, SEQUENTIAL)
            pixels = colors.repeat(cell, 1).repeat(tall - 2, 0)
            sheet.paste(x, base + TITLE + k * tall, pixels)
        sheet.frame(x - 1, base + TITLE - 1, experts * cell + 2, kinds * tall, LINE)
    for k, label in enumerate(labels):
        sheet.text(left - 10, base + TITLE + k * tall + 3, label, anchor="right")
    y = base + TITLE + kinds * tall + 6
    sheet.scale(left, y, 260, SEQUENTIAL, "0", "all its pictures")
    words = (
        f"each block's columns are its {experts} experts; the kinds hold {table.kind_bits:.2f} bits; "
        "orange: the 95th percentile by chance"
    )
    sheet.text(left + 260 + GAP, y, words, size=11, color=FAINT)
    return _stack(table.report.model, table.data, [sheet])
