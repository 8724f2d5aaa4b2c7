"""Tensors in files without a name, for what is too large for memory.

The system decides which parts of them are in memory. They vanish with the last view of them, and with the
process however it ends.
"""

import contextlib
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor

from pellucid.errors import MemoryBudgetError

TRIM_BYTES = 64 * 2**20  # that are read or written until their pages are let go

_files: dict[int, tuple[weakref.ref[mmap.mmap], Path]] = {}  # by the address of what they hold
_touched = 0


def create(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """A tensor of zeros on the CPU, in a file of `folder`, or in memory.

    Raises:
        MemoryBudgetError: there is no room for it.
    """
    if folder is None:
        return torch.zeros(shape, dtype=dtype, device="cpu")
    with reserved(folder, dtype.itemsize * math.prod(shape)) as file:
        return view(file, shape, dtype, folder)


def view(file: int, shape: tuple[int, ...], dtype: torch.dtype, folder: Path) -> Tensor:
    """The tensor that an open file of just its size holds; what is written into it is written into the file.

    Args:
        file: descriptor, which may be closed afterwards.
        shape, dtype: of the tensor.
        folder: that the file is in.
    """
    pages = mmap.mmap(file, dtype.itemsize * math.prod(shape))
    tensor = torch.frombuffer(pages, dtype=dtype).view(shape)
    address = tensor.untyped_storage().data_ptr()
    _files[address] = weakref.ref(pages), folder
    weakref.finalize(tensor.untyped_storage(), _files.pop, address, None)
    return tensor


def folder_of(tensor: Tensor) -> Path | None:
    """The folder of the file that holds a tensor, or none if it is in memory."""
    found = _files.get(tensor.untyped_storage().data_ptr()) if tensor.device.type == "cpu" else None
    return None if found is None else found[1]


def zeros_like(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of another shape, in a file if the tensor is in one."""
    folder = folder_of(tensor)
    return tensor.new_zeros(shape) if folder is None else create(shape, tensor.dtype, folder)


def copy(tensor: Tensor) -> Tensor:
    """A copy of (C, H, W), in a file if the tensor is in one."""
    copied = zeros_like(tensor, tensor.shape)
    for rows in bands(tensor.shape[1], tensor[:, 0].nbytes):
        copied[:, rows] = tensor[:, rows]
    return copied


def touch(size: int) -> None:
    """Say that so many bytes were read or written.

    Every now and then all pages of all files leave the process; the system keeps or writes them.
    """
    global _touched
    _touched += size
    if _files and _touched > TRIM_BYTES and hasattr(mmap, "MADV_DONTNEED"):
        _touched = 0
        for pages in (reference() for reference, _ in list(_files.values())):
            if pages is not None:
                pages.madvise(mmap.MADV_DONTNEED)


def bands(height: int, row_bytes: int) -> Iterator[slice]:
    """Rows from top to bottom, in bands small enough that pages of files may be let go in between."""
    rows = max(1, TRIM_BYTES // 2 // row_bytes)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        yield slice(start, stop)
        touch((stop - start) * row_bytes)


@contextlib.contextmanager
def reserved(folder: Path, size: int) -> Generator[int]:
    """The descriptor of a new file of `folder` without a name, which has so many bytes, all 0.

    Raises:
        MemoryBudgetError: there is no room for it.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process, wordless
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise MemoryBudgetError(
                f"{size / 1e6:,.0f} MB for a picture's pixels or features can't be had in {folder}: "
                f"{error.strerror}. Free space there, or let TMPDIR name a folder on a larger disk."
            ) from error
        yield file.fileno()
