"""Every constant of the system, once, with its source.

"Report" is Giri et al., "Unsupervised anomalous sound detection using self-supervised classification and Group
Masked Autoencoder for density estimation", DCASE 2020 Challenge Task 2, technical report. Where the report is
silent, the challenge's own baseline (Koizumi et al., 2020) decides; each such value says so.
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pyasd.backends import contract
from pyasd.backends.contract import LOG_SCALE_MIN

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FULL_SCALE = contract.FULL_SCALE
Precision = contract.Precision
LogMelConfig = contract.LogMelPlan

Order = Literal["causal", "middle"]
ScoreMode = Literal["joint", "middle", "conditional", "bands"]
Pooling = Literal["mean", "max", "quantile", "rank"]
Combine = Literal["mean", "max"]
Backbone = Literal["mobilenet", "resnet"]
Loss = Literal["softmax", "arcface"]
Mix = Literal["none", "power", "log"]
ClassifierScore = Literal["log-probability", "probability"]
Statistics = Literal["training", "held-out", "robust"]

P_AUC_MAX_FPR = 0.1
"""The p of pAUC: the largest false-positive rate that counts (challenge rules, 2020 to 2025)."""

VARIANCE_FLOOR = 1e-12
"""Smallest variance that a machine ID's training scores are taken to have when scores are standardised."""

VARIANCE_PRIOR_CLIPS = 4
"""Weight, in clips, of the machine IDs' mean variance in each ID's own, where a few clips tell it (ours: held-out
statistics). An estimate from n clips errs by sqrt(2 / (n - 1)) of itself, and variances of a type's IDs are taken to
differ by sqrt(2 / 4) of their mean: between Group MADE's in training, by half of it, and the classifiers', by more."""

SAMPLE_SIZE = 256
"""Training scores per machine ID and score mode that a detector keeps, sorted (evenly spaced ranks of more)."""

POOLING_QUANTILE = 0.95
"""The quantile of `pooling="quantile"`: a fault that sounds in one window in twenty then still counts."""

POOLING_DECAY = 0.99
"""Weight of a window against that of the next higher one in `pooling="rank"` (AE-ASD's decay)."""

RANKING_WINDOWS = 200_000
"""Windows that `pyasd.score` without a model trains on, all epochs together (half a minute on one core). It is to
learn what most clips are like, not each of them."""

MIN_FRAMES = 5
"""Log-Mel frames that a clip must have for classifiers (which repeat it to the length of an image) and `spectrum`."""

BAND_PRIOR_CLIPS = 1
"""Weight, in clips, of the bands' mean variance in each band's own, for the score `bands` (ours): with few training
clips some band's variance is next to nothing by chance."""

WARP_STRENGTH = 0.3
"""Largest displacement by a spectral warp, in halves of the image (ours; see `augmentation.polynomial_warps`)."""

WARP_SEED = 0
"""Of the spectral warps' random coefficients: they are the same in every training."""

BAND_SCALE_FLOOR = 0.1
"""Smallest standard deviation, in dB, that a Mel band is taken to have when log-Mels are standardised."""


MEMBER_NAMES = ("group-made", "autoencoder", "mobilenet", "resnet", "arcface", "spectrum")
"""The ensemble members that a recipe can name."""


@dataclass(frozen=True)
class GroupMadeConfig:
    """Group MADE: report section 2.1.

    Attributes:
        frames: log-Mel frames (the groups) in a window.
        hidden: widths of the hidden layers.
        components: Gaussians in the mixture of each output dimension.
        order: `causal` predicts each frame from those before it; `middle` predicts the middle frame from the
            other four (Eq. 4). Data stays in time order: only the masks' degrees change.
        log_scale_min: smallest log standard deviation of a Gaussian, in units of the band's own standard
            deviation (a hundredth: digital silence repeated would otherwise drive the density to infinity).
        score: `joint` is the negative log-likelihood of the window (Eq. 3), `middle` that of the middle frame
            given the others, `conditional` that of all frames but the unconditional first; `bands` (ours) looks
            for Mel bands whose conditional likelihood is lower than the machine ID's training clips have it.
        pooling: how window scores make a clip's score. The report takes the mean.
        epochs, batch_size, learning_rate, validation: training. Adam's 1e-3 is the report's; the others are
            the challenge baseline's. `validation` is the share of clips (never windows) held out.
        patience: training ends before its last epoch when the validation loss has not sunk in so many (ours).
        gradient_clip: largest norm of a gradient (ours: rare windows far in the tails otherwise throw Adam off).
    """

    frames: int = 5
    hidden: tuple[int, ...] = (128, 128, 128, 128, 32, 128, 128, 128, 128)
    components: int = 10
    order: Order = "causal"
    log_scale_min: float = LOG_SCALE_MIN
    score: ScoreMode = "joint"
    pooling: Pooling = "mean"
    epochs: int = 100
    batch_size: int = 512
    learning_rate: float = 1e-3
    validation: float = 0.1
    patience: int = 10
    gradient_clip: float = 10.0

    def __post_init__(self) -> None:
        _check_training(self)
        if self.frames < 2 or min(self.hidden, default=0) < self.frames - 1 or self.components < 1:
            raise ValueError(
                f"need at least 2 frames, a component and {self.frames - 1} units in each hidden layer (one for each "
                f"degree), got frames={self.frames}, components={self.components}, hidden={self.hidden}"
            )


