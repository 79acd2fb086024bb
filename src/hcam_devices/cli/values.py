"""``hcam get``, ``set`` and ``monitor``: values of the devices."""

import click

from ..ui import times, values
from ..wamp.uris import Address
from .completion import fields, setpoints
from .program import (
    NEGATIVE,
    UTC,
    WHY,
    Command,
    example,
    given,
    heed_interrupts,
    say,
    wants_json,
)

MISSING = "a value is missing or null, or the router does not answer"
PATTERNS = click.argument("patterns", nargs=-1, required=True, shell_complete=fields)


@click.command(
    cls=Command,
    log_level=None,
    exits={0: "every value was read", 1: MISSING},
    epilog=example("hcam get ccd1.temperature   or   hcam get 'ccd*' slide"),
)
@PATTERNS
@given("address")
def get(patterns: tuple[str, ...], *, address: Address) -> None:
    """Print the newest readings of the fields that match PATTERNS.

    A pattern is a glob for devices, and after a dot one for their fields. What has no value, and
    devices that do not answer, are printed to standard error.
    """
    complete = True

    def failed(text: str) -> None:
        nonlocal complete
        complete = False
        click.echo(text, err=True)

    for reading in values.get(patterns, failed):
        if reading.raw is None:
            failed(values.as_line(reading))
        if wants_json() or reading.raw is not None:
            say(values.as_object(reading), values.as_line(reading), indent=None)
    raise SystemExit(0 if complete else 1)


@click.command(
    cls=Command,
    log_level=None,
    context_settings=NEGATIVE,
    exits={0: "the value was set", 1: "it was refused, for the reason on standard error"},
    epilog=example(
        "hcam set slide.target_position 1100   or   hcam set "
        "meerstetter1.target_temperature1 '-80 deg_C'"
    ),
)
@click.argument("setpoint", shell_complete=setpoints)
@click.argument("value", type=click.UNPROCESSED)
@WHY
@given("address")
def set(setpoint: str, value: str, *, why: str, address: Address) -> None:
    """Set SETPOINT to VALUE, and print what the hardware says afterwards.

    VALUE is a number, a number with a unit, or a word. An axis goes to its target when it is told
    to move: hcam call slide.move --wait.
    """
    reading = values.set_(setpoint, value, why)
    say(values.as_object(reading), values.as_line(reading), indent=None)


@click.command(cls=Command, epilog=example("hcam monitor 'ccd*.temperature'"))
@PATTERNS
@click.option("--count", type=click.IntRange(1), help="End after this many readings.")
@UTC
@given("address")
def monitor(patterns: tuple[str, ...], *, count: int | None, address: Address) -> None:
    """Print the newest readings of the fields that match PATTERNS, then every new one.

    None is left out or doubled, also if the router or a server is restarted. Ctrl-C ends it.
    """
    heed_interrupts()
    for reading in values.monitor(patterns, count):
        when = times.exact(reading.timestamp) if reading.timestamp else "-"
        say(values.as_object(reading), f"{when:<24} {values.as_line(reading)}", indent=None)
