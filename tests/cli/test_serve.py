"""The command: what it refuses, and real processes that are stopped and killed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from pellucid.arrays import image_from_array
from pellucid.cli._shared import TOKEN_VARIABLE
from pellucid.image_io import encode_image

PNG = {"Content-Type": "image/png"}
TOKEN = "a-token-of-some-length"


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return encode_image(image_from_array(pixels), ".png")


class Process:
    """`pellucid serve` as a process of its own."""

    def __init__(self, weights: Path, folder: Path, *options: str, environment=None) -> None:
        self.log = folder / "log"
        command = [sys.executable, "-m", "pellucid", "serve", "--port", "0", "--model", str(weights)]
        command += ["--device", "cpu", "--precision", "float32", "--workers", "1", *options]
        command += ["--data", str(folder / "jobs")]
        with self.log.open("w") as log:
            alone = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
            self.process = subprocess.Popen(command, stderr=log, env=alone)
        self.url = self._wait_for_address()

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.log.read_text().splitlines():
                if '"listening"' in line:
                    return json.loads(line)["address"]
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(60)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "--token-file"),
        (["--host", "no-such-host.invalid"], "not known"),
        (["--token-file", "missing"], "file of tokens"),
        (["--token-file", ""], "An empty path"),
        (["--max-bytes", "lots"], "2GB"),
        (["--port", "70000"], "65535"),
        (["--timeout", "0"], "timeout"),
    ],
)
def test_what_is_refused(run, options, words):
    result = run("serve", "--port", "0", *options)
    assert (result.code, result.out) == (2, "")
    assert words in result.err


def test_a_short_token_is_refused_and_not_printed(run, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "short-secret")
    result = run("serve", "--port", "0")
    assert result.code == 2
    assert "16" in result.err and "short-secret" not in result.err
    assert TOKEN_VARIABLE not in os.environ


def test_a_missing_package_is_one_sentence(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve", "--port", "0")
    assert (result.code, "pip install 'pellucid[serve]'" in result.err) == (2, True)


def test_a_token_from_the_environment_and_a_stop_that_drains(small_weights, tmp_path):
    service = Process(small_weights, tmp_path, environment={TOKEN_VARIABLE: TOKEN})
    try:
        with service.client() as client:
            assert client.get("/v1/models").status_code == 401
        replies: list[httpx.Response] = []

        def ask() -> None:
            with service.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
                size = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
                data = encode_image(image_from_array(size), ".png")
                replies.append(client.post("/v1/restore", content=data, headers=PNG))

        thread = threading.Thread(target=ask)
        thread.start()
        with service.client() as client:
            while client.get("/readyz").json()["taken"] == 0 and thread.is_alive():
                time.sleep(0.01)
        assert service.stop() == -signal.SIGTERM
        thread.join(60)
        assert [reply.status_code for reply in replies] == [200]
    finally:
        service.process.kill()
    log = service.log.read_text()
    assert TOKEN not in log and "Traceback" not in log
    assert {"listening", "stopping", "request"} <= {
        json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")
    }


def test_no_job_is_lost_through_kills(small_weights, tmp_path):
    """Killed at random moments under load; every accepted job ends in a result or a reported failure."""
    accepted: dict[str, int] = {}
    moments = random.Random(0)
    for round_number in range(2):
        service = Process(small_weights, tmp_path)
        try:
            with service.client() as client:
                for i in range(6):
                    key = f"{round_number}-{i}"
                    reply = client.post(
                        "/v1/jobs", content=picture(i), headers=PNG | {"Idempotency-Key": key}
                    )
                    accepted[reply.headers["location"]] = i
                time.sleep(moments.uniform(0, 0.3))
        finally:
            service.stop(signal.SIGKILL)
    service = Process(small_weights, tmp_path)
    try:
        with service.client() as client:
            expected = {
                i: client.post("/v1/restore", content=picture(i), headers=PNG).content for i in range(6)
            }
            assert len(accepted) == 12
            for path, i in accepted.items():
                deadline = time.monotonic() + 60
                while (job := client.get(path).json())["finished"] is None:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                assert job["state"] in ("done", "failed")
                if job["state"] == "done":
                    assert client.get(f"{path}/result").content == expected[i]
            assert service.stop() == -signal.SIGTERM
    finally:
        service.process.kill()
