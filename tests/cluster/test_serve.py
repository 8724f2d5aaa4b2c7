"""The service with its networks on Ray Serve: the same answers through the same door."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

TYPE = {"Content-Type": "application/octet-stream"}

pytestmark = pytest.mark.slow


@pytest.fixture
def url(small_weights, tmp_path):
    command = [sys.executable, "-m", "pellucid", "serve", "--port", "0", "--model", str(small_weights)]
    command += [
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--workers",
        "1",
        "--data",
        str(tmp_path / "jobs"),
    ]
    command += ["--ray", "local", "--actor", "cpu=0.5", "--replicas", "3"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log, env=os.environ)
    try:
        deadline, lines = time.monotonic() + 200, list[str]()
        while not lines:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            lines = [line for line in (tmp_path / "log").read_text().splitlines() if '"listening"' in line]
            time.sleep(0.1)
        yield json.loads(lines[0])["address"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == signal.SIGTERM, (tmp_path / "log").read_text()  # Ray's way to end
    finally:
        process.kill()
        process.wait()


def post(client: httpx.Client, path: Path) -> httpx.Response:
    return client.post("/v1/restore?guard=false", content=path.read_bytes())


def test_the_answers_are_those_of_one_machine(url, folder, options, run, tmp_path, processes):
    assert run("restore", folder, "-o", tmp_path / "alone", *options).code == 1
    names = ["a.png", "b.jpg", "f.png", "g.jpg", "e.webp", "sub/c.tif"]
    with httpx.Client(base_url=url, timeout=120, trust_env=False, headers=TYPE) as client:

        def ask(name: str) -> bytes:
            reply = post(client, folder / name)
            assert reply.status_code == 200, reply.text
            return reply.content

        with ThreadPoolExecutor(len(names)) as threads:
            restored = dict(zip(names, threads.map(ask, names), strict=True))
        assert restored == {name: (tmp_path / "alone" / name).read_bytes() for name in names}

        broken = client.post("/v1/restore", content=(folder / "broken.png").read_bytes())
        assert (broken.status_code, broken.headers["content-type"]) == (422, "application/problem+json")
        missing = client.post("/v1/restore?model=nonsense", content=(folder / "a.png").read_bytes())
        assert missing.status_code == 404
        told = client.post("/v1/diagnose", content=(folder / "a.png").read_bytes())
        assert "verdict" in told.json()

        job = client.post("/v1/jobs?guard=false", content=(folder / "a.png").read_bytes())
        assert job.status_code == 202, job.text
        end = time.monotonic() + 60
        while client.get(job.headers["location"]).json()["state"] not in ("done", "failed"):
            assert time.monotonic() < end
            time.sleep(0.1)
        result = client.get(f"{job.headers['location']}/result")
        assert result.content == restored["a.png"]

        counted = client.get("/metrics").text
        assert float(re.search(r"^pellucid_restored_pixels_total (\S+)", counted, re.M)[1]) > 0
        replicas = processes("ServeReplica")
        assert replicas
        for pid in replicas:
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 100
        while (reply := post(client, folder / "a.png")).status_code != 200:
            assert reply.status_code in (503, 504), reply.text
            assert time.monotonic() < end
        assert reply.content == restored["a.png"]
