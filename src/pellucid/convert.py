"""Foreign checkpoints become pellucid's own. The only module that calls `torch.load`, and only for tensors.

DFPIR is the one network with published weights. Its authors' file holds a map from text codes to scores,
whose sort order shuffles channels. Conversion evaluates that map once per prompt and keeps the permutations.
"""

import dataclasses
import hashlib
import json
import math
import os
import pickle
import re
import reprlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

import pellucid
from pellucid import models
from pellucid.checkpoint import FLOATS, Checkpoint, hash_file, is_pickle
from pellucid.codec.pool import ask_once
from pellucid.codec.wire import Message
from pellucid.compute import is_out_of_memory
from pellucid.errors import (
    CheckpointError,
    CheckpointMismatchError,
    InputError,
    OutputExistsError,
    UnsafeCheckpointError,
    some,
)
from pellucid.models.dfpir import PROMPTS, DFPIRConfig, from_official, official_shapes, sort_permutations

# What reading a damaged PyTorch file raises.
_DAMAGED = (RuntimeError, EOFError, OSError, ValueError, LookupError, zipfile.BadZipFile, zlib.error)
_SECONDS, _SPARE = 600.0, 2**30  # that reading one may take, in bytes beside its own
CLIP_MODEL = "openai/clip-vit-base-patch32"
CLIP_REVISION = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: str = "dfpir",
    prompt_codes: str | os.PathLike[str] | None,
    overwrite: bool = False,
) -> Checkpoint:
    """Convert an official checkpoint and write it as safetensors.

    What is pickled is read by a process of its own, so a script calls this under `if __name__ == "__main__"`.

    Args:
        source: the authors' file, pickled by PyTorch or safetensors.
        target: the file to write, ending in .safetensors; made beside its place, which it takes when whole.
        model: the structure of the weights; "dfpir".
        prompt_codes: a safetensors file of codes, or "clip" to compute those of the authors' seven prompts.
        overwrite: whether an existing target is replaced.

    Raises:
        InputError: an argument that doesn't fit; OutputExistsError if the target exists.
        CheckpointError: the source can't be read, would need unpickling, or doesn't fit the structure.
    """
    source, target = Path(source), Path(target)
    models.get(model)
    if model != "dfpir":
        raise InputError(
            f"{model} has no foreign weights to convert; only dfpir has. Sizes are read from the file: "
            "use --model dfpir."
        )
    inputs = [source] if prompt_codes is None or prompt_codes == "clip" else [source, Path(prompt_codes)]
    _check_target(target, inputs, overwrite)
    state_dict = read_state_dict(source)
    theirs = _without_prefix(state_dict)
    _check_tensors(theirs, official_shapes(_read_config(theirs), _code_dim(theirs)))
    if prompt_codes is None:
        raise InputError(
            "DFPIR's weights alone don't say how a prompt shuffles; the prompts' text codes are needed too. "
            "Give them with --prompt-codes CODES.safetensors, or compute them with --prompt-codes clip."
        )
    codes, names = clip_codes() if prompt_codes == "clip" else read_codes(prompt_codes)
    converted = convert_dfpir(state_dict, codes, names)
    origin = {"file": source.name, "sha256": hash_file(source)}
    checkpoint = dataclasses.replace(converted, provenance={**converted.provenance, "source": origin})
    checkpoint.write(target)
    return checkpoint


def _check_target(target: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Refuse a target that can't be written, or whose writing would lose something, before any work."""
    if target.exists() and any(path.exists() and target.samefile(path) for path in inputs):
        raise OutputExistsError(f"{target} is a file being read. Name another output.")
    if target.is_dir() or target.suffix != ".safetensors":
        raise InputError(
            f"The output {target} is not the name of a weights file; expected one ending in .safetensors, "
            "as --model takes it."
        )
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise OutputExistsError(
            f"{target} is a link or no regular file, which is never replaced. Name another output."
        )
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists. Name another output, or replace it with --overwrite.")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} is not a folder; nothing can be written there. Create it first.")


