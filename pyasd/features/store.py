"""The log-Mels of a training set, each held once: in memory, or above a size in a memory-mapped file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEMORY_BYTES = 2 << 30
"""Log-Mels beyond so many bytes (13,000 clips of 10 s) go to a temporary file, from which the system reads what is
needed and keeps what fits. The file is in the folder that the environment variable TMPDIR names."""


class LogMels(Sequence[Tensor]):
    """Log-Mels of clips as views of one tensor of frames.

    Args:
        frames: `[all frames, mels]` float32, in dB.
        firsts: `[clips]` int64, each clip's first frame, ascending.
        lengths: `[clips]` int64, each clip's frames.
        in_file: the frames lie in a memory-mapped file, and are not to be copied as a whole.
    """

    def __init__(
        self, frames: Tensor, firsts: NDArray[np.int64], lengths: NDArray[np.int64], in_file: bool = False
    ) -> None:
        self.frames = frames
        self.firsts = firsts
        self.lengths = lengths
        self.in_file = in_file

    @classmethod
    def pack(cls, log_mels: Iterable[Tensor]) -> LogMels:
        """Copy log-Mels `[frames, mels]` into one tensor on their device; what is packed already stays as it is."""
        if isinstance(log_mels, LogMels):
            return log_mels
        store = LogMelStore()
        for log_mel in log_mels:
            store.append(log_mel)
        return store.pack()

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        first = int(self.firsts[index])
        return self.frames[first : first + int(self.lengths[index])]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def select(self, places: Sequence[int]) -> LogMels:
        """Return some of the clips, in ascending order, without a copy."""
        chosen = np.asarray(places, np.int64)
        return LogMels(self.frames, self.firsts[chosen], self.lengths[chosen], self.in_file)


class LogMelStore:
    """Collects log-Mels clip by clip.

    Args:
        memory_bytes: how many bytes may be in memory; beyond, all of them go to a temporary file.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._bytes = 0
        self._in_memory: list[Tensor] = []
        self._file: IO[bytes] | None = None
        self._lengths: list[int] = []
        self._mels = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def append(self, log_mel: Tensor) -> None:
        """Add a clip `[frames, mels]` float32.

        Raises:
            OSError: the temporary file can't be written: the disk is full.
        """
        self._lengths.append(len(log_mel))
        self._mels = log_mel.shape[1]
        self._bytes += log_mel.nbytes
        if self._file is not None:
            self._write(log_mel)
            return
        self._in_memory.append(log_mel)
        if self._bytes > self._memory_bytes:
            self._file = tempfile.TemporaryFile(prefix="pyasd-log-mels-")  # noqa: SIM115 (lives as long as the map)
            for waiting in self._in_memory:
                self._write(waiting)
            self._in_memory.clear()

    def pack(self) -> LogMels:
        """Return all clips in one tensor, on their device, or on the CPU where they lie in a file. Ends the store."""
        lengths = np.array(self._lengths, np.int64)
        firsts = np.cumsum(lengths) - lengths
        if self._file is not None:
            self._file.flush()
            shape = (int(lengths.sum()), self._mels)
            frames = torch.from_numpy(np.memmap(self._file, np.float32, "r+", shape=shape))
        elif self._in_memory:
            frames = torch.cat(self._in_memory)
            self._in_memory.clear()
        else:
            frames = torch.empty(0, self._mels)
        return LogMels(frames, firsts, lengths, self._file is not None)

    def _write(self, log_mel: Tensor) -> None:
        assert self._file is not None
        self._file.write(log_mel.cpu().contiguous().numpy().data)
