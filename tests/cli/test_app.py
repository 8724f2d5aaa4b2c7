"""The command: what it refuses, and a real process that stops without leaving anything behind."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from pellucid.cli._shared import TOKEN_VARIABLE
from pellucid.cli.app import app
from pellucid.errors import InputError


def start(tmp_path, *options: str, **environment: str) -> subprocess.Popen[str]:
    (tmp_path / "tmp").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "pellucid", "app", *options],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("options", "environment", "told"),
    [
        (["--host", "0.0.0.0"], {}, "no token is set"),
        (["--host", "0.0.0.0"], {TOKEN_VARIABLE: "short"}, "fewer than 16"),
        (["--max-bytes", "many"], {}, "is no size"),
        (["--model", "nonsense"], {}, "There are no weights called 'nonsense'"),
    ],
)
def test_what_is_refused(options, environment, told, tmp_path):
    process = start(tmp_path, "--port", "0", *options, **environment)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2 and told in stderr and "Traceback" not in stderr
    assert not list((tmp_path / "tmp").glob("pellucid-app-*"))


def test_who_may_come_in_is_as_the_options_say(monkeypatch):
    asked = []

    def listen(access):
        asked.append(access)
        raise InputError("That is enough.")

    monkeypatch.setattr("pellucid.access.listen", listen)
    with pytest.raises(InputError, match="enough"):
        app(allow_origin=["https://photos.example"], allow_host=["Photos.example"])
    assert asked[0].origins == ("https://photos.example",) and "photos.example" in asked[0].allowed_hosts


def test_a_stop_leaves_nothing_behind(tmp_path):
    process = start(tmp_path, "--port", "0", "--device", "cpu", "--precision", "float32")
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    assert "daair_s.5task on cpu" in lines[0] and lines[1].startswith("http://127.0.0.1:")
    with httpx.Client(trust_env=False, timeout=60) as client:
        assert "pellucid" in client.get(lines[1].strip()).text
    assert list((tmp_path / "tmp").glob("pellucid-app-*"))
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in process.stderr.read()
    assert not list((tmp_path / "tmp").glob("pellucid-app-*"))
    process.stderr.close()
