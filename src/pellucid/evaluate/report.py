"""Results as Markdown, CSV or a page of HTML that needs nothing but itself."""

import base64
import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pellucid import metrics
from pellucid.errors import InputError
from pellucid.evaluate.leaks import PUBLISHED, PUBLISHED_SHORT
from pellucid.evaluate.scores import Evaluation, PictureScores, Scores, as_csv
from pellucid.evaluate.suites import SUITES, SuiteResult, published, published_sources
from pellucid.image import ImageBuffer
from pellucid.image_io import encode_image

SUFFIXES = (".md", ".csv", ".html")
STRIP_WIDTH = 480  # pixels of each picture of a strip, at most
CASES = 2  # shown of the worst and of the best


@dataclass(frozen=True)
class Case:
    """A picture to show: its scores, and degraded, restored and clean as JPEG."""

    scores: PictureScores
    strip: tuple[bytes, bytes, bytes]


@dataclass
class Cases:
    """Remembers the pictures that lost or won the most PSNR; called with each picture as it is measured."""

    worst: list[Case] = field(default_factory=list[Case])
    best: list[Case] = field(default_factory=list[Case])

    def __call__(self, scores: PictureScores, degraded: Tensor, restored: Tensor, clean: Tensor) -> None:
        """Keep the picture if it is among the worst or the best so far."""
        low = len(self.worst) < CASES or scores.gain < self.worst[-1].scores.gain
        high = len(self.best) < CASES or scores.gain > self.best[-1].scores.gain
        if low or high:
            case = Case(scores, (_jpeg(degraded), _jpeg(restored), _jpeg(clean)))
            if low:
                self.worst = sorted([*self.worst, case], key=lambda c: c.scores.gain)[:CASES]
            if high:
                self.best = sorted([*self.best, case], key=lambda c: -c.scores.gain)[:CASES]

    def shown(self) -> list[tuple[str, Case]]:
        """Each case once, with its word; in a small set a picture may be both."""
        worst = {case.scores.name for case in self.worst}
        return [("worst", case) for case in self.worst] + [
            ("best", case) for case in self.best if case.scores.name not in worst
        ]


def _jpeg(pixels: Tensor) -> bytes:
    _, height, width = pixels.shape
    if width > STRIP_WIDTH:
        size = (max(1, round(height * STRIP_WIDTH / width)), STRIP_WIDTH)
        shrunk = F.interpolate(pixels[None], size, mode="bilinear", antialias=True, align_corners=False)
        pixels = shrunk[0].clamp(0, 1)
    return encode_image(ImageBuffer(pixels), ".jpg", quality=90)


