"""Tensors in files: they hold what is put there, are known, and vanish."""

import pytest
import torch

from pellucid import scratch
from pellucid.errors import MemoryBudgetError


def test_a_tensor_in_a_file_is_one_like_others_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "TRIM_BYTES", 64)
    tensor = scratch.create((3, 5, 7), torch.float32, tmp_path)
    assert not tensor.any()
    tensor += torch.arange(105).view(3, 5, 7)
    scratch.touch(65)  # its pages leave, and come back as they were
    assert tensor.flatten().tolist() == list(range(105))
    assert scratch.folder_of(tensor) == scratch.folder_of(tensor[1:, 2]) == tmp_path
    copied = scratch.copy(tensor)
    assert (scratch.folder_of(copied), copied.equal(tensor)) == (tmp_path, True)
    assert copied.data_ptr() != tensor.data_ptr()
    beside = scratch.zeros_like(tensor[:, :1], (2, 2))
    assert (scratch.folder_of(beside), beside.tolist()) == (tmp_path, [[0, 0], [0, 0]])
    view = tensor[2]
    del tensor
    assert view[4, 6] == 104
    assert not list(tmp_path.iterdir())
    del view, beside, copied
    assert not scratch._files


def test_a_tensor_in_memory_is_in_no_folder():
    tensor = torch.rand(2, 3)
    assert scratch.folder_of(tensor) is None
    assert scratch.folder_of(scratch.zeros_like(tensor, (4, 4))) is None
    assert scratch.folder_of(scratch.copy(tensor[None])) is None
    assert scratch.folder_of(torch.empty(3, device="meta")) is None


def test_a_full_disk_is_told(tmp_path):
    with pytest.raises(MemoryBudgetError, match="TMPDIR"):
        scratch.create((2**50,), torch.uint8, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bands_cover_all_rows_once(monkeypatch):
    monkeypatch.setattr(scratch, "TRIM_BYTES", 60)
    assert [(rows.start, rows.stop) for rows in scratch.bands(7, 10)] == [(0, 3), (3, 6), (6, 7)]
    assert [(rows.start, rows.stop) for rows in scratch.bands(2, 1000)] == [(0, 1), (1, 2)]
