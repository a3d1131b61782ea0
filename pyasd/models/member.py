"""Members of an ensemble: models that learn normal clips and score others; their contract and their registry.

To add one, write a subclass of `Member` with its own frozen config and give it to `register`, or name it in the entry
point group `pyasd.members` of a package of your own. docs/extending.md has a complete one.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyasd import settings
from pyasd.compute import Compute
from pyasd.models.over_time import Usual
from pyasd.training.data import TrainingSet
from pyasd.training.run import History, Run

ENTRY_POINTS = "pyasd.members"
"""The entry point group by which other packages bring members of their own."""

MIN_FRAMES = 5
"""Log-Mel frames that a clip must have where no member asks for more or fewer."""


class Mode(NamedTuple):
    """One of the scores that a member can give.

    Attributes:
        name: in tables, recipes and on the command line.
        unit: of the score and of its map, such as "NLL, nats".
        doc: what it measures, in one sentence.
    """

    name: str
    unit: str
    doc: str


@dataclass(frozen=True)
class MemberConfig:
    """The settings of a member. A subclass is a frozen dataclass; TOML recipes are read into it.

    The names `kind`, `name` and `weight` are taken: a recipe's `[[member]]` table has them beside the settings.
    """

    def __post_init__(self) -> None:
        settings.check_types(self)

    @property
    def min_frames(self) -> int:
        """Log-Mel frames that a clip must have; 0 where a member repeats what is shorter than it needs."""
        return 0

    @property
    def repeats_below(self) -> int:
        """Log-Mel frames below which a clip is repeated; 0 for never."""
        return 0

    @property
    def speeds(self) -> tuple[float, ...]:
        """Ratios at which `fit` needs the clips played, besides as they are."""
        return ()

    def relative_to(self, folder: str) -> MemberConfig:
        """Return the settings with paths of files taken from `folder`, where the recipe lies."""
        return self


class NormalScores(NamedTuple):
    """Scores of normal clips, by which others are standardised.

    Attributes:
        scores: `[clips, modes]` float64.
        ids: the clips' machine IDs.
        prior: weight, in clips, of the IDs' mean variance in each ID's own; see `detector.statistics`.
        unlearnt: `[training clips, modes]` float64, the scores of those training clips that the member has not learnt
            (held out, or scored by a model of the others), NaN for those that it has; thresholds come from them.
            `None` where none is known.
    """

    scores: NDArray[np.float64]
    ids: Sequence[str]
    prior: float
    unlearnt: NDArray[np.float64] | None = None


class Scorer(ABC):
    """A fitted member made ready for scoring in some of its modes."""

    @abstractmethod
    def score_many(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
        """Score clips together. A clip's bits don't depend on the others, and a GPU is not waited for.

        Args:
            log_mels: `[frames, mels]` float32 each, in dB.
            machine_ids: of the clips; `None` where it isn't one that was learnt.

        Returns:
            `[clips, modes]` float64 on the clips' device: higher is more anomalous.
        """

    def score(self, log_mel: Tensor, machine_id: str | None = None) -> Tensor:
        """Score one clip, `[modes]` float64."""
        return self.score_many([log_mel], [machine_id])[0]

    @abstractmethod
    def explain(self, log_mel: Tensor, mode: str, machine_id: str | None = None) -> Tensor:
        """Map where in time and frequency a clip's score comes from, `[frames, mels]` float32, in the mode's unit."""


class Member(ABC):
    """A model that learns normal clips of one machine type and scores others.

    Args:
        name: in the recipe and the table.
        config: its settings.
        mels: Mel bands.
        seed: of the initial weights.

    Attributes:
        kind: what recipes call it.
        Config: the class of its settings.
        MODES: the scores that it can give once it is fitted.
        modes: those that it can give as it is; the first one counts unless `default_mode` says another.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[MemberConfig]]
    MODES: ClassVar[tuple[Mode, ...]]

    def __init__(self, name: str, config: Any, mels: int, seed: int = 0) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.mels = mels
        self.seed = seed

    @classmethod
    def size(cls, config: Any, mels: int) -> int:  # noqa: ARG003 (a member may ask)
        """Return how many numbers its tensors have at the least: a model file that has fewer is none, which is found
        out before anything of that size is made.

        Raises:
            ValueError: they are more than any model needs.
        """
        return 0

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The scores that it can give as it is now."""
        return self.MODES

    @property
    def mode_names(self) -> tuple[str, ...]:
        """The names of its modes."""
        return tuple(mode.name for mode in self.modes)

    @property
    def default_mode(self) -> str:
        """The mode that counts unless another is asked for."""
        return self.modes[0].name

    def mode(self, name: str) -> Mode:
        """Return the mode of that name."""
        return next(mode for mode in self.modes if mode.name == name)

    def obstacle(self, ids: Sequence[str]) -> str | None:
        """Say why it can't learn from clips of these machine IDs, and the remedy; `None` where it can. The machine type
        is put before it.
        """
        return None

    def training_compute(self, compute: Compute) -> Compute:
        """Choose the precision that it trains in, where nobody asked for one (`compute.mixed`)."""
        return compute

    @abstractmethod
    def fit(self, data: TrainingSet, run: Run) -> History:
        """Learn from normal clips.

        Raises:
            ValueError: the clips are too few or too short.
            TrainingDiverged: the loss is no longer finite.
        """

    @abstractmethod
    def normal_scores(self, data: TrainingSet, run: Run) -> NormalScores:
        """Score the clips that it was fitted to, as `run.statistics` asks, in all modes: held out, cross-validated or
        as learnt, whichever it can.

        Raises:
            ValueError: too few clips are held out for held-out scores.
        """

    def reliability(self, clips: int) -> float:  # noqa: ARG002 (a member may ask)
        """Return how much it weighs among a recipe's members, where it has learnt so many clips of a machine ID."""
        return 1.0

    def usual(self, machine_id: str | None) -> Usual | None:  # noqa: ARG002 (a member may ask)
        """Return what is usual in a machine ID's normal clips, or in all of them for `None`, where it keeps that."""
        return None

    def remarks(self) -> list[str]:
        """Return what the user should know of how training and `normal_scores` went, a sentence or two each. The
        machine type is put before them.
        """
        return []

    @abstractmethod
    def scorer(self, compute: Compute | None = None, modes: Sequence[str] | None = None) -> Scorer:
        """Make it ready for scoring, as it is now, on a compute's first device, in some of its modes or in all."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`.

        Raises:
            ValueError: tensors are missing, unknown or of another shape.
        """


