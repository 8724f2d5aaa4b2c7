"""Conversion of foreign checkpoints, over made-up weights under the authors' names."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import pellucid
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.cli.convert import convert
from pellucid.codec import pool
from pellucid.convert import (
    CLIP_MODEL,
    CLIP_REVISION,
    _read_config,
    clip_codes,
    convert_dfpir,
    convert_file,
    read_codes,
    read_state_dict,
)
from pellucid.errors import (
    CheckpointError,
    CheckpointMismatchError,
    InputError,
    OutputExistsError,
    PellucidError,
    UnknownNameError,
    UnsafeCheckpointError,
)
from pellucid.models.dfpir import PROMPTS, DFPIRConfig, from_official, official_shapes

NAMES = ("noise", "rain", "haze")
CONFIG = DFPIRConfig(
    dim=12,
    num_blocks=(1, 2, 1, 3),
    num_refinement_blocks=2,
    num_heads=(1, 1, 2, 4),
    ffn_expansion=1.7,
    prompts=NAMES,
)
CODE_DIM = 16  # 512 in the authors' files; read from the tensors


def official(config: DFPIRConfig = CONFIG) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) / max(shape[-1], 4) ** 0.5
        for name, shape in official_shapes(config, CODE_DIM).items()
    }


CODES = torch.randn(len(NAMES), CODE_DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def source(tmp_path) -> Path:
    """A file laid out as the authors' training writes it, from several GPUs."""
    weights = {f"module.{name}": tensor for name, tensor in official().items()}
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    path = tmp_path / "official.pth"
    torch.save(
        {
            "epoch": 3,
            "state_dict": weights,
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        },
        path,
    )
    return path


@pytest.fixture
def codes(tmp_path) -> Path:
    path = tmp_path / "codes.safetensors"
    save_file({"codes": CODES}, path, {"prompts": json.dumps(NAMES)})
    return path


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "out.safetensors"


# --- tensors


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        DFPIRConfig(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, prompts=NAMES),
        DFPIRConfig(
            dim=16, num_blocks=(2, 1, 3, 1), num_refinement_blocks=3, num_heads=(2, 4, 4, 16), prompts=NAMES
        ),
        DFPIRConfig(dim=4, num_blocks=(1, 1, 1, 2), num_heads=(1, 1, 1, 1), ffn_expansion=3, prompts=NAMES),
    ],
)
def test_sizes_are_read_from_the_tensors(config):
    converted = convert_dfpir(official(config), CODES, NAMES)
    assert DFPIRConfig(**converted.config) == config


def test_paper_expansion_is_recovered():
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in official_shapes(DFPIRConfig()).items()}
    assert _read_config(weights) == DFPIRConfig()


def test_tensors_are_kept_exactly_and_the_map_becomes_permutations():
    theirs = official()
    converted = convert_dfpir(theirs, CODES, NAMES)
    kept = {name: tensor for name, tensor in theirs.items() if "linear_layer" not in name}
    assert all(torch.equal(converted.tensors[from_official(name)], tensor) for name, tensor in kept.items())
    assert len(converted.tensors) == len(kept) + 4

    first, second = (theirs[f"latent_shuffle_channel.linear_layer{n}.weight"].double() for n in (1, 3))
    shifts = [theirs[f"latent_shuffle_channel.linear_layer{n}.bias"].double() for n in (1, 3)]
    scores = second @ (first @ CODES[1].double() + shifts[0]) + shifts[1]
    order = converted.tensors["bottleneck.perturbation.permutations"][1]
    assert (scores[order].diff() <= 0).all()
    assert torch.equal(order.sort().values, torch.arange(192))


def test_converted_network_runs():
    network = convert_dfpir(official(), CODES, NAMES).build().eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 8, 16), torch.tensor([2, 0])).isfinite().all()


