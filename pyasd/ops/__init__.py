"""The public operators: what they compute, their checks, and their registration with `torch.library`.

Each docstring states its operator in a few lines of torch; `backends.contract.Backend` is those lines, and the other
backends are tested against it in float64. The operators work under `torch.compile` and have no double backward.
"""

from __future__ import annotations

from pyasd.backends.contract import GroupMadeNetwork, LogMelPlan, MixtureHead, MixtureShape
from pyasd.ops.group_made import group_made_score
from pyasd.ops.log_mel import log_mel
from pyasd.ops.mixture import mixture_log_likelihood, mixture_log_prob

__all__ = [
    "GroupMadeNetwork",
    "LogMelPlan",
    "MixtureHead",
    "MixtureShape",
    "group_made_score",
    "log_mel",
    "mixture_log_likelihood",
    "mixture_log_prob",
]
