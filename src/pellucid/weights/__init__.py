"""Weights by name: which verified file a name stands for.

The files and their model cards lie in this folder; `index.json` holds the facts of each.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pellucid.errors import CheckpointError, InputError, UnknownNameError
from pellucid.registry import unknown_name

DEFAULT = "daair_s.5task"
_FOLDER = Path(__file__).parent
_SUFFIXES = {
    ".safetensors",
    ".pth",
    ".pt",
    ".ckpt",
    ".bin",  # these four are refused with a sentence, as files
    ".onnx",
    ".xml",  # exported, see pellucid.engines
}


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Attributes:
        name: structure and training, for example "daair_s.5task"; a file's own stem if it is not embedded.
        path: where it lies.
        sha256: what its bytes must hash to, in hex; none if nothing is promised about the file.
        bytes: its size, as promised; none if nothing is.
        license: SPDX name, or none.
        card: the model card, or none.
    """

    name: str
    path: Path
    sha256: str | None = None
    bytes: int | None = None
    license: str | None = None
    card: Path | None = None


@dataclass(frozen=True)
class _Row:
    file: str
    sha256: str
    bytes: int
    license: str
    card: str | None


def _read_index() -> dict[str, _Row]:
    index = json.loads((_FOLDER / "index.json").read_text(encoding="utf-8"))
    return {name: _Row(**row) for name, row in index.items()}


def names() -> list[str]:
    """Names of the embedded weights, sorted."""
    return sorted(_read_index())


def find(name_or_path: str | os.PathLike[str]) -> WeightsFile:
    """The file that a name stands for, or the file at a path.

    A string is a path if it has a folder or the suffix of a checkpoint. The hash is not computed here: it
    goes along to `Checkpoint.read`, which verifies the bytes.

    Raises:
        InputError: neither a name nor a path.
        UnknownNameError: no such name; the nearest are offered.
        CheckpointError: the named file is missing from the installation.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"The model is of type {type(name_or_path).__name__}; expected the name of weights or a path. "
            "The names are listed by: pellucid models"
        )
    text = os.fspath(name_or_path)
    path = Path(text)
    if not isinstance(name_or_path, str) or path.suffix in _SUFFIXES or path.name != text:
        return WeightsFile(path.stem, path)
    index = _read_index()
    if text not in index:
        sentence = unknown_name("weights", text, sorted(index)).replace("There is no", "There are no", 1)
        raise UnknownNameError(f"{sentence} A file is given by its path, ending in .safetensors.")
    row = index[text]
    file = _FOLDER / row.file
    if not file.exists():
        raise CheckpointError(
            f"The weights {text} should lie at {file}, which is missing. Install pellucid again."
        )
    card = _FOLDER / row.card if row.card else None
    return WeightsFile(text, file, row.sha256, row.bytes, row.license, card)


def register(path: str | os.PathLike[str], *, license: str = "Apache-2.0") -> WeightsFile:  # noqa: A002
    """Enter a file of this folder into `index.json`, under its stem; for whoever commits new weights.

    Args:
        path: the file; `<stem>.md` beside it becomes its model card.
        license: SPDX name.

    Raises:
        CheckpointError: the file lies elsewhere.
    """
    path = Path(path).resolve()
    if path.parent != _FOLDER.resolve() or not path.is_file():
        raise CheckpointError(f"{path} is no file in {_FOLDER}; embedded weights lie there. Copy it first.")
    card = path.with_suffix(".md")
    content = path.read_bytes()
    index = _read_index()
    index[path.stem] = _Row(
        path.name,
        hashlib.sha256(content).hexdigest(),
        len(content),
        license,
        card.name if card.exists() else None,
    )
    rows = {name: asdict(row) for name, row in sorted(index.items())}
    (_FOLDER / "index.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return find(path.stem)