def convert_dfpir(state_dict: Mapping[str, Tensor], codes: Tensor, names: Sequence[str]) -> Checkpoint:
    """A checkpoint of `dfpir` from the authors' tensors.

    Args:
        state_dict: the authors' tensors under their names, with or without the prefix "module.".
        codes: (P, 512) floating point, one text code per prompt.
        names: P names for the prompts, kept in the checkpoint's configuration.

    Raises:
        CheckpointMismatchError: tensors are missing, unknown, of another shape, or not finite.
        InputError: codes and names don't fit each other or the checkpoint.
    """
    theirs = _without_prefix(state_dict)
    config = _read_config(theirs)
    code_dim = _code_dim(theirs)
    _check_tensors(theirs, official_shapes(config, code_dim))
    if codes.ndim != 2 or 0 in codes.shape or codes.shape[1] != code_dim or codes.dtype not in FLOATS:
        raise InputError(
            f"The prompt codes are {codes.dtype} of shape {tuple(codes.shape)}; expected floating point of "
            f"shape (prompts, {code_dim}). Encode the prompts with the text encoder of the training."
        )
    if not bool(torch.isfinite(codes).all()):
        raise InputError("The prompt codes hold NaN or infinity. Encode the prompts again.")
    if len(codes) != len(names):
        raise InputError(
            f"There are {len(codes)} prompt codes but {len(names)} names. Give one name for each code."
        )
    if not all(name.strip() for name in names) or len(set(names)) < len(names):
        raise InputError(
            f"The prompts are called {', '.join(map(repr, names))}; expected a name of its own for each, "
            "since --prompt chooses by it. Rename them."
        )
    config = dataclasses.replace(config, prompts=tuple(names))

    ours = {from_official(key): tensor.detach().float().contiguous() for key, tensor in theirs.items()}
    for block in sorted({key.split(".prompt_map.")[0] for key in ours if ".prompt_map." in key}):
        # In float64, so that the order does not depend on how a machine rounds sums.
        hidden = codes.double()
        for layer in (1, 3):
            weight, bias = (
                ours.pop(f"{block}.prompt_map.{layer}.{part}").double() for part in ("weight", "bias")
            )
            hidden = hidden @ weight.T + bias
        ours[f"{block}.permutations"] = sort_permutations(hidden)  # (P, 2C)

    provenance = {
        "converted_by": f"pellucid {pellucid.__version__}",
        "prompt_codes_sha256": hashlib.sha256(
            codes.detach().float().contiguous().numpy().tobytes()
        ).hexdigest(),
        "license": "none stated by the authors of the weights",
    }
    return Checkpoint("dfpir", dataclasses.asdict(config), ours, provenance)


def _without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the "module." that data-parallel training puts before every name."""
    tensors = dict(state_dict)
    while tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    return tensors


def _code_dim(theirs: Mapping[str, Tensor]) -> int:
    return _shape(theirs, r"\w+\.linear_layer1\.weight", 2)[1]


def _read_config(theirs: Mapping[str, Tensor]) -> DFPIRConfig:
    """The sizes that the authors' tensors have; one tensor of each kind is enough to tell."""
    dim = _shape(theirs, r"patch_embed\.proj\.weight|encoder_level1\.\d+\.norm1\.body\.weight", 1)[0]
    levels = [
        r"(?:encoder_level1|decoder_level1)",
        r"(?:encoder_level2|decoder_level2)",
        r"(?:encoder_level3|decoder_level3)",
        "latent",
    ]
    perturbations = [*(f"encoder_shuffle_channel{n}" for n in (1, 2, 3)), "latent_shuffle_channel"]
    num_heads = [
        _shape(theirs, rf"{level}\.\d+\.attn\.temperature|{perturbation}\.select_attn\.temperature", 3)[0]
        for level, perturbation in zip(levels, perturbations, strict=True)
    ]
    hidden = [
        _shape(theirs, rf"{perturbation}\.ffn\.project_out\.weight", 4)[1] for perturbation in perturbations
    ]
    try:
        return DFPIRConfig(
            dim=dim,
            num_blocks=tuple(_count(theirs, level) for level in levels),
            num_refinement_blocks=_count(theirs, "refinement"),
            num_heads=tuple(num_heads),
            ffn_expansion=_find_expansion([(dim * 2**level, f) for level, f in enumerate(hidden)]),
        )
    except InputError as error:
        raise CheckpointMismatchError(f"The checkpoint is not a DFPIR's. {error}") from error


