"""What a run on a cluster refuses, in a sentence and before anything starts."""

import sys
from types import SimpleNamespace

import pytest

from pellucid.__main__ import main
from pellucid.cli._cluster import Loaded, Place, serve_on_cluster
from pellucid.errors import InputError
from pellucid.service.settings import Settings


@pytest.fixture
def refused(monkeypatch, capsys, folder, tmp_path):
    """`refused("--ray", "local")` gives what `restore` says about that."""

    def call(*arguments: str, output: str = "out") -> str:
        command = ["pellucid", "restore", str(folder), "-o", str(tmp_path / output), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert not (tmp_path / output).exists()
        return capsys.readouterr().err

    return call


def test_without_the_extra(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pellucid.cluster.run", raising=False)
    monkeypatch.delattr("pellucid.cluster.run", raising=False)  # which an import would take, too
    assert "pip install 'pellucid[ray]'" in refused("--ray", "local")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--since", "1d"), "--since and --dry-run don't go with --ray"),
        (("--untouched", "link"), "expected copy or skip"),
        (("--actor", "cpu=none"), "as cpu=4"),
        (("--actor", "gpu=1,tpu=2"), "as cpu=4"),
        (("--actor", "cpu=0"), "as cpu=4"),
        (("--model", "nonsense"), "nonsense"),
        (("--model", "daair_s.onnx"), "daair_s.onnx is an exported file"),
    ],
)
def test_options_that_have_no_meaning(refused, options, told):
    assert told in refused("--ray", "local", *options)


def test_a_service_with_an_exported_file():
    loaded = Loaded([("a/daair_s.xml", SimpleNamespace())], None, None, "openvino")
    serving = serve_on_cluster(Place("local", "cpu=1"), 1, loaded, Settings())
    with pytest.raises(InputError, match="expected weights"), serving:
        pass


def test_an_output_named_like_a_picture_and_a_cluster_that_is_not_there(refused):
    assert "a cluster writes to a folder" in refused("--ray", "local", output="out.png")
    assert "The Ray cluster at 127.0.0.1:1 can't be used" in refused("--ray", "127.0.0.1:1")
