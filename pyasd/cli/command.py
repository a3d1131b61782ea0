"""Functions as commands: errors become exit codes, groups of options dataclasses, and help is completed when read."""

from __future__ import annotations

import functools
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from inspect import Parameter
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

from pyasd.cli import terminal, vocabulary
from pyasd.cli.options import Clips, Options, listed
from pyasd.errors import FAILED, INTERRUPTED, SIGNALLED, USAGE, PyasdError


class Stopped(KeyboardInterrupt):
    """A signal that ends the process: whatever Ctrl-C leaves behind, it leaves too.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stop(number: int, _frame: object) -> None:
    """Handle a signal: end what is at work, as Ctrl-C does.

    Raises:
        Stopped: always.
    """
    raise Stopped(number)


def command(function: Callable[..., bool]) -> Callable[..., None]:
    """Make a command of a function that returns whether all went well.

    Errors become one line on stderr and an exit code. A parameter whose type is a group of `Options` becomes an option
    for each of the group's fields; the function gets the group.
    """
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    clips = [x.name for x in parameters if x.annotation is Clips]
    groups: dict[str, type[Options]] = {x.name: x.annotation for x in parameters if _is_group(x)}

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        out: Path | None = arguments.get("out")
        for name, group in groups.items():
            arguments[name] = group(**{x.name: arguments.pop(x.name) for x in fields(group)})

        def work() -> bool:
            return function(**arguments | {name: listed(arguments[name]) for name in clips})

        raise typer.Exit(_exit_code(work, out))

    options = [option for x in parameters for option in (_fields(groups[x.name]) if x.name in groups else [x])]
    run.__signature__ = inspect.Signature([x.replace(kind=Parameter.KEYWORD_ONLY) for x in options])  # type: ignore[attr-defined]
    run.__annotations__ = {x.name: x.annotation for x in options}
    vocabulary.OPTIONS.update(run.__annotations__)
    return run


def _is_group(parameter: Parameter) -> bool:
    return isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Options)


def _fields(group: type[Options]) -> Iterator[Parameter]:
    """Yield a parameter for each option of a group."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        (option,) = hints[field.name].__metadata__
        option.rich_help_panel = group.panel
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])


def _exit_code(work: Callable[[], bool], out: Path | None) -> int:
    """Do a command's work, say what goes wrong, and return the exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: terminal.say(f"warning: {vocabulary.with_options(str(message))}")
        try:
            return 0 if work() else FAILED
        except KeyboardInterrupt as end:  # Ctrl-C, or a signal
            terminal.say("stopped" + _kept(out))
            return SIGNALLED + end.number if isinstance(end, Stopped) else INTERRUPTED
        except BrokenPipeError:  # `pyasd evaluate ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return FAILED
        except PyasdError as error:
            terminal.say(f"error: {_message(error)}" + (f"; {error.kept}" if error.kept else ""))
            return error.exit_code
        # Anything else is a bug: its traceback is wanted.
        except (ImportError, OSError, TypeError, ValueError) as error:
            terminal.say(f"error: {_message(error)}")
            return USAGE


def _message(error: Exception) -> str:
    """Return one line that names the file, also for an OSError that Python made."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}: check the path and its rights"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return vocabulary.with_options(" ".join(str(error).split()))


def _kept(out: Path | None) -> str:
    """Return what an interrupted command that writes to `out` leaves behind, in words; "" for nothing."""
    if out is None:
        return ""
    if os.path.exists(f"{out}.partial"):
        resumed = "; --resume goes on with them" if os.path.exists(f"{out}.partial.json") else ""
        return f"; the rows so far are in {out}.partial{resumed}"
    if os.path.exists(out) and os.path.exists(f"{out}.json"):
        return f"; the same command goes on with {out}"
    if (out / "units").is_dir():
        return f"; the same command goes on with what is in {out}"
    if any(Path(f"{out}.checkpoint").glob("*.safetensors")):
        return f"; the same command goes on from {out}.checkpoint"
    return ""


class Command(TyperCommand):
    """A command whose repeatable options take several values, and whose help may have placeholders.

    `--systems 1 2` is `--systems 1 --systems 2`. `{systems}` in a help text is replaced by what `vocabulary` knows of
    it when this command's help is printed, and not before: some of it needs torch.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the name of a repeatable option before each of its values, as click reads them."""
        repeatable = {name for x in self.params if getattr(x, "multiple", False) for name in x.opts}
        repeated: list[str] = []
        option = ""
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in repeatable else ""
                repeated.append(arg)
            else:
                repeated += [option, arg] if option and repeated[-1] != option else [arg]
        return super().parse_args(ctx, repeated)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, completed."""
        texts: list[Any] = [self, *self.params]
        for x in texts:
            x.help = x.help and _completed(x.help)
        super().format_help(ctx, formatter)


def _completed(text: str) -> str:
    """Replace each `{name}` by what `vocabulary` has for it."""
    return re.sub(r"\{([\w -]+)\}", lambda match: vocabulary.WORDS[match[1]](), text)
