"""``hcam call``, ``publish`` and ``simulate``: commands to devices."""

import click

from ..ui import calling
from ..wamp.uris import Address
from .program import NEGATIVE, Command, Number, example, given


@click.command(
    cls=Command,
    context_settings=NEGATIVE,
    epilog=example(
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
    help="Seconds to wait for the answer (default: 10).",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until the motion has ended; exit with status 1 if it failed.",
)
@click.option("--why", default="", help="The reason, which hcam history --commands shows.")
@given("address")
def call(
    procedure: str, args: tuple[str, ...], *, timeout: float, wait: bool, why: str, address: Address
) -> None:
    """Call PROCEDURE with ARGS (numbers, texts, name=value, JSON, @FILE) and print the answer.

    With only the name of a device (hcam call ngc), list its procedures. @FILE stands for the text
    of a file, and @@ for an @. A command that could do harm says so, and needs confirm=true. Ctrl-C
    ends the wait for a motion, not the motion.
    """
    click.echo(calling.call(procedure, args, timeout, wait=wait, why=why))


@click.command(
    cls=Command, context_settings=NEGATIVE, epilog=example("hcam publish slide.target_position -50")
)
@click.argument("topic")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--why", default="", help="The reason, which hcam history --commands shows.")
@given("address")
def publish(topic: str, args: tuple[str, ...], *, why: str, address: Address) -> None:
    """Publish ARGS to TOPIC, to set a value without an answer.

    If the device rejects the value, the reason is in its alarms.
    """
    calling.publish(topic, args, why)


@click.command(
    cls=Command,
    context_settings=NEGATIVE,
    epilog=example(
        "hcam simulate pressure1 set base=0.02   or   hcam simulate slide silence times=3"
    ),
)
@click.argument("device")
@click.argument("fault", default="")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@given("address")
def simulate(device: str, fault: str, options: tuple[str, ...], *, address: Address) -> None:
    """Give a simulated DEVICE a FAULT, set its values, or clear its faults.

    Without FAULT, list the faults and values of DEVICE.
    """
    for line in calling.simulate(device, fault, options):
        click.echo(line)
