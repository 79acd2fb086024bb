"""``hcam call``, ``publish`` and ``simulate``: commands to devices."""

import click

from ..ui import calling
from ..wamp.uris import Address
from .completion import devices, procedures, setpoints
from .program import NEGATIVE, WHY, Command, Number, example, given, say


@click.command(
    cls=Command,
    log_level=None,
    context_settings=NEGATIVE,
    exits={
        0: "done; with --wait, it has arrived",
        1: "refused, not answered or not arrived, for the reason on standard error",
    },
    epilog=example(
        "hcam call slide.block --wait   or   hcam call ngc   or   "
        "hcam call ngc.load_setup @setup.json"
    ),
)
@click.argument("procedure", shell_complete=procedures)
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
    help="Wait until the motion has ended; show meanwhile how far it is, on standard error.",
)
@WHY
@given("address")
def call(
    procedure: str, args: tuple[str, ...], *, timeout: float, wait: bool, why: str, address: Address
) -> None:
    """Call PROCEDURE with ARGS (numbers, texts, name=value, JSON, @FILE) and print the answer.

    With only the name of a device (hcam call ngc), list its procedures. @FILE stands for the text
    of a file, and @@ for an @. A command that could do harm says so, and needs confirm=true. Ctrl-C
    ends the wait for a motion, not the motion.

    --json prints the answer; for the name of a device its description; and with --wait the sample
    in which the axis has arrived.
    """
    say(*calling.call(procedure, args, timeout, wait=wait, why=why))


@click.command(
    cls=Command,
    log_level=None,
    context_settings=NEGATIVE,
    silent=True,
    exits={0: "published; the device has not answered"},
    epilog=example("hcam publish slide.target_position -50"),
)
@click.argument("topic", shell_complete=setpoints)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@WHY
@given("address")
def publish(topic: str, args: tuple[str, ...], *, why: str, address: Address) -> None:
    """Publish ARGS to TOPIC, to set a value without an answer.

    If the device rejects the value, the reason is in its alarms.
    """
    calling.publish(topic, args, why)


@click.command(
    cls=Command,
    log_level=None,
    context_settings=NEGATIVE,
    epilog=example(
        "hcam simulate pressure1 set base=0.02   or   hcam simulate slide silence times=3"
    ),
)
@click.argument("device", shell_complete=devices)
@click.argument("fault", default="")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@given("address")
def simulate(device: str, fault: str, options: tuple[str, ...], *, address: Address) -> None:
    """Give a simulated DEVICE a FAULT, set its values, or clear its faults.

    Without FAULT, list the faults and values of DEVICE.
    """
    say(*calling.simulate(device, fault, options))
