"""The page without a browser: what it answers to Gradio's own client, over loopback."""

import errno
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import pellucid.app
from pellucid.app.page import EXAMPLES, Page
from pellucid.app.sentences import read_sentences
from pellucid.cli import create_app
from pellucid.diagnosis import Diagnosis
from pellucid.models.recognizer import SCALES
from pellucid.restorer import load

HERE = Path(pellucid.app.__file__).parent


@pytest.fixture
def client(running, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = Client(running.url, verbose=False, download_files=tmp_path / "got", analytics_enabled=False)
    yield client
    client.close()


def test_a_download_has_the_command_lines_bytes(client, photo, small_weights, tmp_path):
    client.predict([handle_file(photo())], "small", "", False, api_name="/restore")
    got = Path(client.predict(0, 0.5, 1, 0.5, api_name="/download"))
    command = ["restore", str(photo()), "-o", str(tmp_path / "cat.jpg"), "--model", str(small_weights), "-q"]
    command += [
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--no-guard",
        "--strength",
        "haze=0.5,noise=0.25",
    ]
    create_app()(command, standalone_mode=False)
    assert got.name == "cat.jpg" and got.read_bytes() == (tmp_path / "cat.jpg").read_bytes()
    rows = json.loads(Path(client.predict(1, 1, 1, api_name="/download_report")).read_text())
    assert rows[0]["input"] == "cat.jpg" and rows[0]["report"]["model"] == "small"


def test_looking_tells_what_is_wrong(client, photo):
    status, *_ = client.predict([handle_file(photo())], api_name="/look")
    assert "cat.jpg, 128 × 96 pixels, waits" in status


def test_all_that_was_dropped_goes_with_the_browser(client, running, photo):
    before = files_below(running.desk.folder)
    client.predict([handle_file(photo(seed=7)), handle_file(photo(seed=8))], api_name="/look")
    assert sum(path.name == "cat.jpg" for path in files_below(running.desk.folder) - before) >= 2
    running.desk.leave(client.session_hash)
    assert not [path for path in files_below(running.desk.folder) - before if path.suffix == ".jpg"]


def test_an_upload_leaves_no_other_file(client, running, photo):
    before = files_below(running.desk.folder)
    client.predict([handle_file(photo(seed=9))], api_name="/look")
    client.predict([handle_file(photo(seed=9))], "small", "", False, api_name="/restore")
    assert not [path for path in files_below(running.desk.folder) - before if path.stat().st_size == 0]


def test_a_file_that_is_not_named_like_a_picture_gets_a_sentence(client, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(
        AppError, match=r"notes\.txt is not named like a picture; expected a name ending in \."
    ):
        client.predict([handle_file(tmp_path / "notes.txt")], api_name="/look")


def test_hostile_files_get_a_sentence(client, photo, tmp_path):
    cases = {
        "cut.jpg": photo().read_bytes()[:700],
        "page.png": b"<html><script>alert(1)</script>",
        "bomb.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x0f\0\0\0\x0f\0\0\x08\x02\0\0\0",
        "nothing.tif": b"",
        "moving.webp": b"GIF89a" + bytes(40),
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    files = [handle_file(tmp_path / name) for name in cases]
    for file in files[:3]:
        status, *_ = client.predict([file], api_name="/look")
        assert 'role="alert"' in status and "Traceback" not in status
    status, *_ = client.predict(files, "small", "", False, api_name="/restore")
    for name in cases:
        assert f"<li>{name}: " in status
    assert "Traceback" not in status and "/tmp" not in status and "<script>" not in status


def test_what_can_not_be_done_gets_a_sentence(client):
    with pytest.raises(AppError, match="no restored picture yet"):
        client.predict(1, 1, 1, api_name="/download_all")
    status, *_ = client.predict([], "small", "", False, api_name="/restore")
    assert "nothing to restore" in status


def named(path: str | Path, part: str = "model") -> dict:
    """What a hostile browser sends to `restore`: in one part, a file that was never uploaded."""
    file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    given = {"files": [], "model": "small", "prompt": ""}
    return given | {part: [file] if part == "files" else file}


def sent(browser: httpx.Client, function: str, data: list) -> str:
    """What the page answers a browser that sends this, whether or not its page offers it."""
    page = str(browser.base_url).removesuffix("gradio_api/")
    known = browser.get(f"{page}config").json()["dependencies"]
    (index,) = (each["id"] for each in known if each["api_name"] == function)
    told = {"data": data, "fn_index": index, "session_hash": "thief"}
    browser.post("/queue/join", json=told).raise_for_status()
    return browser.get("/queue/data", params={"session_hash": "thief"}).text


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", ["files", "model", "prompt"])
def test_nothing_is_fetched_from_elsewhere(part, client):
    given = named("http://127.0.0.1:9/cat.jpg", part).values()
    with pytest.raises(AppError, match="fetched from elsewhere"):
        client.predict(*given, False, api_name="/restore")


def test_nor_by_a_part_that_a_choice_changed(running):
    """Gradio makes the list of prompts anew for the session."""
    with httpx.Client(base_url=f"{running.url}/gradio_api", trust_env=False, timeout=30) as browser:
        assert '"success":true' in sent(browser, "choose_model", ["small"])
        given = named("http://127.0.0.1:9/cat.jpg", "prompt").values()
        assert "fetched from elsewhere" in sent(browser, "restore", [*given, False, "torch"])


@pytest.mark.parametrize("part", ["files", "model", "prompt"])
@pytest.mark.parametrize("suffix", ["of a picture", "of none"])
def test_files_of_the_machine_are_not_taken(suffix, part, running, photo):
    path = photo() if suffix == "of a picture" else "/dev/zero"
    before = files_below(running.desk.folder)
    with httpx.Client(base_url=f"{running.url}/gradio_api", trust_env=False, timeout=30) as browser:
        # Gradio's own client would upload the file.
        events = sent(browser, "restore", [*named(path, part).values(), False, "torch"])
    assert "not uploaded" in events and '"success":false' in events
    assert not files_below(running.desk.folder) - before


def test_a_guided_model_can_be_told(desk, tmp_path):
    import torch

    from pellucid import models
    from pellucid.checkpoint import Checkpoint

    spec = models.get("dfpir_s")
    torch.manual_seed(0)
    Checkpoint.from_network(spec.name, spec.build(spec.config)).write(tmp_path / "guided.safetensors")
    desk.models = ("small", "guided")
    desk._load = lambda *_: load(tmp_path / "guided.safetensors", device="cpu", precision="float32")
    page = Page(desk)
    told = page.choose_model("guided")
    assert told["visible"] and told["choices"][0][1] == "" and "haze" in told["choices"]


@pytest.mark.parametrize(
    ("verdict", "familiar", "said"),
    [
        ("nothing wrong", True, "Nothing seems wrong."),
        ("unknown", True, "Nothing is found for sure."),
        ("unknown", False, "unlike those that the recognizer knows"),
    ],
)
def test_what_is_found_is_said_in_words(desk, verdict, familiar, said):
    page = Page(desk)
    found = Diagnosis(verdict, (), dict.fromkeys(SCALES, 0.0), 0.0, {}, 1.0, familiar, "oracle", 0.0)
    assert said in page._found(found)[page.verdict]


def test_a_fault_of_our_own_is_a_sentence_too(desk, photo, monkeypatch):
    page = Page(desk)
    monkeypatch.setattr(type(desk.session("a")), "restore", lambda *_: 1 / 0)
    answers = page.run([str(photo())], "small", "", True, "torch", SimpleNamespace(session_hash="a"))
    next(answers)
    assert page.words["status_fault"] in next(answers)[page.status]
    with pytest.raises(ZeroDivisionError):
        next(answers)


def test_a_full_disk_is_a_sentence_whatever_is_asked(desk, photo, monkeypatch):
    page, browser, file = Page(desk), SimpleNamespace(session_hash="a"), [str(photo())]
    list(page.run(file, "small", "", False, "torch", browser))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkdtemp", full)
    monkeypatch.setattr("pathlib.Path.mkdir", full)
    other = SimpleNamespace(session_hash="b")
    for answer in (
        page.look(file, browser),
        page.show(0, browser),
        page.stop(browser),
        page.look(file, other),
        list(page.run(file, "small", "", False, "torch", other))[-1],
        page.stop(other),
    ):
        assert "No space left on device. Free some" in answer[page.status]


def test_the_examples_outlive_who_looked_at_them(desk):
    page = Page(desk)
    shown = {str(file) for file in desk.folder.rglob("*.jpg")}
    assert len(shown) == len(EXAMPLES) and all(file in page.desk.kept for file in shown)


def test_every_sentence_is_there_and_used():
    words = read_sentences()
    used = "".join((HERE / name).read_text() for name in ("page.py", "viewer.html", "page.js"))
    patterns = (r"words\[\"([a-z_]+)\"\]", r"words\.([a-z_]+)", r"_(?:say|share)\(\s*\"([a-z_]+)\"")
    assert not {name for pattern in patterns for name in re.findall(pattern, used)} - set(words)
    assert not {name for name in words if name not in used and not name.startswith(("kind_", "example_"))}