M = TypeVar("M", bound=type[Member])
_registered: dict[str, type[Member]] = {}


def register(member: M) -> M:
    """Make a class of members known by its `kind`: a class decorator.

    Raises:
        ValueError: the class lacks its kind, its config or its modes; another class has that kind; or its config uses
            a name that recipes need.
    """
    for name in ("kind", "Config", "MODES"):
        if not getattr(member, name, None):
            raise ValueError(f"{member.__name__} has no {name}: see docs/extending.md")
    if taken := settings.field_names(member.Config) & {"kind", "name", "weight"}:
        raise ValueError(f"{member.__name__}'s settings can't be called {', '.join(sorted(taken))}: recipes need these")
    if _registered.setdefault(member.kind, member) is not member:
        raise ValueError(f"there are two kinds of members called {member.kind!r}")
    return member


@lru_cache(maxsize=None)
def kinds() -> dict[str, type[Member]]:
    """Return all members' classes by kind: pyasd's own, then those of other packages (entry point `pyasd.members`).
    Warn of one that can't be loaded.

    Raises:
        ValueError: an entry point is no member.
    """
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            member = point.load()
        except Exception as error:  # another package's fault costs its own member only
            warnings.warn(f"the member {point.value} of {ENTRY_POINTS} can't be loaded: {error!r}", stacklevel=2)
            continue
        if not (isinstance(member, type) and issubclass(member, Member)):
            raise ValueError(f"the entry point {point.value} of {ENTRY_POINTS} is no subclass of pyasd.models.Member")
        register(member)
    return _registered
