"""What is left to do, from the journal's entry and what lies on the disk."""

import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pellucid.batch.journal import Entry, FileState
from pellucid.batch.plan import Settings, judge, matches, parse_since
from pellucid.checkpoint import hash_file
from pellucid.errors import InputError

NOW = "same settings"


@pytest.fixture
def pair(tmp_path):
    """An input, its output, and the journal's entry of them."""
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(b"input")
    target.write_bytes(b"output")
    state = FileState.of(source), FileState.of(target)
    entry = Entry("out.png", "restored", NOW, str(source), state[0], hash_file(source), state[1])
    return source, target, entry


def test_what_is_done_stays(pair):
    assert judge(*pair, NOW) == "done"
    assert judge(*pair, NOW, overwrite=True) == "asked"


def test_what_is_done_in_place_is_not_restored_twice(pair):
    _, target, entry = pair
    assert judge(target, target, entry, NOW, overwrite=True) == "done"
    assert judge(target, target, entry, "others", overwrite=True) == "asked"
    assert judge(target, target, replace(entry, state="failed"), NOW, overwrite=True) == "asked"
    target.write_bytes(b"put back")
    assert judge(target, target, entry, NOW, overwrite=True) == "asked"


def test_a_touched_input_is_known_by_its_bytes(pair):
    source, target, entry = pair
    os.utime(source, (1, 1))
    assert judge(source, target, entry, NOW) == "done"
    source.write_bytes(b"other")
    assert judge(source, target, entry, NOW) == "changed"
    source.unlink()
    assert judge(source, target, entry, NOW) == "changed"


def test_other_settings_and_a_lost_output(pair):
    source, target, entry = pair
    assert judge(source, target, entry, "others") == "settings"
    target.unlink()
    assert judge(source, target, entry, NOW) == "gone"
    assert judge(source, target, replace(entry, output=None), NOW) == "done"  # nothing was to be written


def test_a_file_of_somebody_else_is_never_ours(pair):
    source, target, entry = pair
    target.write_bytes(b"edited by hand")
    assert judge(source, target, entry, NOW) == "taken"
    assert judge(source, target, None, NOW) == "taken"
    assert judge(source, target, None, NOW, overwrite=True) == "asked"
    target.unlink()
    assert judge(source, target, None, NOW) == "new"


def test_what_a_killed_run_left_is_ours(pair):
    source, target, _ = pair
    since = target.stat().st_mtime
    assert judge(source, target, None, NOW, broken_since=since) == "new"
    assert judge(source, target, None, NOW, broken_since=since + 60) == "taken"
    assert judge(target, target, None, NOW, broken_since=since) == "done"  # in place: it is restored already
    put_back = Entry("out.png", "restored", NOW, "", FileState(1, 1), hash_file(target), FileState(1, 1))
    assert judge(target, target, put_back, NOW, broken_since=since) == "taken"


def test_a_link_that_a_killed_run_left_is_ours(pair):
    source, target, _ = pair
    target.unlink()
    target.hardlink_to(source)
    assert judge(source, target, None, NOW) == "taken"
    assert judge(source, target, None, NOW, broken_since=source.stat().st_mtime + 60) == "new"


def test_failures_wait_until_they_are_asked_for(pair):
    source, target, entry = pair
    target.unlink()
    failed = replace(entry, state="failed", output=None, error={"type": "InputError", "message": "broken"})
    assert judge(source, target, failed, NOW) == "failed"
    assert judge(source, target, failed, NOW, retry_failed=True) == "retry"
    source.write_bytes(b"mended")
    assert judge(source, target, failed, NOW) == "retry"


def test_a_linked_output_changes_with_its_input(pair):
    source, target, entry = pair
    target.unlink()
    target.hardlink_to(source)
    assert judge(source, target, entry, NOW) == "taken"  # no link was written there
    entry = replace(entry, state="left alone", output=FileState.of(target))
    assert judge(source, target, entry, NOW) == "done"
    source.write_bytes(b"edited")
    assert judge(source, target, entry, NOW) == "changed"


def test_settings_are_known_by_their_values():
    assert Settings({"a": 1, "b": 2.0}).hash == Settings({"b": 2.0, "a": 1}).hash
    assert Settings({"a": 1}).hash != Settings({"a": 2}).hash


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        ([], [], True),
        (["*.tif"], [], True),
        (["sub/*"], [], True),
        (["*.png"], [], False),
        (["*.png", "b.*"], [], True),
        ([], ["sub/*"], False),
        (["*.tif"], ["b.tif"], False),
    ],
)
def test_patterns(include, exclude, wanted):
    assert matches("sub/b.tif", include, exclude) is wanted


def test_moments():
    now = datetime(2026, 3, 10, 12, tzinfo=UTC)
    assert parse_since("7d", now) == datetime(2026, 3, 3, 12, tzinfo=UTC).timestamp()
    assert parse_since("90m", now) == datetime(2026, 3, 10, 10, 30, tzinfo=UTC).timestamp()
    assert parse_since("2026-01-31T12:00+00:00") == datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
    for wrong in ("", "yesterday", "7y", "2026-13-01", "999999d"):
        with pytest.raises(InputError, match="--since"):
            parse_since(wrong)
