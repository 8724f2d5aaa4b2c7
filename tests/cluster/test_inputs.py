"""Which pictures there are, and what their outputs are called; and what the report knows."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pellucid.cluster import storage
from pellucid.cluster.inputs import Inputs
from pellucid.cluster.report import SCHEMA, Known, Records, Row, now
from pellucid.errors import InputError, JournalError


def manifest(path, rows, column="path") -> str:
    pq.write_table(pa.table({column: rows}), path)
    return str(path)


def test_a_folder_keeps_its_tree_without_hidden_files_links_and_the_output(folder):
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    (folder / "out" / "deep").mkdir(parents=True)
    (folder / "out" / "deep" / "old.png").write_bytes(b"")
    inputs = Inputs([str(folder)], f"{folder}/out", exclude=["*.jpg"])
    assert inputs.check() is None
    names = ["a.png", "broken.png", "e.webp", "f.png", "sub/c.tif", "sub/d.png"]
    assert list(inputs.pairs()) == [(f"{folder}/{name}", name) for name in names]
    assert inputs.skipped == 3  # the text, two JPEG


def test_several_go_below_their_own_names(folder, tmp_path):
    inputs = Inputs([str(folder / "sub"), str(folder / "a.png")], str(tmp_path / "out"))
    assert inputs.check() == 3
    assert [name for _, name in inputs.pairs()] == ["sub/c.tif", "sub/d.png", "a.png"]
    with pytest.raises(InputError, match=r"a\.png and .*a\.png would both be written to"):
        Inputs([str(folder / "a.png"), f"{folder}/sub/../a.png"], str(tmp_path / "out")).check()


def test_no_output_is_another_input(tmp_path, save):
    """As one machine has it: `in/in/a.png` would be written over `in/a.png`."""
    root = tmp_path / "root"
    save(root / "in" / "a.png")
    assert Inputs([str(root / "in")], str(root)).check() == 1
    save(root / "in" / "in" / "a.png")
    (tmp_path / "link").symlink_to(root)
    for output in (root, root / "in" / "..", tmp_path / "link"):
        with pytest.raises(InputError, match=r"in/in/a\.png would be written to .*in/a\.png, which is to be"):
            Inputs([str(root / "in")], str(output)).check()
    assert Inputs([str(root / "in")], str(root), exclude=["in/*"]).check() == 1
    with pytest.raises(InputError, match="which is to be restored too"):
        Inputs([str(root / "in"), f"{root}/in/in/a.png"], str(root / "in" / "in" / "..")).check()


def test_a_manifest_names_outputs_by_its_paths(tmp_path):
    url = manifest(tmp_path / "all.parquet", ["x/a.png", "s3://bucket/b.png", "/data/c.png"])
    inputs = Inputs([url], str(tmp_path / "out"))
    assert inputs.check() == 3
    assert list(inputs.pairs()) == [
        (f"{tmp_path}/x/a.png", "x/a.png"),
        ("s3://bucket/b.png", "bucket/b.png"),
        ("/data/c.png", "data/c.png"),
    ]


@pytest.mark.parametrize(
    ("rows", "column", "told"),
    [
        (["a.png", "b.png", "a.png"], "path", "would both be written"),
        (["../a.png"], "path", "without '..'"),
        ([None], "path", "has the path None"),
        ([1], "path", "has the path 1"),
        (["a.png"], "file", "column 'path'"),
    ],
)
def test_a_manifest_that_is_none_is_refused_before_the_start(tmp_path, rows, column, told):
    url = manifest(tmp_path / "all.parquet", rows, column)
    with pytest.raises(InputError, match=told):
        Inputs([url], str(tmp_path / "out")).check()


def test_hopeless_inputs_are_refused(tmp_path, folder):
    with pytest.raises(InputError, match="does not exist"):
        Inputs([str(tmp_path / "nothing")], str(tmp_path / "out")).check()
    with pytest.raises(InputError, match="written to itself"):
        list(Inputs([str(folder)], str(folder)).pairs())
    (tmp_path / "bad.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="can't be used as a manifest"):
        Inputs([str(tmp_path / "bad.parquet")], str(tmp_path / "out")).check()
    with pytest.raises(InputError, match="protocol"):
        Inputs(["nonsense://x"], str(tmp_path / "out")).check()


def test_a_name_that_is_not_utf8_is_refused_unless_left_out(tmp_path, save):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    urls, out = [str(tmp_path / "in")], str(tmp_path / "out")
    for several in (urls, [*urls, str(tmp_path / "in" / "a.png")]):
        with pytest.raises(InputError, match=r"in/caf\\udce9\.png is not UTF-8"):
            Inputs(several, out).check()
            list(Inputs(several, out).pairs())
    left = Inputs(urls, out, exclude=["caf*"])
    assert [name for _, name in left.pairs()] == ["a.png"]
    assert left.skipped == 1


def test_the_last_row_counts(tmp_path):
    rng = np.random.default_rng(0)
    rows = [Row("", f"{n}.png", "restored", "s", f"run{n}", now(), precision="bf16") for n in range(500)]
    rows += [Row("", f"{n}.png", "failed", "s", "later", now()) for n in range(0, 500, 2)]
    table = pa.Table.from_pylist([vars(rows[i]) for i in rng.permutation(len(rows))], schema=SCHEMA)
    known = Known(table.select(["name", "state", "settings", "run", "finished", "precision"]))
    assert len(known) == 500
    assert all(known.row("", f"{n}.png").run == ("later" if n % 2 == 0 else f"run{n}") for n in range(500))
    assert known.row("", "500.png") is None
    assert (known.precision("s"), known.precision("others")) == ("bf16", None)
    assert Known(table.slice(0, 0)).row("", "0.png") is None


def test_a_report_that_is_none_is_named(tmp_path):
    (tmp_path / "_pellucid" / "report").mkdir(parents=True)
    (tmp_path / "_pellucid" / "report" / "x.parquet").write_bytes(b"half a file")
    with pytest.raises(JournalError, match=r"x\.parquet can't be read"):
        Records(str(tmp_path)).known()


@pytest.fixture
def meanwhile(monkeypatch):
    """`meanwhile("listed", act)`: another run acts right after this one has asked its store that."""

    def arrange(name, act):
        ask, acts = getattr(storage, name), iter([act])

        def asked(url):
            told = ask(url)
            for one in acts:
                one()
            return told

        monkeypatch.setattr(storage, name, asked)

    return arrange


def test_what_another_run_joins_meanwhile_is_no_error(tmp_path, meanwhile):
    records, out = Records(str(tmp_path)), tmp_path / "_pellucid"

    def write_parts():
        for run in ("one", "other"):
            records.write_part(run, [run], [Row("", f"{run}.png", "restored", "s", run, now())])

    write_parts()
    meanwhile("listed", next((out / "parts").glob("one-*")).unlink)
    records.join_parts("half")
    assert [row["name"] for row in pq.read_table(out / "report").to_pylist()] == ["other.png"]
    write_parts()
    meanwhile("listed", lambda: records.join_parts("theirs"))
    records.join_parts("ours")
    write_parts()
    meanwhile("state", lambda: records.join_parts("later"))
    assert records.part("one", ["one"]) == []
    assert sorted(path.stem for path in (out / "report").iterdir()) == ["half", "later", "theirs"]
    assert not list((out / "parts").iterdir())


def test_a_run_that_ends_meanwhile_is_no_error(tmp_path, meanwhile):
    records = Records(str(tmp_path))
    for run, inputs in (("one", ["in"]), ("other", ["others"]), ("third", ["others"])):
        records.begin(run, inputs)
    meanwhile("listed", lambda: storage.remove(f"{tmp_path}/_pellucid/runs/other.json"))
    records.end("one", ["in"])
    assert [path.stem for path in (tmp_path / "_pellucid" / "runs").iterdir()] == ["third"]
