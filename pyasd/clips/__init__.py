"""Which clips there are: what paths, folders, globs, archives and arrays stand for, and what names tell of each."""

from pyasd.clips.choose import (
    Doubtful,
    Group,
    Machines,
    for_fitting,
    for_scoring,
    for_shard,
    found_and_broken,
    groups,
    name_machines,
)
from pyasd.clips.clip import Channel, Clip
from pyasd.clips.find import find

__all__ = [
    "Channel", "Clip", "Doubtful", "Group", "Machines", "find", "for_fitting", "for_scoring", "for_shard",
    "found_and_broken", "groups", "name_machines",
]  # fmt: skip