def test_faults_are_all_named():
    weights = official()
    del (
        weights["output.weight"],
        weights["latent.1.attn.temperature"],
        weights["decoder_level2.0.norm1.body.bias"],
    )
    weights["latent.0.extra"] = torch.zeros(1)
    weights["latent_shuffle_channel.linear_layer2.bias"] = torch.zeros(1)
    weights["refinement.0.norm1.body.bias"] = torch.zeros(3)
    weights["encoder_level1.0.norm1.body.bias"][0] = float("nan")
    with pytest.raises(CheckpointMismatchError) as caught:
        convert_dfpir(weights, CODES, NAMES)
    sentence = str(caught.value)
    for part in (
        "lacks ",
        "output.weight",
        "latent.1.attn.temperature",
        "decoder_level2.0.norm1.body.bias",
        "unknown latent.0.extra, latent_shuffle_channel.linear_layer2.bias",
        "refinement.0.norm1.body.bias as (3,), expected (24,)",
        "NaN or infinity in encoder_level1.0.norm1.body.bias",
    ):
        assert part in sentence


@pytest.mark.parametrize(
    "name",
    [  # each of these tells a size when it is there
        "patch_embed.proj.weight",
        "encoder_level2.1.attn.temperature",
        "latent.2.norm1.body.weight",
        "latent_shuffle_channel.select_attn.temperature",
        "encoder_shuffle_channel1.linear_layer1.weight",
        "encoder_shuffle_channel3.ffn.project_out.weight",
        "refinement.1.ffn.dwconv.weight",
    ],
)
def test_no_tensor_can_be_missing(name):
    weights = official()
    del weights[name]
    with pytest.raises(CheckpointMismatchError, match="lacks"):
        convert_dfpir(weights, CODES, NAMES)


@pytest.mark.parametrize("index", ["99999999", "9" * 5000])
def test_a_block_of_an_absurd_number_is_unknown(index):
    weights = official()
    weights[f"encoder_level1.{index}.norm1.body.bias"] = torch.zeros(12)
    with pytest.raises(
        CheckpointMismatchError, match=r"lacks encoder_level1\.1\..* and \d+ more; it has the"
    ):
        convert_dfpir(weights, CODES, NAMES)


@pytest.mark.parametrize("size", [0, 10**7])
def test_absurd_sizes_allocate_nothing(size):
    weights = official()
    weights["patch_embed.proj.weight"] = torch.zeros(()).expand(size, 3, 3, 3)
    with pytest.raises(CheckpointMismatchError):
        convert_dfpir(weights, CODES, NAMES)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.to(torch.complex64),
        lambda t: t.int(),
        lambda t: t.to(torch.float8_e4m3fn),
        lambda t: t.to_sparse(),
        lambda t: t.to("meta"),
        lambda t: torch.zeros(()).expand(t.shape),
    ],
    ids=["complex", "integer", "one byte", "sparse", "meta", "one number for all"],
)
def test_tensors_of_another_sort_are_refused(change):
    weights = official()
    weights["output.weight"] = change(weights["output.weight"])
    with pytest.raises(
        CheckpointMismatchError, match=r"has output\.weight in .*, expected dense floating point"
    ):
        convert_dfpir(weights, CODES, NAMES)


def test_feed_forwards_of_no_common_factor_are_refused():
    weights = official()
    name = "encoder_shuffle_channel2.ffn.project_out.weight"
    weights[name] = torch.zeros(24, 200, 1, 1)
    with pytest.raises(CheckpointMismatchError, match="200 channels for 24"):
        convert_dfpir(weights, CODES, NAMES)


def test_heads_that_do_not_divide_are_refused():
    weights = official()
    for name in [n for n in weights if n.startswith("latent") and n.endswith("temperature")]:
        weights[name] = torch.ones(5, 1, 1)
    with pytest.raises(CheckpointMismatchError, match="divide by their heads"):
        convert_dfpir(weights, CODES, NAMES)


