"""What a process does with a block, by what lies there and what is known; no Ray."""

import errno
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from pellucid.__main__ import main
from pellucid.arrays import image_from_array
from pellucid.checkpoint import hash_file
from pellucid.cluster import storage
from pellucid.cluster.report import Records, Row, now
from pellucid.cluster.worker import Outcome, Task, Worker, judge, load_restorer
from pellucid.errors import HashMismatchError
from pellucid.image_io import encode_image, read_image, write_image
from pellucid.restorer import TorchRestorer


@pytest.fixture
def task(small_weights, tmp_path) -> Task:
    return Task(
        str(tmp_path / "out"),
        "first",
        {"first": time.time()},
        "settings",
        str(small_weights),
        hash_file(small_weights),
        device="cpu",
        precision="float32",
        guard=False,
    )


def do_all(task: Task, folder, *names: str) -> list[Outcome]:
    """Outcomes of a run over these pictures; its reports are kept."""
    records = Records(task.output)
    task = replace(task, began=records.begin(task.run, [str(folder)]))
    outcomes = Worker(task, None, records.known()).restore([f"{folder}/{name}" for name in names], names)
    records.join_parts(task.run)
    records.end(task.run, [str(folder)])
    return outcomes


def do(task: Task, folder, *names: str) -> dict[str, str]:
    """States after a run over these pictures; its reports are kept."""
    outcomes = do_all(task, folder, *names)
    return {outcome.name: f"{outcome.state}{' before' if outcome.known else ''}" for outcome in outcomes}


def test_a_local_name_may_hold_anything(tmp_path):
    url = str(tmp_path / "12::30 #1?.png")
    storage.write(b"bytes", url, overwrite=False)
    assert storage.read(url) == b"bytes" == (tmp_path / "12::30 #1?.png").read_bytes()
    assert storage.listed(str(tmp_path)) == ["12::30 #1?.png"]


def test_a_run_does_what_is_missing_or_changed(task, folder, save):
    names = ("a.png", "b.jpg", "sub/c.tif", "sub/d.png", "broken.png", "missing.png")
    first = do(task, folder, *names)
    assert first == dict.fromkeys(names, "restored") | {"broken.png": "failed", "missing.png": "failed"}

    out = folder.parent / "out"
    (out / "a.png").unlink()
    save(folder / "b.jpg", 99)
    os.utime(folder / "sub/c.tif", (1, 1))  # the same bytes
    save(out / "sub/d.png", 98)  # edited by hand
    os.utime(out / "sub/d.png", (1, 1))
    (folder / "missing.png").write_bytes((folder / "a.png").read_bytes())
    second = do(replace(task, run="second"), folder, *names)
    assert second == {
        "a.png": "restored",
        "b.jpg": "restored",
        "sub/c.tif": "done before",
        "sub/d.png": "taken",
        "broken.png": "failed before",
        "missing.png": "restored",
    }
    assert (out / "a.png").read_bytes() == (out / "missing.png").read_bytes()
    third = do(
        replace(task, run="third", settings="others", retry_failed=True), folder, "a.png", "broken.png"
    )
    assert third == {"a.png": "restored", "broken.png": "failed"}


def test_what_is_stripped_is_in_no_output(task, folder):
    for name, size in (("a.png", 40), ("b.jpg", 16)):  # the second is too small not to be left alone
        image = image_from_array(np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8))
        described = replace(image, source=replace(image.source, xmp=b"<a/>"))
        (folder / name).write_bytes(encode_image(described, name[1:]))
    out = folder.parent / "out"
    for what, left in ((None, b"<a/>"), ("all", None)):
        stripping = replace(task, run=str(what), settings=str(what), guard=True, strip=what)
        states = do(stripping, folder, "a.png", "b.jpg")
        assert (states["a.png"] in ("restored", "left alone"), states["b.jpg"]) == (True, "left alone")
        assert [read_image(out / name).source.xmp for name in states] == [left, left]
    assert torch.equal(read_image(out / "b.jpg").pixels, read_image(folder / "b.jpg").pixels)