def _shape(theirs: Mapping[str, Tensor], pattern: str, rank: int) -> torch.Size:
    """Shape of the first tensor whose name matches."""
    for key, tensor in theirs.items():
        if re.fullmatch(pattern, key) and tensor.ndim >= rank:
            return tensor.shape
    readable = pattern.replace("\\", "").replace("(?:", "(").replace("d+", "N").replace("w+", "*")
    raise CheckpointMismatchError(
        f"The checkpoint has {len(theirs)} tensors and lacks {readable}, so it is not a DFPIR's. "
        "Give the authors' file, whole."
    )


def _count(theirs: Mapping[str, Tensor], stage: str) -> int:
    """Number of blocks of a stage; never more than there are tensors, whatever their names say."""
    matches = (re.match(rf"{stage}\.(\d+)\.", key) for key in theirs)
    return len({match[1] for match in matches if match})


def _find_expansion(sizes: list[tuple[int, int]]) -> float:
    """The shortest decimal that, times the channels of each level, is cut to its hidden channels."""
    for digits in range(16 if all(dim for dim, _ in sizes) else 0):
        scale = 10**digits
        candidate = max(math.ceil(hidden * scale / dim) for dim, hidden in sizes) / scale
        if all(int(dim * candidate) == hidden for dim, hidden in sizes):
            return candidate
    raise CheckpointMismatchError(
        "The checkpoint's feed-forwards have "
        f"{', '.join(f'{hidden} channels for {dim}' for dim, hidden in sizes)}, which no one factor gives; "
        "it is not a DFPIR's."
    )


