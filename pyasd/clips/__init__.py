"""Which clips there are: what paths, folders, globs, archives and arrays stand for, and what names tell of each."""

from pyasd.clips.clip import Clip
from pyasd.clips.find import find, for_fitting, for_scoring

__all__ = ["Clip", "find", "for_fitting", "for_scoring"]
