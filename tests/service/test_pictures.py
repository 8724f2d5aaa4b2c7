import base64
import json
import struct
import sys
import tempfile
import threading
import time
import zlib
from email import message_from_bytes
from email.policy import HTTP

import httpx
import numpy as np
import pytest

from pellucid.__main__ import main
from pellucid.diagnosis import Recognizer
from pellucid.image_io import decode_image

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def restored_by_command(small_weights, tmp_path, monkeypatch):
    """`pellucid restore` on the bytes of a file, from suffix to suffix."""

    def restore(data: bytes, suffix: str, target: str, *options: str) -> bytes:
        source, result = tmp_path / f"a{suffix}", tmp_path / f"b{target}"
        source.write_bytes(data)
        arguments = [str(source), "-o", str(result), "--model", str(small_weights), "--overwrite"]
        arguments += ["--device", "cpu", "--precision", "float32", "--quiet", *options]
        monkeypatch.setattr(sys, "argv", ["pellucid", "restore", *arguments])
        main_without_exit()
        return result.read_bytes()

    return restore


def main_without_exit() -> None:
    try:
        main()
    except SystemExit as end:
        assert not end.code


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype", "target", "format_name"),
    [
        (".png", 3, np.uint8, ".png", None),
        (".png", 4, np.uint16, ".png", None),
        (".jpg", 3, np.uint8, ".jpg", None),
        (".tif", 4, np.uint16, ".tif", None),
        (".webp", 3, np.uint8, ".webp", None),
        (".avif", 3, np.uint8, ".avif", None),
        (".jpg", 3, np.uint8, ".png", "png"),
        (".tif", 3, np.uint16, ".jpg", "jpeg"),
    ],
)
def test_the_bytes_are_those_of_the_command(
    client, restored_by_command, suffix, channels, dtype, target, format_name, picture
):
    data = picture(suffix, channels=channels, dtype=dtype)
    query = {"format": format_name} if format_name else {}
    reply = client.post("/v1/restore", params=query, content=data, headers=PNG)
    assert reply.status_code == 200, reply.text
    kind = {".jpg": "jpeg", ".tif": "tiff"}.get(target, target[1:])
    assert reply.headers["content-type"] == f"image/{kind}"
    assert reply.content == restored_by_command(data, suffix, target)
    assert reply.content != data


def test_options_do_what_the_commands_do(client, restored_by_command, picture):
    data = picture()
    half = client.post("/v1/restore?strength=0.5&guard=false", content=data, headers=PNG)
    assert half.content == restored_by_command(data, ".png", ".png", "--strength", "0.5", "--no-guard")
    kinds = client.post("/v1/restore?strength=haze=1,noise=0.3&guard=false", content=data, headers=PNG)
    options = ("--strength", "haze=1,noise=0.3", "--no-guard")
    assert kinds.content == restored_by_command(data, ".png", ".png", *options)
    assert kinds.content != half.content
    none = client.post("/v1/restore?strength=0", content=data, headers=PNG)
    assert none.content == data


def test_a_form_may_hold_the_options(client, picture):
    data = picture()
    files = {"image": ("a.png", data, "image/png")}
    formed = client.post("/v1/restore", files=files, data={"strength": "0.5", "format": "webp"})
    raw = client.post("/v1/restore?strength=0.5&format=webp", content=data, headers=PNG)
    assert formed.status_code == 200, formed.text
    assert formed.content == raw.content
    wrong = client.post("/v1/restore", files=files, data={"strength": "2", "colour": "red"})
    assert wrong.status_code == 422
    sentence = "The strength is 2.0; expected a number from 0 (the input) to 1 (the network's result)."
    unknown = "Extra inputs are not permitted."
    told = wrong.json()
    assert told["errors"] == [
        {"option": "strength", "detail": sentence},
        {"option": "colour", "detail": unknown},
    ]
    assert told["detail"] == f"strength: {sentence} colour: {unknown}"
    queried = client.post("/v1/restore?strength=2", content=data, headers=PNG).json()
    assert queried["detail"] == f"strength: {sentence}"


def test_accept_chooses_report_and_image(client, picture):
    data = picture()
    image = client.post("/v1/restore", content=data, headers=PNG).content
    as_json = client.post("/v1/restore", content=data, headers=PNG | {"Accept": "application/json"}).json()
    assert base64.b64decode(as_json["image"]["base64"]) == image
    assert as_json["image"]["media_type"] == "image/png"
    assert (as_json["report"]["model"], as_json["report"]["tiles"]) == ("small", 1)
    assert {"wait", "read", "restore", "write"} <= set(as_json["report"]["seconds"])
    mixed = client.post("/v1/restore", content=data, headers=PNG | {"Accept": "multipart/mixed"})
    head = f"Content-Type: {mixed.headers['content-type']}\r\n\r\n".encode()
    report, picture_part = message_from_bytes(head + mixed.content, policy=HTTP).iter_parts()
    assert json.loads(report.get_content())["weights_sha256"] == as_json["report"]["weights_sha256"]
    assert picture_part.get_content() == image
    webp = client.post("/v1/restore", content=data, headers=PNG | {"Accept": "image/webp"})
    assert webp.headers["content-type"] == "image/webp"


