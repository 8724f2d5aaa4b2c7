"""What is left to do: each picture, beside what the journal knows of it and what lies on the disk."""

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pellucid.batch.journal import Entry, FileState
from pellucid.checkpoint import hash_file
from pellucid.errors import InputError

Reason = Literal["new", "gone", "changed", "settings", "retry", "asked", "done", "failed", "taken"]
"""Why a picture is restored: it is new, its output is gone, its input or the settings changed, it failed and
is tried again, all are asked for; or why it is not: it is done, it failed before, another file is there.
"""

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True)
class Settings:
    """On what a result depends besides the input.

    Attributes:
        values: plain values, such as the hash of the weights and the strength.
    """

    values: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Equal for equal settings, 16 hex digits."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()[:16]


def judge(
    source: Path,
    target: Path,
    entry: Entry | None,
    settings_hash: str,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    broken_since: float | None = None,
) -> Reason:
    """Why a picture is to be restored, or not.

    Args:
        source, target: of the picture.
        entry: what the journal knows.
        settings_hash: of this run.
        overwrite: everything is asked for, whatever lies there, but what these settings gave in place.
        retry_failed: what failed before is tried again.
        broken_since: when a run that was killed began with this picture, in seconds since 1970.
    """
    found = FileState.of(target)
    in_place = os.path.realpath(source) == os.path.realpath(target)
    linked = found is not None and not in_place and is_same_file(source, target)
    # What a killed run put there appeared whole, and after it began; clocks of files are coarse. A link has
    # the time of its input.
    if found is not None and broken_since is not None:
        if linked:
            return "new"
        if found.mtime_ns >= (broken_since - 1) * 1e9:
            if not in_place:
                return "new"
            if entry is None or not _has_bytes_of(source, entry):  # else the input was put back since
                return "done"
    linked = linked and entry is not None and entry.state == "left alone"  # it changes with its input
    if found is not None and not linked and (entry is None or found != entry.output):
        return "asked" if overwrite else "taken"
    if entry is None:
        return "new"
    if overwrite and not (in_place and entry.settings == settings_hash and entry.state != "failed"):
        return "asked"  # in place, what these settings gave would be restored twice
    if entry.settings != settings_hash:
        return "settings"
    if entry.state == "failed":
        return "retry" if retry_failed or not is_same(source, entry) else "failed"
    if found is None and entry.output is not None:
        return "gone"
    return "done" if in_place or is_same(source, entry) else "changed"


def is_same_file(source: Path, target: Path) -> bool:
    """Whether an output is its input, or a link to it."""
    try:
        return target.samefile(source)
    except OSError:
        return False


def is_same(source: Path, entry: Entry) -> bool:
    """Whether the input is the one that the entry tells of; its bytes are only read if its state differs."""
    return FileState.of(source, followed=True) == entry.input or _has_bytes_of(source, entry)


def _has_bytes_of(source: Path, entry: Entry) -> bool:
    try:
        return entry.sha256 is not None and hash_file(source) == entry.sha256
    except OSError:
        return False


def matches(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a path (with slashes) below a folder is wanted, by a shell's patterns for it or its name."""

    def any_of(patterns: Sequence[str]) -> bool:
        name = path.rpartition("/")[2]
        return any(fnmatch.fnmatchcase(part, pattern) for pattern in patterns for part in (path, name))

    return (not include or any_of(include)) and not any_of(exclude)


def parse_since(text: str, now: datetime | None = None) -> float:
    """Seconds since 1970 of "2026-01-31", "2026-01-31T12:00", or so long ago: "90m", "12h", "7d", "2w".

    Raises:
        InputError: no such moment.
    """
    now = now or datetime.now(UTC)
    try:
        if match := re.fullmatch(r"(\d{1,6})([mhdw])", text.strip()):
            return (now - int(match[1]) * _UNITS[match[2]]).timestamp()
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"--since is {text[:40]!r}; expected a date like 2026-01-31, or so long ago, like 12h or 7d."
        ) from error
