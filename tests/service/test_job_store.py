import os
import sqlite3
import stat

import pytest

from pellucid.errors import InputError, OverloadedError, ReusedKeyError, StorageError
from pellucid.service import job_store
from pellucid.service.job_store import MOST_ATTEMPTS, JobStore

PROBLEM = {"status": 500, "detail": "given up"}


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "jobs", 10)
    yield store
    store.close()


def add(store, data=b"picture", key=None):
    return store.add(data, {"strength": "1"}, "png", 1, key)[0]


def files(tmp_path):
    folder = tmp_path / "jobs"
    return sorted(
        str(path.relative_to(folder)) for part in ("inputs", "results") for path in (folder / part).iterdir()
    )


def test_the_way_of_a_job(store, tmp_path):
    first, second = add(store, b"1"), add(store, b"2")
    running = store.begin()
    assert (running.id, running.state, running.attempts) == (first.id, "running", 1)
    assert store.picture(first.id) == b"1"
    store.finish(first.id, b"restored", {"tiles": 1})
    done = store.find(first.id)
    with store.result(first.id) as result:
        assert (done.state, done.report, result.read()) == ("done", {"tiles": 1}, b"restored")
    assert store.begin().id == second.id
    assert store.begin() is None
    store.fail(second.id, PROBLEM)
    assert store.find(second.id).problem == PROBLEM
    assert files(tmp_path) == [f"results/{first.id}"]
    assert store.counts() == {"queued": 0, "running": 0, "done": 1, "failed": 1, "canceled": 0}
    assert store.expire(3600) == 0
    assert store.expire(-1) == 2
    assert files(tmp_path) == []


def test_expiry_counts_from_a_jobs_end(store, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(job_store.time, "time", lambda: clock[0])
    job, waiting = add(store, b"1"), add(store, b"2")
    store.begin()
    clock[0] += 100
    store.finish(job.id, b"restored", {})
    clock[0] += 50
    assert store.expire(60) == 0  # made long ago, ended just now
    clock[0] += 11
    assert store.expire(60) == 1
    assert store.find(job.id) is None and store.find(waiting.id) is not None


def test_what_a_killed_service_left(store, tmp_path):
    job, other = add(store), add(store, b"other")
    for attempt in range(1, MOST_ATTEMPTS + 1):
        assert store.begin().attempts == attempt
        (tmp_path / "jobs" / "inputs" / "orphan.tmp").touch()
        (tmp_path / "jobs" / "results" / job.id).write_bytes(b"half")
        store.recover(PROBLEM)
    found = store.find(job.id)
    assert (found.state, found.problem) == ("failed", PROBLEM)
    assert store.find(other.id).state == "queued"
    assert files(tmp_path) == [f"inputs/{other.id}"]


def test_an_interrupted_job_counts_no_attempt(store):
    job = add(store)
    for _ in range(MOST_ATTEMPTS + 2):
        assert store.begin().id == job.id
        store.requeue(job.id)
    assert store.find(job.id).attempts == 0


def test_a_canceled_job_stays_so(store, tmp_path):
    job = add(store)
    store.begin()
    assert store.cancel(job.id)
    assert not store.cancel(job.id)
    store.finish(job.id, b"too late", {})
    store.fail(job.id, PROBLEM)
    store.requeue(job.id)
    assert store.find(job.id).state == "canceled"
    assert files(tmp_path) == []


def test_a_running_job_can_not_be_deleted(store):
    job = add(store)
    store.delete(job.id)
    assert store.find(job.id) is not None


def test_keys(store):
    job = add(store, key="a")
    assert add(store, key="a") == job
    assert add(store, key="b") != job
    for data, options, target in (
        (b"other", {"strength": "1"}, "png"),
        (b"picture", {"strength": "0.5"}, "png"),
        (b"picture", {"strength": "1"}, "jpeg"),
    ):
        with pytest.raises(ReusedKeyError):
            store.add(data, options, target, 1, "a")


def test_of_two_that_bring_one_key_at_once_one_makes_the_job(store, tmp_path, monkeypatch):
    first, write = [], job_store._write

    def write_behind_another(*arguments):
        monkeypatch.undo()
        first.append(add(store, key="a"))
        write(*arguments)

    monkeypatch.setattr(job_store, "_write", write_behind_another)
    assert add(store, key="a") == first[0]
    assert files(tmp_path) == [f"inputs/{first[0].id}"]


def test_the_last_place_that_is_taken_meanwhile_is_taken_once(tmp_path, monkeypatch):
    store, first, write = JobStore(tmp_path / "jobs", 1), [], job_store._write

    def write_behind_another(*arguments):
        monkeypatch.undo()
        first.append(add(store))
        write(*arguments)

    monkeypatch.setattr(job_store, "_write", write_behind_another)
    with pytest.raises(OverloadedError):
        add(store, b"other")
    assert files(tmp_path) == [f"inputs/{first[0].id}"]
    store.close()


def test_a_limit_of_waiting_jobs(tmp_path):
    store = JobStore(tmp_path / "jobs", 1)
    job = add(store, key="a")
    with pytest.raises(OverloadedError):
        add(store)
    assert add(store, key="a") == job  # it is not new
    store.begin()
    with pytest.raises(OverloadedError):  # one that runs takes room, too
        add(store)
    store.cancel(job.id)
    add(store)
    store.close()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(store, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_store, "_write", full)
    with pytest.raises(StorageError, match="No space left"):
        add(store)
    assert files(tmp_path) == []
    assert store.counts()["queued"] == 0


def test_a_disk_that_gets_full_while_a_picture_is_written_holds_nothing_of_it(store, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        add(store)
    assert files(tmp_path) == []


def test_a_picture_and_its_name_are_on_the_disk_before_its_job_is(store, monkeypatch):
    folders, fsync = [], os.fsync

    def note(descriptor):
        folders.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    add(store)
    assert folders == [False, True]


def test_a_folder_serves_one_service(store, tmp_path):
    with pytest.raises(InputError, match="another service"):
        JobStore(tmp_path / "jobs", 1)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be used"):
        JobStore(tmp_path / "file", 1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "jobs.sqlite3").write_bytes(b"not a database, by far" * 100)
    with pytest.raises(InputError, match="can't be used"):
        JobStore(tmp_path / "broken", 1)


def test_the_journal_survives_kills_and_power_cuts(store, tmp_path):
    with sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite3") as rows:
        assert rows.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    rows.close()
    assert store._rows.execute("PRAGMA synchronous").fetchone() == (2,)
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0
