"""The sentences of the page, which lie in one file for each language."""

import tomllib
from pathlib import Path


def read_sentences(language: str = "en") -> dict[str, str]:
    """All sentences by name; those with parts in braces are completed with `str.format`."""
    return tomllib.loads(Path(__file__).with_name(f"{language}.toml").read_text(encoding="utf-8"))