@dataclass(frozen=True)
class AutoencoderConfig:
    """The challenge's baseline autoencoder (Koizumi et al., 2020): the report's baseline row.

    A window of `frames` log-Mel frames goes through dense layers with batch norm and ReLU, down to a bottleneck
    and back; the score is the mean squared error. `batch_norm_eps` is Keras's, the baseline's framework.
    The training settings are those of `GroupMadeConfig`.
    """

    frames: int = 5
    hidden: tuple[int, ...] = (128, 128, 128, 128, 8, 128, 128, 128, 128)
    batch_norm_eps: float = 1e-3
    pooling: Pooling = "mean"
    epochs: int = 100
    batch_size: int = 512
    learning_rate: float = 1e-3
    validation: float = 0.1
    patience: int = 10

    def __post_init__(self) -> None:
        _check_training(self)
        if self.frames < 1 or min(self.hidden, default=0) < 1:
            raise ValueError(f"frames and hidden widths must be positive, got {self.frames} and {self.hidden}")


@dataclass(frozen=True)
class ClassifierConfig:
    """Classifiers of machine IDs: report section 2.2.

    Attributes:
        backbone: the network, "mobilenet" (report, Table 2) or "resnet" (ResNet-50).
        width: MobileNetV2's width multiplier (report); ResNet-50 has none.
        loss: "softmax" or "arcface".
        margin, scale: ArcFace's, in radians, and of the cosines. The report is silent: the field's for few classes.
        image_frames, image_hop: log-Mel frames in an image, and from one to the next (report).
        mix: label augmentation by combining images of two classes, before the logarithm ("power"), after it ("log")
            or not at all ("none").
        mix_probability: of an image to be combined with another (ours).
        warps: spectral warps, each of which makes a further class of each machine ID.
        ratios: of resampling, each of which does so, too. Clips' audio is read once more for each.
        classifier_score: "log-probability" is -log p of the machine ID that the clip is said to be from,
            "probability" the report's -p, which hardly tells well-known clips apart.
        pooling: how a clip's images make its score. The report takes the mean.
        balance: images of every machine ID are drawn equally often, however many clips it has (ours; the challenge's
            IDs have about as many each). A scarce ID is then learnt better, and nearer to by heart: take held-out
            statistics with it.
        pretrained: a safetensors file of weights to begin with, named as torchvision names those of this network
            (three input channels or one; their last layer is left out); "" for random ones.
        epochs, batch_size, learning_rate, validation, patience: see `GroupMadeConfig` (ours, where the report is
            silent; an image holds many more frames than a window). The learning rate sinks along a cosine.
    """

    backbone: Backbone = "mobilenet"
    width: float = 0.5
    loss: Loss = "softmax"
    margin: float = 0.5
    scale: float = 30.0
    image_frames: int = 64
    image_hop: int = 8
    mix: Mix = "none"
    mix_probability: float = 0.5
    warps: int = 0
    ratios: tuple[float, ...] = ()
    classifier_score: ClassifierScore = "log-probability"
    pooling: Pooling = "mean"
    balance: bool = False
    pretrained: str = ""
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    validation: float = 0.1
    patience: int = 5

    def __post_init__(self) -> None:
        _check_training(self)
        if self.width <= 0 or self.image_frames < 32 or self.image_hop < 1 or self.warps < 0:
            raise ValueError(
                "need width > 0, image_frames >= 32 (the networks halve images five times), image_hop >= 1 and warps "
                f">= 0, got {self.width}, {self.image_frames}, {self.image_hop} and {self.warps}"
            )
        if not 0 <= self.mix_probability <= 1 or not 0 <= self.margin < 1.6 or self.scale <= 0:
            raise ValueError(
                "need 0 <= mix_probability <= 1, 0 <= margin < 1.6 and scale > 0, got "
                f"{self.mix_probability}, {self.margin} and {self.scale}"
            )
        if any(not 0.25 <= x <= 4 or x == 1 for x in self.ratios):
            raise ValueError(f"ratios must be between 0.25 and 4, and not 1, got {self.ratios}")
        if self.loss == "arcface" and self.mix != "none":
            raise ValueError('loss="arcface" needs one true class per image: take mix="none" with it')

    @property
    def variants(self) -> int:
        """Classes that each machine ID has: itself, its warps, its resamplings."""
        return 1 + self.warps + len(self.ratios)