@pytest.mark.parametrize(
    ("wrong", "names", "sentence"),
    [
        (CODES[:, :8], NAMES, r"\(prompts, 16\)"),
        (CODES[0], NAMES, r"\(prompts, 16\)"),
        (CODES.int(), NAMES, "floating point"),
        (CODES / 0, NAMES, "NaN or infinity"),
        (CODES, NAMES[:2], "3 prompt codes but 2 names"),
        (CODES[:0], (), r"\(prompts, 16\)"),
        (CODES.to(torch.float8_e4m3fn), NAMES, "floating point"),
        (CODES, ("rain", "rain", "haze"), "a name of its own"),
        (CODES, ("rain", " ", "haze"), "a name of its own"),
    ],
)
def test_codes_that_do_not_fit_are_refused(wrong, names, sentence):
    with pytest.raises(InputError, match=sentence):
        convert_dfpir(official(), wrong, names)


# --- files


def test_file_is_converted_with_its_origin(source, codes, target):
    convert_file(source, target, prompt_codes=codes)
    read = Checkpoint.read(target)
    expected = convert_dfpir(official(), CODES, NAMES)
    assert read.model == "dfpir"
    assert read.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(read.tensors[name], expected.tensors[name]) for name in read.tensors)
    assert read.provenance["source"] == {"file": "official.pth", "sha256": hash_file(source)}
    assert read.provenance["converted_by"] == f"pellucid {pellucid.__version__}"
    assert read.build().config == CONFIG
    assert sorted(p.name for p in target.parent.iterdir()) == sorted(
        p.name for p in (source, codes, target)
    ), "temporary files left"


@pytest.mark.parametrize("layout", ["bare", "wrapped", "legacy", "safetensors"])
def test_other_layouts_hold_the_same(layout, tmp_path):
    path, weights = tmp_path / "file", official()
    if layout == "safetensors":
        save_file(weights, path)
    else:
        content = {"state_dict": weights} if layout == "wrapped" else weights
        torch.save(content, path, _use_new_zipfile_serialization=layout != "legacy")
    read = read_state_dict(path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


class Evil:
    def __reduce__(self):
        return (print, ("this was run",))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_more_is_refused_and_not_run(legacy, tmp_path, capfd):
    path = tmp_path / "evil.pth"
    content = {"state_dict": official(), "extra": Evil()}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeCheckpointError, match="can run code"):
        read_state_dict(path)
    assert "this was run" not in capfd.readouterr().out


def test_a_pickle_is_read_by_another_process_whose_end_is_a_sentence(source, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read here"))
    assert read_state_dict(source).keys() == {f"module.{name}" for name in official()}

    def ask(self, message, seconds, ask=pool._Worker.ask):
        self._process.kill()
        return ask(self, message, seconds)

    monkeypatch.setattr(pool._Worker, "ask", ask)
    with pytest.raises(CheckpointError, match=r"official.pth ended the process .* Get it again"):
        read_state_dict(source)


def test_a_pickle_that_asks_for_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.convert._SPARE", 2**26)
    shared = torch.zeros(2**20)
    torch.save({str(i): shared for i in range(100)}, tmp_path / "shared.pth")
    with pytest.raises(CheckpointError, match="asks for more memory than a file of its size should"):
        read_state_dict(tmp_path / "shared.pth")
    for strange in (torch.zeros(1).expand(10**12), torch.zeros(5).to_sparse()):
        torch.save({"a.weight": strange}, tmp_path / "strange.pth")
        with pytest.raises(CheckpointMismatchError, match=r"each number of a\.weight; expected dense"):
            read_state_dict(tmp_path / "strange.pth")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {}}, "empty state dict"),
        ({}, "empty state dict"),
        ([1, 2], "no state dict"),
        ({"a.weight": torch.zeros(1), "step": 3}, "not tensors: step"),
    ],
)
def test_files_without_weights_are_refused(content, sentence, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=sentence):
        read_state_dict(tmp_path / "file.pth")


