"""Commands of version 1.7 that people and their scripts type, as fronts of ``hcam``."""

import sys
from time import sleep

import click

from .. import HcamError
from ..ui import calling
from ..wamp import utils
from ..wamp.uris import Address, device_of, rpc
from .calls import call
from .program import Command, example, given
from .watch import watch

WORDS = {"True": "true", "False": "false"}
TIMEOUT_S = "65"
"""The slowest answers are those of the detector's server when it starts."""
REPLACED = {
    "tcp_serial_bridge": "the arms of COMPO need no bridge: hwserver opens the serial port that is "
    "path in their table of the instrument file; for other programs there is socat",
    "zaber_ascii": "use hcam wire slide, which shows the bytes of a device, and with --send sends "
    "some; for what is no device in the instrument file there is nc HOST PORT",
}


def do_wamp_call() -> None:
    """Call a procedure as ``hcam call`` does; True and False are no texts."""
    call.main(["--timeout", TIMEOUT_S, *(WORDS.get(text, text) for text in sys.argv[1:])])


def show_telemetry() -> None:
    """Show a device as ``hcam watch`` does; it may be given by the topic of its telemetry."""
    watch.main([device_of(text) or text for text in sys.argv[1:]])


@click.command(cls=Command, silent=True, epilog=example("gtc_archive_ingest"))
@given("address")
def gtc_archive_ingest(address: Address) -> None:
    """Transfer the observations into the GTC's archive, and wait until that has ended.

    Exit with status 1 if it failed. Ctrl-C ends the wait, not the transfer.
    """
    calling.ask(rpc("gtc", "archive"))
    while (transfer := _transfer())[0] == "running":
        sleep(1)
    state, reason = transfer
    if state != "finished":
        raise HcamError(reason or f"the transfer is {state}: look into the archive")


def _transfer() -> tuple[str, str]:
    """Return the state of the transfer, and why it failed."""
    sample = utils.call(rpc("gtc", "telemetry")) or {}  # None: gtcserver has only just started
    alarms = sample.get("alarms", ())
    reasons = [alarm["reason"] for alarm in alarms if alarm["field"] == "archive"]
    return sample.get("state", {}).get("archive", "unknown"), "; ".join(reasons)


def replaced() -> None:
    """Print what replaces this command, and exit with status 1."""
    name = sys.argv[0].rpartition("/")[2]
    raise SystemExit(f"Error: {name} does nothing any more; {REPLACED[name]}")
