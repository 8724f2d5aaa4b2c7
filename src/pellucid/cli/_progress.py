"""Progress on stderr: one bar over all pictures with the time left, one over the parts of the current one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pellucid.cli._shared import say, visible
from pellucid.errors import PellucidError
from pellucid.image_io import read_header


class Bars:
    """Two bars. The first advances by pixels, so that the time left holds for pictures of unequal sizes."""

    def __init__(self, sources: list[Path], *, visible: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        self._progress = Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not visible or not console.is_terminal,
        )
        self._visible = not self._progress.disable
        # Headers are only read where somebody looks at the bar.
        self._pixels = [_pixels(source) if self._visible else 1 for source in sources]
        self._total, self._done, self._pictures = len(sources), 0, 0

    def __enter__(self) -> Self:
        self._progress.start()
        total = sum(self._pixels)
        self._all = self._progress.add_task("Pictures", total=total, state=f"0/{self._total}")
        self._parts = self._progress.add_task("Parts", total=None, state="")
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars; nothing where there are none, as in a log."""
        if self._visible:
            say(line)

    def part_done(self, done: int, total: int) -> None:
        """The current picture has `done` of `total` parts: tiles, or passes in strips."""
        self._progress.update(self._parts, completed=done, total=total, state=f"{done}/{total}")
        share = self._pixels[self._pictures] * done / total
        self._progress.update(self._all, completed=self._done + share)

    def picture_done(self) -> None:
        """The current picture is over, well or not."""
        self._done += self._pixels[self._pictures]
        self._pictures += 1
        self._progress.update(self._all, completed=self._done, state=f"{self._pictures}/{self._total}")
        self._progress.update(self._parts, completed=0, total=None, state="")


def _pixels(path: Path) -> int:
    try:
        header = read_header(path)
    except PellucidError:  # it fails again, and is reported, when its turn comes
        return 0
    return header.width * header.height


def print_failures(failures: Sequence[tuple[Path | str, str]], title: str = "not restored") -> None:
    """A table of what failed and why, on stderr."""
    table = Table(title, "why", box=None, pad_edge=False)
    for path, message in failures:
        table.add_row(visible(str(path)), visible(message))
    Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=False).print(table)
