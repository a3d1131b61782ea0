"""The members that an ensemble can have, each in a file of its own; `member.py` has their contract and registry."""

from __future__ import annotations

from pyasd.models.autoencoder import Autoencoder
from pyasd.models.classifier import ArcFaceMobileNet, MobileNet, ResNet
from pyasd.models.group_made import GroupMade
from pyasd.models.member import Member, MemberConfig, Mode, NormalScores, Scorer, kinds, register
from pyasd.models.modulation import Modulation
from pyasd.models.neighbours import Neighbours
from pyasd.models.spectrum import Spectrum

__all__ = [
    "ArcFaceMobileNet",
    "Autoencoder",
    "GroupMade",
    "Member",
    "MemberConfig",
    "MobileNet",
    "Mode",
    "Modulation",
    "Neighbours",
    "NormalScores",
    "ResNet",
    "Scorer",
    "Spectrum",
    "kinds",
    "register",
]
