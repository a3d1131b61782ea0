"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pyasd.cli import terminal
from pyasd.cli.command import command

if TYPE_CHECKING:
    from pandas import DataFrame


@command
def evaluate(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="What pyasd score wrote, .csv or .parquet.", show_default=False)
    ],
    score: Annotated[str, typer.Option(help="The column to evaluate, such as score.group-made.")] = "score",
    max_fpr: Annotated[float, typer.Option(help="pAUC counts false-positive rates up to this.")] = 0.1,
    rule: Annotated[
        str | None,
        typer.Option(help="The challenge whose rule is followed, see above: {rules}. By default as the names tell."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="The organisers' list of an evaluation set's labels, such as eval_data_list_2023.csv."),
    ] = None,
    without_learnt: Annotated[
        bool, typer.Option("--without-learnt", help="Leave out clips that the model has learnt, as their note says.")
    ] = False,
) -> bool:
    """Print AUC and pAUC per machine ID, and their averages, in per cent.

    Needs clips whose names tell what is normal, as DCASE's do (normal_id_00_..., anomaly_id_00_...), or that lie in
    folders called normal and abnormal; or the organisers' list of labels.

    The rule of 2020 takes arithmetic means over machine IDs. In 2021 each section and domain counted by itself, and
    means are harmonic; from 2022 on, a domain's normal clips are compared with the anomalies of both domains. No
    challenge's rule is "pooled": all IDs of a machine type in one ROC curve.

    Where clips were decided (pyasd score --false-alarms), prints false alarms, precision, recall and F1 too.

    Examples:

    - `pyasd evaluate scores.csv` counts as the challenge did whose names the clips have, or as DCASE 2020

    - `pyasd evaluate scores.csv --rule 2023 --labels eval_data_list_2023.csv` evaluates an evaluation set of 2023
    """
    from pyasd.tables import evaluation
    from pyasd.tables import table as results

    scores = results.read(table)
    rule = rule or evaluation.rule_of(scores)
    rows = evaluation.evaluate(
        scores, max_fpr=max_fpr, score=score, rule=rule, labels=labels, without_learnt=without_learnt
    )
    figures = [*evaluation.RULES[rule], *(["official"] if "official" in rows else [])]
    heads = [name.replace("auc", "AUC").replace("_", " ") + " %" for name in figures]
    printed = terminal.table("machine:", "ID:", "normal", "anomalous", *heads)
    printed.title = f"by the rule of {rule}" if rule != evaluation.POOLED else "IDs pooled: no challenge's rule"
    for row in rows.to_dict("records"):
        average = row["machine_id"] == evaluation.AVERAGE
        cells = [row["machine_type"], row["machine_id"], str(row["normal"]), str(row["anomalous"])]
        cells += [terminal.percent(row[name])[0] if row[name] == row[name] else "" for name in figures]
        printed.add_row(*map(Text, cells), end_section=average, style="bold" if average else None)
    terminal.console().print(printed)
    for column in ("decision", "confirmed"):
        if column in scores and (scores[column] != "").any():
            counted = results.unlearnt(scores) if without_learnt else scores
            _print_decisions(evaluation.count_decisions(counted, column=column, labels=labels), column)
    return terminal.report_failures(scores)


def _print_decisions(rows: DataFrame, column: str) -> None:
    """Print what was decided right and wrong, in per cent."""
    heads = ("false_alarm_rate", "precision", "recall", "f1")
    printed = terminal.table(
        f"{column}:", "ID:", "normal", "anomalous", "false alarms %", "precision %", "recall %", "F1 %"
    )
    for row in rows.to_dict("records"):
        cells = [row["machine_type"], row["machine_id"], str(row["normal"]), str(row["anomalous"])]
        cells += [terminal.percent(row[name])[0] if row[name] == row[name] else "" for name in heads]
        printed.add_row(*map(Text, cells))
    terminal.console().print(printed)