@dataclass(frozen=True)
class SpectrumConfig:
    """The Mahalanobis distance of a clip's mean log-Mel (ours): it has no settings."""


TrainedConfig = GroupMadeConfig | AutoencoderConfig | ClassifierConfig
MemberConfig = TrainedConfig | SpectrumConfig


@dataclass(frozen=True)
class Recipe:
    """What a detector is made of: its features, its ensemble members and how their scores become one.

    Attributes:
        members: names of the ensemble members, of `MEMBER_NAMES`.
        features: the log-Mel that feeds every member.
        group_made, autoencoder, mobilenet, resnet, arcface, spectrum: the members' own settings.
        combine: how the members' standardised scores are combined (report section 2.3).
        statistics: what standardises scores: mean and variance of all `training` clips (the report), or of the
            `held-out` ones alone, those that validated the training; or `robust`: median and median absolute
            deviation of all training clips, for recordings that may have anomalies among them.
    """

    members: tuple[str, ...] = ("group-made",)
    features: LogMelConfig = field(default_factory=LogMelConfig)
    group_made: GroupMadeConfig = field(default_factory=GroupMadeConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    mobilenet: ClassifierConfig = field(default_factory=ClassifierConfig)
    resnet: ClassifierConfig = field(default_factory=lambda: ClassifierConfig("resnet"))
    arcface: ClassifierConfig = field(default_factory=lambda: ClassifierConfig(loss="arcface"))
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    combine: Combine = "mean"
    statistics: Statistics = "training"

    def __post_init__(self) -> None:
        _check_fields(self)
        if not self.members or len(set(self.members)) != len(self.members):
            raise ValueError(f"a recipe needs members, each once, not {self.members}")
        for name in self.members:
            _one_of("member", name, MEMBER_NAMES)

    def override(self, **settings: Any) -> Recipe:
        """This recipe with other settings: `recipe.override(epochs=20, order="middle")`.

        A setting is a field of the recipe, of its features or of its members' configurations; it goes to all
        that have it. `None` leaves a setting as it is.

        Raises:
            TypeError: there is no such setting; the message names near matches.
            ValueError: a setting doesn't have such a value.
        """
        settings = {name: value for name, value in settings.items() if value is not None}
        parts = ["features", *(name.replace("-", "_") for name in settings.get("members", self.members))]
        own = {"members", "combine", "statistics"}
        homes = {name: [p for p in parts if name in _names(getattr(self, p))] for name in settings}
        for name in settings:
            if name not in own and not homes[name]:
                raise TypeError(_unknown("the recipe", name, own.union(*(_names(getattr(self, p)) for p in parts))))
        changed: dict[str, Any] = {name: value for name, value in settings.items() if name in own}
        for part in parts:
            mine = {name: value for name, value in settings.items() if part in homes[name]}
            changed[part] = replace(getattr(self, part), **mine)
        return replace(self, **changed)

    def settings_of(self, member: str) -> MemberConfig:
        """The settings of one of the members."""
        settings: MemberConfig = getattr(self, member.replace("-", "_"))
        return settings

    @property
    def min_frames(self) -> int:
        """Log-Mel frames that a clip must have: a window of each member (classifiers repeat what is shorter)."""
        windows = [x.frames for x in self._settings if isinstance(x, GroupMadeConfig | AutoencoderConfig)]
        return max(windows, default=MIN_FRAMES)

    @property
    def image_frames(self) -> int:
        """Log-Mel frames below which a clip is repeated for a classifier; 0 where there is none."""
        return max((x.image_frames for x in self._settings if isinstance(x, ClassifierConfig)), default=0)

    @property
    def _settings(self) -> list[MemberConfig]:
        return [self.settings_of(name) for name in self.members]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, for a file's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that plain dictionaries tell: those of `to_dict`, of JSON or of TOML. What they leave out has its
        default. A part's name may be written with hyphens, as members' are.

        Raises:
            ValueError: there is no such key, or it can't have such a value; the message says which it can.
        """
        parts = {"features", *(name.replace("-", "_") for name in MEMBER_NAMES)}
        recipe, own = cls(), {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in _names(recipe):
                raise ValueError(_unknown("a recipe", key, _names(recipe) - parts | {"features", *MEMBER_NAMES}))
            if name in parts:
                part = getattr(recipe, name)
                if not isinstance(value, Mapping):
                    raise ValueError(f"[{key}] must be a table, not {value!r}")
                for inner in value:
                    if inner not in _names(part):
                        raise ValueError(_unknown(f"[{key}]", inner, _names(part)))
                try:
                    value = replace(part, **value)
                except ValueError as error:
                    raise ValueError(f"[{key}] {error}") from None
            own[name] = value
        return replace(recipe, **own)


def _names(part: Any) -> set[str]:
    return {f.name for f in fields(part)}


def _unknown(what: str, name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 3)
    hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
    return f"{what} has no setting {name!r}; {hint}"


def _one_of(what: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}")


def _check_fields(config: Any) -> None:
    """Give each field a value of its type, or raise ValueError with the values that it can have."""
    for name, hint in get_type_hints(type(config)).items():
        object.__setattr__(config, name, _of_type(name, getattr(config, name), hint))


def _of_type(name: str, value: Any, hint: Any) -> Any:
    """`value` as a field of that type: lists, as TOML and JSON have them, are tuples; a whole number is a float."""
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        _one_of(name, value, kinds)
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a list, not {value!r}")
        return tuple(_of_type(name, x, kinds[0]) for x in value)
    if type(None) in kinds:
        return None if value is None else _of_type(name, value, kinds[0])
    if hint is str and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if hint is bool and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    number = not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    if hint is int and number and isinstance(value, numbers.Integral):
        return int(value)
    if hint is float and number:
        return float(value)
    if hint in (int, float, str):
        wanted = {int: "a whole number", float: "a number", str: "a text"}[hint]
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return value  # a part of a recipe


def _check_training(config: TrainedConfig) -> None:
    _check_fields(config)
    if config.epochs < 1 or config.patience < 1 or config.batch_size < 2:
        raise ValueError(
            f"epochs and patience must be at least 1 and batch_size at least 2, got {config.epochs}, "
            f"{config.patience} and {config.batch_size}"
        )
    if not config.learning_rate > 0 or not 0 <= config.validation < 1:
        raise ValueError(
            f"need learning_rate > 0 and 0 <= validation < 1, got {config.learning_rate} and {config.validation}"
        )


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a TOML file, as docs/recipes.md describes it. A relative `pretrained` is taken from its folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't TOML, has an unknown key, or a key can't have its value; the message names the file, the
            key, and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}: `pyasd recipes NAME` prints one to begin with")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        if "members" not in values:
            raise ValueError(f"members is missing: list some of {', '.join(MEMBER_NAMES)}")
        recipe = Recipe.from_dict(values)
        for table in values.keys() & set(MEMBER_NAMES) - set(recipe.members):
            raise ValueError(f"[{table}] is no member of this recipe: add it to members, or leave its table out")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for name in recipe.members:
        part = recipe.settings_of(name)
        if isinstance(part, ClassifierConfig) and part.pretrained:
            changed: dict[str, Any] = {name: replace(part, pretrained=str(path.parent / part.pretrained))}
            recipe = replace(recipe, **changed)
    return recipe


RECIPES = Path(__file__).with_name("recipes")
"""The folder of the recipes that come with pyasd: `<name>.toml`, or `system-<number>.toml`."""

SYSTEMS = {path.stem.removeprefix("system-"): read_recipe(path) for path in sorted(RECIPES.glob("*.toml"))}
"""Recipes by name. "1" to "4" are the report's systems (section 2.3), the last of which is Group MADE alone;
"autoencoder" is its baseline row."""


def recipe_path(name: str) -> Path:
    """The file of a recipe that comes with pyasd.

    Raises:
        ValueError: there is no such system; the message lists those there are.
    """
    if name not in SYSTEMS:
        raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, or a recipe's .toml file, not {name!r}")
    return RECIPES / f"{'system-' if name.isdecimal() else ''}{name}.toml"


def system(name: str | os.PathLike[str] | Recipe) -> Recipe:
    """The recipe of that name, or in the file of that name, which ends in ".toml"; a recipe stands for itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such system (the message lists those there are), or a file has no recipe in it.
    """
    if isinstance(name, Recipe):
        return name
    return read_recipe(name if Path(name).suffix == ".toml" else recipe_path(os.fspath(name)))
