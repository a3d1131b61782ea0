"""The command `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pyasd.cli import terminal
from pyasd.cli.command import command
from pyasd.cli.options import Clips, Hardware, Recordings, ScoreMode

if TYPE_CHECKING:
    from pyasd.detector import Reasons

MOST_DRAWN = 6
"""Clips in one picture, side by side."""


@command
def explain(
    clips: Clips,
    model: Annotated[Path, typer.Option("--model", "-m", help="What pyasd fit wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Draw the clips, side by side, in this .png, .svg or .pdf: needs matplotlib."),
    ] = None,
    member: Annotated[
        str | None,
        typer.Option(help="The member whose map the picture shows, instead of the first.", show_default=False),
    ] = None,
    score: ScoreMode = None,
    unknown_ids: Annotated[
        str, typer.Option(help="Machine IDs that the model never learnt: refuse, or pool (compare with all IDs).")
    ] = "refuse",
    *,
    recordings: Recordings,
    hardware: Hardware,
) -> bool:
    """Say why recordings scored high: when, at which frequencies, and how far from what the machine does.

    Prints each clip's score, that of each member in standard deviations above the mean of the machine ID's normal
    clips, and up to five places where the clip differs from these, the weightiest first. Each is named by its form:

    - tone, band: louder for half a second or more, at one frequency or at several

    - burst: louder for less than half a second

    - level: all of the clip is louder or quieter by the same number of dB

    - drop-out: nearly all frequencies are 10 dB quieter or more, for a part of the clip; quieter: any other loss

    - spread: the level is as usual, and varies over time more or less than it does

    - clipping: samples at the limits

    With -o, a picture: the log-Mel spectrogram above, below it where the score comes from, and the places outlined.

    Examples:

    - `pyasd explain new/today.wav --model line3.safetensors` prints the reasons

    - `pyasd explain new/today.wav --model line3.safetensors -o today.png` draws them too

    - `pyasd explain 'new/*.wav' -m line3.safetensors -o new.png --member spectrum` shows another member's map
    """
    import pyasd
    from pyasd import storage
    from pyasd.clips import find, for_scoring

    if member is not None and out is None:
        raise ValueError("--member chooses what the picture shows: give the picture's file too, --out clip.png")
    detector = pyasd.load(model)
    members = detector.score_modes(score)
    if member is not None and member not in members:
        raise ValueError(f"no member {member!r}; this model has {', '.join(members)}")
    arguments = recordings.arguments()
    known = {name: arguments.pop(name) for name in ("ids", "machine_type")}
    chosen = list(for_scoring(find(clips, **known)))
    if out is not None:
        if len(chosen) > MOST_DRAWN:
            raise ValueError(f"a picture has room for {MOST_DRAWN} clips, and these are {len(chosen)}: give fewer")
        storage.check_writable(out)
    with terminal.progress() as progress:
        told = detector.reasons(
            chosen, unknown_ids=cast(Any, unknown_ids), score_mode=score, progress=progress, **arguments,
            **hardware.given(),
        )  # fmt: skip
    for clip in told:
        _print(clip)
    titles = _titles([x.clip for x in told])
    scored = {title: [clip] for title, x, clip in zip(titles, told, chosen, strict=True) if x.score is not None}
    if out is not None and scored:
        from pyasd.report import picture

        where = {title: x.reasons for title, x in zip(titles, told, strict=True)}
        drawn = hardware.given() | arguments | {"score_mode": score}
        del drawn["precision"]
        picture.draw(detector, scored, out, member=member, reasons=where, **drawn)
        terminal.say(f"{out}: drawn")
    return len(scored) == len(told)


def _titles(names: list[str]) -> list[str]:
    """Return what clips are called in a picture: the files' names, where they differ."""
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(names) else names


def _print(clip: Reasons) -> None:
    terminal.line(clip.clip)
    if clip.score is None:
        terminal.line(f"  no score ({clip.status}): {clip.error}")
        return
    machine = " ".join(x for x in (clip.machine_type, clip.machine_id) if x)
    each = ", ".join(f"{name} {z:.1f}" for name, z in clip.members.items())
    terminal.line(f"  {f'{machine}: ' if machine else ''}score {clip.score:.2f}; in standard deviations: {each}")
    if clip.status != "ok":
        terminal.line(f"  status: {clip.status}")
    if clip.note:
        terminal.line(f"  unlike the clips that were learnt: {clip.note}")
    if clip.raised_by:
        terminal.line(f"  raised most by {clip.raised_by}")
    for reason in clip.reasons:
        terminal.line(f"  {reason}")
    if not clip.reasons and clip.status != "silent":
        terminal.line("  nothing in time and frequency stands out")
