"""What is done with pictures, without a browser: the command line's bytes, and nothing left over."""

import base64
import errno
import json
import os
import threading
import zipfile

import numpy as np
import pytest

from pellucid import read_image
from pellucid.app.desk import Desk, Options, offered
from pellucid.app.previews import fit, read_region
from pellucid.arrays import image_from_array
from pellucid.cli import create_app
from pellucid.errors import InputError, PellucidError, StorageError, UnknownNameError
from pellucid.image_io import encode_image
from pellucid.strength import Strength
from pellucid.weights import DEFAULT

OPTIONS = Options("small", guard=False)


def region_url(mask: np.ndarray) -> str:
    data = encode_image(image_from_array(mask), ".png")
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize("name", ["cat.jpg", "cat.png", "cat.tif", "cat.webp"])
@pytest.mark.parametrize("strength", ["1", "0", "0.35", "haze=1,noise=0.3"])
def test_the_bytes_are_the_command_lines(name, strength, desk, photo, small_weights, tmp_path):
    session, source = desk.session("a"), photo(name)
    steps = list(session.restore([source], OPTIONS))
    assert steps[-1].share == 1 and steps[0].name == name
    written = session.write(0, Strength.parse(strength))
    target = tmp_path / "cli" / name
    target.parent.mkdir()
    command = ["restore", str(source), "-o", str(target), "--model", str(small_weights), "--no-guard", "-q"]
    command += ["--device", "cpu", "--precision", "float32", "--strength", strength]
    create_app()(command, standalone_mode=False)
    assert written.name == name
    assert written.read_bytes() == target.read_bytes()
    assert (written.read_bytes() == source.read_bytes()) is (strength == "0")


def test_another_strength_needs_no_second_run(desk, photo, restorer, monkeypatch):
    session = desk.session("a")
    list(session.restore([photo()], OPTIONS))
    monkeypatch.setattr(type(restorer), "__call__", lambda *_, **__: pytest.fail("the network ran again"))
    assert session.write(0, Strength(0.5, 0.5)).read_bytes() != session.write(0, Strength()).read_bytes()


def test_many_with_some_that_are_broken(desk, photo, tmp_path):
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.png"
    broken.write_bytes(photo().read_bytes()[:900])
    empty.touch()
    session = desk.session("a")
    steps = list(session.restore([photo(), broken, photo(seed=1), empty, photo("cat.png")], OPTIONS))
    assert {step.count for step in steps} == {5} and all(step.share <= 1 for step in steps)
    assert [item.name for item in session.items] == ["cat.jpg", "cat.jpg", "cat.png"]
    assert [name for name, _ in session.failures] == ["broken.jpg", "empty.png"]
    for name, sentence in session.failures:
        assert name in sentence and str(tmp_path) not in sentence and str(desk.folder) not in sentence
    with zipfile.ZipFile(session.write_all(Strength())) as archive:
        assert archive.namelist() == ["cat.jpg", "cat-2.jpg", "cat.png"]
        assert archive.read("cat-2.jpg") == session.write(1, Strength()).read_bytes()
    rows = json.loads(session.write_report(Strength(1, 0.5)).read_text())
    assert [row["ok"] for row in rows] == [True, True, True, False, False]
    assert [row.get("state") for row in rows] == ["restored", "restored", "restored", None, None]
    assert rows[0]["report"]["strength"] == {"tone": 1, "detail": 0.5}
    assert set(rows[0]["report"]["seconds"]) >= {"read", "restore"}


def test_only_a_region(desk, photo):
    session, source = desk.session("a"), photo("cat.png")
    list(session.restore([source], OPTIONS))
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 255
    session.paint(0, region_url(mask))
    before, part = read_image(source).pixels, read_image(session.write(0, Strength())).pixels
    row = json.loads(session.write_report(Strength()).read_text())[0]
    session.paint(0, None)
    whole = read_image(session.write(0, Strength())).pixels
    assert bool((part[:, :, :62] == before[:, :, :62]).all())
    assert bool((part[:, :, 66:] == whole[:, :, 66:]).all())
    assert not bool((part[:, :, 66:] == before[:, :, 66:]).all())
    assert row["region"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "region", ["", "data:image/png;base64,&&&", "data:image/png;base64,AAAA", "file:///etc"]
)
def test_what_is_no_region(region, desk, photo):
    session = desk.session("a")
    list(session.restore([photo()], OPTIONS))
    with pytest.raises(InputError):
        session.paint(0, region)


def test_a_region_without_paint_is_the_whole():
    assert read_region(region_url(np.zeros((4, 4), np.uint8))) is None