def _check_tensors(theirs: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    missing = [key for key in expected if key not in theirs]
    unknown = [key for key in theirs if key not in expected]
    faults = [f"lacks {some(missing)}"] if missing else []
    faults += [f"has the unknown {some(unknown)}"] if unknown else []
    for key, tensor in theirs.items():
        if key in expected and tensor.shape != expected[key]:
            faults.append(f"has {key} as {tuple(tensor.shape)}, expected {tuple(expected[key])}")
        elif tensor.dtype not in FLOATS or not _is_dense(tensor):
            sort = f"{tensor.dtype} ({tensor.layout}, {tensor.device})"
            faults.append(f"has {key} in {sort}, expected dense floating point")
        elif not bool(torch.isfinite(tensor).all()):
            faults.append(f"has NaN or infinity in {key}")
    if faults:
        raise CheckpointMismatchError(
            f"The checkpoint does not fit DFPIR: it {some(faults, '; it ')}. Give the authors' file, whole."
        )


def _is_dense(tensor: Tensor) -> bool:
    """Whether each element has memory of its own; a small file may hold one number as a billion."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by PyTorch or safetensors: a bare state dict, or the one under "state_dict".

    Raises:
        CheckpointError: missing, cut short, or without tensors.
        UnsafeCheckpointError: the pickle holds more than tensors and plain values; nothing of that was run.
        CheckpointMismatchError: tensors without memory for each number.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}. Check the path.") from error
    if is_pickle(head):
        return _unpickle_elsewhere(path, zipped=head[:2] == b"PK")
    return _tensors_of(_load_safetensors(path), path)


def _tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    """What a file holds, if it is a state dict."""
    if isinstance(content, dict) and "state_dict" in content:
        content = cast(dict[Any, Any], content)["state_dict"]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"{path} holds {'an empty' if content == {} else 'no'} state dict. "
            "Expected a dict of tensors, or one with such a dict under 'state_dict'; give the authors' file."
        )
    tensors = cast(dict[Any, Any], content)
    if strange := [str(key) for key, value in tensors.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(
            f"{path} has entries that are not tensors: {some(strange)}. "
            "Expected a dict of tensors, or one with such a dict under 'state_dict'."
        )
    return {str(key): tensor for key, tensor in tensors.items()}


def _unpickle_elsewhere(path: Path, *, zipped: bool) -> dict[str, Tensor]:
    """The tensors of a pickle, read by a process of its own: a file that breaks it breaks nothing else."""
    memory = _SPARE + 4 * path.stat().st_size  # the file, its tensors, and these as they are sent
    ask = Message({"path": str(path.absolute()), "zipped": zipped})
    try:
        return load(bytes(ask_once(_unpickle, ask, seconds=_SECONDS, memory=memory).blobs[0]))
    except (OSError, EOFError, LookupError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} ended the process that read it, or kept it for more than {_SECONDS:g} seconds; nothing "
            "else was affected. Get it again."
        ) from error


def _unpickle(message: Message) -> Message:
    """The tensors of the file that a message names, as safetensors."""
    path, zipped = Path(message.head["path"]), bool(message.head["zipped"])
    try:
        if zipped:
            _check_sums(path)  # torch does not, and a flipped bit would become a wrong weight
        tensors = _tensors_of(torch.load(path, map_location="cpu", weights_only=True, mmap=zipped), path)
        if strange := [name for name, tensor in tensors.items() if not _is_dense(tensor)]:
            raise CheckpointMismatchError(
                f"{path} lacks memory for each number of {some(strange)}; expected dense tensors. "
                "Give the authors' file, whole."
            )
        whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        return Message({}, (save(whole),))
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(
            f"{path} is a pickle with more than tensors and plain values, which can run code when loaded; "
            "nothing of it was run. Save its state dict alone, on a machine that trusts it, and convert that."
        ) from error
    except (MemoryError, *_DAMAGED) as error:
        if is_out_of_memory(error):
            raise CheckpointError(
                f"{path} asks for more memory than a file of its size should. Get it again."
            ) from error
        # Of torch's words the first sentence: others guess at causes.
        reason = re.split(r"\n|\. (?=[A-Z])", str(error))[0] or type(error).__name__
        raise CheckpointError(f"{path} is not a whole PyTorch file ({reason}). Get it again.") from error


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its part {damaged} is wrong")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if "pellucid" in (file.metadata() or {}):
                raise CheckpointError(f"{path} is pellucid's own already. Use it as it is.")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is neither a PyTorch file nor whole safetensors ({error}). "
            "Get it again, or check the path."
        ) from error


def read_codes(path: str | os.PathLike[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Prompt codes (P, 512) and their names from a safetensors file.

    The tensor is called `codes`. The names are in the metadata under `prompts` or `names`, as a JSON list or
    separated by newlines or commas; without them the prompts are called prompt_0, prompt_1 and so on.

    Raises:
        InputError: the file can't be read, has no codes, or names that can't be read.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            found = list(file.keys())
            codes = file.get_tensor("codes") if "codes" in found else None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} can't be read as safetensors ({error}). "
            "Prompt codes are a tensor `codes` (prompts, 512)."
        ) from error
    if codes is None:
        raise InputError(
            f"{path} holds {', '.join(found) or 'no tensors'}; expected a tensor `codes` (prompts, 512). "
            "Store the prompts' text codes under that name."
        )
    text = metadata.get("prompts", metadata.get("names", "")).strip()
    if not text:
        return codes, tuple(f"prompt_{i}" for i in range(codes.shape[0] if codes.ndim else 0))
    if not text.startswith("["):
        return codes, tuple(name.strip() for name in text.split("\n" if "\n" in text else ","))
    try:
        names: list[Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} names its prompts in JSON that can't be read ({error}). Write a list."
        ) from error
    if strange := [name for name in names if not isinstance(name, str)]:
        raise InputError(
            f"{path} names a prompt {reprlib.repr(strange[0])}; expected text. Write it in quotes."
        )
    return codes, tuple(names)


def clip_codes() -> tuple[Tensor, tuple[str, ...]]:
    """Codes (7, 512) and names of the authors' prompts, by CLIP's text tower, which is downloaded once.

    Raises:
        InputError: transformers isn't installed, or the tower can't be had.
    """
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise InputError(
            f"--prompt-codes clip needs transformers, which can't be imported ({error}). "
            "Install it with: pip install 'pellucid[clip]', or give a file of codes."
        ) from error
    try:
        tokenizer: Callable[..., Any] = transformers.CLIPTokenizer.from_pretrained(
            CLIP_MODEL, revision=CLIP_REVISION
        )
        tower = transformers.CLIPTextModelWithProjection.from_pretrained(CLIP_MODEL, revision=CLIP_REVISION)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{CLIP_MODEL} can't be had ({str(error).splitlines()[0]}). "
            "Check the connection, or give a file of codes."
        ) from error
    tokens = tokenizer(list(PROMPTS.values()), padding="max_length", max_length=77, return_tensors="pt")
    with torch.inference_mode():
        codes: Tensor = tower.float().eval()(**tokens).text_embeds  # as the authors take them: not normalized
    return codes.clone(), tuple(PROMPTS)