def check_suffix(path: Path) -> None:
    """Refuse a report whose kind is not known.

    Raises:
        InputError: neither Markdown, CSV nor HTML.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} names no kind of report; expected a name ending in {', '.join(SUFFIXES)}.")


def comparison(result: SuiteResult) -> list[list[str]]:
    """The table as text: its head, our row, then the published ones, the best average first."""
    sets = SUITES[result.suite]
    rows = [["method", "parameters", *(s.title for s in sets), "average", "leak", "source"]]
    for name, scores, average in _ours(result):
        rows.append(
            [
                f"{name} (ours)",
                "" if result.parameters is None else f"{result.parameters / 1e6:.2f}M",
                *(_cell(e.output.psnr, e.output.ssim) if (e := scores.get(s.key)) else "-" for s in sets),
                _cell(average.psnr, average.ssim) if average else "-",
                result.leak,
                "measured",
            ]
        )
    for row in published(result.suite):
        cells = [row.scores.get(s.key) for s in sets]
        rows.append(
            [
                row.method,
                row.parameters,
                *(_cell(*cell) if cell else "-" for cell in [*cells, row.average]),
                PUBLISHED_SHORT if set(PUBLISHED) & set(row.scores) else "",
                row.source,
            ]
        )
    return rows


def _ours(result: SuiteResult) -> list[tuple[str, Mapping[str, Evaluation], Scores | None]]:
    """Our rows: their names, which say what else had a part, their sets, and averages."""
    rows: list[tuple[str, Mapping[str, Evaluation], Scores | None]] = [
        (result.model, result.sets, result.average)
    ]
    if result.recognized:
        rows.append((f"{result.model}, kind recognized", result.recognized, result.recognized_average))
    return [
        (name + (", guarded" if any(e.guard for e in sets.values()) else ""), sets, average)
        for name, sets, average in rows
    ]


def details(results: dict[str, Evaluation]) -> list[list[str]]:
    """Every measure of every set as text, with intervals; the head first."""
    rows = [["set", "pictures", "measure", "degraded", "restored", "95% interval"]]
    for title, result in results.items():
        for name, summary in result.measures.items():
            measure = metrics.get(name)
            digits, output = measure.digits, summary.output
            label = f"{name}, dB" if measure.unit else name
            rows.append(
                [
                    title,
                    str(result.n),
                    label + (" (lower is better)" if measure.lower_is_better else ""),
                    f"{summary.input.mean:.{digits}f}",
                    f"{output.mean:.{digits}f}",
                    f"{output.low:.{digits}f} to {output.high:.{digits}f}",
                ]
            )
    return rows


def losses(results: dict[str, Evaluation]) -> list[list[str]]:
    """How many pictures of each set came back worse than they were, as text; the head first."""
    rows = [["set", "pictures", "came back worse", "least gain, dB", "lowest restored, dB"]]
    for title, result in results.items():
        gain = f"{result.least_gain:+.2f}" if math.isfinite(result.least_gain) else "-"
        rows.append([title, str(result.n), str(result.worse), gain, f"{result.lowest:.2f}"])
    return rows


def origins(results: dict[str, Evaluation]) -> list[list[str]]:
    """What each set was measured with, as text; the head first."""
    rows = [["set", "leak", "protocol", "seed", "data SHA-256", "weights SHA-256", "code", "run on"]]
    for title, result in results.items():
        rows.append(
            [
                title,
                result.leak.short,
                result.protocol_name + result.told,
                str(result.seed),
                result.data_sha256[:16],
                (result.weights_sha256 or "none")[:16],
                result.code,
                result.run_on,
            ]
        )
    return rows


def sources(suite: str) -> list[str]:
    """The sources of the published rows, a line each."""
    used = {row.source for row in published(suite)}
    return [f"{key}: {where}" for key, where in published_sources().items() if key in used]


def render(result: SuiteResult, suffix: str, cases: dict[str, Cases]) -> str:
    """The report of a suite as the text of a file of this suffix."""
    match suffix.lower():
        case ".csv":
            return _csv(result)
        case ".md":
            return _markdown(result)
        case _:
            return _html(result, cases)


def measured(result: SuiteResult) -> list[list[list[str]]]:
    """The tables of a suite's own numbers: measures, and what they were measured with."""
    titled = {s.title: result.sets[s.key] for s in SUITES[result.suite] if s.key in result.sets}
    return [details(titled), losses(titled), origins(titled)]


def _heading(result: SuiteResult) -> str:
    return f"{_ours(result)[0][0]} on the suite {result.suite}"


def _csv(result: SuiteResult) -> str:
    rows: list[dict[str, Any]] = []
    empty = dict.fromkeys(next(iter(result.sets.values())).origin)

    def row(method: str, parameters: Any, key: str, source: str, **scores: Any) -> None:
        columns = ("n", "psnr", "psnr_low", "psnr_high", "ssim", "ssim_low", "ssim_high")
        numbers = {name: scores.get(name) for name in (*columns, "psnr_input", "ssim_input")}
        origin = scores.get("origin", empty | {"leak": scores.get("leak")})
        rows.append(
            {"method": method, "parameters": parameters, "set": key, **numbers, "source": source, **origin}
        )

    ours = _ours(result)
    for method, key, evaluation in ((name, key, one) for name, sets, _ in ours for key, one in sets.items()):
        psnr, ssim = evaluation.psnr.output, evaluation.ssim.output
        row(
            method,
            result.parameters,
            key,
            "measured",
            n=evaluation.n,
            psnr=psnr.mean,
            psnr_low=psnr.low,
            psnr_high=psnr.high,
            ssim=ssim.mean,
            ssim_low=ssim.low,
            ssim_high=ssim.high,
            psnr_input=evaluation.input.psnr,
            ssim_input=evaluation.input.ssim,
            origin=evaluation.origin,
        )
    if result.average:
        row(
            ours[0][0],
            result.parameters,
            "average",
            "measured",
            psnr=result.average.psnr,
            ssim=result.average.ssim,
            leak=result.leak,
        )
    for printed in published(result.suite):
        where = published_sources()[printed.source]
        cells = printed.scores | ({"average": printed.average} if printed.average else {})
        for key, (psnr, ssim) in cells.items():
            leak = PUBLISHED_SHORT if key == "average" else PUBLISHED.get(key)
            row(printed.method, printed.parameters, key, where, psnr=psnr, ssim=ssim, leak=leak)
    return as_csv(rows)


