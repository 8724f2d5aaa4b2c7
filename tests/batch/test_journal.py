"""The journal: what it keeps, and whom a picture belongs to."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from pellucid.batch.journal import Entry, FileState, Journal
from pellucid.errors import JournalError

CLAIM = """
import sys, time
from pathlib import Path
from pellucid.batch.journal import Journal
journal = Journal(Path(sys.argv[1]))
print(journal.claim("a.png") is not None, flush=True)
time.sleep(60)
"""


def entry(**changes) -> Entry:
    values = {
        "target": "sub/a.png",
        "state": "restored",
        "settings": "s",
        "source": "/in/a.png",
        "input": FileState(5, 10**18),
        "sha256": "ab",
        "output": FileState(7, 2 * 10**18),
        "report": {"model": "m"},
    }
    return Entry(**values | changes)


def test_entries_come_back(tmp_path):
    with Journal(tmp_path) as journal:
        assert journal.entries() == {}
        journal.claim("sub/a.png")
        journal.record(entry())
        journal.record(
            entry(target="b.png", state="failed", output=None, error={"type": "E", "message": "m"})
        )
    with Journal(tmp_path) as journal:
        kept = journal.entries()
        assert kept["sub/a.png"] == entry(report=None)
        assert kept["b.png"].error == {"type": "E", "message": "m"}
        assert journal.claim("sub/a.png").entry == entry()
    assert Journal.exists(tmp_path)


def test_two_runs_never_have_one_picture(tmp_path):
    with Journal(tmp_path) as one, Journal(tmp_path) as two:
        assert one.claim("a.png") is not None
        assert one.claim("a.png") is not None  # its own
        assert two.claim("a.png") is None
        assert two.claim("b.png") is not None
        one.record(entry(target="a.png"))
        assert two.claim("a.png").entry == entry(target="a.png")
    assert not list((tmp_path / ".pellucid").glob("run-*"))


def test_a_closed_run_claims_nothing(tmp_path):
    with Journal(tmp_path) as one:
        one.claim("a.png")
    with Journal(tmp_path) as two:
        claim = two.claim("a.png")
        assert (claim.entry, claim.broken_since) == (None, None)


def test_a_killed_run_claims_nothing_but_is_remembered(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", CLAIM, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"True\n"
    with Journal(tmp_path) as journal:
        assert journal.claim("a.png") is None
        process.kill()
        process.communicate()
        assert "a.png" in journal.claims()
        since = journal.claims()["a.png"]
        assert journal.claim("a.png").broken_since == since
        assert journal.claim("a.png").broken_since == since  # asked again
    # This one ended in good order, but did nothing: whoever wrote the picture, it was begun then.
    with Journal(tmp_path) as journal:
        assert journal.claim("a.png").broken_since == since
        journal.record(entry(target="a.png"))
        assert journal.claim("a.png").broken_since is None  # nor is it once this run ends
    with Journal(tmp_path) as journal:
        assert journal.claim("a.png").broken_since is None


def test_a_link_is_known_by_itself_unless_it_is_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "link.png").symlink_to("a.png")
    of = FileState.of(tmp_path / "a.png")
    assert FileState.of(tmp_path / "link.png") != of
    assert FileState.of(tmp_path / "link.png", followed=True) == of


def test_a_journal_that_is_none(tmp_path):
    (tmp_path / ".pellucid").mkdir()
    (tmp_path / ".pellucid" / "journal.sqlite").write_text(
        "no database, but long enough to be taken for one" * 9
    )
    with pytest.raises(JournalError, match="can't be used"):
        Journal(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="can't be used"):
        Journal(tmp_path / "file")


def test_what_was_recorded_reaches_the_disk_in_the_background(tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.batch.journal.SECURED_AFTER", 0.0)
    with Journal(tmp_path) as journal:
        journal.record(entry())
        journal._securing.shutdown()
        copy = tmp_path / "copy.sqlite"  # of the database alone, without what is beside it
        copy.write_bytes((tmp_path / ".pellucid" / "journal.sqlite").read_bytes())
        with closing(sqlite3.connect(copy)) as database:
            assert database.execute("SELECT count(*) FROM pictures").fetchone() == (1,)


def test_a_closed_journal_has_nothing_under_way(tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.batch.journal.SECURED_AFTER", 0.0)
    with Journal(tmp_path) as journal:
        journal.record(entry())
        assert any(thread.name.startswith("journal") for thread in threading.enumerate())
    assert not any(thread.name.startswith("journal") for thread in threading.enumerate())
