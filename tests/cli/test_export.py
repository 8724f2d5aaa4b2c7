import json

import numpy as np

from pellucid import write_image
from pellucid.arrays import array_from_image, image_from_array
from pellucid.compute import probe_picture
from pellucid.image_io import read_image


def test_the_shipped_weights_are_exported_and_run(run, tmp_path):
    photo, pixels = tmp_path / "photo.png", probe_picture(90)[0, :, :70].permute(1, 2, 0).numpy()
    write_image(image_from_array((pixels * 255).astype(np.uint8)), photo)
    result = run("export", "daair_s.5task", "-o", tmp_path / "new", "--format", "onnx")
    assert (result.code, "6 of 6 pictures" in result.out) == (0, True)
    file = tmp_path / "new" / "daair_s.5task.onnx"
    again = run("export", "daair_s.5task", "-o", tmp_path / "new")
    assert (again.code, str(file) in again.err, again.out) == (2, True, "")

    common = ("--precision", "float32", "--no-guard", "--json")
    by_torch = run("restore", photo, "-o", tmp_path / "torch.png", "--device", "cpu", *common)
    by_file = run("restore", photo, "-o", tmp_path / "file.png", "--model", file, *common)
    assert "by onnxruntime" in by_file.err
    reports = [json.loads(result.out)["report"] for result in (by_torch, by_file)]
    assert [report["engine"] for report in reports] == ["torch", "onnxruntime"]
    assert reports[0]["model"] == reports[1]["model"] == "daair_s.5task"
    expected, found = (array_from_image(read_image(tmp_path / f"{n}.png")) for n in ("torch", "file"))
    assert int(np.abs(expected.astype(int) - found).max()) <= 1  # where 1e-6 decides how a level is rounded
    assert float((expected != found).mean()) < 1e-3


def test_an_exported_file_is_not_exported_again(run, tmp_path):
    for name in ("daair_s.5task.onnx", "folder/daair_s.5task.xml"):
        result = run("export", name, "-o", tmp_path / "new")
        assert (result.code, "is an exported file already" in result.err) == (2, True)
    assert not (tmp_path / "new").exists()


def test_an_unknown_engine(run, tmp_path):
    write_image(image_from_array(np.zeros((9, 9, 3), np.uint8)), tmp_path / "a.png")
    result = run("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--engine", "tpu")
    assert (result.code, "engine called 'tpu'" in result.err) == (2, True)
