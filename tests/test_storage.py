from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pyasd import storage
from pyasd.errors import ModelFileError

TENSORS = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor([1, 2])}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some model.safetensors"
    storage.write(path, TENSORS, {"format": 1, "name": "Lüfter"})
    return path


def test_round_trip(file: Path) -> None:
    tensors, header = storage.read(file)
    assert header == {"format": 1, "name": "Lüfter"}
    assert all(torch.equal(tensors[name], x) for name, x in TENSORS.items())
    assert [x.name for x in file.parent.iterdir()] == [file.name]  # nothing left beside it


def test_a_folder_whose_name_is_not_utf_8(latin1: Path) -> None:
    file = latin1 / "some model"
    descriptors = os.listdir("/dev/fd")
    storage.write(file, TENSORS, {"format": 1})
    tensors, header = storage.read(file)
    assert header == {"format": 1}
    assert all(torch.equal(tensors[name], x) for name, x in TENSORS.items())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match=r"some model is truncated"):
        storage.read(file)
    assert os.listdir("/dev/fd") == descriptors


def test_truncated_anywhere_is_told(file: Path) -> None:
    whole = file.read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match=r"some model.*truncated.*again"):
            storage.read(file)


OTHERS = (b"clip,score\nx.wav,1.0\n" * 9, b'[1,2,3, {"a": 1}]', b"{}", b"\x80\x04" + bytes(99), bytes(64))


@pytest.mark.parametrize("content", OTHERS)
def test_other_files_are_no_models(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a model file"):
        storage.read(file)


@pytest.mark.parametrize("metadata", [None, {"pyasd": "no JSON"}, {"pyasd": "[1]"}, {"format": "pt"}])
def test_other_safetensors_are_no_models(file: Path, metadata: dict[str, str] | None) -> None:
    safetensors.torch.save_file({"x": torch.zeros(1)}, file, metadata)
    with pytest.raises(ModelFileError, match="not one of pyasd's"):
        storage.read(file)


@pytest.mark.parametrize("header", [[1], None, "text"])
def test_a_header_that_is_no_table_is_damaged(file: Path, header: Any) -> None:
    storage.write(file, TENSORS, header)
    with pytest.raises(ModelFileError, match=r"some model\.safetensors is damaged"):
        storage.read(file)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no model file .*gone\.safetensors$"):
        storage.read(tmp_path / "gone.safetensors")
    with pytest.raises(FileNotFoundError, match=r"there is no model file .*: it is a folder$"):
        storage.read(tmp_path)


def test_full_disk_keeps_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"some model.*No space left.*free some space"):
        storage.write(file, TENSORS, {})
    assert file.read_bytes() == before
    assert [x.name for x in file.parent.iterdir()] == [file.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_real_full_device_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "_partial", lambda path: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(OSError, match="No space left"):
        storage.write(tmp_path / "x.safetensors", TENSORS, {})


def test_places_that_cannot_be_written_are_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.check_writable(tmp_path / "new.safetensors") == tmp_path / "new.safetensors"
    assert not list(tmp_path.iterdir())
    with pytest.raises(IsADirectoryError, match=r"is a folder: give the name of a file in it, as "):
        storage.check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"the folder .* doesn't exist: make it first"):
        storage.check_writable(tmp_path / "no" / "new.safetensors")

    def denied(self: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", denied)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"new\.safetensors.*Permission denied"):
        storage.check_writable(tmp_path / "new.safetensors")


@pytest.mark.parametrize("flush", [True, False])
def test_atomic_leaves_the_new_file_or_the_old_one(tmp_path: Path, flush: bool) -> None:
    path = tmp_path / "file"
    with storage.atomic(path, flush=flush) as partial:
        partial.write_bytes(b"new")

    def interrupted() -> None:
        with storage.atomic(path, flush=flush) as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_flipped_bits_anywhere_are_told(file: Path) -> None:
    whole = file.read_bytes()
    told = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            tensors, header = storage.read(file)
        except ModelFileError as error:
            assert "some model" in str(error)  # noqa: PT017 (either outcome may be right)
            told += 1
        else:  # "\\u00Fc" is "\\u00fc"
            assert header == {"format": 1, "name": "Lüfter"}
            assert all(torch.equal(tensors[name], x) for name, x in TENSORS.items())
    assert told >= len(whole) - 1


def test_files_without_a_checksum_are_read(file: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(1)}, file, {"pyasd": '{"format": 1}'})
    tensors, header = storage.read(file)
    assert header == {"format": 1}
    assert tensors["x"].tolist() == [1]
