import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.conftest import exit_code

from pellucid import ImageBuffer, restorer, write_image
from pellucid.arrays import array_from_image, image_from_array
from pellucid.errors import NonFiniteOutputError
from pellucid.image import Source
from pellucid.image_io import decode_image, encode_image, read_image
from pellucid.light import LightRule


@pytest.fixture
def options(small_weights) -> tuple[str, ...]:
    return ("--model", str(small_weights), "--device", "cpu", "--precision", "float32")


def save(path: Path, size=(40, 60), channels=3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    write_image(image_from_array(rng.integers(0, 256, (*size, channels), dtype=np.uint8)), path)
    return path


def files(folder: Path) -> list[str]:
    """All but the journal's."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(str(path) for path in found if ".pellucid" not in path.parts)


def test_file_to_file(run, options, tmp_path):
    photo = save(tmp_path / "photo.png", channels=4)
    result = run("restore", photo, "-o", tmp_path / "new" / "restored.png", *options)
    assert (result.code, result.out) == (0, "")
    assert "small on cpu" in result.err
    assert "float32" in result.err
    before, after = (array_from_image(read_image(p)) for p in (photo, tmp_path / "new" / "restored.png"))
    assert after.shape == before.shape
    assert np.array_equal(after[..., 3], before[..., 3])
    assert not np.array_equal(after, before)


def test_a_dry_run_of_one_file_only_says_what_would_be_done(run, options, tmp_path):
    photo, target = save(tmp_path / "photo.png"), tmp_path / "restored.png"
    result = run("restore", photo, "-o", target, "--dry-run", *options)
    assert (result.code, result.out) == (0, f"{photo} -> {target}\n")
    assert "nothing was done" in result.err
    assert files(tmp_path) == ["photo.png"]
    photo.rename(target)
    assert run("restore", target, "-o", target, "--dry-run", *options).code == 2


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [("x.jfif", "out/", "names no known format"), ("x.png", "out.jpg", "holds no transparency")],
)
def test_what_cannot_be_written_is_refused_before_the_network_runs(
    run, options, tmp_path, monkeypatch, source, target, told
):
    save(tmp_path / "a.png", channels=4).rename(tmp_path / source)
    monkeypatch.setattr("pellucid.cli._batch.load_restorer", lambda *_, **__: pytest.fail("loaded"))
    result = run("restore", tmp_path / source, "-o", f"{tmp_path}/{target}", *options)
    assert result.code != 0
    assert told in result.err


@pytest.mark.parametrize("target", ["out/", "out"])
def test_file_to_folder(run, options, tmp_path, target):
    photo = save(tmp_path / "photo.png")
    assert run("restore", photo, "-o", f"{tmp_path}/{target}", *options).code == 0
    assert (tmp_path / "out" / "photo.png").is_file()


@pytest.mark.parametrize("target", ["restored.gif", "notes", "notes.txt"])
def test_an_output_that_is_neither_picture_nor_folder(run, options, tmp_path, target):
    photo = save(tmp_path / "photo.png")
    (tmp_path / "notes").write_text("kept")
    result = run("restore", photo, "-o", tmp_path / target, "--overwrite", *options)
    assert result.code == 2
    assert "neither a folder nor a picture" in result.err
    assert files(tmp_path) == ["notes", "photo.png"]
    assert (tmp_path / "notes").read_text() == "kept"


def test_names_that_are_too_long(run, options, tmp_path):
    photo, name = save(tmp_path / "photo.png"), "x" * 300 + ".png"
    for arguments in ((photo, "-o", tmp_path / name), (tmp_path / name, "-o", tmp_path / "out")):
        result = run("restore", *arguments, *options)
        assert result.code == 2
        assert "Traceback" not in result.err
        assert "File name too long" in result.err
    assert files(tmp_path) == ["photo.png"]


def test_an_output_that_links_to_itself(run, options, tmp_path):
    save(tmp_path / "in" / "sub" / "photo.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    result = run("restore", tmp_path / "in", "-o", tmp_path / "loop", *options)
    assert result.code == 1
    assert "0 restored, 1 failed" in result.err


def test_a_new_folder_with_a_dot_in_its_name(run, options, tmp_path):
    photo = save(tmp_path / "photo.png")
    assert run("restore", photo, "-o", f"{tmp_path}/v1.2/", *options).code == 0
    assert files(tmp_path) == ["photo.png", "v1.2/photo.png"]


def test_a_folder_keeps_its_tree_and_goes_on_after_a_bad_file(run, options, tmp_path):
    folder = tmp_path / "in"
    for name in ("a.png", "a.jpg", "sub/deep/b.tif", ".hidden.png", ".cache/c.png"):
        save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "bad.jpg").write_text("text")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    result = run("restore", folder, "-o", tmp_path / "out", *options)
    assert result.code == 1
    assert files(tmp_path / "out") == ["a.jpg", "a.png", "sub/deep/b.tif"]
    assert "3 restored, 3 failed, 3 other files skipped" in result.err
    for name in ("bad.jpg", "empty.png", "cut.png"):
        assert name in result.err
    assert "Traceback" not in result.err


def test_outputs_are_never_restored_again(run, options, tmp_path):
    save(tmp_path / "a.png")
    for _ in range(2):
        result = run("restore", tmp_path, "-o", tmp_path / "out", "--overwrite", *options)
        assert result.code == 0
        assert files(tmp_path) == ["a.png", "out/a.png"]


def test_several_inputs(run, options, tmp_path):
    inputs = [save(tmp_path / "one" / "a.png").parent, save(tmp_path / "two" / "a.png")]
    assert run("restore", *inputs, "-o", tmp_path / "out", *options).code == 0
    assert files(tmp_path / "out") == ["a.png", "one/a.png"]
    result = run("restore", inputs[1], tmp_path / "one" / "a.png", "-o", tmp_path / "out2", *options)
    assert result.code == 2
    assert "would both be written" in result.err
    assert not (tmp_path / "out2").exists()


def test_nothing_is_overwritten_unless_asked(run, options, tmp_path):
    photo, other = save(tmp_path / "photo.png"), save(tmp_path / "other.png")
    before = photo.read_bytes(), other.read_bytes()
    itself = run("restore", photo, "-o", photo, *options)
    assert (itself.code, "the input itself" in itself.err) == (2, True)
    existing = run("restore", photo, "-o", other, *options)
    assert (existing.code, "an existing file" in existing.err) == (2, True)
    folder = run("restore", tmp_path, "-o", tmp_path, *options)
    assert folder.code == 1
    assert (photo.read_bytes(), other.read_bytes()) == before
    assert run("restore", photo, "-o", photo, "--overwrite", *options).code == 0
    assert photo.read_bytes() != before[0]
    assert len(files(tmp_path)) == 2


def test_what_exists_is_refused_before_the_model_is_loaded(run, tmp_path):
    photo, other = save(tmp_path / "in" / "a.png"), save(tmp_path / "out" / "a.png")
    before = other.read_bytes()
    for source, target, code in ((photo, other, 2), (photo.parent, other.parent, 1)):
        result = run("restore", source, "-o", target, "--model", "no_such_weights", "--json")
        assert (result.code, "an existing file" in result.err) == (code, True)
        assert json.loads(result.out)["error"]["type"] == "OutputExistsError"
    assert other.read_bytes() == before


def test_a_link_is_never_replaced(run, options, tmp_path):
    photo, precious = save(tmp_path / "photo.png"), save(tmp_path / "precious.png")
    before = precious.read_bytes()
    for name, leads_to in (("link.png", precious), ("dangling.png", tmp_path / "absent.png")):
        (tmp_path / name).symlink_to(leads_to)
        for overwrite, words in (((), "an existing file"), (("--overwrite",), "is a link to")):
            result = run("restore", photo, "-o", tmp_path / name, *overwrite, *options)
            assert (result.code, words in result.err) == (2, True)
        assert (tmp_path / name).is_symlink()
    assert precious.read_bytes() == before
    assert not (tmp_path / "absent.png").exists()


def test_no_input_is_replaced_by_another_picture(run, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inner, outer = save(Path("in/in/a.png")), save(Path("in/a.png"))
    before = inner.read_bytes(), outer.read_bytes()
    result = run("restore", "in", "-o", ".", "--overwrite", *options)  # in/in/a.png would become in/a.png
    assert result.code == 2
    assert "in/in/a.png would be written to in/a.png, which is to be restored too" in result.err
    assert (inner.read_bytes(), outer.read_bytes()) == before


def test_strength_0_returns_the_same_file(run, options, tmp_path):
    photo = save(tmp_path / "photo.jpg")
    assert run("restore", photo, "-o", tmp_path / "same.jpg", "--strength", "0", *options).code == 0
    assert (tmp_path / "same.jpg").read_bytes() == photo.read_bytes()


def test_json_is_one_object_per_picture(run, options, tmp_path):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").touch()
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out", "--json", *options)
    assert result.code == 1
    good, bad = map(json.loads, result.out.splitlines())
    assert (good["ok"], good["output"]) == (True, str(tmp_path / "out" / "a.png"))
    assert good["report"]["tiles"] == 1
    assert good["report"]["tile_size"] == [48, 64]
    assert (bad["ok"], bad["error"]["type"]) == (False, "UnreadableImageError")


@pytest.mark.parametrize(("guard", "state"), [("--guard", "left alone"), ("--no-guard", "restored")])
def test_the_line_of_one_file_is_that_of_several(run, options, tmp_path, guard, state):
    photo, other = save(tmp_path / "a.png", (20, 20)), save(tmp_path / "b.png", (20, 20))
    told = ("--json", guard, *options)
    results = [
        run("restore", *inputs, "-o", tmp_path / output, *told)
        for inputs, output in (([photo], "a-restored.png"), ([photo, other], "out"))
    ]
    lines = [json.loads(result.out.splitlines()[0]) for result in results]
    assert [line["state"] for line in lines] == [state] * 2
    assert list(lines[0]) == list(lines[1])


def described(suffix: str) -> bytes:
    """A picture file with a place and a title in XMP."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a b="title" exif:GPSLatitude="4,2N"/></x:xmpmeta>'
    image = ImageBuffer(torch.rand(3, 20, 24), source=Source(xmp=xmp))
    return encode_image(image, suffix)


@pytest.mark.parametrize(("suffix", "strength"), [(".jpg", "0"), (".jpg", "1"), (".png", "0")])
def test_what_is_to_be_stripped_is_not_in_the_output(run, options, tmp_path, suffix, strength):
    (photo := tmp_path / f"a{suffix}").write_bytes(given := described(suffix))
    arguments = ("--strength", strength, "--no-guard", *options)
    for what, kept in (("gps", b'<a b="title"/>'), ("all", None)):
        target = tmp_path / f"{what}{suffix}"
        assert run("restore", photo, "-o", target, "--strip", what, *arguments).code == 0
        xmp = read_image(target).source.xmp
        assert (kept in xmp if kept else xmp is None) and b"GPS" not in target.read_bytes()
        if strength == "0":
            assert torch.equal(read_image(target).pixels, read_image(photo).pixels)
    assert photo.read_bytes() == given


@pytest.fixture
def pipe(options, monkeypatch, capsysbinary):
    """`pipe(bytes, "-", "-o", "-")` gives exit code, stdout as bytes and stderr of a restoration."""

    def call(given: bytes, *arguments: object) -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = exit_code(monkeypatch, "restore", *arguments, *options)
        out, err = capsysbinary.readouterr()
        return code, out, err.decode()

    return call


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_a_picture_goes_through_a_pipe(pipe, tmp_path, suffix):
    photo = save(tmp_path / f"a{suffix}")
    given = photo.read_bytes()
    assert pipe(b"", photo, "-o", tmp_path / f"b{suffix}")[:2] == (0, b"")
    expected = (tmp_path / f"b{suffix}").read_bytes()
    code, out, err = pipe(given, "-", "-o", "-")
    assert (code, out) == (0, expected)
    assert "1 restored, 0 failed" in err
    assert pipe(b"", photo, "-o", "-")[:2] == (0, expected)
    assert pipe(given, "-", "-o", tmp_path / "new" / f"c{suffix}")[:2] == (0, b"")
    assert (tmp_path / "new" / f"c{suffix}").read_bytes() == expected
    for source in ("-", photo):
        assert pipe(given, source, "-o", "-", "--strength", "0")[:2] == (0, given)
    assert pipe(given, "-", "-o", tmp_path / "same.png", "--strength", "0")[0] == 0
    assert torch.equal(read_image(tmp_path / "same.png").pixels, decode_image(given).pixels)


def test_a_piped_picture_may_be_stripped_and_told_of_in_json(pipe, tmp_path):
    given = described(".jpg")
    code, out, _ = pipe(given, "-", "-o", "-", "--strip", "all")
    assert (code, decode_image(out).source.xmp) == (0, None)
    code, out, _ = pipe(given, "-", "-o", tmp_path / "a.jpg", "--json")
    row = json.loads(out)
    assert (code, row["input"], row["output"], row["ok"]) == (0, "-", str(tmp_path / "a.jpg"), True)
    code, out, _ = pipe(b"text", "-", "-o", tmp_path / "b.jpg", "--json")
    assert (code, json.loads(out)["error"]["type"]) == (2, "UnreadableImageError")


@pytest.mark.parametrize(
    ("given", "arguments", "words"),
    [
        (b"", ("-", "-o", "-"), "stdin is empty (0 bytes)"),
        (b"text", ("-", "-o", "-"), "not a picture"),
        (b"\x89PNG\r\n\x1a\n", ("-", "-o", "-"), "damaged"),
        (b"", ("a.png", "-o", "-", "--json"), "--json prints on stdout"),
        (b"", ("a.png", "-", "-o", "out"), "2 inputs were given together with -"),
        (b"", ("a.png", "a.png", "-o", "-"), "2 inputs were given together with -"),
        (b"", (".", "-o", "-"), ". is a folder"),
        (b"", ("clip.mp4", "-o", "-"), "clip.mp4 is a film"),
        (b"", ("missing.png", "-o", "-"), "no file missing.png"),
        (b"", ("-", "-o", "out"), "no name of a picture"),
        (b"", ("-", "-o", "a.png"), "a.png exists already"),
        (b"", ("-", "-o", "-", "--dry-run"), "don't go with -"),
        (b"", ("-", "-o", "-", "--ray", "local"), "don't go with -"),
        (b"", ("-", "-o", "-", "--untouched", "skip"), "with - (stdin or stdout); expected a folder"),
        (b"", ("a.png", "-o", "-", "--retry-failed"), "with - (stdin or stdout); expected a folder"),
        (b"", ("clip.mp4", "-o", "out.mp4", "--retry-failed"), "with one film, clip.mp4; expected a folder"),
        (b"", ("-", "-o", "s3://bucket/b.png"), "s3://bucket/b.png is a URL"),
        (b"", ("a.png", "-o", "out", "--strip", "gps", "--untouched", "link"), "expected copy or skip"),
        (b"", ("clip.mp4", "-o", "out.mp4", "--strip", "gps"), "--strip doesn't go with a film"),
    ],
)
def test_wrong_pipes_end_in_a_sentence(pipe, tmp_path, monkeypatch, given, arguments, words):
    monkeypatch.chdir(tmp_path)
    save(Path("a.png"))
    Path("clip.mp4").touch()
    code, out, err = pipe(given, *arguments)
    assert (code, out, words in err.splitlines()[-1]) == (2, b"", True), err
    assert files(tmp_path) == ["a.png", "clip.mp4"]


def test_a_terminal_is_shown_no_picture(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    code, out, err = pipe(b"", save(tmp_path / "a.png"), "-o", "-")
    assert (code, out, "stdout is a terminal" in err) == (2, b"", True)


def test_a_reader_that_goes_away_leaves_no_traceback(options, tmp_path):
    photo = save(tmp_path / "a.png", (200, 200))
    command = [sys.executable, "-m", "pellucid", "restore", "-", "-o", "-", "--strength", "0", *options]
    for reads in (True, False):
        with (
            photo.open("rb") as given,
            subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            if reads:
                assert process.stdout.read() == photo.read_bytes()
            else:
                process.stdout.close()
            err = process.stderr.read().decode()
        assert (process.returncode, "Traceback" in err, "Exception" in err) == (int(not reads), False, False)


def test_quiet_is_quiet(run, options, tmp_path):
    result = run("restore", save(tmp_path / "a.png"), "-o", tmp_path / "b.png", "--quiet", *options)
    assert result == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.png", "-o", "out.png"], 2, "missing.png does not exist"),
        (["text.jpg", "-o", "out.jpg"], 2, "text.jpg"),
        (["empty.png", "-o", "out.png"], 2, "empty"),
        (["photo.png", "-o", "out.png", "--max-pixels", "100"], 2, "--max-pixels"),
        (["photo.png", "-o", "out.png", "--untouched", "skip"], 2, "with one picture, photo.png"),
        (["photo.png", "-o", "folder", "--retry-failed"], 2, "with one picture, photo.png"),
        (["photo.png", "-o", "out.png", "--strength", "1.5"], 2, "strength is 1.5"),
        (["photo.png", "-o", "out.png", "--strength", "nan"], 2, "strength is nan"),
        (["photo.png", "-o", "out.png", "--prompt", "rain"], 2, "blind"),
        (["photo.png", "-o", "out.png", "--memory", "lots"], 2, "2GB"),
        (["photo.png", "-o", "out.png", "--memory", "1KB"], 4, "--memory"),
        (["photo.png", "-o", "out.png", "--memory", "0"], 2, "above 0"),
        (["photo.png", "-o", "out.png", "--memory", "9" * 400], 2, "no size of memory"),
        (["photo.png", "-o", ""], 2, "An empty path"),
        (["", "-o", "out"], 2, "An empty path"),
        (["photo.png", "", "-o", "out"], 2, "An empty path"),
        (["photo.png", "photo.png", "-o", "out"], 2, "photo.png is given twice"),
        (["folder", "folder/../folder", "-o", "out"], 2, "a.png is given twice"),
        (["photo.png", "-o", "out.png", "--device", "abacus"], 2, "abacus"),
        (["photo.png", "-o", "out.png", "--precision", "fp8"], 2, "fp8"),
        (["photo.png", "-o", "text.jpg/out.png"], 2, "can't be written"),
        (["bare", "-o", "out"], 2, "no pictures in bare (1 other files)"),
        (["folder", "-o", "photo.png"], 2, "is a file"),
        (["photo.png", "-o", "out.png", "--model", "daair_x.5task"], 2, "no weights called 'daair_x.5task'"),
        (["photo.png", "-o", "out.png", "--model", "missing.safetensors"], 3, "can't be read"),
        (["photo.png", "-o", "out.png", "--model", "text.pth"], 3, "whole safetensors"),
        (["photo.png"], 2, "output"),
    ],
)
def test_wrong_calls_end_in_a_sentence(run, options, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    save(Path("photo.png"))
    save(Path("folder/a.png"))
    Path("text.jpg").write_text("text")
    Path("text.pth").write_text("text")
    Path("empty.png").touch()
    Path("bare").mkdir()
    Path("bare/notes.txt").touch()
    result = run("restore", *options, *arguments)
    assert result.code == code
    assert words in result.err
    assert result.out == ""
    assert not Path("out.png").exists()


@pytest.mark.parametrize(("choice", "done"), [("a.png", ["b.jpg"]), ("*.png", ["b.jpg"]), ("*.jpg", [])])
def test_patterns_hold_for_one_picture_too(run, options, tmp_path, choice, done):
    save(tmp_path / "a.png")
    target = tmp_path / "out" / "b.jpg"
    result = run("restore", tmp_path / "a.png", "-o", target, "--include", choice, *options)
    assert (result.code, files(tmp_path / "out")) == (0, done)


def test_a_date_that_is_none_is_refused_for_one_picture_too(run, options, tmp_path):
    save(tmp_path / "a.png")
    result = run("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--since", "foo", *options)
    assert (result.code, "foo" in result.err) == (2, True)


def test_control_characters_of_names_are_written_out(run, options, tmp_path):
    result = run("restore", tmp_path / "a\x1b[31m.png", "-o", tmp_path / "b.png", *options)
    assert (result.code, "\x1b" in result.err, "\\x1b[31m" in result.err) == (2, False, True)


def test_an_unreadable_folder_is_a_failure_among_others(run, options, tmp_path, lock):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "locked").mkdir()
    lock("locked")
    result = run("restore", tmp_path / "in", "-o", tmp_path / "out", *options)
    assert (result.code, files(tmp_path / "out")) == (1, ["a.png"])
    assert "locked can't be listed: Permission denied" in result.err
    result = run("restore", tmp_path / "in" / "locked", "-o", tmp_path / "out", *options)
    assert result.code == 1
    assert "can't be listed" in result.err


def test_an_error_of_the_restorer_keeps_its_exit_code(run, options, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise NonFiniteOutputError("not finite")

    monkeypatch.setattr(restorer.TorchRestorer, "restore_pixels", refuse)
    result = run("restore", save(tmp_path / "a.png"), "-o", tmp_path / "b.png", *options)
    assert (result.code, result.err.splitlines()[-1]) == (4, "pellucid: not finite")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (LightRule(), ""),
        (LightRule(kept=True), "; its light was kept, nothing seems to have changed it (see --no-guard)"),
        (LightRule(views=(2,)), "; its haze was looked for in reduced copies, too (see --no-guard)"),
    ],
)
def test_what_was_done_about_light_is_told(run, options, tmp_path, monkeypatch, rule, words):
    monkeypatch.setattr(restorer.TorchRestorer, "leaves_alone", lambda *_: False)
    monkeypatch.setattr(restorer.TorchRestorer, "light_rule", lambda *_: rule)
    result = run("restore", save(tmp_path / "a.png"), "-o", tmp_path / "b.png", *options)
    assert result.err.splitlines()[-1] == f"1 restored, 0 failed{words}"