def test_cancel_keeps_what_is_done(desk, photo, restorer, monkeypatch):
    session, restore, begun = desk.session("a"), type(restorer).__call__, []

    def second_is_canceled(self, image, **options):
        begun.append(image)
        if len(begun) == 2:
            threading.Thread(target=session.cancel).start()
            assert session._stop.wait(10)
        return restore(self, image, **options)

    monkeypatch.setattr(type(restorer), "__call__", second_is_canceled)
    list(session.restore([photo(), photo(seed=1), photo(seed=2)], OPTIONS))
    assert session.canceled and [item.name for item in session.items] == ["cat.jpg"]
    assert session.write(0, Strength()).exists()


def test_who_goes_away_stops_the_run(desk, photo):
    session = desk.session("a")
    run = session.restore([photo(), photo(seed=1)], OPTIONS)
    next(run)
    run.close()
    desk.leave("a")
    assert not list(desk.folder.iterdir())
    assert desk.network.acquire(timeout=20)


def test_after_who_goes_away_no_further_picture_is_restored(desk, photo, restorer, monkeypatch):
    session, restore, goes_on = desk.session("a"), type(restorer).__call__, threading.Event()

    def restore_at_last(self, image, **options):
        assert goes_on.wait(10)
        return restore(self, image, **options)

    monkeypatch.setattr(type(restorer), "__call__", restore_at_last)
    run = session.restore([photo(), photo(seed=1)], OPTIONS)
    next(run)
    run.close()
    goes_on.set()
    session._run.join(20)
    assert session.canceled and not session.items


def test_a_file_named_in_capitals_keeps_its_name(desk, photo):
    session = desk.session("a")
    list(session.restore([photo("CAT.JPG")], OPTIONS))
    assert session.write(0, Strength()).name == "CAT.JPG"


def test_a_run_tells_nothing_of_the_one_before(desk, photo, tmp_path):
    (tmp_path / "empty.png").touch()
    session = desk.session("a")
    list(session.restore([tmp_path / "empty.png"], OPTIONS))
    list(session.restore([photo()], OPTIONS))
    assert [item.name for item in session.items] == ["cat.jpg"] and session.failures == []


def test_a_picture_that_is_left_alone(desk, tmp_path):
    flat = tmp_path / "clean.png"
    rows, columns = np.mgrid[0:96, 0:128]
    pixels = np.stack([rows * 2, columns, 255 - columns], axis=2).astype(np.uint8)
    flat.write_bytes(encode_image(image_from_array(pixels), ".png"))
    session = desk.session("a")
    list(session.restore([flat], Options("small")))
    item = session.items[0]
    if item.output is None:  # as the recognizer sees it
        assert session.write(0, Strength(0.5, 0.5)).read_bytes() == flat.read_bytes()
    assert (item.output is None) is item.report.guards.get("left_alone", False)


def test_previews(desk, photo):
    session = desk.session("a")
    looked = session.look(photo())
    assert (looked.width, looked.height) == (128, 96)
    assert read_image(looked.preview).pixels.shape == (3, 96, 128)
    list(session.restore([photo()], OPTIONS))
    files, change, _ = session.show(0)
    assert sorted(files) == ["change", "degraded", "detail", "restored", "tone"]
    assert all(read_image(file).pixels.shape == (3, 96, 128) for file in files.values())
    assert change.ciede2000 > 0
    list(session.restore([photo()], OPTIONS))
    again, _, _ = session.show(0)
    assert not set(again.values()) & set(files.values())  # a browser shows what it has of the same name
    large = read_image(photo()).pixels.repeat(1, 30, 1)
    assert fit(large, 96).shape == (3, 96, 4)


def test_a_picture_may_be_named_as_a_preview(desk, photo):
    large = photo("preview.jpg", rows=300)
    before = large.read_bytes()
    session = desk.session("a")
    looked = session.look(large)
    assert not looked.preview.samefile(large)
    assert large.read_bytes() == before
    list(session.restore([large], OPTIONS))
    assert session.write(0, Strength(0, 0)).read_bytes() == before


def test_what_can_not_be_asked(desk, photo):
    session = desk.session("a")
    for ask in (
        lambda: session.write(0, Strength()),
        lambda: session.write_all(Strength()),
        lambda: session.write_report(Strength()),
        lambda: session.show(3),
        lambda: list(session.restore([photo()], Options("small", prompt="noise"))),
    ):
        with pytest.raises(PellucidError):
            ask()
    with pytest.raises(UnknownNameError):
        list(session.restore([photo()], Options("large")))
    with pytest.raises(UnknownNameError, match="engine of this page"):
        list(session.restore([photo()], Options("small", engine="onnxruntime")))


