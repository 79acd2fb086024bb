"""What all programs and commands share: options, the log, and the printing of errors."""

import importlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from .. import HcamError
from ..config.router import router_of
from ..host import limits, output
from ..ui import times
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
JSON_KEY = "hcam_devices.json"
WHY = click.option("--why", default="", help="The reason, which hcam history --commands shows.")
UTC = click.option(
    "--utc/--local",
    "utc",
    default=True,
    expose_value=False,
    callback=lambda _, __, utc: times.use(local=not utc),
    help="Print times in UTC (the default) or in the zone of this machine; JSON and CSV have UTC.",
)
EXITS = {0: "done", 1: "failed, for the reason on standard error", 2: "wrong usage", 130: "Ctrl-C"}
"""What the exit status of a command means, unless it says otherwise."""


def given(*wanted: str, url: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that passes the wanted keyword arguments to a command.

    ``instrument``: the instrument, loaded; of a server (the option ``named``) only its own part.
    ``address``: the address of the router, which ``wamp.utils.call`` and ``publish`` use from then
    on, too. ``file``: the path of the instrument file, not read, or None for the default. The
    command gets the option --instrument, and also --url if it wants the address and ``url`` is
    true.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(*args: Any, file: Path | None, url: str | None = None, **options: Any) -> Any:
            if "file" in wanted:
                options["file"] = file
            if "instrument" in wanted:
                # Not imported above, because that takes 0.3 s, which hcam call avoids.
                from ..config.instrument import load  # noqa: PLC0415

                options["instrument"] = load(file, options.get("named", ""))
            if "address" in wanted:
                options["address"] = router_address(url, file)
            return command(*args, **options)

        run = INSTRUMENT(run)
        return URL(run) if "address" in wanted and url else run

    return decorate


def spanned(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``last``, ``start``, ``end`` and ``night`` (``archive.span``)."""
    options = (
        click.option(
            "--last", metavar="TIME", help="Start so long ago: 90s, 15m, 24h (the default), 7d, 2w."
        ),
        click.option(
            "--from", "start", metavar="UTC", help="Start at a date, a date and time, or a time."
        ),
        click.option(
            "--to",
            "end",
            metavar="UTC",
            help="End at a date, a date and time, or a time (default: now).",
        ),
        click.option(
            "--night",
            metavar="DATE",
            help="From noon of this date to the next noon; or tonight, or yesterday.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


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
        ctx.meta[LOG_LEVEL_KEY] = min(level, known, key=output.LEVELS.index)


VERBOSE = click.Option(
    ["-v", "--verbose"],
    is_flag=True,
    expose_value=False,
    callback=_note_level,
    help="Log everything, as --log-level debug does.",
)
LOG_LEVEL = click.Option(
    ["--log-level"],
    type=click.Choice(output.LEVELS),
    envvar="HCAM_LOG_LEVEL",
    expose_value=False,
    callback=_note_level,
    help="Log messages of this level and above to standard error.",
)


JSON = click.Option(
    ["--json"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, wanted: ctx.meta.update({JSON_KEY: wanted}),
    help="Print JSON: one object or list or, for readings, an object on each line.",
)


def wants_json() -> bool:
    """Return whether the running command was given --json."""
    return bool(click.get_current_context().meta.get(JSON_KEY))


def say(data: Any, text: str | Iterable[str], *, indent: int | None = 2) -> None:
    """Print what a command found: with --json ``data``, otherwise the text or its lines.

    JSON has null for NaN and infinities. ``indent`` is None for an object on one line.
    """
    if wants_json():
        click.echo(json.dumps(_finite(data), indent=indent, ensure_ascii=False))
        return
    for line in (text,) if isinstance(text, str) else text:
        click.echo(line)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


class Failure(click.ClickException):
    """An error that is printed as a sentence, with exit status 1 and systemd's error priority."""

    def show(self, file: Any = None) -> None:
        """Print the sentence to standard error."""
        click.echo(output.with_priority(f"Error: {self.format_message()}", "ERROR"), err=True)


class Command(click.Command):
    """A command with a log and --json. An error is a sentence and exit status 1.

    ``log_level`` is the default level of the log; None if the command logs nothing, and so starts
    faster. ``exits``: what a status means, where that is not as in EXITS. ``silent``: it prints
    nothing for programs, and so has no --json.
    """

    def __init__(
        self,
        *args: Any,
        log_level: str | None = "warning",
        exits: Mapping[int, str] | None = None,
        silent: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])
        self.log_level, self.silent = log_level, silent
        self.exits = {**EXITS, **(exits or {})}

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, --json, those of its log, and --help."""
        *own, help_ = super().get_params(ctx)
        return [*own, *(() if self.silent else (JSON,)), VERBOSE, LOG_LEVEL, help_]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the exit statuses mean, and the example."""
        if not isinstance(self, click.Group) or self.invoke_without_command:
            with formatter.section("Exit status"):
                formatter.write_dl([(str(status), what) for status, what in self.exits.items()])
        super().format_epilog(ctx, formatter)

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
        if level := ctx.meta.get(LOG_LEVEL_KEY, self.log_level):
            from ..host import logs  # noqa: PLC0415  (4 ms)

            logs.set_up(level)
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

    def __init__(self, *args: Any, silent: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, silent=silent, **kwargs)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        # They take 60 ms, and only this option needs them.
        from importlib.metadata import version  # noqa: PLC0415

        from ..host.installation import commit  # noqa: PLC0415

        state = f" (git {found})" if (found := commit()) else ""
        click.echo(f"hcam_devices {version('hcam_devices')}{state}")
        ctx.exit()


VERSION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and the commit; -dirty if a file was changed.",
)


class LazyGroup(Group):
    """A group that imports the module of a command only when the command is used.

    ``sections`` maps the titles of the help to commands, and each command to its module in this
    package and its summary.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, tuple[str, str]]], **kwargs: Any
    ) -> None:
        super().__init__(*args, log_level=None, **kwargs)
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