def test_damaged_files_are_refused(source, tmp_path):
    whole = source.read_bytes()
    for name, damaged in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not weights at all, but a long enough text",
        "magic": b"\x80\x02",
    }.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="Get it again"):
            read_state_dict(path)
    with pytest.raises(CheckpointError, match="can't be read: No such file"):
        read_state_dict(tmp_path / "absent")


def test_a_flipped_bit_is_found(source):
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1  # torch.load does not see it
    source.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum of its part .* is wrong"):
        read_state_dict(source)


def test_own_files_are_not_converted_again(source, codes, target, tmp_path):
    convert_file(source, target, prompt_codes=codes)
    with pytest.raises(CheckpointError, match="own already"):
        convert_file(target, tmp_path / "again.safetensors", prompt_codes=codes)


def test_outputs_are_replaced_only_on_request(source, codes, target):
    target.write_text("precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        convert_file(source, target, prompt_codes=codes)
    assert target.read_text() == "precious"
    convert_file(source, target, prompt_codes=codes, overwrite=True)
    assert Checkpoint.read(target).model == "dfpir"
    for read in (source, codes):
        before = read.read_bytes()
        with pytest.raises(OutputExistsError, match="being read"):
            convert_file(source, read, prompt_codes=codes, overwrite=True)
        assert read.read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_and_pipes_are_never_replaced(source, codes, target, tmp_path, overwrite):
    (tmp_path / "precious.safetensors").write_text("precious")
    for leads_to in ("precious.safetensors", "absent"):
        target.symlink_to(tmp_path / leads_to)
        with pytest.raises(OutputExistsError, match="link or no regular file"):
            convert_file(source, target, prompt_codes=codes, overwrite=overwrite)
        assert target.is_symlink()
        target.unlink()
    os.mkfifo(target)
    with pytest.raises(OutputExistsError, match="link or no regular file"):
        convert_file(source, target, prompt_codes=codes, overwrite=overwrite)
    assert (tmp_path / "precious.safetensors").read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_outputs_need_a_folder(source, codes, tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        convert_file(source, tmp_path / "absent" / "out.safetensors", prompt_codes=codes)
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("folder.safetensors", "weights.pth", "weights"):  # --model would take none of them
        with pytest.raises(InputError, match=r"ending in \.safetensors"):
            convert_file(source, tmp_path / name, prompt_codes=codes, overwrite=True)


def test_models_without_foreign_weights_are_named(source, codes, target):
    with pytest.raises(InputError, match="--model dfpir"):
        convert_file(source, target, model="dfpir_s", prompt_codes=codes)
    with pytest.raises(UnknownNameError, match="Did you mean dfpir"):
        convert_file(source, target, model="dfpi", prompt_codes=codes)


# --- codes


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"prompts": '["noise", "rain", "haze"]'}, NAMES),
        ({"names": "noise, rain,haze"}, NAMES),
        ({"names": "a, b\nrain\nhaze\n"}, ("a, b", "rain", "haze")),
        ({"other": "x"}, ("prompt_0", "prompt_1", "prompt_2")),
        (None, ("prompt_0", "prompt_1", "prompt_2")),
    ],
)
def test_names_come_from_the_metadata(metadata, names, tmp_path):
    save_file({"codes": CODES}, tmp_path / "codes", metadata)
    read, found = read_codes(tmp_path / "codes")
    assert found == names
    assert torch.equal(read, CODES)


