"""The command line: every command is a thin call of the public API.

Tables go to stdout; progress (on a terminal alone), warnings and errors go to stderr. Exit codes: 0 when all went
well, 1 when some clips failed or training did, 2 for wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import Counter
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.text import Text

from pyasd.cli import data_sets, terminal

if TYPE_CHECKING:
    from pandas import DataFrame

app = typer.Typer(
    help="Learn what machines sound like when they are healthy, and find the recordings that don't.",
    epilog="Start with `pyasd demo`; or, with a folder of your own recordings, `pyasd score recordings/`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Clips = Annotated[
    list[str],
    typer.Argument(metavar="CLIPS", help="Files, folders (with subfolders) or quoted globs.", show_default=False),
]
Channel = Annotated[str, typer.Option(help="Which channel of each recording: 0, 1, ..., or mean.")]
MachineId = Annotated[
    str | None, typer.Option("--id", help="The machine ID of all clips, instead of what their names tell.")
]
MachineType = Annotated[
    str | None, typer.Option(help="The machine type of all clips, instead of what their folders tell.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, or several: cuda:0,cuda:1.")]
Backend = Annotated[str, typer.Option(help="auto, reference, cpu, cuda or triton: see pyasd doctor.")]
Precision = Annotated[str, typer.Option(help="auto (float32), float32 or bfloat16.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the clips in training.")]
Order = Annotated[str | None, typer.Option(help="Group MADE's order of frames: causal or middle.")]


def _settings(**given: Any) -> dict[str, Any]:
    """The settings that were given."""
    return {name: value for name, value in given.items() if value is not None}


def _channel(text: str) -> Any:
    return int(text) if text.isdecimal() else text


# -- commands ----------------------------------------------------------------------------------------------------


@app.command()
@terminal.command
def fit(
    clips: Clips,
    out: Annotated[Path, typer.Option("--out", "-o", help="The model's file, such as fan.safetensors.")],
    system: Annotated[
        str,
        typer.Option(
            help="group-made-spectrum, group-made; the report's systems 1, 2 and 3 (with classifiers, for two machine "
            "IDs or more) and 4 (Group MADE's joint score); autoencoder, the challenge's baseline; or a recipe's .toml "
            "file: see pyasd recipes."
        ),
    ] = "group-made-spectrum",
    epochs: Epochs = None,
    order: Order = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="What Group MADE scores by: bands (group-made-spectrum, group-made), joint (the report's: Systems 1 "
            "to 4), middle or conditional. Classifiers score by log-probability; in scoring, probability can be asked "
            "for."
        ),
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="How windows make a clip's score: mean, max, quantile or rank.")
    ] = None,
    statistics: Annotated[str | None, typer.Option(help="The scores that standardise: training or held-out.")] = None,
    seed: Seed = 0,
    channel: Channel = "0",
    id: MachineId = None,
    machine_type: MachineType = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> bool:
    """Learn what healthy machines sound like, and write the model to one file.

    Folders and names as in the DCASE challenges tell machine types, machine IDs and what is normal
    (fan/train/normal_id_00_00000000.wav): one model per machine type is learnt, from the clips in train/ where there
    are any, and never from anomalies. Clips without such names are all taken to be of one healthy machine.

    A run that was killed goes on from its checkpoint when the same command is given again.

    Examples:

    - `pyasd fit recordings/ -o line3.safetensors` learns all clips of a folder

    - `pyasd fit dcase/fan -o fan.safetensors --epochs 20 --order middle` learns dcase/fan/train

    - `pyasd fit mic/*.flac -o mic.safetensors --channel mean` averages the channels of each recording
    """
    import pyasd

    settings = _settings(epochs=epochs, order=order, score=score, pooling=pooling, statistics=statistics)
    with terminal.progress() as progress:
        detector = pyasd.fit(
            clips, system, out=out, ids=id, machine_type=machine_type, channel=_channel(channel), seed=seed,
            device=device, backend=backend, precision=precision, progress=progress, **settings,
        )  # fmt: skip
    terminal.console().print(Text(f"{out}: {detector!r}"), soft_wrap=True)
    return not detector.skipped


@app.command()
@terminal.command
def score(
    clips: Clips,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="What pyasd fit wrote.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the whole table here, .csv or .parquet.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the highest scores to print.")] = 10,
    score: Annotated[
        str | None,
        typer.Option(
            help="Another score of the model's: joint, middle, conditional or bands (Group MADE), log-probability or "
            "probability (classifiers), mse (autoencoder) or mahalanobis (spectrum)."
        ),
    ] = None,
    unknown_ids: Annotated[
        str, typer.Option(help="Machine IDs that the model never learnt: refuse, or pool (score against all IDs).")
    ] = "refuse",
    epochs: Epochs = None,
    order: Order = None,
    seed: Seed = 0,
    channel: Channel = "0",
    id: MachineId = None,
    machine_type: MachineType = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> bool:
    """Score recordings: the higher, the less they sound like the machine. Prints the highest.

    With --model, scores are in standard deviations above the mean of the machine's normal clips. Of a folder with
    train/ and test/, the clips in test/ are scored.

    Without --model, the default system learns from these very clips, and the odd ones out get the highest scores:
    listen to those first. --epochs, --order and --seed are for this.

    Each clip gets a row in the table; one that can't be scored has its reason in the columns status and error, and
    the exit code is then 1.

    Examples:

    - `pyasd score recordings/` ranks a folder without a model

    - `pyasd score new/ --model line3.safetensors -o scores.csv` scores clips with what `pyasd fit` learnt
    """
    import pyasd

    with terminal.progress() as progress:
        table = pyasd.score(
            clips, model, ids=id, machine_type=machine_type, channel=_channel(channel), seed=seed, device=device,
            backend=backend, precision=precision, unknown_ids=cast(Any, unknown_ids), score_mode=score, out=out,
            progress=progress, **_settings(epochs=epochs, order=order),
        )  # fmt: skip
    _print_top(table, top)
    if out is not None:
        terminal.say(f"{len(table)} rows are in {out}")
    return _report_failures(table)


def _print_top(table: DataFrame, count: int) -> None:
    best = table[table["score"].notna()].nlargest(count, "score", keep="first")
    shown = terminal.table("score", "status:", "clip:")
    for value, status, clip in zip(best["score"], best["status"], best["clip"], strict=True):
        shown.add_row(f"{value:.2f}", status, Text(clip))
    if len(best):
        terminal.console().print(shown)


def _report_failures(table: DataFrame) -> bool:
    """Says how many clips have no score, and why; whether there are none."""
    failed = table[table["error"] != ""]
    if failed.empty:
        return True
    counts = ", ".join(f"{count} {status}" for status, count in Counter(failed["status"]).items())
    terminal.say(f"{len(failed)} of {len(table)} clips have no score ({counts}). The first: {failed['error'].iloc[0]}")
    return False


@app.command()
@terminal.command
def evaluate(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="What pyasd score wrote, .csv or .parquet.", show_default=False)
    ],
    score: Annotated[str, typer.Option(help="The column to evaluate, such as score.group-made.")] = "score",
    max_fpr: Annotated[float, typer.Option(help="pAUC counts false-positive rates up to this.")] = 0.1,
    rule: Annotated[
        str,
        typer.Option(
            help="How the challenge of a year counts: 2020 (per machine ID, arithmetic means), 2021 (per section and "
            "domain, harmonic means), 2022 to 2026 (a domain's normal clips against anomalies of both); or pooled: all "
            "IDs of a type together, which is no challenge's rule."
        ),
    ] = "2020",
    labels: Annotated[
        Path | None,
        typer.Option(help="The organisers' list of an evaluation set's labels, eval_data_list_<year>.csv."),
    ] = None,
) -> bool:
    """Print AUC and pAUC per machine ID, and their averages, in per cent.

    Needs clips whose names tell what is normal, as DCASE's do (normal_id_00_..., anomaly_id_00_...), or that lie in
    folders called normal and abnormal; or the organisers' list of labels.

    Examples:

    - `pyasd evaluate scores.csv` counts as DCASE 2020 did

    - `pyasd evaluate scores.csv --rule 2023 --labels eval_data_list_2023.csv` evaluates an evaluation set of 2023
    """
    from pyasd.tables import evaluation
    from pyasd.tables import table as results

    scores = results.read(table)
    rows = evaluation.evaluate(scores, max_fpr=max_fpr, score=score, rule=rule, labels=labels)
    figures = [*evaluation.RULES[rule], *(["official"] if "official" in rows else [])]
    heads = [name.replace("auc", "AUC").replace("_", " ") + " %" for name in figures]
    shown = terminal.table("machine:", "ID:", "normal", "anomalous", *heads)
    for row in rows.to_dict("records"):
        whole = row["machine_id"] == evaluation.AVERAGE
        cells = [row["machine_type"], row["machine_id"], str(row["normal"]), str(row["anomalous"])]
        cells += [terminal.percent(row[name])[0] if row[name] == row[name] else "" for name in figures]
        shown.add_row(*map(Text, cells), end_section=whole, style="bold" if whole else None)
    terminal.console().print(shown)
    return _report_failures(scores)


@app.command()
@terminal.command
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for recordings and results.")] = Path("pyasd-demo"),
    seed: Seed = 0,
    clips: Annotated[
        int,
        typer.Option(min=2, help="Clips per machine to learn from; as many healthy and faulty ones are for testing."),
    ] = 24,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the clips in training, instead of each model's own number.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="dcase2020, ... dcase2026: make a miniature of that data set in its folders and names, and stop.",
            show_default=False,
        ),
    ] = None,
) -> bool:
    """Make a small synthetic factory, learn its machines, and score and evaluate its recordings.

    Nine machines of three types (fans, pumps, conveyors), healthy and with faults (imbalance, worn bearing, leak,
    missing strokes, slipping belt), in hall noise. Nothing was recorded, so the figures say nothing about real
    machines. Learns a Group MADE and mean spectra, whose scores together are pyasd's own, and the challenge's
    autoencoder beside them, and draws a picture of one normal and one faulty clip.

    Examples:

    - `pyasd demo --out factory --seed 1`

    - `pyasd demo --layout dcase2020 --out mini` makes something to try pyasd reproduce on
    """
    if layout is not None:
        from pyasd.datasets import dcase
        from pyasd.factory import miniature

        with terminal.progress() as progress:
            made = miniature.write(out, dcase.data_set(layout), seed=seed, train=clips, test=clips, progress=progress)
        terminal.console().print(Text(f"{out}: {len(made)} synthetic clips in the layout of {layout}"), soft_wrap=True)
        return True

    from pyasd.factory import demo as factory_demo

    start = time.monotonic()
    with terminal.progress() as progress:
        result = factory_demo.run(out, seed=seed, clips=clips, epochs=epochs, progress=progress)
    _print_comparison(result.evaluations)
    lines = [f"{what + ':':12}{path}" for what, path in result.files.items()]
    lines.append(f"{time.monotonic() - start:.0f} s. All sounds are synthetic. Next, with recordings of your own:")
    lines.append("  pyasd score RECORDINGS/")
    terminal.console().print(Text("\n".join(lines)), soft_wrap=True)
    return not result.detector.skipped and _report_failures(result.scores)


def _print_comparison(evaluations: dict[str, DataFrame]) -> None:
    """AUC / pAUC in per cent: a row per machine ID, a column per model."""
    from pyasd.tables.evaluation import AVERAGE

    shown = terminal.table("machine:", "ID:", "normal/faulty", *evaluations)
    shown.title = "AUC / pAUC in %, synthetic recordings"
    for rows in zip(*(x.itertuples() for x in evaluations.values()), strict=True):
        first, whole = rows[0], rows[0].machine_id == AVERAGE
        figures = [" / ".join(terminal.percent(row.auc, row.pauc)) for row in rows]
        cells = (first.machine_type, first.machine_id, f"{first.normal}/{first.anomalous}", *figures)
        shown.add_row(*map(Text, cells), end_section=whole, style="bold" if whole else None)
    terminal.console().print(shown)


@app.command()
@terminal.command
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this one, to be copied and changed.", show_default=False)
    ] = None,
) -> bool:
    """List the recipes that systems are made by, or print one.

    A recipe is a TOML file: members, features, label augmentation, training. A file of your own works like those that
    come with pyasd.

    Examples:

    - `pyasd recipes 2 > mine.toml` gives one to begin with

    - `pyasd fit fan/ -o fan.safetensors --system mine.toml` learns as it says
    """
    from pyasd import config

    if name is not None:
        print(config.recipe_path(name).read_text(encoding="utf-8"), end="")
        return True
    shown = terminal.table("system:", "members:", "recipe:")
    for system, recipe in config.SYSTEMS.items():
        shown.add_row(system, " + ".join(recipe.members), str(config.recipe_path(system)))
    terminal.console().print(shown)
    return True


@app.command()
@terminal.command
def doctor() -> bool:
    """Say what pyasd finds on this machine: versions, instruction set, backends and why one can't run, GPU."""
    import torch

    from pyasd import backends

    found = backends.available()
    native = found["cpu"] is None
    facts = {
        "pyasd": metadata.version("pyasd"),
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        **backends.load("cpu").facts(),
        "GPU": _gpu(),
    }
    facts |= {f"backend {name}": why or "ready" for name, why in found.items()}
    facts |= backends.load("cuda").facts()
    facts |= {name: _version(name) for name in LIBRARIES}
    terminal.console().print(Text("\n".join(f"{name:18}{fact}" for name, fact in facts.items())), soft_wrap=True)
    if not native:
        terminal.say(
            "the native CPU kernels can't run, so that everything is slow: install pyasd again with a C++ compiler"
        )
    return native


app.command(cls=data_sets.Lists)(data_sets.download)
app.command(cls=data_sets.Lists)(data_sets.reproduce)


LIBRARIES = ("numpy", "soundfile", "soxr", "scikit-learn", "pandas", "pyarrow", "safetensors", "triton", "matplotlib")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpu() -> str:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    if not torch.version.cuda and not torch.version.hip:
        return f"none: torch {torch.__version__} is a build without CUDA and ROCm"
    if not torch.cuda.is_available():
        return f"none that torch can use: no driver answers, or it is older than {built} needs"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(names)} ({built})"


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.console().print(f"pyasd {metadata.version('pyasd')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The command `pyasd`."""
    # Before torch is imported: its threads then sleep while they wait for each other. By default they spin, which on
    # a processor that others use too can take many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    app(prog_name="pyasd")