def _markdown(result: SuiteResult) -> str:
    def table(rows: list[list[str]]) -> list[str]:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]

    parts = [f"# {_heading(result)}", "", *(f"- {note}" for note in [*result.how, *result.notes]), ""]
    parts += ["## Beside the published", "", "PSNR in dB / SSIM.", "", *table(comparison(result))]
    parts += [*(f"- {source}" for source in sources(result.suite)), ""]
    parts += ["## Measured", "", *(line for rows in measured(result) for line in table(rows))]
    return "\n".join(parts)


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; color: #222;
  max-width: 1500px; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums;
  display: block; overflow-x: auto; }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }
li { overflow-wrap: anywhere; }
tr.ours td { font-weight: bold; background: #eef4fb; }
figure { margin: 1rem 0; }
.strip { display: flex; gap: .4rem; }
.strip div { flex: 1; min-width: 0; }
.strip img { width: 100%; display: block; }
figcaption, .small { color: #555; font-size: 13px; }
"""


def _html(result: SuiteResult, cases: dict[str, Cases]) -> str:
    def table(rows: list[list[str]], ours: bool = False) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
        body = "".join(
            f"<tr{' class=ours' if ours and number == 0 else ''}>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            + "</tr>\n"
            for number, row in enumerate(rows[1:])
        )
        return f"<table>\n<tr>{head}</tr>\n{body}</table>\n"

    def items(lines: list[str]) -> str:
        return "<ul>\n" + "".join(f"<li>{html.escape(line)}</li>\n" for line in lines) + "</ul>\n"

    title = html.escape(_heading(result))
    parts = [
        "<!DOCTYPE html>\n<html lang=en>\n<head><meta charset=utf-8>",
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n",
        items([*result.how, *result.notes]),
        "<h2>Beside the published</h2>\n<p>PSNR in dB / SSIM.</p>\n",
        table(comparison(result), ours=True),
        items(sources(result.suite)),
        "<h2>Measured</h2>\n",
        *(table(rows) for rows in measured(result)),
        "<h2>Worst and best cases</h2>\n"
        "<p>By the PSNR that restoring won or lost. From left: degraded, restored, clean.</p>\n",
    ]
    for test_set in SUITES[result.suite]:
        if test_set.key in result.sets and test_set.key in cases:
            parts.append(f"<h3>{html.escape(test_set.title)}</h3>\n")
            parts += [_figure(word, case) for word, case in cases[test_set.key].shown()]
    return "".join([*parts, "</body>\n</html>\n"])


def _figure(word: str, case: Case) -> str:
    scores = case.scores
    pictures = "".join(
        f'<div><img alt="{what}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"></div>'
        for what, jpeg in zip(("degraded", "restored", "clean"), case.strip, strict=True)
    )
    # A file name need not be text.
    name = html.escape(scores.name.encode(errors="backslashreplace").decode())
    caption = (
        f"{word}: {name}, PSNR {scores.input.psnr:.2f} to {scores.output.psnr:.2f} dB ({scores.gain:+.2f}), "
        f"SSIM {scores.input.ssim:.4f} to {scores.output.ssim:.4f}"
    )
    return f"<figure><div class=strip>{pictures}</div><figcaption>{caption}</figcaption></figure>\n"


def _cell(psnr: float, ssim: float | None) -> str:
    return f"{psnr:.2f}" if ssim is None else f"{psnr:.2f}/{ssim:.3f}"