def test_files_without_codes_are_refused(tmp_path, source):
    save_file({"code": CODES}, tmp_path / "a")
    with pytest.raises(InputError, match="holds code; expected a tensor `codes`"):
        read_codes(tmp_path / "a")
    save_file({"codes": CODES}, tmp_path / "b", {"prompts": "[noise"})
    with pytest.raises(InputError, match="Write a list"):
        read_codes(tmp_path / "b")
    save_file({"codes": CODES}, tmp_path / "b", {"prompts": "[" * 100_000})
    with pytest.raises(InputError, match="Write a list"):
        read_codes(tmp_path / "b")
    save_file({"codes": CODES}, tmp_path / "b", {"prompts": '["rain", null, "haze"]'})
    with pytest.raises(InputError, match="a prompt None; expected text"):
        read_codes(tmp_path / "b")
    for path in (source, tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match="can't be read as safetensors"):
            read_codes(path)


def test_clip_without_transformers_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pellucid\[clip\]"):
        clip_codes()


def test_clip_encodes_the_authors_prompts(monkeypatch):
    """Against a stand-in of transformers' two classes: the tower itself would have to be downloaded."""
    calls = []

    class Tokenizer:
        @classmethod
        def from_pretrained(cls, name, *, revision):
            calls.append((name, revision))
            return cls()

        def __call__(self, texts, *, padding, max_length, return_tensors):
            assert (padding, max_length, return_tensors) == ("max_length", 77, "pt")
            return {"input_ids": torch.tensor([[len(text)] for text in texts])}

    class Tower(torch.nn.Module):
        @classmethod
        def from_pretrained(cls, name, *, revision):
            calls.append((name, revision))
            return cls()

        def forward(self, input_ids):
            assert not self.training
            return SimpleNamespace(text_embeds=input_ids.float().expand(-1, 512))

    fake = SimpleNamespace(CLIPTokenizer=Tokenizer, CLIPTextModelWithProjection=Tower)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    codes, names = clip_codes()
    assert calls == [(CLIP_MODEL, CLIP_REVISION)] * 2
    assert len(CLIP_REVISION) == 40
    assert names == tuple(PROMPTS)
    assert codes.shape == (7, 512)
    assert codes[:, 0].tolist() == [len(text) for text in PROMPTS.values()]


def test_clip_that_can_not_be_had_is_a_sentence(monkeypatch):
    def fail(*_, **__):
        raise OSError("no connection\nand much more")

    fake = SimpleNamespace(CLIPTokenizer=SimpleNamespace(from_pretrained=fail))
    monkeypatch.setitem(sys.modules, "transformers", fake)
    with pytest.raises(InputError, match=r"can't be had \(no connection\)"):
        clip_codes()


# --- command


def run(*arguments: object):
    app = typer.Typer()
    app.command()(convert)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_converts(source, codes, target):
    result = run(source, "-o", target, "--model", "dfpir", "--prompt-codes", codes)
    assert result.exit_code == 0
    assert "0 noise, 1 rain, 2 haze" in result.output
    assert Checkpoint.read(target).build().config.prompts == NAMES


def test_command_asks_for_codes(source, target):
    result = run(source, "-o", target)
    assert isinstance(result.exception, InputError)
    assert "--prompt-codes" in str(result.exception)
    assert not target.exists()


def test_command_looks_at_the_file_before_it_asks_for_codes(target, tmp_path):
    result = run(tmp_path / "absent.pth", "-o", target)
    assert "absent.pth can't be read: No such file or directory" in str(result.exception)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    result = run(tmp_path / "picture.png", "-o", target)
    assert "picture.png is neither a PyTorch file nor whole safetensors" in str(result.exception)


def test_command_looks_whether_it_is_dfpirs_before_it_asks_for_codes(target, tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "plain.safetensors")
    result = run(tmp_path / "plain.safetensors", "-o", target)
    assert isinstance(result.exception, CheckpointError)
    assert "--prompt-codes" not in str(result.exception)


def test_command_passes_errors_on(codes, target, tmp_path):
    (tmp_path / "notes.txt").write_text("just a text, which is no checkpoint")
    result = run(tmp_path / "notes.txt", "-o", target, "--prompt-codes", codes)
    assert isinstance(result.exception, PellucidError)
    assert result.exception.exit_code == 3
