"""What the containers of audio files say of their lengths, counted against the bytes that are there.

libsndfile takes most files that end early for shorter ones, hears the first stream of several in an Ogg file alone, and
estimates how long an MP3 file is. A factory's fault lies in the part that it leaves out, as likely as not.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from pyasd.containers import mpeg, ogg, others, riff
from pyasd.containers.finding import FEW_BYTES, Damaged, Finding, cut_off

__all__ = ["Damaged", "Finding", "inspect", "is_guessed"]


def inspect(stream: BinaryIO) -> Finding:
    """Inspect an encoded clip, and go back to its start.

    A container of another kind than those that the modules here know is left to libsndfile. PAF, PVF, IRCAM and SD2
    don't say how long they are, so that nothing tells whether they end early. MAT5, MPC2K and XI aren't looked at.

    Args:
        stream: seekable.

    Raises:
        Damaged: a part of it is missing, or it can't be heard right; the message says what is wrong and what to do.
        OSError: it can't be read.
    """
    size = stream.seek(0, os.SEEK_END)
    if not size:
        raise Damaged("empty", "is a file of zero bytes: record or copy it again, or leave it out")
    stream.seek(0)
    magic = stream.read(12)
    finding = Finding()
    if magic[:4] in riff.ORDERS:
        finding = riff.inspect(stream, size, magic)
    elif magic[:4] == b"OggS":
        finding = ogg.inspect(stream, size)
    elif mpeg.begins(magic):
        finding = mpeg.inspect(stream, size)
    else:
        end = others.claimed_end(stream, size, magic)
        if end is not None and end > size + FEW_BYTES:
            raise cut_off(size, end)
        finding = Finding(unfinished=end is not None and end > size)
    stream.seek(0)
    return finding


def is_guessed(form: str, subtype: str, magic: bytes) -> bool:
    """Return whether libsndfile has gone by a file's extension alone, though files of that kind have a beginning of
    their own: it takes an AU file with a damaged header for 8 kHz without one, and an MP3 file's length at a guess.

    Args:
        form: the file's format, as libsndfile has it.
        subtype: its encoding, as libsndfile has it.
        magic: its first bytes.
    """
    return (form == "MP3" and not mpeg.begins(magic)) or (form, subtype) == ("RAW", "ULAW")