def test_a_picture_of_another_format_than_its_name_says_is_left_alone_as_it_is(task, folder):
    small = image_from_array(np.full((16, 16, 3), 7, np.uint8))  # too small not to be left alone
    (folder / "a.jpg").write_bytes(encode_image(small, ".png"))
    assert do(replace(task, guard=True), folder, "a.jpg") == {"a.jpg": "left alone"}
    assert (folder.parent / "out" / "a.jpg").read_bytes() == (folder / "a.jpg").read_bytes()


def test_what_a_killed_run_left_is_done_again_and_what_is_not_ours_stays(task, folder, save, tmp_path):
    out = tmp_path / "out"
    save(out / "a.png", 97)
    os.utime(out / "a.png", (1, 1))  # from before
    save(out / "b.jpg", 96)  # as a killed run would leave it, with no row
    Records(task.output).begin("killed", [str(folder)])
    old = (out / "a.png").read_bytes(), (out / "b.jpg").read_bytes()
    assert do(task, folder, "a.png", "b.jpg") == {"a.png": "taken", "b.jpg": "restored"}
    assert (out / "a.png").read_bytes() == old[0]
    assert (out / "b.jpg").read_bytes() != old[1]
    assert not list((out / "_pellucid" / "runs").iterdir())  # nothing is in flight now
    assert do(replace(task, run="second", overwrite=True), folder, "a.png") == {"a.png": "restored"}


def test_an_output_that_was_edited_since_is_not_taken_for_a_killed_runs(task, folder, save, tmp_path):
    Records(task.output).begin("killed", ["elsewhere"])  # over other inputs: its mark stays
    os.utime(tmp_path / "out/_pellucid/runs/killed.json", (1, 1))
    assert do(task, folder, "a.png") == {"a.png": "restored"}
    edited = save(tmp_path / "out" / "a.png", 97).read_bytes()
    os.utime(tmp_path / "out" / "a.png", (1000, 1000))  # not just before the second run
    assert do(replace(task, run="second", settings="others"), folder, "a.png") == {"a.png": "taken"}
    assert (tmp_path / "out" / "a.png").read_bytes() == edited


