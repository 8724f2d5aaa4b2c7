"""Which pictures there are, and what their outputs are called: a stream from folders, files and manifests."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pellucid.batch.plan import matches
from pellucid.cluster import storage
from pellucid.cluster.report import hash_name
from pellucid.errors import InputError
from pellucid.image_io import IMAGE_SUFFIXES

COLUMN = "path"  # of a manifest


@dataclass
class Inputs:
    """The pictures of a run; may be gone through more than once.

    Attributes:
        urls: of folders, files, and manifests (.parquet).
        output: URL of the output folder.
        include, exclude: as `pellucid.batch.plan.matches` takes them, for the outputs' names.
        skipped: files left aside, the last time: no pictures by their suffix, or not wanted.
    """

    urls: Sequence[str]
    output: str
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skipped: int = field(default=0, init=False)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each picture's path, and the name of its output below the output folder.

        A folder keeps its tree; one of several does so below its own name. A manifest's path from its own
        folder is the name, too; one from a root gives all of its parts ("bucket/a/b.png").

        Raises:
            InputError: a manifest has no paths, a path is not UTF-8, or an output would be its own input.
            UnreachableError: something can't be listed.
        """
        self.skipped = 0
        for url in self.urls:
            for path, name in self._pairs(url):
                if not matches(name, self.include, self.exclude):
                    self.skipped += 1
                    continue
                if (told := path.encode("utf-8", "backslashreplace").decode()) != path:
                    raise InputError(
                        f"The name of {told} is not UTF-8, as clusters and reports need it. "
                        "Rename it, or leave it out with --exclude."
                    )
                if _real(path) == self._target(name):
                    raise InputError(f"{path} would be written to itself. Choose another output folder.")
                yield path, name

    def check(self) -> int | None:
        """Refuse two inputs with one output, or one that is an input; how many pictures, if it had to count.

        The files of one folder can't meet unless the output is above it, and are not listed twice for that.

        Raises:
            InputError: an input is missing, two share an output, or one's output is another. Else as `pairs`.
        """
        for url in self.urls:
            if not storage.is_folder(url) and storage.state(url) is None:
                raise InputError(f"{url} does not exist, or is empty. Check the name.")
        if len(self.urls) == 1 and not (
            self.urls[0].endswith(".parquet") or _real(f"{self.urls[0]}/").startswith(self._target(""))
        ):
            return None
        rows = ((hash_name(_real(path)), hash_name(self._target(name))) for path, name in self.pairs())
        sources, targets = np.fromiter(rows, np.dtype((np.uint64, 2))).T
        targets = np.sort(targets)
        met = {*targets[1:][targets[1:] == targets[:-1]].tolist(), *np.intersect1d(sources, targets).tolist()}
        if met:
            self._refuse(met)
        return len(sources)

    def _refuse(self, met: set[int]) -> None:
        """Name two pictures of which one would be lost, by hashes of the places where they meet."""
        sources, seen = dict[str, str](), dict[str, str]()
        for path, name in self.pairs():
            if int(hash_name(source := _real(path))) in met:
                sources[source] = path
            if int(hash_name(target := self._target(name))) not in met:
                continue
            if target in seen:
                raise InputError(
                    f"{seen[target]} and {path} would both be written to {self.output}/{name}. "
                    "Leave one out, or restore them in two runs, to different folders."
                )
            seen[target] = path
        for target in seen.keys() & sources.keys():
            raise InputError(
                f"{seen[target]} would be written to {sources[target]}, which is to be restored too. "
                "Choose another output folder."
            )

    def _target(self, name: str) -> str:
        return _real(f"{self.output}/{name}")

    def _pairs(self, url: str) -> Iterator[tuple[str, str]]:
        if url.endswith(".parquet") and not storage.is_folder(url):
            yield from _manifest(url)
            return
        if not storage.is_folder(url):
            yield url, PurePosixPath(url).name
            return
        below = "" if len(self.urls) == 1 else f"{PurePosixPath(url).name}/"
        for name in storage.walk(url, skip=self.output):
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
                yield f"{url}/{name}", below + name
            else:
                self.skipped += 1


def _real(url: str) -> str:
    """By what two URLs are known to be one file: a local one has its folder's true path."""
    if "://" in (path := url.removeprefix("file://")):
        return url
    folder, _, name = path.rpartition("/")
    return f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    return os.path.realpath(path or "/").rstrip("/")


def _manifest(url: str) -> Iterator[tuple[str, str]]:
    folder = url.rpartition("/")[0]
    with storage.opened(url) as file:
        try:
            manifest = pq.ParquetFile(file)
            for batch in manifest.iter_batches(columns=[COLUMN]):
                for path in batch.column(0).to_pylist():
                    yield _named(path, folder, url)
        except (pa.ArrowException, IndexError) as error:
            raise InputError(
                f"{url} can't be used as a manifest: {error}. Expected a Parquet file with a column "
                f"{COLUMN!r} of text."
            ) from error


def _named(path: object, folder: str, manifest: str) -> tuple[str, str]:
    text = path if isinstance(path, str) else ""
    name = text.partition("://")[2] if "://" in text else text.lstrip("/")
    if not name or ".." in PurePosixPath(name).parts:
        raise InputError(
            f"{manifest} has the path {path!r}; expected the URL of a picture, or its path from the "
            "manifest's folder, without '..'. Correct the manifest."
        )
    return (text if "://" in text or text.startswith("/") else f"{folder}/{text}"), name
