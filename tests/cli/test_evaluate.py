import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pellucid import compute, weights, write_image
from pellucid.arrays import image_from_array
from pellucid.cli._shared import precision_of_scores
from pellucid.compute import Probe
from pellucid.models.dfpir import DFPIRConfig, official_shapes


@pytest.fixture
def options(small_weights) -> tuple[str, ...]:
    return ("--model", str(small_weights), "--device", "cpu", "--precision", "float32")


@pytest.fixture
def data(tmp_path):
    for side in ("clean", "degraded"):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            noise = np.random.default_rng(len(side)).integers(0, 30, (32, 48, 3), dtype=np.uint8)
            write_image(image_from_array(100 + noise), tmp_path / side / f"{name}.png")
    return tmp_path


def test_pairs(run, options, data):
    result = run("evaluate", *options, "--data", data, "--json")
    values = json.loads(result.out)
    assert (result.code, values["n"], values["model"]) == (0, 2, "small")
    assert len(values["weights_sha256"]) == 64
    assert 20 < values["input"]["psnr"] < 30
    assert 0 < values["output"]["ssim"] < 1
    assert "center crop to multiples of 16" in values["protocol"]


def test_noise_and_each_picture(run, options, data):
    values = json.loads(run("evaluate", *options, "--data", data, "--sigma", 25, "--per-image", "--json").out)
    assert [row["name"] for row in values["pictures"]] == ["a.png", "b.png"]
    assert values["input"]["psnr"] == pytest.approx(20.2, abs=0.5)
    text = run("evaluate", *options, "--data", data, "--sigma", 25, "--per-image").out
    assert f"{values['output']['psnr']:.2f} dB" in text
    assert text.count("PSNR") == 3


def test_wrong_calls_end_in_a_sentence(run, options, data):
    (data / "clean" / "a.png").unlink()
    result = run("evaluate", *options, "--data", data, "--json")
    assert (result.code, result.out) == (2, "")
    assert "without a partner: degraded/a.png" in result.err
    assert run("evaluate", *options, "--data", data, "--sigma", -1).code == 2
    nowhere = run("evaluate", *options, "--data", data / "nowhere").err
    assert "can't be listed" in nowhere
    assert "" not in nowhere.splitlines()


