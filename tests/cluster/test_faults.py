"""Clusters of several nodes on this machine, whose processes are killed at work, and an S3 server."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

Actors = Callable[[], list[int]]
pytestmark = pytest.mark.slow
PICTURES, SIZE = 60, (160, 192)


@pytest.fixture
def cluster() -> Iterator:
    """Three nodes of one core each."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    found = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        for _ in range(2):
            found.add_node(**node)
        yield found
    finally:
        found.shutdown()


@pytest.fixture
def actors(processes) -> Actors:
    """Processes with a network that this one has started."""
    return lambda: processes("MapWorker")


@pytest.fixture
def many(tmp_path, save) -> Path:
    """Sixty pictures, a tenth of them broken in three ways."""
    for number in range(PICTURES):
        path = save(
            tmp_path / "in" / f"{number % 4}" / f"{number}.{('png', 'jpg')[number % 2]}", number, SIZE
        )
        if number % 10 == 3:
            data = path.read_bytes()
            path.write_bytes((b"", data[: len(data) // 3], b"no picture" * 99)[number % 3])
    return tmp_path / "in"


@pytest.fixture
def alone(many, run, options, tmp_path) -> dict[str, bytes]:
    """What a single machine makes of them."""
    assert run("restore", many, "-o", tmp_path / "alone", *options).code == 1
    return pictures(tmp_path / "alone")


def pictures(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if "pellucid/" not in name}


def check_once(out: Path, alone: dict[str, bytes], many: Path) -> None:
    """Every picture is once in the output or in the failures, with the bytes of a single machine."""
    assert pictures(out) == alone
    rows = pq.read_table(out / "_pellucid" / "report").to_pylist()
    last = {row["name"]: row["state"] for row in sorted(rows, key=lambda row: row["finished"])}
    assert {name for name, state in last.items() if state == "restored"} == set(alone)
    assert Counter(last.values()) == {"restored": PICTURES - 6, "failed": 6}
    assert set(last) == {str(path.relative_to(many)) for path in many.rglob("*.*")}
    assert not list((out / "_pellucid" / "parts").glob("*"))
    assert not list((out / "_pellucid" / "runs").glob("*"))
    assert not list(out.rglob("*.tmp"))


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def count(out: Path) -> int:
    return len(list(out.glob("[0-9]/*.*g")))


def test_an_actor_and_a_node_are_killed(cluster, many, alone, start, options, tmp_path, actors):
    out = tmp_path / "out"
    process = start("restore", many, "-o", out, "--ray", cluster.address, *options)
    wait_for(lambda: count(out) >= 8, process)
    os.kill(actors()[0], signal.SIGKILL)
    wait_for(lambda: count(out) >= 20, process)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, "54 restored, 6 failed" in err) == (1, True), err
    check_once(out, alone, many)


def test_the_driver_is_killed_twice(cluster, many, alone, start, run, options, tmp_path, actors):
    out = tmp_path / "out"
    command = ("restore", many, "-o", out, "--ray", cluster.address, "--json", *options)
    for least in (10, 25):
        process = start(*command)
        wait_for(lambda least=least: count(out) >= least, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_until_gone(actors)
    known = list((out / "_pellucid").rglob("*.parquet"))
    assert known
    kept = {row["name"] for path in known for row in pq.read_table(path).to_pylist() if row["output_size"]}
    times = {name: (out / name).stat().st_mtime_ns for name in kept}
    last = run(*command)
    assert last.code == 1, last.err
    states = Counter(row["state"] for row in last.rows)
    assert (sum(states.values()), states["failed"], states["done"]) == (PICTURES, 6, len(kept)), last.err
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == times
    check_once(out, alone, many)


def wait_until_gone(actors: Actors) -> None:
    """Ray ends the actors of a killed driver by itself."""
    end = time.monotonic() + 60
    while actors():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_s3_server(many, alone, run, start, options, tmp_path, s3, actors):
    import fsspec

    files = fsspec.filesystem("s3", use_listings_cache=False)
    files.mkdir("bucket")
    files.put(str(many), "bucket/in", recursive=True)
    command = ("restore", "s3://bucket/in", "-o", "s3://bucket/out", "--ray", "local", *options)
    process = start(*command)
    wait_for(lambda: len(files.glob("bucket/out/[0-9]/*")) >= 10, process)
    os.kill(actors()[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, "54 restored, 6 failed" in err) == (1, True), err
    files.get("bucket/out", str(tmp_path / "out"), recursive=True)
    for folder in ("parts", "runs"):
        (tmp_path / "out" / "_pellucid" / folder).mkdir(exist_ok=True)
    check_once(tmp_path / "out", alone, many)

    files.rm("bucket/out/0/0.png")
    files.pipe_file("bucket/out/1/1.jpg", b"edited")
    again = run(*command, "--json")
    counts = Counter(row["state"] for row in again.rows)
    assert counts == {"restored": 1, "taken": 1, "failed": 6, "done": PICTURES - 8}, again.err
    assert files.cat_file("bucket/out/0/0.png") == alone["0/0.png"]
    assert files.cat_file("bucket/out/1/1.jpg") == b"edited"


@pytest.fixture
def s3(monkeypatch) -> Iterator[None]:
    """A server of this test's own, on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    server.stop()


POISON = """
import os, sys
from pathlib import Path
from pellucid.checkpoint import hash_file
from pellucid.cluster import run, worker
from pellucid.cluster.inputs import Inputs

class Poisoned(run._Actor):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        restore = self._worker.restore
        def poisoned(paths, names):
            if any("0.png" in name for name in names):
                os._exit(1)
            return restore(paths, names)
        self._worker.restore = poisoned

folder, output, weights = sys.argv[1:]
run._Actor = Poisoned
task = worker.Task(output, "run", {}, "s", weights, hash_file(Path(weights)), "cpu", "float32", guard=False)
with run.connected("local"):
    for outcome in run.restore(Inputs([folder], output), task, None, run.ActorSize()):
        print(outcome.name, outcome.state)
"""


def test_a_picture_that_ends_its_process_takes_no_others_along(tmp_path, save, small_weights):
    for number in range(20):
        save(tmp_path / "in" / f"{number + 1}.png", number)
    arguments = (tmp_path / "in", tmp_path / "out", small_weights)
    command = [sys.executable, "-c", POISON, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=400, env=os.environ, check=False)
    states = dict(line.split(" ", 1) for line in ended.stdout.splitlines())
    lost = {"10.png": "broken off", "20.png": "broken off"}
    assert states == {f"{n}.png": "restored" for n in range(1, 21)} | lost, ended.stderr
    rows = pq.read_table(tmp_path / "out" / "_pellucid" / "report").to_pylist()
    assert sorted(row["name"] for row in rows) == sorted(states)
    assert "lost 3 times" in next(row["error"] for row in rows if row["name"] == "10.png")