@pytest.mark.parametrize(
    ("guard", "words"),
    [
        ("redone_in_float32", "computed once more in float32, since bf16 gave NaN or infinity"),
        ("replanned", "cut into tiles, or smaller ones, since memory ran out"),
    ],
)
def test_what_a_picture_took_beyond_the_usual_is_told(run, options, tmp_path, monkeypatch, guard, words):
    usual = restorer.TorchRestorer.restore_pixels

    def remedied(self, degraded, *arguments):
        restored, plan, guards = usual(self, degraded, *arguments)
        return restored, plan, guards | {guard: degraded.shape[1] == 40}

    monkeypatch.setattr(restorer.TorchRestorer, "restore_pixels", remedied)
    photo, other = save(tmp_path / "a.png"), save(tmp_path / "b.png", (48, 60))

    usually = ("-o", tmp_path / "out", "--overwrite", "--no-guard", *options)

    def told(*arguments):
        result = run("restore", *arguments, *usually)
        assert result.code == 0
        return result.err

    assert told(photo).splitlines()[-1] == f"1 restored, 0 failed; {words}"
    assert told(other).splitlines()[-1] == "1 restored, 0 failed"
    assert told(photo, other).splitlines()[1:] == [f"2 restored, 0 failed; 1 {words}"]
    assert told(photo, other, "--quiet") == told(photo, "--quiet") == ""
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    assert f"a.png: {words}" in told(photo, other)


