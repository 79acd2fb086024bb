"""The programs that people start: the servers, ``hwlogger`` and ``hcam``.

Each command imports what it needs when it runs, so that ``hcam call`` does not wait for what only
``hcam watch`` needs.
"""

import asyncio
import math
import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from .. import HcamError
from ..host import limits, logs, output
from ..wamp import uris
from ..wamp.uris import Address

# autobahn imports pyOpenSSL if there is any, without using it here. One that belongs to the system
# may not fit the newer cryptography of pip install --user, and then no program would start.
sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]

INSTRUMENT = click.option(
    "--instrument",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="HCAM_INSTRUMENT",
    help="The instrument file, or hipercam (the default) or wht: with everything on loopback.",
)
EMULATE = click.option(
    "-e", "--emulate", is_flag=True, help="Simulate the hardware, in its real protocols."
)
URL = click.option(
    "--url",
    help="The router, host or host:port (default: WAMP_SERVER, else [router] of the file given "
    "with --instrument or HCAM_INSTRUMENT).",
)
PORT = click.option("--port", type=click.IntRange(1, 65535), help="The router's port.")
MAX_AUDIT_S = 600.0
"""Seconds to wait for it."""
LEVEL_KEY = "hcam_devices.log_level"


def _note_level(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        level = "debug" if value is True else value
        ctx.meta[LEVEL_KEY] = min(level, ctx.meta.get(LEVEL_KEY, level), key=logs.LEVELS.index)


VERBOSE = click.Option(
    ["-v", "--verbose"],
    is_flag=True,
    expose_value=False,
    callback=_note_level,
    help="Log everything: --log-level debug.",
)
LOG_LEVEL = click.Option(
    ["--log-level"],
    type=click.Choice(logs.LEVELS),
    envvar="HCAM_LOG_LEVEL",
    expose_value=False,
    callback=_note_level,
    help="Log from this level on, to standard error.",
)


class Command(click.Command):
    """A command that tells its errors in a sentence, with exit status 1; of Ctrl-C it is 130.

    ``log_level``: from which level on it logs, if nobody says otherwise.
    """

    def __init__(self, *args: Any, log_level: str = "warning", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_level = log_level

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its parameters, and those that every command has."""
        *own, help_ = super().get_params(ctx)
        return [*own, VERBOSE, LOG_LEVEL, help_]

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run it as a program. Output that cannot be written is an error, too."""
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
        """Run the command; what a terminal has no letter for is a question mark there."""
        if isinstance(sys.stdout, TextIOWrapper):
            terminal = sys.stdout.isatty()
            sys.stdout.reconfigure(errors="replace" if terminal else "backslashreplace")
        if os.path.expanduser("~") == "~" and (home := os.environ.get("HCAM_HOME")):
            os.environ["HOME"] = os.path.abspath(home)  # astropy cannot be imported without
        logs.set_up(ctx.meta.get(LEVEL_KEY, self.log_level))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except HcamError as error:
            raise click.ClickException(str(error)) from None
        finally:
            if sys.stdout:
                sys.stdout.flush()  # an error in that would be no error at the end of a program


class Number(click.FloatRange):
    """A number within limits; no comparison says that NaN is not."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return it, or fail."""
        if math.isnan(number := super().convert(value, param, ctx)):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class Group(Command, click.Group):
    """Commands that tell their errors in a sentence."""

    command_class = Command


def _example(text: str) -> str:
    return f"Example: {text}"


def _heed_interrupts() -> None:
    """End on SIGINT, also in the background of a shell, which starts programs that ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _load(path: Path | None) -> Any:
    from ..config.instrument import load

    return load(path)


def _address(url: str | None, instrument: Path | None) -> Address:
    """Return the router's address: as given, or from WAMP_SERVER, or from the instrument file.

    ``call`` and ``publish`` find it from now on, too.
    """
    if url:
        found = Address.parse(url)
    elif os.environ.get("WAMP_SERVER") or not instrument:
        found = uris.address()
    else:
        found = _router_of(instrument)
    os.environ["WAMP_SERVER"] = str(found)
    return found


def _router_of(path: Path) -> Address:
    """Return what ``[router]`` of an instrument file says, without all that ``load`` imports."""
    import tomllib

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("router", {})
        host, port = table.get("host", Address().host), table.get("port", Address().port)
        types = type(host), type(port)
        if table.keys() <= {"host", "port"} and types == (str, int) and 0 < port < 65536:
            return Address(host, port)
    except (OSError, ValueError, AttributeError):
        pass
    router = _load(path).router  # a file of the package, or one with mistakes, which are told
    return Address(router.host, router.port)


def _server(
    name: str, example: str, doc: str, needs: Callable[[], object] = lambda: None
) -> click.Command:
    """Return the program that presents the devices of one server."""

    @click.command(cls=Command, log_level="info", name=name, help=doc, epilog=_example(example))
    @EMULATE
    @click.option(
        "--devices", "pattern", default="*", help="Only those whose name matches this glob."
    )
    @URL
    @click.option(
        "--replay",
        multiple=True,
        metavar="DEVICE=FILE",
        help="Let a device's simulator answer as in a recording of hcam wire (with --emulate).",
    )
    @INSTRUMENT
    def program(
        emulate: bool,
        pattern: str,
        url: str | None,
        replay: tuple[str, ...],
        instrument: Path | None,
    ) -> None:
        from ..wamp.server import serve

        played = {device: Path(file) for device, _, file in (one.partition("=") for one in replay)}
        if played and not emulate:
            raise HcamError("--replay is for simulators: add --emulate")
        declared = _load(instrument)
        address = _address(url, instrument)
        needs()
        serve(name, declared, pattern, address, emulate=emulate, replay=played)

    return program


hwserver = _server(
    "hwserver",
    "hwserver --emulate --devices 'pressure*'",
    "Present the instrument's peripheral hardware on the network.",
)
hserver = _server(
    "hserver", "hserver --emulate", "Present the detector controller (NGC) on the network."
)


def _corba() -> None:
    """Raise HcamError, with what to install, unless CORBA can be spoken."""
    from ..telescope.corba import start_orb

    try:
        start_orb()
    except ConnectionError as error:
        raise HcamError(str(error)) from None


gtcserver = _server(
    "gtcserver", "gtcserver --emulate", "Present the telescope (GTC) on the network.", _corba
)


@click.command(cls=Command, log_level="info", epilog=_example("hwlogger --instrument ours.toml"))
@URL
@INSTRUMENT
def hwlogger(url: str | None, instrument: Path | None) -> None:
    """Record every device into the stores of the instrument file."""
    from ..history.recorder import serve

    declared = _load(instrument)
    serve(declared, _address(url, instrument))


@click.group(cls=Group)
@click.version_option(package_name="hcam_devices")
def main() -> None:
    """Run, watch and command the hardware of HiPERCAM."""


@main.command(epilog=_example("hcam up --emulate"))
@EMULATE
@PORT
@INSTRUMENT
def up(emulate: bool, port: int | None, instrument: Path | None) -> None:
    """Run the router and the servers, and show them until Ctrl-C.

    What they print goes to files in HCAM_HOME/log.
    """
    from ..wamp.router import require_loopback
    from . import supervisor

    declared = _load(instrument)
    found = _address(None, instrument)
    require_loopback(found.host)
    address = Address("127.0.0.1", port or found.port)
    raise SystemExit(asyncio.run(supervisor.up(declared, address, emulate=emulate)))


@main.group(cls=Group, invoke_without_command=True, epilog=_example("hcam router --port 9000"))
@PORT
@INSTRUMENT
@click.pass_context
def router(context: click.Context, port: int | None, instrument: Path | None) -> None:
    """Run the router alone, on loopback, until Ctrl-C."""
    from ..host.home import home
    from ..wamp import router

    if context.invoked_subcommand:
        return
    declared = _load(instrument)
    found = _address(None, instrument)
    router.require_loopback(found.host)
    raise SystemExit(asyncio.run(router.run(declared, port or found.port, home())))


@router.command(epilog=_example("hcam router install"))
def install() -> None:
    """Install the router, which pip does not: once, and after an update.

    It is Crossbar, in an environment of its own: HCAM_HOME/crossbar, or crossbar in the user's data
    folder (~/.local/share/hcam_devices) if HCAM_HOME is not set.
    """
    from ..host.installation import install_router, installed_router, router_folders

    if folder := installed_router():
        click.echo(f"the router is installed already, in {folder}")
        return
    folder = router_folders()[1]
    click.echo(f"installing the router into {folder}")
    install_router(folder)
    click.echo("done")


@main.command(epilog=_example("hcam watch 'ccd*'"))
@click.argument("pattern", default="*")
@click.option("--once", is_flag=True, help="Print what is known after a moment, and end.")
@click.option(
    "--realm",
    type=click.Choice([uris.REALM, uris.REPLAY]),
    default=uris.REALM,
    help="The instrument (the default), or what hcam replay publishes.",
)
@URL
@INSTRUMENT
def watch(pattern: str, once: bool, realm: str, url: str | None, instrument: Path | None) -> None:
    """Show the devices whose names match PATTERN, live.

    Arrows, PgUp and PgDn scroll, / filters, q quits. Without a terminal, or in a dumb one, print
    what is known, and then a line for each change, until Ctrl-C.
    """
    from ..ui import terminal

    declared = _load(instrument)
    _heed_interrupts()
    try:
        asyncio.run(terminal.watch(declared, _address(url, instrument), pattern, realm, once=once))
    except KeyboardInterrupt:
        raise SystemExit(0) from None


@main.command(epilog=_example("hcam status"))
@URL
@INSTRUMENT
def status(url: str | None, instrument: Path | None) -> None:
    """Say in a few lines whether all is well; exit status 1 if not."""
    from ..ui import terminal

    declared = _load(instrument)
    raise SystemExit(asyncio.run(terminal.status(declared, _address(url, instrument))))


@main.command(epilog=_example("hcam audit 2026-11-22"))
@click.argument("night", default="")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@URL
@INSTRUMENT
def audit(night: str, as_json: bool, url: str | None, instrument: Path | None) -> None:
    """Prove that what was published in a NIGHT (the one going on) is stored once.

    A night is the date of its evening, or tonight, or yesterday: the one before tonight. Exit
    status 1 if it is not stored once, or that is not certain.
    """
    import time

    from ..history import audit
    from ..journal.points import night_named
    from ..wamp import utils

    night = night_named(night, round(time.time() * 1000))
    where = _address(url, instrument)
    try:
        utils.call(uris.rpc("recorder", "describe"), timeout=utils.PRESENT_WITHIN)
        answer = utils.call(uris.rpc("recorder", "audit"), night, timeout=MAX_AUDIT_S)
        found = audit.Audit.model_validate(answer)
    except utils.NoSuchProcedureError:
        found = _audit_of_files(night, instrument, "nobody answers for the recorder")
    except (utils.RouterError, utils.OutcomeUnknownError) as error:
        reason = f"no router answers at {where}"
        if isinstance(error, utils.OutcomeUnknownError) and _router_answers():
            reason = "the recorder does not answer (see HCAM_HOME/log/hwlogger.log)"
        found = _audit_of_files(night, instrument, reason)
    click.echo(found.model_dump_json(indent=2) if as_json else "\n".join(audit.text(found)))
    raise SystemExit(0 if found.complete else 1)


def _router_answers() -> bool:
    """Tell whether the router itself answers, whoever else does not."""
    from ..wamp import utils

    try:
        utils.call("wamp.session.count", timeout=utils.PRESENT_WITHIN)
    except (utils.RouterError, utils.OutcomeUnknownError):
        return False
    return True


def _audit_of_files(night: str, path: Path | None, reason: str) -> Any:
    """Audit without the journals, because of ``reason``."""
    import time

    from ..history.audit import Published, audit
    from ..history.inventory import lost_between, readers
    from ..host.home import home
    from ..journal.points import night_bounds, night_of

    night = night or night_of(int(time.time() * 1000))
    instrument = _load(path)
    silent = f"{reason}, so no journal was asked"
    published = {name: Published(silent=silent) for name in instrument.names}
    try:
        start, end = (one / 1000 for one in night_bounds(night))
        for lost in lost_between(instrument.stores, home(), start, end):
            published.setdefault(lost.device, Published(silent=silent)).lost.append(lost)
        found = readers(instrument.stores, home(), night)
        return audit(night, published, found, time.time())
    except ValueError as error:
        raise HcamError(str(error)) from None


@main.command(epilog=_example("hcam replay 2026-11-22 --from 23:00 --speed 60"))
@click.argument("night")
@click.option("--speed", type=Number(0, min_open=True), default=1.0, help="Times as fast.")
@click.option("--devices", "pattern", default="*", help="Only those whose name matches this glob.")
@click.option("--from", "begin", default="12:00", help="When to begin (UTC).")
@click.option("--until", "end", default="", help="When to end (UTC).")
@URL
@INSTRUMENT
def replay(
    night: str,
    *,
    speed: float,
    pattern: str,
    begin: str,
    end: str,
    url: str | None,
    instrument: Path | None,
) -> None:
    """Publish a recorded NIGHT again, in realm replay: see it with hcam watch --realm replay.

    A night is the date of its evening, or tonight, or yesterday: the one before tonight.
    """
    import time

    from ..config.stores import Embedded, place
    from ..history import replay
    from ..host.home import home
    from ..journal.points import night_named

    declared = _load(instrument)
    folders = [place(one, home()) for one in declared.stores.values() if isinstance(one, Embedded)]
    if not folders:
        raise HcamError(f"{declared.path} has no store of kind embedded, which could be replayed")
    night = night_named(night, round(time.time() * 1000))
    points = replay.recorded(folders[0], night, pattern, begin, end)
    progress = replay.Progress(sys.stdout)
    _heed_interrupts()
    try:
        asyncio.run(replay.replay(replay.paced(points, speed), _address(url, instrument), progress))
    except KeyboardInterrupt:
        pass
    finally:
        progress.end()


NEGATIVE = {"ignore_unknown_options": True}
"""So that ``-50`` is an argument and not an option."""


@main.command(
    context_settings=NEGATIVE,
    epilog=_example(
        "hcam call slide.block --wait   or   hcam call ngc   or   "
        "hcam call ngc.load_setup @setup.json"
    ),
)
@click.argument("procedure")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--timeout",
    type=Number(0.001, 86400),
    default=10.0,
    help="Seconds to wait for the answer.",
)
@click.option(
    "--wait", is_flag=True, help="Wait until the motion has ended; exit status 1 if it failed."
)
@URL
@INSTRUMENT
def call(
    procedure: str,
    args: tuple[str, ...],
    *,
    timeout: float,
    wait: bool,
    url: str | None,
    instrument: Path | None,
) -> None:
    """Call a PROCEDURE with ARGS (numbers, texts, name=value, JSON, @FILE) and print the answer.

    With a device alone (hcam call ngc), list what it has. @FILE is the text of a file, @@ an @.
    What could do harm says so, and is done with confirm=true only. Ctrl-C ends the waiting for a
    motion, not the motion.
    """
    from ..ui import calling

    _address(url, instrument)
    click.echo(calling.call(procedure, args, timeout, wait=wait))


@main.command(context_settings=NEGATIVE, epilog=_example("hcam publish slide.target_position -50"))
@click.argument("topic")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@URL
@INSTRUMENT
def publish(topic: str, args: tuple[str, ...], url: str | None, instrument: Path | None) -> None:
    """Publish ARGS to a TOPIC; a setpoint that is refused shows in the device's alarms."""
    from ..ui import calling
    from ..wamp import utils

    _address(url, instrument)
    positional, named = calling.arguments(args)
    full = uris.expand(topic)
    if not utils.call("wamp.subscription.match", full):
        raise HcamError(calling.what_can_be_set(full))
    utils.publish(full, *positional, **named)


@main.command(
    context_settings=NEGATIVE,
    epilog=_example(
        "hcam simulate pressure1 set base=0.02   or   hcam simulate slide silence times=3"
    ),
)
@click.argument("device")
@click.argument("fault", default="")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@URL
@INSTRUMENT
def simulate(
    device: str,
    fault: str,
    options: tuple[str, ...],
    url: str | None,
    instrument: Path | None,
) -> None:
    """Let a simulated DEVICE have a FAULT, set its values, or clear its faults.

    Without a fault: say which there are.
    """
    from ..ui import calling

    _address(url, instrument)
    _, named = calling.arguments(options)
    answer = calling.ask(uris.rpc(device, "simulate"), fault, **named)
    if fault:
        del answer["may inject"]
    for title, content in answer.items():
        click.echo(f"{title}:")
        for name, value in content.items():
            shown = value
            if isinstance(value, dict):
                shown = " ".join(f"{key}={default}" for key, default in value.items())
            click.echo(f"  {name:<12} {shown}")


@main.command(
    epilog=_example(
        "hcam wire pressure1 --record fault.jsonl   or   hcam wire slide --send '01 3C'"
    )
)
@click.argument("device")
@click.option("--seconds", default=60.0, help="How long to listen.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Also to a file.")
@click.option("--send", metavar="HEX", help="Send raw bytes, print what comes back, and end.")
@click.option("--confirm", is_flag=True, help="Send them although nothing checks them.")
@URL
@INSTRUMENT
def wire(
    device: str,
    seconds: float,
    record: Path | None,
    send: str | None,
    *,
    confirm: bool,
    url: str | None,
    instrument: Path | None,
) -> None:
    """Show the bytes that pass between DEVICE and its hardware, with times and meaning."""
    address = _address(url, instrument)
    if send is None:
        from ..ui import terminal

        asyncio.run(terminal.wire(device, address, seconds, record))
    else:
        from ..ui import calling

        said = calling.ask(uris.rpc(device, "exchange"), send, confirm=confirm)
        click.echo(f"{said}   {bytes.fromhex(said).decode('ascii', 'backslashreplace')!r}")


@main.command(
    epilog=_example(
        "hcam history ccd1.temperature ccd2.temperature --last 7d   or   "
        "hcam history rack.dewpoint --night 2026-11-22 --csv > dewpoint.csv"
    )
)
@click.argument("fields", nargs=-1)
@click.option("--last", metavar="TIME", help="How far back: 90s, 15m, 24h (the default), 7d, 2w.")
@click.option("--from", "start", metavar="UTC", help="A date, a date and time, or a time.")
@click.option("--to", "end", metavar="UTC", help="Likewise; now, if it is not given.")
@click.option(
    "--night", metavar="DATE", help="From noon of this date to the next; or tonight, or yesterday."
)
@click.option("--table", "as_table", is_flag=True, help="A table instead of a plot.")
@click.option("--csv", "as_csv", is_flag=True, help="Everything as it was recorded.")
@click.option(
    "--png",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Plot to a file NAME.png.",
)
@click.option("--points", type=click.IntRange(1, 3000), help="Lines of a table, for each field.")
@URL
@INSTRUMENT
def history(
    fields: tuple[str, ...],
    *,
    last: str | None,
    start: str | None,
    end: str | None,
    night: str | None,
    as_table: bool,
    as_csv: bool,
    png: Path | None,
    points: int | None,
    url: str | None,
    instrument: Path | None,
) -> None:
    """Show what was recorded of FIELDS such as ccd1.temperature; without any, say which there are.

    In a terminal it is a plot. Times are UTC.
    """
    import time

    from ..history.archive import source, span
    from ..history.stores import AwayError
    from ..ui import plot

    if as_table + as_csv + bool(png) > 1 or (points and (png or as_csv)):
        raise click.UsageError("choose one of --table (with --points), --csv and --png")
    if png and png.suffix.lower() != ".png":
        raise click.UsageError(f"{png} would be a PNG: give it a name that ends with .png")
    if globs := [field for field in fields if {*"*?["} & {*field}]:
        raise click.UsageError(f"{globs[0]!r} is a pattern: name each field in full")
    if (as_csv or png) and not fields:
        raise click.UsageError(
            "name a field, such as ccd1.temperature; hcam history alone says which there are"
        )
    asked = span(round(time.time() * 1000), last, start, end, night)
    _address(url, instrument)
    place, note = source(instrument)
    if note:
        click.echo(note, err=True)
    try:
        chosen = tuple(dict.fromkeys(fields))
        how = "csv" if as_csv else "table" if as_table else None
        raise SystemExit(plot.show(place, chosen, asked, how=how, points=points, png=png))
    except AwayError as error:
        raise HcamError(str(error)) from None


@main.command(epilog=_example("hcam dashboards grafana --instrument ours.toml"))
@click.argument(
    "folder", default="grafana", type=click.Path(file_okay=False, path_type=Path, writable=True)
)
@click.option("--store", help="Of which history, if the instrument file has several InfluxDBs.")
@INSTRUMENT
def dashboards(folder: Path, store: str | None, instrument: Path | None) -> None:
    """Write Grafana dashboards of every device, with all that Grafana needs, into FOLDER.

    docs/grafana.md says how Grafana is started with it.
    """
    try:
        from ..ui import dashboards
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("grafana_foundation_sdk"):
            raise
        from ..host.installation import install_extra

        raise HcamError(
            "this installation lacks what dashboards are made with: " + install_extra("grafana")
        ) from None
    titles = dashboards.write(folder, _load(instrument), store)
    click.echo(f"{folder}: {', '.join(titles)}")


@main.group(cls=Group)
def gtc() -> None:
    """Look at the telescope."""


@gtc.command(epilog=_example("hcam gtc probe --host 192.0.2.5 --idl telescope.idl"))
@click.option("--host", help="Where its name service is (default: where gtcserver finds it).")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the name service.")
@click.option("--idl", help="The site's IDL file, if there is one.")
@click.option("--timeout", type=Number(0.1, 60), help="Of each call, in seconds.")
@URL
@INSTRUMENT
def probe(url: str | None, instrument: Path | None, **given: Any) -> None:
    """Report what the telescope's server is: type, ORB, addresses, and what can be read.

    It is looked for where the running gtcserver finds it, emulated or not; without gtcserver where
    the instrument file says. Nothing is moved or set. Exit status 1 if it is not alive.
    """
    from ..errors import LINK_LOST
    from ..telescope.corba import Corba
    from ..telescope.probe import report

    _corba()
    settings = {name: value for name, value in given.items() if value is not None}
    if not settings.keys() & {"host", "port"}:
        where, known = _telescope(url, instrument)
        settings = known | settings
        click.echo(where)
    try:
        lines = asyncio.run(report(Corba(**settings)))
    except (*LINK_LOST, ValueError) as error:
        raise HcamError(str(error)) from None
    for line in lines:
        click.echo(line)


def _telescope(url: str | None, instrument: Path | None) -> tuple[str, dict[str, Any]]:
    """Return who says where the telescope is, and the settings of a link to it."""
    from ..wamp import utils

    address = _address(url, instrument)
    try:
        known = utils.call(uris.rpc("gtc", "describe"))["link"]
        said = f"gtcserver at {address}"
    except (utils.NoSuchProcedureError, utils.RouterError):
        declared = _load(instrument)
        if "gtc" not in declared.entries:
            raise HcamError(
                f"no gtcserver runs at {address}, and {declared.path} has no device gtc: say where "
                "the telescope's name service is, with --host"
            ) from None
        known = declared.entries["gtc"].build().describe()["link"]
        said = f"{declared.path} (no gtcserver runs at {address})"
    return f"{'found by':<12} {said}", known


@main.group(cls=Group)
def config() -> None:
    """Look at the instrument file."""


@config.command(epilog=_example("hcam config check --instrument ours.toml"))
@INSTRUMENT
def check(instrument: Path | None) -> None:
    """Report every mistake in the instrument file, with its line."""
    declared = _load(instrument)
    click.echo(f"{declared.path}: {len(declared.entries)} devices, no mistakes")
    if declared.router.elsewhere:
        click.echo(f"Warning: {declared.router.elsewhere}", err=True)
