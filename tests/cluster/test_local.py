"""A Ray of this machine's own, through the command line."""

import pyarrow.parquet as pq


def written(folder) -> dict[str, bytes]:
    """The pictures below an output folder."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "pellucid" not in name}


def test_the_bytes_of_the_single_machine_and_a_rerun_that_does_nothing(run, folder, options, tmp_path):
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    assert run("restore", folder, "-o", alone, *options).code == 1  # one is broken
    command = ("restore", folder, "-o", cluster, "--ray", "local", "--json", *options)
    first = run(*command)
    assert (first.code, "7 restored, 1 failed" in first.err) == (1, True), first.err
    assert first.states["broken.png"] == "failed"
    assert written(cluster) == written(alone)
    assert len(written(alone)) == 7

    report = pq.read_table(cluster / "_pellucid" / "report").to_pylist()
    assert sorted(row["name"] for row in report) == sorted(
        row["input"].split("/in/")[1] for row in first.rows
    )
    restored = [row for row in report if row["state"] == "restored"]
    assert len(restored) == 7
    assert all(len(row["sha256"]) == 64 and dict(row["seconds"])["restore"] > 0 for row in restored)
    (broken,) = (row for row in report if row["state"] == "failed")
    assert (broken["error_type"], "not a picture" in broken["error"]) == ("UnreadableImageError", True)

    times = {path: path.stat().st_mtime_ns for path in cluster.rglob("*.*")}
    again = run(*command)
    assert "0 restored, 1 failed (1 before; --retry-failed tries them again), 7 done before" in again.err
    assert {path: path.stat().st_mtime_ns for path in cluster.rglob("*.*")} == times
