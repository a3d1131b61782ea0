"""Log-Mels of a training set: each is held once, in memory or in a memory-mapped file, with the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyasd.features.store import LogMels, LogMelStore


def log_mels(*lengths: int) -> list[Tensor]:
    return [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in lengths]


def stored(clips: list[Tensor], memory_bytes: int) -> LogMels:
    store = LogMelStore(memory_bytes)
    for clip in clips:
        store.append(clip)
    assert len(store) == len(clips)
    return store.pack()


@pytest.mark.parametrize(("memory_bytes", "in_file"), [(1 << 20, False), (0, True), (400, True)])
def test_clips_come_back_as_views(memory_bytes: int, in_file: bool) -> None:
    clips = log_mels(5, 40, 1, 17)
    packed = stored(clips, memory_bytes)
    assert packed.in_file is in_file
    assert packed.frames.shape == (63, 4)
    assert packed.firsts.tolist() == [0, 5, 45, 46]
    assert packed.lengths.tolist() == [5, 40, 1, 17]
    assert len(packed) == 4
    for view in (list(packed), [packed[i] for i in range(4)], packed[:], packed[-4:]):
        assert all(torch.equal(a, b) for a, b in zip(view, clips, strict=True))
    assert all(x.untyped_storage().data_ptr() == packed.frames.untyped_storage().data_ptr() for x in packed)
    assert packed[1].data_ptr() == packed.frames[5:].data_ptr()


def test_what_fits_exactly_stays_in_memory() -> None:
    clips = log_mels(5, 6)
    size = sum(x.nbytes for x in clips)
    assert not stored(clips, size).in_file
    assert stored(clips, size - 1).in_file


def test_some_clips_are_chosen_without_a_copy() -> None:
    for memory_bytes in (1 << 20, 0):
        clips = log_mels(5, 40, 1, 17)
        packed = stored(clips, memory_bytes)
        chosen = packed.select([0, 3])
        assert [len(x) for x in chosen] == [5, 17]
        assert torch.equal(chosen[1], clips[3])
        assert chosen.frames.data_ptr() == packed.frames.data_ptr()
        assert chosen.in_file is packed.in_file
        assert len(packed.select([])) == 0


def test_packing_copies_once() -> None:
    clips = log_mels(5, 6)
    packed = LogMels.pack(iter(clips))
    assert LogMels.pack(packed) is packed
    assert all(torch.equal(a, b) for a, b in zip(packed, clips, strict=True))
    assert len(LogMels.pack([])) == 0


def test_strided_clips_are_stored_as_their_values() -> None:
    clip = torch.randn(4, 30).T[::2]
    for memory_bytes in (1 << 20, 0):
        assert torch.equal(stored([clip, clip], memory_bytes)[1], clip)


def test_the_file_leaves_with_the_log_mels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no name where the system can do that, and frees its space when nobody needs it any more."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    clips = log_mels(50, 60)
    packed = stored(clips, 0)
    assert torch.equal(packed[1], clips[1])
    assert np.array_equal(packed.frames.numpy()[:50], clips[0].numpy())
    del packed
    assert list(tmp_path.iterdir()) == []