def test_diagnose(client, picture):
    data = picture(size=(64, 64))
    found = client.post("/v1/diagnose", content=data, headers=PNG).json()
    expected = Recognizer.load()(decode_image(data)).to_dict()
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("path", ["/v1/restore", "/v1/diagnose"])
@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 422, "unreadable-image"),
        (b"text", 422, "unreadable-image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(300), 422, "unreadable-image"),
        (b"GIF89a" + bytes(50), 415, "unsupported-image"),
        (bomb(60_000, 60_000), 413, "image-too-large"),
        (bomb(2000, 1000), 413, "image-too-large"),
        (bytes(2_000_001), 413, "request-too-large"),
    ],
)
def test_pictures_that_are_refused(client, path, body, status, problem):
    reply = client.post(path, content=body, headers=PNG)
    told = reply.json()
    assert (reply.status_code, told["status"]) == (status, status)
    assert reply.headers["content-type"] == "application/problem+json"
    assert told["type"] == f"urn:pellucid:problem:{problem}"
    assert told["request_id"] == reply.headers["x-request-id"]
    assert told["detail"].endswith(".")
    assert "--" not in told["detail"]


@pytest.mark.parametrize(
    ("query", "headers", "status", "words"),
    [
        ("?strength=2", PNG, 422, "strength"),
        ("?strength=nan", PNG, 422, "strength"),
        ("?strength=fog=1", PNG, 422, "strength"),
        ("?strength=noise=1,rain=0.5", PNG, 422, "strength"),
        ("?strenght=1", PNG, 422, "strenght"),
        ("?format=gif", PNG, 422, "format"),
        ("?model=smal", PNG, 404, "Did you mean small?"),
        ("?prompt=rain", PNG, 422, "blind"),
        ("", {}, 415, "not given"),
        ("", {"Content-Type": "text/plain"}, 415, "text/plain"),
        ("", PNG | {"Content-Encoding": "gzip"}, 415, "compressed"),
        ("", PNG | {"Accept": "text/html"}, 406, "text/html"),
        ("?format=png", PNG | {"Accept": "image/webp"}, 406, "image/webp"),
        ("", {"Content-Type": "multipart/form-data"}, 400, "boundary"),
        ("", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "form"),
    ],
)
def test_requests_that_are_refused(client, query, headers, status, words, picture):
    reply = client.post(f"/v1/restore{query}", content=picture(), headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert words in reply.json()["detail"]


def test_a_form_needs_no_room_on_the_disk(client, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    reply = client.post("/v1/restore", files={"image": ("a.png", bytes(1_500_000))})
    assert (reply.status_code, "not a picture" in reply.json()["detail"]) == (422, True), reply.text


def test_a_form_without_a_file(client, picture):
    reply = client.post("/v1/restore", files={"picture": ("a.png", picture())})
    assert (reply.status_code, "'image'" in reply.json()["detail"]) == (400, True)


def test_unknown_paths_and_methods(client):
    assert client.get("/v1/nothing").status_code == 404
    reply = client.get("/v1/restore")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.headers["content-type"] == "application/problem+json"
    assert client.put("/v1/jobs/x").headers["allow"] == "DELETE, GET"


def test_a_body_without_a_length_is_counted(client, running, picture):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 50_000_000:
            sent += 100_000
            yield bytes(100_000)

    reply = client.post("/v1/restore", content=endless(), headers=PNG)
    assert reply.status_code == 413
    assert client.post("/v1/restore", content=picture(), headers=PNG).status_code == 200


def test_a_slow_upload_is_ended(serve, picture, until):
    def slow():
        yield picture()[:100]
        time.sleep(1)
        yield picture()[100:]

    with serve(upload_seconds=0.2) as one, one.client() as client:
        reply = client.post("/v1/restore", content=slow(), headers=PNG)
        assert (reply.status_code, reply.json()["type"]) == (408, "urn:pellucid:problem:slow-upload")
        until(lambda: one.service.pictures.taken == 0)


def test_overload_and_time_and_clients_that_go(serve, picture, until):
    gate = threading.Event()
    with serve(gate=gate, queue=2, request_seconds=20) as one, one.client() as client:
        replies: list[httpx.Response] = []

        def ask() -> None:
            with one.client() as own:
                replies.append(own.post("/v1/restore?guard=false", content=picture(), headers=PNG))

        first = threading.Thread(target=ask)
        first.start()
        with one.client() as leaving, pytest.raises(httpx.ReadTimeout):
            leaving.post("/v1/restore", content=picture(), headers=PNG, timeout=0.5)
        until(lambda: one.service.places.taken == 1)  # who went away holds no place
        second = threading.Thread(target=ask)
        second.start()
        until(lambda: one.service.places.taken == 2)
        start = time.perf_counter()
        refused = client.post("/v1/restore", content=picture(), headers=PNG)
        assert time.perf_counter() - start < 1  # benchmarks/service.py measures it
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:pellucid:problem:overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        gate.set()
        for thread in (first, second):
            thread.join(30)
        assert [reply.status_code for reply in replies] == [200, 200]
        assert 'pellucid_refused_total{full="queue"} 1.0' in client.get("/metrics").text
        assert one.service.places.taken == 0
        gate.clear()
        object.__setattr__(one.service.settings, "request_seconds", 0.3)
        late = client.post("/v1/restore", content=picture(), headers=PNG)
        assert (late.status_code, late.json()["type"]) == (504, "urn:pellucid:problem:time-limit")
        assert one.service.places.taken == 0
        gate.set()
        object.__setattr__(one.service.settings, "request_seconds", 20)
        assert client.post("/v1/restore", content=picture(), headers=PNG).status_code == 200


def test_replies_are_not_mixed_up(running, client, picture):
    pictures = [picture(seed=i, size=(10 + i, 20)) for i in range(6)]
    expected = [client.post("/v1/restore", content=data, headers=PNG).content for data in pictures]
    got: dict[int, bytes] = {}

    def ask(i: int) -> None:
        with running.client() as own:
            got[i] = own.post("/v1/restore", content=pictures[i], headers=PNG).content

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got[i] for i in range(6)] == expected
