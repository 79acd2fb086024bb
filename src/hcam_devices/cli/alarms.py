"""``hcam alarms``: the alarms of the instrument, and what people do about them."""

from functools import partial

import click

from ..ui import alarms as ui
from ..ui.troubles import short
from ..wamp.uris import Address
from .completion import nights
from .program import UTC, Group, Number, example, given, heed_interrupts, say

ALARM = click.argument("alarm")
LAST = click.option("--last", default="24h", help="How far back: 90s, 15m, 12h (default: 24h).")


@click.group(
    cls=Group,
    invoke_without_command=True,
    silent=False,
    exits={0: "there is no alarm", 1: "there are alarms, or hwalarm does not answer"},
    epilog=example("hcam alarms   or   hcam alarms ack slide.stage"),
)
@UTC
@given("address")
@click.pass_context
def alarms(context: click.Context, address: Address) -> None:
    """Show the alarms, worst first, with what to do."""
    if context.invoked_subcommand:
        return
    records, messages = ui.ask("list"), ui.ask("messages", "1h")
    say(records, [*ui.table(records), *ui.unsent(messages)])
    raise SystemExit(1 if any(ui.is_shown(record) for record in records) else 0)


@alarms.command(epilog=example("hcam alarms ack ccd1.flow 'valve opened'"))
@ALARM
@click.argument("note", default="")
@given("address")
def ack(alarm: str, note: str, address: Address) -> None:
    """Acknowledge ALARM, as it is now: you have seen it, and look after it.

    ALARM may be a glob: those that are shown at this moment are acknowledged, one by one.
    """
    for record in ui.acknowledge(alarm, note):
        say(record, f"{record['alarm']} is acknowledged: {record['reason']}", indent=None)


@alarms.command(epilog=example("hcam alarms shelve ccd5.flow 30 'pump is being repaired'"))
@ALARM
@click.argument("minutes", type=Number(min=0, min_open=True))
@click.argument("reason")
@UTC
@given("address")
def shelve(alarm: str, minutes: float, reason: str, address: Address) -> None:
    """Hide ALARM for some MINUTES: an error at most 60, a warning 720, none after noon UTC."""
    record = ui.ask("shelve", alarm, minutes, reason)
    say(record, f"{alarm} is shelved until {short(record['shelved']['until'])}")


@alarms.command(epilog=example("hcam alarms unshelve ccd5.flow"))
@ALARM
@given("address")
def unshelve(alarm: str, address: Address) -> None:
    """Show ALARM again, which is shelved."""
    say(ui.ask("unshelve", alarm), f"{alarm} is not shelved any more")


@alarms.command(epilog=example("hcam alarms log --last 12h"))
@click.argument("alarm", required=False)
@LAST
@click.option("--around", is_flag=True, help="Add the values and commands of the minute around.")
@UTC
@given("address")
def log(alarm: str | None, last: str, address: Address, *, around: bool) -> None:
    """Print what happened to ALARM, or to all, oldest first."""
    events = ui.ask("log", alarm, last)
    if around:
        events = list(ui.with_history(ui.worth_reading(events)))
    read = ui.worth_reading(events)
    say(events, (line for one in read for line in (ui.event_line(one), *ui.around_lines(one))))


@alarms.command(epilog=example("hcam alarms messages --last 12h"))
@LAST
@UTC
@given("address")
def messages(last: str, address: Address) -> None:
    """Print the messages to people, oldest first, and why some were not sent."""
    found = ui.ask("messages", last)
    say(found, map(ui.message_line, found) if found else "no messages")


@alarms.command(
    exits={0: "every URL of NAME has taken it", 1: "one has not, or hwalarm does not answer"},
    epilog=example("hcam alarms test observer"),
)
@click.argument("name")
@UTC
@given("address")
def test(name: str, address: Address) -> None:
    """Send a test message to NAME of [notify] in the instrument file, and wait for the outcome."""
    message = ui.test(name)
    say(message, ui.message_line(message))
    raise SystemExit(0 if message["sent"] else 1)


@alarms.command(epilog=example("hcam alarms report yesterday"))
@click.argument("night", default="tonight", shell_complete=nights)
@UTC
@given("address")
def report(night: str, address: Address) -> None:
    """Print the figures of the alarms of NIGHT, and what is wrong with them."""
    found = ui.ask("report", night)
    say(found, ui.report_lines(found))


@alarms.command(epilog=example("hcam alarms handover 'ccd5 pump is on loan'"))
@click.argument("note", default="")
@click.option("--confirm", is_flag=True, help="Confirm, as the next observer, that you know this.")
@UTC
@given("address")
def handover(note: str, address: Address, *, confirm: bool) -> None:
    """Log and print what the next observer has to know."""
    told = ui.ask("handover", note, confirmed=confirm)
    say(told, ui.handover_lines(told))


@alarms.command(epilog=example("hcam alarms watch"))
@UTC
@given("address")
def watch(address: Address) -> None:
    """Print the alarms, and each change of one, until Ctrl-C."""
    heed_interrupts()
    ui.watch(address, partial(say, indent=None))
