"""Files that are whole or not there: atomic writing, and named tensors with a JSON header in a safetensors file.

Models and checkpoints are never pickled: a file can't execute code. A checksum over header and tensors tells a file
that was damaged on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyasd.errors import ModelFileError

if TYPE_CHECKING:
    from torch import Tensor

HEADER = "pyasd"
"""The safetensors metadata key under which the JSON header stands."""


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Return `path`, once it is sure that a file can be written there: asked before hours of work, not after.

    Raises:
        OSError: the folder is missing or can't be written to, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it, as {path / 'model.safetensors'}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} doesn't exist: make it first, or write elsewhere")
    probe = _partial(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _explained(error, path) from error
    return path


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str], flush: bool = True) -> Iterator[Path]:
    """Write a file beside its place and rename it into it: readers find the old file or the new one, whole.

    The block gets the path to write to. When it ends, the file is flushed to the disk and takes the place of `path`;
    when it raises, the file is removed and `path` stays as it was. Without `flush` (10 ms a file), only a power cut can
    leave part of a file at `path`: for many files, which one `os.sync()` at the end flushes together.

    Raises:
        OSError: the file can't be written; the message names `path` and says what to do.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        yield partial
        if flush:
            publish(partial, path)
        else:
            os.replace(partial, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def publish(partial: Path, path: Path) -> None:
    """Give a finished file its name: its bytes are on the disk before the name is.

    Raises:
        OSError: the disk is full, or the file can't be renamed.
    """
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write `tensors` and `header` to `path`, atomically.

    Raises:
        OSError: the file can't be written: the disk is full, or the folder is missing or not writable.
    """
    import safetensors.torch

    plain = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    text = json.dumps({"checksum": checksum(plain, header), "header": header})
    data = safetensors.torch.save(plain, {HEADER: text})  # one key: safetensors writes several in any order
    with atomic(path) as partial:
        partial.write_bytes(data)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors (on the CPU) and the header of a file that `write` made.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: the file is truncated or damaged, or not one of pyasd's.
    """
    import safetensors

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}" + (": it is a folder" if path.is_dir() else ""))
    try:
        with utf8_name(path) as name, safetensors.safe_open(name, "pt") as file:
            outer = dict(json.loads((file.metadata() or {})[HEADER]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        if _is_truncated(path):
            raise ModelFileError(f"{path} is truncated: copy it again, or fit the model again") from error
        raise ModelFileError(f"{path} is not a model file of pyasd: give one that `pyasd fit -o` wrote") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is a safetensors file, but not one of pyasd's: give one that `pyasd fit -o` wrote"
        ) from error
    if not outer.keys() & {"checksum", "header"}:
        return tensors, outer  # files of version 0.1 have no checksum
    header = outer.get("header")
    whole = outer.keys() == {"checksum", "header"} and outer["checksum"] == checksum(tensors, header)
    if not whole or not isinstance(header, dict):
        raise ModelFileError(f"{path} is damaged: it doesn't fit its checksum. Copy it again, or fit the model again")
    return tensors, header


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Name a file for libraries that take no other names than UTF-8: by its own, or by that of its descriptor.

    Raises:
        OSError: its own isn't, and the file can't be opened.
    """
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield name


def checksum(tensors: Mapping[str, Tensor], header: Any) -> str:
    """Return the SHA-256 of a header and of each tensor's name, type, shape and bytes, in the order of their names, as
    `write` puts it into the file.
    """
    import torch

    digest = hashlib.sha256(json.dumps(header).encode())
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_truncated(path: Path) -> bool:
    """Whether `path` begins like a safetensors file (the header's length, then JSON) and ends too early."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    # A text file's first 8 bytes are a length of about 10^18, so a plausible length is a real one.
    return size == 0 or (start[8:] == b"{" and length < 100_000_000)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _explained(error: OSError, path: Path) -> OSError:
    """The same kind of error, with a message that names the file and says what to do."""
    return type(error)(
        error.errno, f"can't write {path} ({error.strerror}): free some space there, or write to another folder"
    )