def test_what_a_machine_may_not_read_is_no_fault_of_the_picture(task, folder, monkeypatch):
    def refuse(self, path, *rest, read=LocalFileSystem.cat_file, **how):
        if path.endswith(".png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(self, path, *rest, **how)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "cat_file", refuse)
        assert do(task, folder, "a.png") == {"a.png": "broken off"}
    assert do(replace(task, run="second"), folder, "a.png") == {"a.png": "restored"}


def test_what_was_in_a_new_output_stays(task, folder, save, tmp_path):
    old = save(tmp_path / "out" / "a.png", 97)
    os.utime(old, (1, 1))
    before = old.read_bytes()
    assert do(task, folder, "a.png", "b.jpg") == {"a.png": "taken", "b.jpg": "restored"}
    assert old.read_bytes() == before


def test_an_outcome_says_why_it_failed_and_whether_anything_was_written(task, folder):
    from pellucid.cli._cluster import _row

    skipping = replace(task, untouched="skip", guard=True)
    (folder / "small.png").write_bytes(
        encode_image(image_from_array(np.zeros((16, 16, 3), np.uint8)), ".png")
    )
    names = ("a.png", "broken.png", "small.png")
    for run in ("first", "second"):
        records = Records(task.output)
        begun = replace(skipping, run=run, began=records.begin(run, [str(folder)]))
        worker = Worker(begun, None, records.known())
        outcomes = {o.name: o for o in worker.restore([f"{folder}/{name}" for name in names], names)}
        records.join_parts(run)
        rows = {name: _row(outcome, "out") for name, outcome in outcomes.items()}
        assert [rows[name]["output"] for name in names] == ["out/a.png", None, None]
        assert rows["broken.png"]["error"]["type"] == "UnreadableImageError"
        assert "not a picture" in rows["broken.png"]["error"]["message"]
    assert (outcomes["small.png"].state, outcomes["a.png"].state) == ("done", "done")


def test_what_a_picture_took_beyond_the_usual_is_told(task, folder, monkeypatch, capsys):
    from pellucid.cluster import run

    usual = TorchRestorer.restore_pixels

    def remedied(self, degraded, *arguments):
        restored, plan, guards = usual(self, degraded, *arguments)
        return restored, plan, guards | {"replanned": degraded.shape[1] == 48}

    write_image(image_from_array(np.zeros((48, 40, 3), np.uint8)), folder / "big.png")
    monkeypatch.setattr(TorchRestorer, "restore_pixels", remedied)
    monkeypatch.setattr(run, "restore", lambda *_: do_all(task, folder, "a.png", "big.png"))
    monkeypatch.setattr(run, "connected", nullcontext)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    command = ["pellucid", "restore", folder, "-o", task.output, "--ray", "local", "--model", task.model]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    monkeypatch.setenv("COLUMNS", "300")  # no line is folded
    with pytest.raises(SystemExit, match="0"):
        main()
    words = "cut into tiles, or smaller ones, since memory ran out"
    err = capsys.readouterr().err
    assert f"{folder}/big.png: {words}" in err
    assert f"2 restored, 0 failed; 1 {words}" in err
    report = pq.read_table(f"{task.output}/_pellucid/report").to_pylist()
    assert {row["name"]: row["guards"] for row in report} == {"a.png": [], "big.png": ["replanned"]}


def test_a_block_is_not_done_twice(task, folder, monkeypatch):
    """Its process was lost after it kept the rows, before it could say so."""
    worker, names = Worker(task, None, None), ["a.png", "broken.png"]
    paths = [f"{folder}/{name}" for name in names]
    first = worker.restore(paths, names)
    monkeypatch.setattr(worker, "_restorer", None)
    assert worker.restore(paths, names) == first
    assert [outcome.state for outcome in first] == ["restored", "failed"]


def test_a_fault_or_a_silent_store_is_tried_again(task, folder, monkeypatch):
    worker = Worker(task, None, None)
    monkeypatch.setattr(worker, "_restorer", lambda *_, **__: 1 / 0)
    (fault,) = worker.restore([f"{folder}/a.png"], ["a.png"])
    (silent,) = worker.restore([f"{folder}/b.jpg"], ["a.png/b.jpg"])
    Records(task.output).join_parts("first")
    assert (fault.state, "division" in (fault.error or "")) == ("broken off", True)
    assert silent.state == "broken off"
    assert do(replace(task, run="second"), folder, "a.png") == {"a.png": "restored"}


def test_other_weights_or_another_version_are_refused(task):
    with pytest.raises(HashMismatchError, match="other weights"):
        load_restorer(replace(task, weights_sha256="0" * 64), None)
    with pytest.raises(HashMismatchError, match=r"started by 9\.9"):
        load_restorer(replace(task, version="9.9"), None)


@pytest.mark.parametrize(
    ("changes", "ours", "same", "retry_failed", "expected"),
    [
        (None, False, True, False, "do"),
        ({}, True, True, False, "done"),
        ({}, True, False, False, "compare"),
        ({}, False, True, False, "do"),
        ({"settings": "others"}, True, True, False, "do"),
        ({"state": "failed"}, False, True, False, "failed"),
        ({"state": "failed"}, False, True, True, "do"),
        ({"state": "failed"}, False, False, False, "do"),
        ({"state": "broken off"}, False, True, False, "do"),
        ({"state": "left alone", "output_size": None}, False, True, False, "done"),
    ],
)
def test_the_verdict(changes, ours, same, retry_failed, expected):
    row = Row("in/a.png", "a.png", "restored", "settings", "run", now(), output_size=1, output_version="1")
    known = None if changes is None else replace(row, **changes)
    assert judge(known, "settings", ours, same, retry_failed) == expected


def test_no_temporary_file_of_a_killed_process_stays(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".pellucid-0123-4567.tmp").write_bytes(b"half")
    storage.remove_leftovers(str(tmp_path))
    assert not list((tmp_path / "sub").iterdir())
