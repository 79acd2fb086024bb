"""What all programs and commands share: options, the log, and the printing of errors."""

import importlib
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from .. import HcamError
from ..config.router import router_of
from ..host import limits, logs, output
from ..wamp import uris
from ..wamp.uris import Address

INSTRUMENT = click.option(
    "--instrument",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="HCAM_INSTRUMENT",
    help="The instrument file: a path, or hipercam (the default) or wht, the files of the package, "
    "whose devices are all on this machine.",
)
URL = click.option(
    "--url",
    help="The router, as host or host:port (default: WAMP_SERVER, else from the key file HCAM_KEY, "
    "else [router] of the instrument file).",
)
EMULATE = click.option(
    "-e", "--emulate", is_flag=True, help="Simulate the hardware and its protocols."
)
DEVICES = click.option(
    "--devices", "pattern", default="*", help="Only devices whose names match this glob."
)
PORT = click.option("--port", type=click.IntRange(1, 65535), help="The port of the router.")
NEGATIVE = {"ignore_unknown_options": True}
"""Context settings of a command that takes ``-50`` as an argument and not as an option."""
LOG_LEVEL_KEY = "hcam_devices.log_level"


def given(*wanted: str, url: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that passes the wanted keyword arguments to a command.

    ``instrument``: the instrument, loaded. ``address``: the address of the router, which
    ``wamp.utils.call`` and ``publish`` use from then on, too. ``file``: the path of the instrument
    file, not read, or None for the default. The command gets the option --instrument, and also
    --url if it wants the address and ``url`` is true.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(*args: Any, file: Path | None, url: str | None = None, **options: Any) -> Any:
            if "file" in wanted:
                options["file"] = file
            if "instrument" in wanted:
                # Not imported above, because that takes 0.3 s, which hcam call avoids.
                from ..config.instrument import load  # noqa: PLC0415

                options["instrument"] = load(file)
            if "address" in wanted:
                options["address"] = router_address(url, file)
            return command(*args, **options)

        run = INSTRUMENT(run)
        return URL(run) if "address" in wanted and url else run

    return decorate


def router_address(url: str | None, file: Path | None) -> Address:
    """Return the router's address: from ``url``, WAMP_SERVER, HCAM_KEY or the instrument file.

    ``wamp.utils.call`` and ``publish`` use it from then on, too. Raises HcamError if the source has
    a mistake.
    """
    if url:
        address = Address.parse(url)
    elif os.environ.get("WAMP_SERVER") or os.environ.get("HCAM_KEY") or not file:
        address = uris.address()
    else:
        address = Address(*router_of(file))
    os.environ["WAMP_SERVER"] = str(address)
    return address


def example(text: str) -> str:
    """Return the epilog of a command's help."""
    return f"Example: {text}"


def heed_interrupts() -> None:
    """Let SIGINT end the program, even if a shell started it in the background.

    A shell makes such programs ignore SIGINT, and Python does not change that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Number(click.FloatRange):
    """A number within limits. It rejects NaN, which the comparison with the limits would not."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number; fail if it is not a number or not within the limits."""
        if math.isnan(number := super().convert(value, param, ctx)):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


def _note_level(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep the most verbose of the levels given to a command and to its group."""
    if value:
        level = "debug" if value is True else value
        known = ctx.meta.get(LOG_LEVEL_KEY, level)
        ctx.meta[LOG_LEVEL_KEY] = min(level, known, key=logs.LEVELS.index)


VERBOSE = click.Option(
    ["-v", "--verbose"],
    is_flag=True,
    expose_value=False,
    callback=_note_level,
    help="Log everything, as --log-level debug does.",
)
LOG_LEVEL = click.Option(
    ["--log-level"],
    type=click.Choice(logs.LEVELS),
    envvar="HCAM_LOG_LEVEL",
    expose_value=False,
    callback=_note_level,
    help="Log messages of this level and above to standard error.",
)


class Failure(click.ClickException):
    """An error that is printed as a sentence, with exit status 1 and systemd's error priority."""

    def show(self, file: Any = None) -> None:
        """Print the sentence to standard error."""
        click.echo(logs.with_priority(f"Error: {self.format_message()}", "ERROR"), err=True)


class Command(click.Command):
    """A command with a log. An error is a sentence and exit status 1; after Ctrl-C it is 130.

    ``log_level`` is the default level of the log.
    """

    def __init__(self, *args: Any, log_level: str = "warning", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_level = log_level

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, those of its log, and --help."""
        *own, help_ = super().get_params(ctx)
        return [*own, VERBOSE, LOG_LEVEL, help_]

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command as a program; exit with status 1 if its output cannot be written."""
        output.open_missing_streams()
        limits.raise_open_files_limit()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None:
                raise
            output.discard(1)
            output.write(2, f"Error: the output cannot be written ({error.strerror or error})\n")
            raise SystemExit(1) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command's function; print ``?`` for letters that the terminal does not have."""
        if isinstance(sys.stdout, TextIOWrapper):
            terminal = sys.stdout.isatty()
            sys.stdout.reconfigure(errors="replace" if terminal else "backslashreplace")
        if os.path.expanduser("~") == "~" and (home := os.environ.get("HCAM_HOME")):
            os.environ["HOME"] = os.path.abspath(home)  # astropy cannot be imported without it
        logs.set_up(ctx.meta.get(LOG_LEVEL_KEY, self.log_level))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except HcamError as error:
            raise Failure(str(error)) from None
        finally:
            if sys.stdout:
                sys.stdout.flush()  # Python ignores an error of its own flush at exit


class Group(Command, click.Group):
    """A command that has commands."""

    command_class = Command


class LazyGroup(Group):
    """A group that imports the module of a command only when the command is used.

    ``sections`` maps the titles of the help to commands, and each command to its module in this
    package and its summary.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, tuple[str, str]]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self.modules = {
            name: module for listed in sections.values() for name, (module, _) in listed.items()
        }
        # click lists and suggests these names; get_command returns the real commands.
        self.commands = {name: click.Command(name) for name in self.modules}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of a name, or None if there is none."""
        if cmd_name not in self.modules:
            return None
        module = importlib.import_module(f"{__package__}.{self.modules[cmd_name]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101  (for the type checker)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section and its commands, with the summaries of all sections in one column."""
        width = max(map(len, self.modules))
        for title, listed in self.sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(f"{name:<{width}}", summary) for name, (_, summary) in listed.items()]
                )