def add_set(root, name, sides=("degraded", "clean")):
    for side in sides:
        (root / name / side).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(80, 160, (32, 48, 3), dtype=np.uint8)
        write_image(
            image_from_array(pixels // (2 if side == "degraded" else 1)), root / name / side / "x.png"
        )


def test_a_result_carries_what_makes_it_again(run, options, data):
    result = run("evaluate", *options, "--data", data, "--protocol", "files", "--seed", 5, "--json")
    values = json.loads(result.out)
    assert (values["protocol_name"], values["seed"]) == ("files", 5)
    assert len(values["data_sha256"]) == 64
    assert "commit" in values
    interval = values["measures"]["psnr_rgb"]["output"]
    assert interval["low"] <= interval["mean"] == values["output"]["psnr"] <= interval["high"]
    text = run("evaluate", *options, "--data", data, "--measure", "ciede2000").out
    assert f"data {values['data_sha256'][:16]}" in text
    assert "ciede2000" in text and "95%" in text


def test_scores_do_not_hang_on_a_stopwatch(run, small_weights, data, monkeypatch):
    """Without --precision it is float32, though a probe would find bf16 faster."""

    def probe(_run, _device, side, asked, *_):
        return Probe(asked or "bf16", {}, side, 0.0, 1e3)

    monkeypatch.setattr("pellucid.runner._PROBES", {})
    monkeypatch.setattr(compute, "probe_network", probe)
    call = ("evaluate", "--model", small_weights, "--device", "cpu", "--data", data)
    assert json.loads(run(*call, "--json").out)["precision"] == "float32"
    assert ", cpu, float32" in run(*call).out
    assert json.loads(run(*call, "--precision", "bf16", "--json").out)["precision"] == "bf16"
    for kind in ("noise", "rain"):
        shutil.copytree(data / "clean", data / "kinds" / kind)
    table = run("explain", data / "kinds", *call[1:5])
    assert (table.code, "small on cpu, 1 threads, float32" in table.err) == (0, True)
    assert ", bf16" in run("explain", data / "clean" / "a.png", *call[1:5]).err  # as restore does it
    assert precision_of_scores("exported.xml", None) is None


def test_the_guard_shows_in_every_form(run, options, data, shards, tmp_path):
    """With it, some pictures are left alone: other numbers, which must not pass for the network's."""
    sha256 = weights.find("recognizer").sha256
    path, call = tmp_path / "pictures.csv", ("evaluate", *options, "--data", data, "--guard")
    values = json.loads(run(*call, "--json").out)
    assert (values["guard"], values["recognizer_sha256"]) == (True, sha256)
    assert f", guarded by recognizer {sha256[:16]}, seed" in run(*call, "--csv", path).out
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert {(row["guard"], row["recognizer_sha256"]) for row in rows} == {("True", sha256)}
    plain = run(*call[:-1], "--json").out
    assert (json.loads(plain)["guard"], json.loads(plain)["recognizer_sha256"]) == (False, None)
    results = tmp_path / "results"
    run("evaluate", *options, "--shards", shards, "--limit", 1, "--results", results, "--guard")
    rows = list(csv.DictReader((results / "small.csv").read_text().splitlines()))
    assert {(row["guard"], row["recognizer_sha256"]) for row in rows} == {("True", sha256)}


def test_each_picture_goes_to_a_table_that_is_not_overwritten(run, options, data, tmp_path):
    path = tmp_path / "pictures.csv"
    call = ("evaluate", *options, "--data", data, "--sigma", 25, "--csv", path)
    values = json.loads(run(*call, "--json").out)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["picture"] for row in rows] == ["a.png", "b.png"]
    mean = sum(float(row["psnr_rgb_output"]) for row in rows) / 2
    assert mean == pytest.approx(values["output"]["psnr"], abs=1e-5)
    assert {row["weights_sha256"] for row in rows} == {values["weights_sha256"]}
    before = path.read_bytes()
    refused = run(*call)
    assert (refused.code, refused.out, path.read_bytes()) == (2, "", before)
    assert "--overwrite" in refused.err
    assert run(*call, "--overwrite", "--seed", 1).code == 0
    assert path.read_bytes() != before


def test_a_suite_beside_the_published(run, options, tmp_path):
    for name in ("sots_outdoor", "rain100l"):
        add_set(tmp_path, name)
    add_set(tmp_path, "cbsd68", ("clean",))
    page = tmp_path / "report.html"
    result = run(
        "evaluate", *options, "--data", tmp_path, "--suite", "3task", "--report", page, "--per-image"
    )
    assert result.code == 0
    for words in ("small (ours)", "DaAIR", "32.30/0.981", "SOTS outdoor", "survey:"):
        assert words in result.out
    assert result.out.count("x.png  PSNR") == 5
    assert "data:image/jpeg;base64," in page.read_text()
    for suffix in ("md", "csv"):
        path = tmp_path / f"report.{suffix}"
        call = ("evaluate", *options, "--data", tmp_path, "--suite", "5task", "--report", path, "--json")
        result = run(*call)
        values = json.loads(result.out)
        assert (result.code, values["average"], set(values["missing"])) == (0, None, {"gopro", "lol_v1"})
        assert result.err.count("is skipped: there is no folder") == 2
        assert "DFPIR" in path.read_text()


def test_a_suite_of_which_nothing_is_there(run, options, tmp_path):
    result = run("evaluate", *options, "--data", tmp_path, "--suite", "3task", "--json")
    assert (result.code, result.out) == (1, "")
    assert result.err.count("is skipped") == 5
    assert "None of the sets of 3task" in result.err


def test_a_damaged_set_is_told_at_the_end(run, options, tmp_path):
    add_set(tmp_path, "rain100l")
    add_set(tmp_path, "sots_outdoor")
    (tmp_path / "rain100l" / "clean" / "x.png").write_bytes(b"damaged")
    result = run("evaluate", *options, "--data", tmp_path, "--suite", "3task", "--json")
    assert result.code == 1
    assert list(json.loads(result.out)["sets"]) == ["sots_outdoor"]
    assert "Rain100L could not be finished" in result.err


