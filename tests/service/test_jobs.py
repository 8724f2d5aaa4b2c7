import contextlib
import json
import sqlite3
import threading
import time
from datetime import datetime

import pytest

from pellucid.service.job_store import JobStore

PNG = {"Content-Type": "image/png"}


def ended(client, path, until):
    return until(lambda: (job := client.get(path).json())["finished"] and job)


def events(client, path) -> list[tuple[str, dict]]:
    with client.stream("GET", f"{path}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        found, name = [], ""
        for line in stream.iter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                found.append((name, json.loads(value)))
        return found


def test_a_job_gives_what_a_request_gives(client, picture, until):
    data = picture()
    reply = client.post("/v1/jobs?format=webp&strength=0.5", content=data, headers=PNG)
    assert reply.status_code == 202, reply.text
    path = reply.headers["location"]
    assert reply.json()["links"]["self"] == path
    job = ended(client, path, until)
    assert (job["state"], job["format"], job["pixels"], job["attempts"]) == ("done", "webp", 2400, 1)
    assert job["report"]["strength"] == 0.5
    assert job["created"] <= job["started"] <= job["finished"] < job["expires"]
    kept = datetime.fromisoformat(job["expires"]) - datetime.fromisoformat(job["finished"])
    assert kept.total_seconds() == pytest.approx(24 * 3600, abs=0.002)  # from its end, not from its making
    result = client.get(f"{path}/result")
    assert result.headers["content-type"] == "image/webp"
    direct = client.post("/v1/restore?format=webp&strength=0.5", content=data, headers=PNG)
    assert result.content == direct.content
    as_json = client.get(f"{path}/result", headers={"Accept": "application/json"}).json()
    assert as_json["report"] == job["report"]
    assert client.get(f"{path}/result", headers={"Accept": "image/png"}).status_code == 406
    assert client.delete(path).status_code == 204
    for gone in (path, f"{path}/result", f"{path}/events"):
        assert client.get(gone).status_code == 404
    assert client.delete(path).status_code == 404


def test_a_job_that_fails_reports_why(client, running, picture, until):
    cut = picture()[:-200]  # its header is fine
    path = client.post("/v1/jobs", content=cut, headers=PNG).headers["location"]
    job = ended(client, path, until)
    assert (job["state"], job["problem"]["type"]) == ("failed", "urn:pellucid:problem:unreadable-image")
    result = client.get(f"{path}/result")
    assert (result.status_code, result.json()) == (422, job["problem"])
    assert result.headers["content-type"] == "application/problem+json"
    assert [name for name, _ in events(client, path)] == ["failed"]
    until(lambda: not running.service.runner._changes)  # nothing will change any more


@pytest.mark.parametrize(
    ("query", "body", "status"), [("", b"text", 422), ("", b"GIF89a", 415), ("?model=x", b"", 404)]
)
def test_what_can_be_known_is_refused_at_once(client, query, body, status):
    reply = client.post(f"/v1/jobs{query}", content=body, headers=PNG)
    assert (reply.status_code, reply.json()["status"]) == (status, status)


def test_idempotency_keys(client, picture):
    key = {"Idempotency-Key": "order-1"}
    first = client.post("/v1/jobs", content=picture(), headers=PNG | key)
    again = client.post("/v1/jobs", content=picture(), headers=PNG | key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    for query, data in (("", picture(seed=1)), ("?strength=0.5", picture())):
        other = client.post(f"/v1/jobs{query}", content=data, headers=PNG | key)
        assert (other.status_code, other.json()["type"]) == (422, "urn:pellucid:problem:reused-key")
    assert (
        client.post("/v1/jobs", content=picture(), headers=PNG | {"Idempotency-Key": ""}).status_code == 400
    )


def test_one_key_from_many_at_once_is_one_job(running, picture):
    names = []

    def ask() -> None:
        with running.client() as own:
            headers = PNG | {"Idempotency-Key": "at-once"}
            names.append(own.post("/v1/jobs", content=picture(), headers=headers).json()["id"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(names), len(set(names))) == (8, 1)


def test_unknown_jobs(client):
    for call in (client.get, client.delete):
        reply = call("/v1/jobs/nothing")
        assert (reply.status_code, reply.json()["type"]) == (404, "urn:pellucid:problem:unknown-job")


def test_following_canceling_and_limits(serve, picture, until):
    gate = threading.Event()
    with serve(gate=gate, max_jobs=2) as one, one.client() as client:
        first, second = (
            client.post("/v1/jobs?guard=false", content=picture(seed=i), headers=PNG).headers["location"]
            for i in range(2)
        )
        full = client.post("/v1/jobs", content=picture(), headers=PNG)
        assert (full.status_code, full.headers["retry-after"]) == (429, "30")
        until(lambda: client.get(first).json()["state"] == "running")
        early = client.get(f"{first}/result")
        assert (early.status_code, early.json()["type"]) == (409, "urn:pellucid:problem:unfinished-job")
        heard = []
        with one.client() as listening:
            follower = threading.Thread(target=lambda: heard.extend(events(listening, second)))
            follower.start()
            until(lambda: one.service.streams.taken == 1)
            assert client.delete(first).status_code == 204  # running
            until(lambda: client.get(second).json()["state"] == "running")
            assert client.get(first).json()["state"] == "canceled"
            gone = client.get(f"{first}/result")
            assert (gone.status_code, gone.json()["type"]) == (410, "urn:pellucid:problem:canceled-job")
            gate.set()
            follower.join(30)
        names = [name for name, _ in heard]
        assert (names[0], names[-1]) == ("queued", "done")
        assert "running" in names
        assert any(job["progress"] == {"done": 1, "tiles": 1} for _, job in heard) or len(names) >= 3
        gate.clear()
        third = client.post("/v1/jobs", content=picture(seed=3), headers=PNG).headers["location"]
        fourth = client.post("/v1/jobs", content=picture(seed=4), headers=PNG).headers["location"]
        assert client.delete(fourth).status_code == 204  # queued
        assert client.get(fourth).json()["state"] == "canceled"
        gate.set()
        assert ended(client, third, until)["state"] == "done"
        assert 'pellucid_jobs{state="canceled"} 2.0' in client.get("/metrics").text


def test_a_job_has_its_time(serve, picture, until):
    with serve(gate=threading.Event(), job_seconds=0.2) as one, one.client() as client:
        path = client.post("/v1/jobs", content=picture(), headers=PNG).headers["location"]
        job = ended(client, path, until)
        assert (job["state"], job["problem"]["type"]) == ("failed", "urn:pellucid:problem:time-limit")


def test_jobs_expire(serve, picture, until, tmp_path):
    with serve(keep_seconds=0.3, data=tmp_path / "jobs") as one, one.client() as client:
        path = client.post("/v1/jobs", content=picture(), headers=PNG).headers["location"]
        until(lambda: client.get(path).status_code == 404)
    left = [file for part in ("inputs", "results") for file in (tmp_path / "jobs" / part).iterdir()]
    assert left == []


def test_expiry_outlives_a_full_disk(serve, picture, until, monkeypatch):
    with serve(keep_seconds=0.3) as one, one.client() as client:
        store, failures = one.service.runner._store, []
        expire = store.expire

        def full_once(seconds):
            if not failures:
                failures.append(sqlite3.OperationalError("database or disk is full"))
                raise failures[0]
            return expire(seconds)

        monkeypatch.setattr(store, "expire", full_once)
        path = client.post("/v1/jobs", content=picture(), headers=PNG).headers["location"]
        until(lambda: client.get(path).status_code == 404)
        assert failures


def test_a_stop_interrupts_a_job_and_the_next_start_does_it(serve, picture, until, tmp_path):
    gate, folder = threading.Event(), tmp_path / "jobs"
    with serve(gate=gate, data=folder, drain_seconds=0.2) as one, one.client() as client:
        path = client.post("/v1/jobs", content=picture(), headers=PNG).headers["location"]
        until(lambda: client.get(path).json()["state"] == "running")
        start = time.monotonic()
        one.server.handle_exit(15, None)
        until(lambda: not one.service.ready, 10)
        assert time.monotonic() - start < 10
    with serve(data=folder) as one, one.client() as client:
        job = ended(client, path, until)
        assert (job["state"], job["attempts"]) == ("done", 1)


def test_a_stop_waits_for_the_running_job(serve, picture, until, tmp_path):
    gate, folder = threading.Event(), tmp_path / "jobs"
    with serve(gate=gate, data=folder, drain_seconds=20) as one, one.client() as client:
        path = client.post("/v1/jobs", content=picture(), headers=PNG).headers["location"]
        until(lambda: client.get(path).json()["state"] == "running")
        one.server.handle_exit(15, None)
        until(lambda: not one.service.ready)
        time.sleep(0.3)
        gate.set()
    with contextlib.closing(JobStore(folder, 1)) as store:
        assert store.counts() == {"queued": 0, "running": 0, "done": 1, "failed": 0, "canceled": 0}


def test_a_stop_waits_for_what_is_under_way(serve, picture, until):
    gate, replies = threading.Event(), []
    with serve(gate=gate, drain_seconds=20) as one:

        def ask() -> None:
            with one.client() as own:
                replies.append(own.post("/v1/restore", content=picture(), headers=PNG))

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: one.service.places.taken == 1)
        one.server.handle_exit(15, None)
        time.sleep(0.3)
        gate.set()
        thread.join(30)
        assert [reply.status_code for reply in replies] == [200]