def test_ctrl_c_leaves_no_half_file(options, tmp_path):
    for i in range(200):  # far from done when the first appears, even if this process has to wait
        save(tmp_path / "in" / f"{i}.png", (300, 300))
    command = [sys.executable, "-m", "pellucid", "restore", tmp_path / "in", "-o", tmp_path / "out", *options]
    command.append("--no-guard")
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    # A job in the background inherits SIGINT ignored, and would hand that on; a handled signal starts anew.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, env=alone, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        signal.signal(signal.SIGINT, inherited)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("out/*.png")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    written = files(tmp_path / "out")
    assert 0 < len(written) < 200
    for name in written:
        assert name.endswith(".png")
        assert read_image(tmp_path / "out" / name).height == 300


SWALLOWED = """
import os, signal, sys
from pellucid.__main__ import main
from pellucid.restorer import TorchRestorer

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # Python looks for signals between instructions
            pass

def restore(*arguments, call=TorchRestorer.__call__, **options):
    Dying()
    return call(*arguments, **options)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits it ignored
    TorchRestorer.__call__ = restore
    main()
"""


def test_ctrl_c_ends_the_run_even_where_python_ignores_it(options, tmp_path):
    for i in range(6):
        save(tmp_path / "in" / f"{i}.png", (16, 16))
    command = [sys.executable, "-c", SWALLOWED, "restore", tmp_path / "in", "-o", tmp_path / "out", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert 0 < len(files(tmp_path / "out")) < 6
    assert "KeyboardInterrupt" not in ended.stderr
