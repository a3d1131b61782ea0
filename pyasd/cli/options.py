"""Options that several commands take, one by one or as groups: a command's parameter of a group's type has them all."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

import typer

from pyasd.clips.sources import LIMIT_VARIABLE, size_limit

Clips = Annotated[
    list[str],
    typer.Argument(
        metavar="CLIPS",
        help="Files, folders (with subfolders), archives, quoted globs, or tables with a column clip; - reads their "
        "names from standard input, one a line, or separated by NUL (find -print0).",
        show_default=False,
    ),
]
ScoreMode = Annotated[
    str | None,
    typer.Option(help="A score mode for the members that have it, instead of the recipe's: {modes}."),
]
UnknownIds = Annotated[
    str, typer.Option(help="Machine IDs that the model never learnt: refuse, or pool (score against all IDs).")
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
Machines = Annotated[
    list[str] | None, typer.Option(help="Machine types, such as fan pump; by default all.", show_default=False)
]


def listed(clips: list[str]) -> list[str]:
    """Return what a command's clips are, with the names that standard input lists in the place of "-".

    Raises:
        ValueError: "-" is given and standard input lists none, or is closed.
    """
    if "-" not in clips:
        return clips
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    parts = data.split(b"\0") if b"\0" in data else data.splitlines()
    names = [os.fsdecode(part) for part in parts if part.strip()]
    if not names:
        raise ValueError("- stands for names on standard input, and it lists none: pipe some in, one a line")
    place = clips.index("-")
    return [*clips[:place], *names, *(x for x in clips[place + 1 :] if x != "-")]


@dataclass(frozen=True)
class Options:
    """A group of options: a command with a parameter of such a type has an option for each of its fields.

    Attributes:
        panel: the heading under which help lists them; `None` for the common one.
    """

    panel: ClassVar[str | None] = None

    def given(self) -> dict[str, Any]:
        """Return the options that have a value, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Recordings(Options):
    """How recordings are read, and what is taken for known about them."""

    panel = "Recordings"

    channel: Annotated[
        str, typer.Option(help="Which channel of each recording: 0, 1, ..., mean, or all: each by itself.")
    ] = "0"
    id: Annotated[
        str | None, typer.Option("--id", help="The machine ID of all clips, instead of what their names say.")
    ] = None
    machine_type: Annotated[
        str | None, typer.Option(help="The machine type of all clips, instead of what their folders say.")
    ] = None

    max_file_size: Annotated[
        str | None, typer.Option(help="The most bytes of a clip, encoded or decoded, as 500M; 4G by default.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `pyasd.fit` and `pyasd.score` that say the same. The largest size goes into the
        environment, where every reader finds it.
        """
        if self.max_file_size is not None:
            os.environ[LIMIT_VARIABLE] = self.max_file_size
            size_limit()
        channel = int(self.channel) if self.channel.isdecimal() else self.channel
        return {"channel": channel, **self.about_clips()}

    def about_clips(self) -> dict[str, Any]:
        """Return those of them that say what is known of the clips."""
        return {"ids": self.id, "machine_type": self.machine_type}


@dataclass(frozen=True)
class Cuts(Options):
    """Cut long recordings."""

    panel = "Long recordings"

    window: Annotated[
        float | None,
        typer.Option(
            help="Cut recordings into sections of so many seconds, such as 10. The last one ends where the recording "
            "ends.",
            show_default=False,
        ),
    ] = None
    hop: Annotated[
        float | None,
        typer.Option(
            help="Seconds from one section to the next; by default --window. Less lets them overlap, more leaves gaps.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class Hardware(Options):
    """Choose the device, the backend and the precision."""

    panel = "Hardware"

    device: Annotated[
        str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, or several: cuda:0,cuda:1.")
    ] = "auto"
    backend: Annotated[str, typer.Option(help="auto, {backends}: see pyasd doctor.")] = "auto"
    precision: Annotated[
        str,
        typer.Option(
            help="Of matrix products: float32, bfloat16, or auto, which is float32 (but classifiers are trained in "
            "bfloat16 where that is faster)."
        ),
    ] = "auto"


@dataclass(frozen=True)
class Decisions(Options):
    """Call clips normal or anomalous, besides scoring them."""

    panel = "Decisions"

    false_alarms: Annotated[
        str | None,
        typer.Option(
            help="Call clips normal or anomalous, so that at most this share of normal ones raises an alarm: 1% or "
            "0.01. Needs --model; see pyasd calibrate."
        ),
    ] = None
    confirm: Annotated[
        str | None,
        typer.Option(help="3/5 confirms an alarm by 3 anomalies among a machine ID's last 5 clips, in their order."),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `pyasd.score` that say the same.

        Raises:
            ValueError: an option isn't of its form.
        """
        if self.confirm is not None and self.false_alarms is None:
            raise ValueError("--confirm counts decisions: give --false-alarms too")
        given: dict[str, Any] = {}
        if self.false_alarms is not None:
            given["false_alarms"] = share(self.false_alarms)
        if self.confirm is not None:
            given["confirm"] = some_of("--confirm", "3/5, 3 of the last 5 clips", self.confirm)
        return given


def some_of(option: str, example: str, text: str) -> tuple[int, int]:
    """Read two numbers such as 3/5, of which the first is from 1 to the second.

    Raises:
        ValueError: they aren't; the message gives the example.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"{option} is like {example}, not {text!r}")
    return int(match[1]), int(match[2])


def share(text: str) -> float:
    """Read a share of clips: 1% or 0.01.

    Raises:
        ValueError: it is neither, or isn't above 0 and below 1.
    """
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError(f"--false-alarms is a share of clips, like 1% or 0.01, above 0 and below 100%, not {text!r}")
    return share


@dataclass(frozen=True)
class RecipeChanges(Options):
    """Settings to take instead of a recipe's own."""

    panel = "Changes to the recipe"

    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the clips in training.")] = None
    order: Annotated[str | None, typer.Option(help="In which order Group MADE predicts frames: {orders}.")] = None
    score: Annotated[str | None, typer.Option(help="What Group MADE scores by: {group-made modes}.")] = None
    pooling: Annotated[str | None, typer.Option(help="How the scores of windows make a clip's score: {pooling}.")] = (
        None
    )
    statistics: Annotated[
        str | None,
        typer.Option(
            help="Whose scores standardise the others: {statistics}. Held-out ones are of clips that validated the "
            "training; robust is for training clips with anomalies among them."
        ),
    ] = None


@dataclass(frozen=True)
class Training(Options):
    """How much a reproduction trains."""

    panel = "Training"

    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to train with: figures are means over them.")] = 4
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the clips, instead of the recipes' own.")] = (
        None
    )
    quick: Annotated[
        bool, typer.Option("--quick", help="Few epochs, few clips, one seed: does everything, reproduces nothing.")
    ] = False
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Machine types at a time; by default as many as GPUs, or one for every 8 cores."),
    ] = None
