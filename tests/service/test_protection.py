import json
import logging
import socket

import pytest

from pellucid.access import Tokens
from pellucid.service.logs import JsonLines

TOKEN = "a-token-of-some-length"
SITE = "https://example.org"


@pytest.fixture(scope="module")
def guarded(serve):
    with serve(tokens=Tokens([TOKEN, "another-token-of-one"]), origins=(SITE,)) as one:
        yield one


def test_a_token_is_needed(guarded):
    with guarded.client() as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                reply = client.get(path, headers=headers)
                assert (reply.status_code, reply.headers["www-authenticate"][:6]) == (401, "Bearer")
                assert reply.json()["type"] == "urn:pellucid:problem:unauthorized"
        assert client.post("/v1/restore", content=b"x").status_code == 401
        for token in (TOKEN, "another-token-of-one"):
            assert client.get("/v1/models", headers={"Authorization": f"bearer {token}"}).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_origins(guarded):
    token = {"Authorization": f"Bearer {TOKEN}"}
    with guarded.client() as client:
        allowed = client.get("/v1/models", headers=token | {"Origin": SITE})
        assert allowed.headers["access-control-allow-origin"] == SITE
        preflight = {"Origin": SITE, "Access-Control-Request-Method": "POST"}
        reply = client.options("/v1/restore", headers=preflight)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (204, SITE)
        for origin in ("https://example.com", "null", f"{SITE}.example.com"):
            refused = client.options("/v1/restore", headers=preflight | {"Origin": origin})
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
            assert client.get("/v1/models", headers=token | {"Origin": origin}).status_code == 403


def test_without_a_token_only_loopback_names_are_answered(running):
    with running.client() as client:
        port = running.url.rsplit(":", 1)[1]
        for host, status in (
            ("localhost", 200),
            (f"127.0.0.1:{port}", 200),
            (f"[::1]:{port}", 200),
            ("example.org", 403),
            (f"rebound.example.org:{port}", 403),
        ):
            assert client.get("/v1/models", headers={"Host": host}).status_code == status, host
        assert client.get("/v1/models", headers={"Origin": running.url}).status_code == 200
        assert client.get("/v1/models", headers={"Origin": SITE}).status_code == 403


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/nothing"])
def test_every_reply_has_the_security_headers(client, path):
    reply = client.get(path)
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["cache-control"] == "no-store"
    assert "server" not in reply.headers
    assert "access-control-allow-origin" not in reply.headers


def test_request_ids_go_through_if_they_are_harmless(client):
    assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    for bad in ("a b", "x" * 65, 'a"b'):
        assert client.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"] != bad


def test_the_log_holds_requests_and_no_secrets(guarded, caplog, until):
    caplog.set_level(logging.INFO, logger="pellucid.service")
    with guarded.client() as client:
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "my-id"}
        client.post("/v1/restore?model=none", headers=headers | {"Content-Type": "image/png"})
    until(lambda: any(record.getMessage() == "request" for record in caplog.records))
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    line = next(one for one in lines if one["event"] == "request")
    assert (line["request_id"], line["path"], line["status"]) == ("my-id", "/v1/restore", 404)
    assert TOKEN not in json.dumps(lines)


def ask_and_read_nothing(one, request: bytes) -> socket.socket:
    """A connection whose reply has begun."""
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.connect(("127.0.0.1", int(one.url.rsplit(":", 1)[1])))
    head, _, body = request.partition(b"\r\n\r\n")
    lazy.sendall(head + b"\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert lazy.recv(12) == b"HTTP/1.1 200"
    return lazy


def test_who_does_not_read_holds_a_place_and_not_forever(serve, picture, until):
    large = picture(size=(1600, 1600))  # 7.7 MB: more than the system takes off the service's hands
    restore = b"POST /v1/restore?strength=0 HTTP/1.1\r\nContent-Type: image/png\r\n\r\n" + large
    with serve(concurrency=1, send_seconds=3) as one, one.client() as client:
        png = {"Content-Type": "image/png"}
        job = client.post("/v1/jobs?strength=0", content=large, headers=png).headers["location"]
        until(lambda: client.get(job).json()["state"] == "done")
        for request in (restore, f"GET {job}/result HTTP/1.1\r\n\r\n".encode()):
            with ask_and_read_nothing(one, request):
                for refused in (
                    client.get(f"{job}/result"),
                    client.post("/v1/restore", content=picture(), headers=png),
                ):
                    assert (refused.status_code, "concurrency" in refused.json()["detail"]) == (429, True)
                until(lambda: one.service.pictures.taken == 0)
        for how in ("image/png", "multipart/mixed"):
            assert large in client.get(f"{job}/result", headers={"Accept": how}).content


def test_a_fault_of_our_own_is_a_problem_without_details(running, monkeypatch):
    def fail(*_):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(running.service.engine, "check", fail)
    with running.client() as client:
        reply = client.post("/v1/restore", content=b"x", headers={"Content-Type": "image/png"})
    assert (reply.status_code, reply.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in reply.text
    assert reply.headers["x-content-type-options"] == "nosniff"