def test_shards_give_the_rows_of_the_results_folder(run, options, shards, tmp_path):
    call = ("evaluate", *options, "--shards", shards, "--limit", 1, "--results", tmp_path / "results")
    result = run(*call)
    rows = list(csv.DictReader((tmp_path / "results" / "small.csv").read_text().splitlines()))
    assert result.code == 0
    assert {"noise_25", "rain", "clean"} <= {row["kind"] for row in rows}
    assert all(len(row["weights_sha256"]) == 64 for row in rows)
    assert "noise_25" in result.out
    assert "exists already" in run(*call).err
    assert set(json.loads(run(*call, "--overwrite", "--json").out)) == {row["kind"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Neither of --data and --shards"),
        (("--data", ".", "--shards", "."), "Both of --data and --shards"),
        (("--data", ".", "--suite", "3task", "--sigma", 25), "--sigma does not go with --suite"),
        (("--shards", ".", "--prompt", "rain"), "--prompt does not go with --shards"),
        (("--data", ".", "--report", "a.html"), "--report was given without --suite"),
        (("--data", ".", "--limit", 3), "--limit was given without --shards"),
        (("--data", ".", "--results", "mine"), "--results was given without --shards"),
        (("--data", ".", "--protocol", "papers_y"), "Did you mean papers-y"),
        (("--data", ".", "--measure", "niq"), "Did you mean niqe"),
        (("--data", ".", "--suite", "3task", "--report", "a.pdf"), "names no kind of report"),
        (("--data", ".", "--suite", "3task", "--report", "a.csv", "--csv", "a.csv"), "both name a.csv"),
        (("--data", ".", "--csv", "nowhere/a.csv"), "no folder nowhere"),
        (("--data", ".", "--suite", "4task"), "no suite called '4task'"),
    ],
)
def test_options_that_do_not_go_together(run, options, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", *options, *arguments)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err


def test_lpips_without_its_package_is_refused_before_any_picture(run, options, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    result = run("evaluate", *options, "--data", data, "--measure", "lpips_alex")
    assert (result.code, result.out) == (2, "")
    assert "needs the package lpips" in result.err


def test_official_weights_are_converted_and_evaluated(run, tmp_path):
    prompts = ("haze", "rain", "noise_15", "noise_25", "noise_50")
    config = DFPIRConfig(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, prompts=prompts)
    rng = torch.Generator().manual_seed(0)
    official = {
        f"module.{name}": torch.randn(shape, generator=rng) / max(shape[-1], 4) ** 0.5
        for name, shape in official_shapes(config).items()
    }
    torch.save({"epoch": 3, "state_dict": official}, tmp_path / "official.pth")
    codes = torch.randn(len(prompts), 512, generator=rng)
    save_file({"codes": codes}, tmp_path / "codes.safetensors", {"prompts": json.dumps(prompts)})
    weights = tmp_path / "converted.safetensors"
    converted = run(
        *("convert", tmp_path / "official.pth", "-o", weights, "--model", "dfpir"),
        *("--prompt-codes", tmp_path / "codes.safetensors"),
    )
    assert converted.code == 0, converted.err

    add_set(tmp_path, "sots_outdoor")
    add_set(tmp_path, "rain100l")
    (tmp_path / "test/denoise").mkdir(parents=True)  # as the authors' data lie
    add_set(tmp_path, "cbsd68", ("clean",))
    (tmp_path / "cbsd68/clean").rename(tmp_path / "test/denoise/bsd68")
    (tmp_path / "test/denoise/bsd68/x.png").rename(tmp_path / "test/denoise/bsd68/3096.png")
    options = ("--model", weights, "--device", "cpu", "--precision", "float32", "--json")
    values = json.loads(run("evaluate", *options, "--data", tmp_path, "--suite", "3task").out)
    told = {key: row["diagnosis"] for key, row in values["sets"].items()}
    assert told == {
        "sots_outdoor": "haze",
        "rain100l": "rain",
        "cbsd68_15": "noise_15",
        "cbsd68_25": "noise_25",
        "cbsd68_50": "noise_50",
    }
    assert values["guided"] is True
    assert values["average"] is not None
    assert values["leak"] == "leak unknown"
    call = ("evaluate", *options, "--data", tmp_path / "rain100l")
    alone = json.loads(run(*call, "--prompt", "rain").out)
    assert alone["output"] == values["sets"]["rain100l"]["output"]
    assert json.loads(run(*call, "--prompt", "haze").out)["output"] != alone["output"]
