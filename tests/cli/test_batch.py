"""Folders: what a second run does, after the first has ended, failed, or been killed."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid import ImageBuffer, compute, scratch
from pellucid.arrays import image_from_array
from pellucid.batch.journal import Journal
from pellucid.batch.run import codec_limits
from pellucid.cli import _batch as batch_module
from pellucid.codec import worker
from pellucid.codec.pool import CodecPool
from pellucid.codec.wire import Message
from pellucid.errors import UnreadableImageError
from pellucid.image import Source
from pellucid.image_io import Header, read_image, write_image
from pellucid.restorer import TorchRestorer


@pytest.fixture
def options(small_weights) -> tuple[str, ...]:
    return "--model", str(small_weights), "--device", "cpu", "--precision", "float32", "--no-guard"


def save(path: Path, seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return write_image(image_from_array(pixels), path, overwrite=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.tif")):
        save(tmp_path / "in" / name, number)
    return tmp_path / "in"


@pytest.fixture
def nothing_wrong(monkeypatch) -> None:
    """A recognizer that finds nothing wrong with any picture."""
    from pellucid.diagnosis import Diagnosis, Recognizer

    good = Diagnosis("nothing wrong", (), {}, 0.99, {}, 0.1, True, "recognizer", 0.0)
    monkeypatch.setattr(Recognizer, "__call__", lambda *_: good)


def states(result) -> dict[str, str]:
    rows = map(json.loads, result.out.splitlines())
    return {Path(row["input"]).name: row.get("state", "failed") for row in rows}


def test_a_second_run_does_what_is_missing_or_changed(run, options, folder, tmp_path):
    out = tmp_path / "out"
    first = run("restore", folder, "-o", out, "--json", *options)
    assert (first.code, set(states(first).values())) == (0, {"restored"})
    written = {path: path.stat().st_mtime_ns for path in (out / "a.png", out / "b.jpg", out / "sub/c.tif")}
    again = run("restore", folder, "-o", out, "--json", *options)
    assert (again.code, set(states(again).values())) == (0, {"done"})
    assert "0 restored, 0 failed, 3 done before" in again.err
    assert {path: path.stat().st_mtime_ns for path in written} == written

    save(folder / "a.png", 7)
    (out / "b.jpg").unlink()
    save(folder / "new.webp", 8)
    third = run("restore", folder, "-o", out, "--json", *options)
    expected = {"a.png": "restored", "b.jpg": "restored", "new.webp": "restored", "c.tif": "done"}
    assert (third.code, states(third)) == (0, expected)

    weaker = run("restore", folder, "-o", out, "--json", "--strength", "0.5", *options)
    assert (weaker.code, set(states(weaker).values())) == (0, {"restored"})
    single = run("restore", folder / "a.png", "-o", tmp_path / "a.png", "--strength", "0.5", *options)
    assert single.code == 0
    assert (out / "a.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_what_is_stripped_is_another_setting(run, options, folder, tmp_path, monkeypatch):
    """Of what the network changed, of what it left alone, and of what has no room in memory."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a b="title" exif:GPSLatitude="4,2N"/></x:xmpmeta>'
    for name, size in (("a.png", (40, 32)), ("b.jpg", (20, 16)), ("sub/c.tif", (80, 80))):
        pixels = np.random.default_rng(1).random((3, *size), np.float32)
        image = ImageBuffer(torch.from_numpy(pixels), source=Source(xmp=xmp))
        write_image(image, folder / name, overwrite=True)
    monkeypatch.setattr(TorchRestorer, "room", 80 * 80 - 1)
    out = tmp_path / "out"

    def again(*more: str) -> set[str]:
        return set(states(run("restore", folder, "-o", out, "--json", *options[:-1], *more)).values())

    def left() -> list[bytes | None]:
        return [read_image(out / name).source.xmp for name in ("a.png", "b.jpg", "sub/c.tif")]

    again()
    assert left() == [xmp] * 3
    assert again("--strip", "gps") == {"restored", "left alone"}
    assert left() == [b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a b="title"/></x:xmpmeta>'] * 3
    assert torch.equal(read_image(out / "b.jpg").pixels, read_image(folder / "b.jpg").pixels)
    assert again("--strip", "gps") == {"done"}
    again("--strip", "all")
    assert left() == [None] * 3
    again()
    assert left() == [xmp] * 3
    assert (out / "b.jpg").read_bytes() == (folder / "b.jpg").read_bytes()


def test_what_changes_behind_a_link_is_restored_anew(run, options, folder, tmp_path):
    (linked := folder / "linked.png").symlink_to(save(tmp_path / "elsewhere" / "d.png", 3))
    arguments = ("restore", linked, folder / "a.png", "-o", tmp_path / "out", "--json", *options)
    assert states(run(*arguments)) == {"linked.png": "restored", "a.png": "restored"}
    assert states(run(*arguments)) == {"linked.png": "done", "a.png": "done"}
    save(tmp_path / "elsewhere" / "d.png", 4)
    assert states(run(*arguments)) == {"linked.png": "restored", "a.png": "done"}


def test_another_rule_of_the_guard_is_another_setting(run, options, folder, tmp_path, monkeypatch):
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.tif")):
        save(folder / name, number, (20, 16))  # too small to show anything

    def restore(*more: str) -> set[str]:
        return set(
            states(run("restore", folder, "-o", tmp_path / "out", "--json", *options[:-1], *more)).values()
        )

    assert restore() == {"left alone"}
    assert restore() == {"done"}
    monkeypatch.setattr("pellucid.cli._batch.GUARD_RULE", -1)
    assert restore() == {"left alone"}
    assert restore("--no-guard") == {"restored"}
    monkeypatch.undo()
    assert restore("--no-guard") == {"done"}


@pytest.mark.parametrize("guard", [True, False])
def test_other_weights_of_the_recognizer_are_another_setting_of_the_guard(
    guard, run, options, folder, tmp_path, monkeypatch
):
    def again() -> set[str]:
        given = options[:-1] if guard else options  # the last is --no-guard
        return set(states(run("restore", folder, "-o", tmp_path / "out", "--json", *given)).values())

    again()
    assert again() == {"done"}
    genuine = batch_module._hash_weights
    monkeypatch.setattr(
        batch_module, "_hash_weights", lambda model: genuine(model) + "other" * (model == "recognizer")
    )
    assert (again() == {"done"}) is not guard


def test_a_second_run_loads_no_network_where_nothing_is_to_do(run, options, folder, tmp_path, monkeypatch):
    assert run("restore", folder, "-o", tmp_path / "out", *options).code == 0
    monkeypatch.setattr("pellucid.cli._batch.load_restorer", lambda *_, **__: pytest.fail("loaded"))
    assert run("restore", folder, "-o", tmp_path / "out", *options).code == 0


def test_an_output_edited_by_hand_is_kept(run, options, folder, tmp_path):
    out = tmp_path / "out"
    assert run("restore", folder, "-o", out, *options).code == 0
    save(out / "a.png", 99)
    before = (out / "a.png").read_bytes()
    save(folder / "a.png", 7)
    result = run("restore", folder, "-o", out, *options)
    assert (result.code, "an existing file" in result.err) == (1, True)
    assert (out / "a.png").read_bytes() == before
    assert run("restore", folder, "-o", out, "--overwrite", *options).code == 0
    assert (out / "a.png").read_bytes() != before


def test_failures_are_listed_and_tried_again_when_asked(run, options, folder, tmp_path):
    (folder / "b.jpg").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert "2 restored, 1 failed" in run("restore", folder, "-o", out, *options).err
    listed = run("restore", folder, "-o", out, *options)
    assert listed.code == 1
    assert "1 failed (1 before; --retry-failed tries them again), 2 done before" in listed.err
    assert "not a picture" in listed.err
    tried = run("restore", folder, "-o", out, "--retry-failed", *options)
    assert "0 restored, 1 failed, 2 done before" in tried.err
    save(folder / "b.jpg")
    assert run("restore", folder, "-o", out, *options).code == 0  # it is another file now


def test_what_could_not_be_written_is_tried_again_unasked(run, options, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").write_bytes(b"a file where the folder should be")
    again = ("restore", folder, "-o", out, *options)
    assert "2 restored, 1 failed" in run(*again).err
    (out / "sub").unlink()
    assert "1 restored, 0 failed" in run(*again).err


def test_an_output_stays_known_where_replacing_it_failed(run, options, folder, tmp_path):
    again = ("restore", folder, "-o", tmp_path / "out", *options)
    assert run(*again).code == 0
    (folder / "a.png").write_bytes(b"no picture")
    assert "not a picture" in run(*again, "--overwrite").err
    save(folder / "a.png", 7)
    mended = run(*again)
    assert (mended.code, "1 restored, 0 failed" in mended.err) == (0, True)


@pytest.mark.parametrize("asked", ["read", "fill"])
def test_a_picture_that_breaks_libvips_costs_itself_alone(run, options, folder, tmp_path, monkeypatch, asked):
    """The process is killed as soon as it reads a.png, as a crash in a decoder would end it.

    The second time memory has no room for a.png, and a file is filled with its pixels.
    """
    from pellucid.codec import pool

    def ask(self, message, seconds, ask=pool._Worker.ask):
        if message.head.get("path", "").endswith("a.png") and message.head["ask"] == asked:
            self._process.kill()
        return ask(self, message, seconds)

    monkeypatch.setattr(pool._Worker, "ask", ask)
    if asked == "fill":
        save(folder / "a.png", 4, (90, 80))
        monkeypatch.setattr(compute, "choose_scratch", lambda: (tmp_path, 10**9))
        monkeypatch.setattr(TorchRestorer, "room", 90 * 80 - 1)
    result = run("restore", folder, "-o", tmp_path / "out", *options)
    assert (result.code, "2 restored, 1 failed" in result.err) == (1, True)
    assert "ended the process" in result.err


def test_a_picture_without_room_in_memory_is_kept_in_files_as_it_is_alone(
    run, options, folder, tmp_path, monkeypatch
):
    large, inputs, written = save(folder / "d.tif", 4, (90, 80)), [], []

    def call(self, image, *, call=TorchRestorer.__call__, **how):
        inputs.append((image.pixels.shape[-1], scratch.folder_of(image.pixels)))
        return call(self, image, **how)

    def write(image, path, *, write=write_image, **how):
        written.append(path)
        return write(image, path, **how)

    monkeypatch.setattr(compute, "choose_scratch", lambda: (tmp_path, 10**9))
    monkeypatch.setattr(TorchRestorer, "__call__", call)
    monkeypatch.setattr(TorchRestorer, "room", 90 * 80 - 1)
    monkeypatch.setattr("pellucid.restoration.write_image", write)
    assert run("restore", folder, "-o", tmp_path / "out", *options).code == 0
    assert inputs == [(32, None)] * 2 + [(80, tmp_path), (32, None)]
    assert written == [tmp_path / "out" / "d.tif"]
    assert run("restore", large, "-o", tmp_path / "alone.tif", *options).code == 0
    assert (tmp_path / "alone.tif").read_bytes() == written[0].read_bytes()
    with Journal(tmp_path / "out") as journal:
        assert journal.entries()["d.tif"].sha256 == hashlib.sha256(large.read_bytes()).hexdigest()


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("disk", [False, True])
def test_a_large_picture_is_what_it_is_in_memory(disk, hidden, tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (30, 20, 4), dtype=np.uint8)
    pixels[:10, :, 3] *= not hidden
    path = write_image(image_from_array(pixels), tmp_path / "a.png")
    pool, expected = CodecPool(codec_limits(1, 600)), read_image(path)
    header = pool.read(path, 599).result()
    assert isinstance(header, Header)
    image = pool.read_large(path, header, tmp_path if disk else None).result().image
    assert image.pixels.equal(expected.pixels)
    assert image.alpha.equal(expected.alpha)
    assert (image.source, image.source.file) == (expected.source, expected.source.file)
    assert scratch.folder_of(image.pixels) == scratch.folder_of(image.alpha) == (tmp_path if disk else None)
    with pytest.raises(UnreadableImageError, match="was changed"):
        pool.read_large(path, replace(header, width=10), tmp_path).result()
    pool.stop()


def test_a_file_that_changes_while_it_is_read_is_not_taken(folder, monkeypatch):
    path = next(folder.rglob("*.png"))
    ask = Message({"ask": "read", "max_pixels": 10**6, "room": 10**6, "path": str(path)})
    assert worker.answer_picture(ask).head["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()

    def read(*arguments, **options):
        image = read_image(*arguments, **options)
        path.write_bytes(path.read_bytes() + b"more")
        return image

    monkeypatch.setattr(worker, "read_image", read)
    with pytest.raises(UnreadableImageError, match="was changed while it was read"):
        worker.answer_picture(ask)


def test_only_what_is_wanted(run, options, folder, tmp_path):
    os.utime(folder / "sub" / "c.tif", (1, 1))
    told = run("restore", folder, "-o", tmp_path / "out", "--dry-run", "--exclude", "*.jpg", *options)
    assert [Path(line.split(" -> ")[0]).name for line in told.out.splitlines()] == ["a.png", "c.tif"]
    rows = run("restore", folder, "-o", tmp_path / "out", "--dry-run", "--json", *options).out.splitlines()
    expected = {"input": str(folder / "a.png"), "output": str(tmp_path / "out" / "a.png"), "why": "is new"}
    assert json.loads(rows[0]) == expected
    assert not (tmp_path / "out").exists()
    result = run("restore", folder, "-o", tmp_path / "out", "--since", "1d", "--include", "*.[pt]*", *options)
    assert (result.code, "1 restored, 0 failed, 2 other files skipped" in result.err) == (0, True)
    assert (tmp_path / "out" / "a.png").exists()


def test_pictures_that_need_nothing(run, options, tmp_path, nothing_wrong):
    source = save(tmp_path / "in" / "a.png")

    options = options[:-1]
    for how, expected in (("copy", False), ("link", True)):
        out = tmp_path / how
        result = run("restore", tmp_path / "in", "-o", out, "--untouched", how, *options)
        assert "1 of them left alone" in result.err
        assert (out / "a.png").read_bytes() == source.read_bytes()
        assert (out / "a.png").samefile(source) is expected
    skip = ("restore", tmp_path / "in", "-o", tmp_path / "skip", "--untouched", "skip", "--json", *options)
    for expected in ("left alone", "done"):
        row = json.loads(run(*skip).out)
        assert (row["ok"], row["state"], row["output"]) == (True, expected, None)
    assert not (tmp_path / "skip" / "a.png").exists()
    assert "1 done before" in run("restore", tmp_path / "in", "-o", tmp_path / "skip", *options).err


def test_what_was_restored_by_other_settings_does_not_stay_where_nothing_is_wrong(
    run, options, tmp_path, nothing_wrong
):
    source, out = save(tmp_path / "in" / "a.png"), tmp_path / "out"
    assert run("restore", tmp_path / "in", "-o", out, *options).code == 0
    assert (out / "a.png").read_bytes() != source.read_bytes()
    assert run("restore", tmp_path / "in", "-o", out, "--untouched", "skip", *options[:-1]).code == 0
    assert (out / "a.png").read_bytes() == source.read_bytes()


def test_what_a_killed_run_wrote_is_known_where_nothing_is_wrong(run, options, tmp_path, nothing_wrong):
    source, out = save(tmp_path / "in" / "a.png"), tmp_path / "out"
    kill_over(out, "a.png")
    save(out / "a.png", 7)  # as the killed run would have
    for _ in range(2):
        assert run("restore", tmp_path / "in", "-o", out, "--untouched", "skip", *options[:-1]).code == 0
        assert (out / "a.png").read_bytes() == source.read_bytes()


def test_a_file_of_another_hand_is_not_taken_for_an_output_that_was_skipped(
    run, options, tmp_path, nothing_wrong
):
    save(tmp_path / "in" / "a.png")
    foreign = save(tmp_path / "out" / "a.png", 5).read_bytes()
    command = ("restore", tmp_path / "in", "-o", tmp_path / "out")
    assert run(*command, "--untouched", "skip", "--overwrite", *options[:-1]).code == 0
    assert run(*command, *options).code == 1
    assert (tmp_path / "out" / "a.png").read_bytes() == foreign


def test_what_is_saved_while_the_next_picture_is_restored_is_not_the_runs_own(
    run, options, folder, tmp_path, monkeypatch
):
    out, restored = tmp_path / "out", []

    def call(self, image, *, call=TorchRestorer.__call__, **how):
        restored.append(image)
        if len(restored) == 2:
            until((out / "a.png").exists)
            time.sleep(0.5)  # so that it was looked at
            save(out / "a.png", 99)
        return call(self, image, **how)

    monkeypatch.setattr(TorchRestorer, "__call__", call)
    assert run("restore", folder, "-o", out, *options).code == 0
    edited = (out / "a.png").read_bytes()
    assert run("restore", folder, "-o", out, "--strip", "gps", *options).code == 1
    assert (out / "a.png").read_bytes() == edited


def test_no_link_leads_to_a_picture_that_changed_since_it_was_read(run, options, tmp_path, monkeypatch):
    from pellucid.diagnosis import Diagnosis, Recognizer

    source = save(tmp_path / "in" / "a.png")
    given = read_image(source).pixels

    def look(*_: object) -> Diagnosis:
        save(source, 1)
        return Diagnosis("nothing wrong", (), {}, 0.99, {}, 0.1, True, "recognizer", 0.0)

    monkeypatch.setattr(Recognizer, "diagnose", look)
    run("restore", tmp_path / "in", "-o", tmp_path / "out", "--untouched", "link", *options[:-1])
    assert torch.equal(read_image(tmp_path / "out" / "a.png").pixels, given)
    assert not (tmp_path / "out" / "a.png").samefile(source)


def start(folder: Path, out: Path, options) -> subprocess.Popen:
    command = [sys.executable, "-m", "pellucid", "restore", folder, "-o", out, *options]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=alone, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def test_killed_at_any_moment_it_goes_on(run, options, tmp_path):
    for number in range(12):
        save(tmp_path / "in" / f"{number}.png", number, (64, 64))
    out, dice = tmp_path / "out", random.Random(0)
    for done in (1, 4):
        with start(tmp_path / "in", out, options) as process:
            until(lambda done=done: len(list(out.glob("*.png"))) >= done)
            time.sleep(dice.uniform(0, 0.02))
            process.kill()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    last = run("restore", tmp_path / "in", "-o", out, "--json", *options)
    assert (last.code, len(states(last))) == (0, 12)
    kept = [name for name, state in states(last).items() if state == "done"]
    assert len(kept) >= len(before) - 4  # at most the pictures in flight are made anew, of two kills
    assert all((out / name).stat().st_mtime_ns == before[name] for name in kept)
    assert not list(out.glob(".pellucid-*"))
    whole = tmp_path / "whole"
    assert run("restore", tmp_path / "in", "-o", whole, *options).code == 0
    for path in whole.glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def kill_over(out: Path, name: str) -> None:
    """Leave the claim of a run that was killed while it had this picture."""
    from pellucid.batch.journal import Journal

    with Journal(out) as journal:
        journal.claim(name)
        with journal._transaction():
            journal._database.execute("UPDATE claims SET run = 'killed'")


def test_what_a_killed_run_restored_in_place_is_its_own_but_once(run, options, folder):
    again = ("restore", folder, "-o", folder, "--overwrite", "--json", *options)
    kill_over(folder, "a.png")
    save(folder / "a.png", 7)  # as the killed run would have
    assert states(run(*again)) == {"a.png": "done", "b.jpg": "restored", "c.tif": "restored"}
    save(folder / "a.png", 8)
    assert states(run(*again))["a.png"] == "restored"


def test_a_claim_on_what_was_done_before_does_not_outlive_the_next_run(run, options, folder, tmp_path):
    again = ("restore", folder, "-o", tmp_path / "out", "--json", *options)
    assert run(*again).code == 0
    time.sleep(1.1)  # clocks of files are coarse
    kill_over(tmp_path / "out", "a.png")
    assert set(states(run(*again)).values()) == {"done"}
    edited = save(tmp_path / "out" / "a.png", 9).read_bytes()
    assert run(*again).code == 1
    assert (tmp_path / "out" / "a.png").read_bytes() == edited


def test_what_another_run_ends_meanwhile_is_done(run, options, folder, tmp_path, monkeypatch):
    """It reads the journal as it was before the other run wrote a picture, and the folder as it is after."""
    from pellucid.batch.journal import Journal

    out = tmp_path / "out"
    assert run("restore", folder, "-o", out, *options).code == 0
    answers = [{}]
    entries = Journal.entries
    monkeypatch.setattr(Journal, "entries", lambda self: answers.pop() if answers else entries(self))
    result = run("restore", folder, "-o", out, "--json", *options)
    assert (result.code, set(states(result).values())) == (0, {"done"})


def test_what_another_run_failed_at_meanwhile_is_not_tried_again(run, options, folder, tmp_path, monkeypatch):
    from pellucid.batch.journal import Journal

    (folder / "a.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert run("restore", folder, "-o", out, *options).code == 1
    answers = [{}]
    entries = Journal.entries
    monkeypatch.setattr(Journal, "entries", lambda self: answers.pop() if answers else entries(self))
    monkeypatch.setattr(CodecPool, "read", lambda *_: pytest.fail("read again"))
    result = run("restore", folder, "-o", out, *options)
    assert result.code == 1 and "(1 before" in result.err


def test_two_runs_share_the_work(run, options, tmp_path):
    for number in range(10):
        save(tmp_path / "in" / f"{number}.png", number, (96, 96))
    runs = [start(tmp_path / "in", tmp_path / "out", options) for _ in range(2)]
    told = [process.communicate(timeout=120)[1].decode() for process in runs]
    assert [process.returncode for process in runs] == [0, 0], told
    assert sum(int(number) for text in told for number in re.findall(r"(\d+) restored", text)) == 10
    assert len(list((tmp_path / "out").glob("*.png"))) == 10
    assert read_image(tmp_path / "out" / "0.png").height == 96