def test_limits_are_the_command_lines(desk, photo):
    desk.limits = type(desk.limits)(max_pixels=100)
    session = desk.session("a")
    list(session.restore([photo()], OPTIONS))
    assert "cat.jpg is 128 x 96 pixels" in session.failures[0][1]


def test_the_models_that_are_offered():
    assert offered(None)[0] == DEFAULT and "recognizer" not in offered(None)
    assert offered(["b", "a", "b"]) == ("b", "a")


def test_sessions_are_apart(desk: Desk, photo):
    list(desk.session("a").restore([photo()], OPTIONS))
    assert desk.session("a").items and not desk.session("b").items


def test_what_was_sent_goes_too_but_nothing_else(desk: Desk, photo):
    sent, example = desk.folder / "a" / "cat.jpg", desk.folder / "b" / "cup.jpg"
    outside = photo()
    for file in (sent, example):
        file.parent.mkdir()
        file.write_bytes(outside.read_bytes())
    desk.kept = {str(example)}
    for file in (sent, example, outside):
        desk.session("a").look(file)
    desk.session("b").look(sent)
    desk.leave("a")
    assert sent.exists(), "another browser sent the same"
    desk.leave("b")
    assert not sent.exists() and example.exists() and outside.exists()


def test_what_was_sent_outlives_what_others_remove(desk: Desk, photo):
    files = [desk.folder / f"{n}" / f"{n}.jpg" for n in range(3)]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(photo().read_bytes())
    session = desk.session("a")
    session.receive(files)
    for file in files:
        file.unlink()  # as Gradio does after an hour
    list(session.restore(files, OPTIONS))
    assert [item.name for item in session.items] == [file.name for file in files]
    with pytest.raises(InputError, match=r"^2\.jpg is no longer kept here.*Drop it again\.$"):
        list(desk.session("b").restore([files[2]], OPTIONS))


def test_a_full_disk_is_told_in_a_sentence(desk: Desk, photo, monkeypatch):
    def full(*_: object, **__: object):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    session = desk.session("a")
    session.look(photo())
    list(session.restore([photo()], OPTIONS))
    for where, ask in (
        ("tempfile.mkdtemp", lambda: session.look(photo())),
        ("pathlib.Path.write_bytes", lambda: session.look(photo())),
        ("pathlib.Path.write_bytes", lambda: session.show(0)),
        ("pathlib.Path.mkdir", lambda: session.show(0)),
        ("tempfile.mkdtemp", lambda: desk.session("b")),
    ):
        with monkeypatch.context() as filled:
            filled.setattr(where, full)
            with pytest.raises(StorageError, match="No space left on device"):
                ask()
    assert session.show(0)[2].name == "cat.jpg"


def test_a_session_that_is_closed_meanwhile_is_told_in_a_sentence(desk: Desk, photo, monkeypatch):
    leave = desk.leave
    desk.session("idle").used -= 7 * 3600
    monkeypatch.setattr(desk, "leave", lambda key: (leave(key), leave("a")))
    session = desk.session("a")
    assert not session.folder.exists()
    with pytest.raises(InputError, match="Load the page again"):
        session.look(photo())


def test_who_did_not_say_goodbye_is_gone_after_hours(desk: Desk, photo):
    session = desk.session("a")
    list(session.restore([photo()], OPTIONS))
    desk.session("b")
    session.used -= 7 * 3600
    assert desk.session("a") is session  # it is back before another looks for those that are gone
    session.used -= 5 * 3600
    desk.session("b")
    assert session.folder.exists()
    session.used -= 2 * 3600
    desk.session("b")
    assert not session.folder.exists()
    assert desk.session("a") is not session


def test_who_waits_for_hours_is_not_taken_to_be_gone(desk: Desk, photo, restorer, monkeypatch):
    session, restore, goes_on = desk.session("a"), type(restorer).__call__, threading.Event()

    def restore_at_last(self, image, **options):
        assert goes_on.wait(10)
        return restore(self, image, **options)

    monkeypatch.setattr(type(restorer), "__call__", restore_at_last)
    run = session.restore([photo()], OPTIONS)
    next(run)
    session.used -= 7 * 3600
    desk.session("b")
    goes_on.set()
    list(run)
    assert not session.canceled and [item.name for item in session.items] == ["cat.jpg"]


def test_each_engine_is_loaded_once_and_runs(restorer, photo, tmp_path):
    loaded = []

    def load(name, engine):
        loaded.append((name, engine))
        return restorer

    desk = Desk(["small"], load, tmp_path, engines=("torch", "openvino"))
    session = desk.session("a")
    for engine in ("openvino", "torch", "openvino"):
        list(session.restore([photo()], Options("small", guard=False, engine=engine)))
    assert loaded == [("small", "openvino"), ("small", "torch")]
    desk.close()
