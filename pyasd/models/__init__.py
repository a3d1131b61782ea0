"""The ensemble's members: models that learn normal clips and score others.

A member is a class with a `name`, score `modes`, and the methods of `Member`. To add one: write
the class, add it to `build`, and its name and configuration to `config`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyasd.config import ClassifierConfig, Precision, Recipe
from pyasd.models.autoencoder import Autoencoder
from pyasd.models.classifier import Classifier
from pyasd.models.classifier import Scorer as ClassifierScorer
from pyasd.models.group_made import GroupMade
from pyasd.models.group_made import Scorer as GroupMadeScorer
from pyasd.models.spectrum import Spectrum
from pyasd.training import History, Run


class Scorer(Protocol):
    """A fitted member made ready for scoring: one call per clip, whose bits depend on that clip alone."""

    def score(self, log_mel: Tensor, machine_id: str | None) -> Tensor:
        """Scores of a clip `[frames, mels]` in the scorer's modes, `[modes]` float64: higher is more anomalous.
        `machine_id` is the one that it is said to be from; `None` where that wasn't learnt.
        """

    def explain(self, log_mel: Tensor, mode: str, machine_id: str | None) -> Tensor:
        """Each frame's and band's share, `[frames, mels]` float32."""


class Member(Protocol):
    """What every member has."""

    @property
    def name(self) -> str:
        """Its name in recipes and tables."""

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of the scores that it can give."""

    @property
    def default_mode(self) -> str:
        """The mode that counts unless another is asked for."""

    def fit(self, log_mels: Sequence[Tensor], ids: Sequence[str], run: Run) -> History:
        """Learn from normal clips `[frames, mels]`, in dB, and their machine IDs."""

    def scorer(
        self,
        device: torch.device | str = "cpu",
        backend: str = "auto",
        precision: Precision = "float32",
        modes: Sequence[str] | None = None,
    ) -> Scorer:
        """The member as it is now, made ready for scoring on `device` in some of its modes, or in all."""

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`; ValueError where they don't fit."""


def score_many(scorer: Scorer, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
    """`scorer.score` of many clips, `[clips, modes]` float64 on their device. Group MADE and classifiers take all of
    them together; a clip's bits don't depend on the others.
    """
    if isinstance(scorer, (ClassifierScorer, GroupMadeScorer)):
        return scorer.score_many(log_mels, machine_ids)
    return torch.stack([scorer.score(x, machine_id) for x, machine_id in zip(log_mels, machine_ids, strict=True)])


def build(name: str, recipe: Recipe, seed: int = 0) -> Member:
    """A new member of that name, as the recipe has it."""
    if name == GroupMade.name:
        return GroupMade(recipe.group_made, recipe.features.n_mels, seed, recipe.statistics == "robust")
    if name == Autoencoder.name:
        return Autoencoder(recipe.autoencoder, recipe.features.n_mels, seed)
    if name == Spectrum.name:
        return Spectrum(recipe.features.n_mels)
    settings = recipe.settings_of(name)
    assert isinstance(settings, ClassifierConfig)
    return Classifier(name, settings, recipe.features.n_mels, seed)


__all__ = ["Autoencoder", "Classifier", "GroupMade", "Member", "Scorer", "Spectrum", "build", "score_many"]
