"""Recipes: features, members by name, and how the members' scores become one.

"Report" is Giri et al., "Unsupervised anomalous sound detection using self-supervised classification and Group
Masked Autoencoder for density estimation", DCASE 2020 Challenge Task 2, technical report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from pyasd import settings
from pyasd.models.member import MIN_FRAMES, MemberConfig, kinds
from pyasd.ops import LogMelPlan
from pyasd.tables import Combination
from pyasd.training.run import StatisticsPolicy

Combine = Literal["mean", "max", "signed-log"]


@dataclass(frozen=True)
class MemberRecipe:
    """One member of a recipe.

    Attributes:
        name: in the table's columns and in messages; each member of a recipe has another.
        kind: of `models.kinds()`.
        config: its settings.
        weight: in the mean of the members' standardised scores, times the member's own (`Member.reliability`).
    """

    name: str
    kind: str
    config: MemberConfig
    weight: float = 1.0

    def __post_init__(self) -> None:
        settings.check_types(self)
        if not 0 < self.weight < math.inf:
            raise ValueError(f"the weight of {self.name} must be above 0, not {self.weight}")
        if not self.name or any(x in self.name for x in "/,\n"):
            raise ValueError(f"a member's name must have letters, and no '/' or ',', not {self.name!r}")
        if self.name in get_args(Combination):
            raise ValueError(f"a member's name can't be {self.name!r}: the table has another column score.{self.name}")

    @classmethod
    def of_kind(cls, kind: str, name: str = "") -> MemberRecipe:
        """Return a member of that kind with its default settings, called as its kind unless `name` is given.

        Raises:
            ValueError: there is no such kind; the message lists those there are.
        """
        settings.one_of("member", kind, tuple(kinds()))
        return cls(name or kind, kind, kinds()[kind].Config())


@dataclass(frozen=True)
class Recipe:
    """The settings of a whole detector.

    Attributes:
        members: the ensemble's members, in the order of the table's columns.
        features: the log-Mel that feeds every member.
        combine: how the members' standardised scores are combined: their "mean" or "max" (report section 2.3), or
            "signed-log" (ours), the mean of `sign(z) log(1 + |z|)`: tails of members weigh alike then, however heavy.
        statistics: what standardises scores: mean and variance of all `training` clips (the report), or of the
            `held-out` ones alone, those that validated the training; or `robust`: median and median absolute
            deviation of all training clips, for recordings that may have anomalies among them.
    """

    members: tuple[MemberRecipe, ...]
    features: LogMelPlan = field(default_factory=LogMelPlan)
    combine: Combine = "mean"
    statistics: StatisticsPolicy = "training"

    def __post_init__(self) -> None:
        settings.check_types(self)
        if not self.members or len(set(self.names)) != len(self.members):
            raise ValueError(f"a recipe needs members, each by a name of its own, not {self.names}")
        for member in self.members:
            kinds()[member.kind].size(member.config, self.features.n_mels)  # too large: told before clips are read

    @classmethod
    def of_kinds(cls, *names: str) -> Recipe:
        """Return a recipe of members with their default settings, called as their kinds."""
        return cls(tuple(MemberRecipe.of_kind(name) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names."""
        return tuple(member.name for member in self.members)

    def __getitem__(self, name: str) -> MemberRecipe:
        return next(member for member in self.members if member.name == name)

    def override(self, *, members: Sequence[str] | None = None, **changes: Any) -> Recipe:
        """Return this recipe with other settings: `recipe.override(epochs=20, order="middle")`.

        A setting is a field of the recipe, of its features or of its members' configs; it goes to all that have it.
        `None` leaves a setting as it is. `epochs` trains by epochs, whatever the recipe's `steps`.

        Args:
            members: names of members: this recipe's own, or kinds, with default settings.
            **changes: settings.

        Raises:
            TypeError: there is no such setting; the message names near matches.
            ValueError: a setting can't have such a value.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        chosen = self.members
        if members is not None:
            known = {member.name: member for member in self.members}
            chosen = tuple(known[name] if name in known else MemberRecipe.of_kind(name) for name in members)
        top = {"combine", "statistics"}
        of_features = settings.field_names(self.features)
        of_members = {member.name: settings.field_names(member.config) for member in chosen}
        if "epochs" in given and any("steps" in names for names in of_members.values()):
            given.setdefault("steps", 0)
        anywhere = of_features.union(*of_members.values())
        for name in given:
            if name not in top | anywhere:
                raise TypeError(settings.unknown("the recipe", name, top | {"members"} | anywhere))

        def part(names: set[str]) -> dict[str, Any]:
            return {name: value for name, value in given.items() if name in names}

        return Recipe(
            tuple(replace(x, config=replace(x.config, **part(of_members[x.name]))) for x in chosen),
            replace(self.features, **part(of_features)),
            given.get("combine", self.combine),
            given.get("statistics", self.statistics),
        )

    @property
    def min_frames(self) -> int:
        """Log-Mel frames that a clip must have: the longest window of any member."""
        return max(member.config.min_frames for member in self.members) or MIN_FRAMES

    @property
    def repeats_below(self) -> int:
        """Log-Mel frames below which a clip is repeated for some member; 0 where it never is."""
        return max(member.config.repeats_below for member in self.members)

    @property
    def speeds(self) -> tuple[float, ...]:
        """Ratios at which clips are played in training, besides as they are, each once."""
        return tuple(dict.fromkeys(ratio for member in self.members for ratio in member.config.speeds))

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, for a file's header; `from_dict` reads them."""
        return {
            "combine": self.combine,
            "statistics": self.statistics,
            "features": asdict(self.features),
            "member": [{"kind": x.kind, "name": x.name, "weight": x.weight} | asdict(x.config) for x in self.members],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe in plain dictionaries: those of `to_dict`, of JSON or of TOML.

        What they leave out has its default. Members are a list `member` of tables with a `kind`; or, as in files of
        version 0.1, a list `members` of kinds, each with its settings in a table of that name.

        Raises:
            ValueError: there is no such key, or it can't have such a value; the message says which it can.
        """
        rest = dict(values)
        members = _read_members(rest.pop("member")) if "member" in rest else _read_kinds(rest)
        top: dict[str, Any] = {}
        for name, value in rest.items():
            if name not in ("features", "combine", "statistics"):
                known = {"combine", "features", "statistics"}
                known |= {"member"} if "member" in values else {"members", *kinds()}
                raise ValueError(settings.unknown("a recipe", name, known))
            top[name] = settings.from_table(LogMelPlan(), name, value) if name == "features" else value
        return cls(members, **top)


def _read_members(tables: Any) -> tuple[MemberRecipe, ...]:
    """The members in tables `[[member]]`."""
    if not isinstance(tables, list) or not all(isinstance(x, Mapping) for x in tables):
        raise ValueError(f"member must be tables [[member]], not {tables!r}")
    members = []
    for table in tables:
        if "kind" not in table:
            raise ValueError(f"a [[member]] has no kind: give one of {', '.join(kinds())}")
        rest = {key: value for key, value in table.items() if key not in ("kind", "name", "weight")}
        member = MemberRecipe.of_kind(table["kind"], table.get("name", ""))
        config = settings.from_table(member.config, member.name, rest)
        members.append(replace(member, config=config, weight=table.get("weight", 1.0)))
    return tuple(members)


def _read_kinds(values: dict[str, Any]) -> tuple[MemberRecipe, ...]:
    """The members in a list `members` of kinds and tables of these names, which are taken out of `values`. Model files
    have a table for each kind, with an underscore in its name.
    """
    listed = values.pop("members", [])
    if not isinstance(listed, list | tuple):
        raise ValueError(f"members must be a list, not {listed!r}")
    tables = {kind: values.pop(key) for kind in kinds() for key in (kind, kind.replace("-", "_")) if key in values}
    configs = {kind: settings.from_table(kinds()[kind].Config(), kind, table) for kind, table in tables.items()}
    members = [MemberRecipe.of_kind(kind) for kind in listed]
    return tuple(replace(x, config=configs.get(x.kind, x.config)) for x in members)
