"""Files by URL: local paths, s3://, gs:// and whatever else fsspec knows."""

import contextlib
import datetime
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pellucid.errors import (
    InputError,
    OutputExistsError,
    PellucidError,
    UnreachableError,
    UnreadableImageError,
    reason,
)
from pellucid.image_io import write_bytes

_Folder = tuple[str, dict[str, dict[str, Any]], dict[str, dict[str, Any]]]  # its folders and files, by name


@dataclass(frozen=True)
class FileState:
    """By what a file is known again without reading it.

    Attributes:
        size: bytes.
        version: its entity tag where the store has one, else its time of change.
        modified: seconds since 1970, by the store's clock.
    """

    size: int
    version: str
    modified: float


def absolute(url: str) -> str:
    """A URL as it is; a local path from the root, so that it means the same in every process."""
    return url.rstrip("/") if "://" in url else str(Path(url).absolute())


def state(url: str) -> FileState | None:
    """The state of a file; none if there is none.

    Raises:
        UnreachableError: the store does not tell.
    """
    with _sentence(url, "looked at"):
        system, path = _open(url)
        try:
            return _state(system.info(path))
        except (FileNotFoundError, NotADirectoryError):
            return None


def read(url: str) -> bytes:
    """The bytes of a file.

    Raises:
        UnreadableImageError: there is no such file.
        UnreachableError: the store does not give it, or not to this machine.
    """
    with _sentence(url, "read"):
        system, path = _open(url)
        try:
            return cast(bytes, system.cat_file(path))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UnreadableImageError(
                f"{url} can't be read: {error.strerror or error}. Check the path."
            ) from error


def write(data: bytes, url: str, *, overwrite: bool) -> None:
    """Write a file, which appears whole or not at all.

    Raises:
        OutputExistsError: it is there, and `overwrite` is false.
        UnreachableError: the store does not take it.
    """
    with _sentence(url, "written"):
        system, path = _open(url)
        if isinstance(system, LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(data, path, overwrite=overwrite)
            return
        try:
            system.pipe_file(path, data, mode="overwrite" if overwrite else "create")
        except FileExistsError as error:
            raise OutputExistsError(
                f"{url} exists already and was left alone. Choose another output or pass --overwrite."
            ) from error


def remove(url: str) -> None:
    """Remove a file, or a folder with what is in it, if there is one.

    Raises:
        UnreachableError: the store refuses.
    """
    with _sentence(url, "removed"):
        system, path = _open(url)
        with contextlib.suppress(FileNotFoundError):
            system.rm(path, recursive=True)


def remove_leftovers(root: str) -> None:
    """Remove what killed processes had begun to write below a local folder; stores have no such files."""
    system, path = _open(root)
    if isinstance(system, LocalFileSystem):
        for temporary in Path(path).rglob(".pellucid-*.tmp"):
            temporary.unlink(missing_ok=True)


def walk(root: str, skip: str | None = None) -> Iterator[str]:
    """The files below a folder, as paths from there, sorted folder by folder; no hidden ones, no links.

    Args:
        root: the folder.
        skip: a folder whose files are left out.

    Raises:
        UnreachableError: a folder can't be listed.
    """
    with _sentence(root, "listed"):
        system, path = _open(root)
        top = path.rstrip("/")
        left_out = None if skip is None else str(_open(skip)[1]).rstrip("/")
        walked = cast(Iterator[_Folder], system.walk(top, detail=True, on_error="raise"))
        for folder, folders, files in walked:
            for name in list(folders):
                hidden = name.startswith(".") or folders[name].get("islink")
                if hidden or f"{folder.rstrip('/')}/{name}" == left_out:
                    del folders[name]
            for name in sorted(files):
                if name and not name.startswith(".") and not files[name].get("islink"):
                    yield f"{folder}/{name}".removeprefix(top).lstrip("/")


def is_folder(url: str) -> bool:
    """Whether there are files below this name.

    Raises:
        UnreachableError: the store does not tell.
    """
    with _sentence(url, "looked at"):
        system, path = _open(url)
        return bool(system.isdir(path))


def listed(url: str) -> list[str]:
    """The names of the files in a folder, sorted; empty if there is none.

    Raises:
        UnreachableError: it can't be listed.
    """
    with _sentence(url, "listed"):
        system, path = _open(url)
        try:
            found = [entry["name"] for entry in system.ls(path, detail=True) if entry["type"] == "file"]
        except FileNotFoundError:
            return []
        return sorted(name.rsplit("/", 1)[-1] for name in found)


@contextlib.contextmanager
def opened(url: str) -> Generator[IO[bytes]]:
    """A file, opened for reading piece by piece.

    Raises:
        UnreachableError: it can't be read.
    """
    with _sentence(url, "read"):
        system, path = _open(url)
        with system.open(path, "rb") as file:
            yield cast(IO[bytes], file)


def _open(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if "://" not in url:  # fsspec would take "::" in a name for a chain of stores
        return LocalFileSystem(), url
    try:
        # Listings that are kept would hide what other processes write.
        system, path = url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{url} can't be used: {error}. Expected a local path, s3:// (s3fs), gs:// (gcsfs), or another "
            "protocol of fsspec with its package installed."
        ) from error
    return system, str(path)


def _state(info: dict[str, Any]) -> FileState | None:
    if info["type"] == "directory":
        return None
    modified = info.get("LastModified") or info.get("updated") or info.get("mtime") or 0.0
    if isinstance(modified, str):
        modified = datetime.datetime.fromisoformat(modified)
    if isinstance(modified, datetime.datetime):
        modified = modified.timestamp()
    version = info.get("ETag") or info.get("etag") or info.get("md5Hash") or repr(float(modified))
    return FileState(int(info["size"]), str(version).strip('"'), float(modified))


@contextlib.contextmanager
def _sentence(url: str, done: str) -> Generator[None]:
    """Stores fail in the words of their own libraries; what they mean here is the same."""
    try:
        yield
    except (PellucidError, GeneratorExit):
        raise
    except Exception as error:
        told = reason(error) or type(error).__name__
        raise UnreachableError(
            f"{os.fspath(url)} can't be {done}: {told}. Check the path, the credentials and the "
            "network, and run the command again."
        ) from error
