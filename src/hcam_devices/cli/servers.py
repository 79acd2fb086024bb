"""The servers, which present devices on the network, and ``hwlogger``, which records them."""

from collections.abc import Callable
from pathlib import Path

import click

from .. import HcamError
from ..config.instrument import Instrument
from ..history import recorder
from ..telescope.corba import require_corba
from ..wamp import server
from ..wamp.uris import Address
from .program import DEVICES, EMULATE, Command, example, given


def _server(
    name: str, sample: str, doc: str, needs: Callable[[], object] = lambda: None
) -> click.Command:
    """Return the program that presents the devices of one server.

    ``needs`` raises HcamError if the program cannot run in this installation.
    """

    @click.command(cls=Command, log_level="info", name=name, help=doc, epilog=example(sample))
    @EMULATE
    @DEVICES
    @click.option(
        "--replay",
        multiple=True,
        metavar="DEVICE=FILE",
        help="Let the simulator of a device answer as in a recording of hcam wire (with "
        "--emulate).",
    )
    @given("instrument", "address")
    def program(
        instrument: Instrument,
        address: Address,
        *,
        emulate: bool,
        pattern: str,
        replay: tuple[str, ...],
    ) -> None:
        if replay and not emulate:
            raise HcamError("--replay is for simulators: add --emulate")
        needs()
        parts = (text.partition("=") for text in replay)
        files = {device: Path(file) for device, _, file in parts}
        server.serve(name, instrument, pattern, address, emulate=emulate, replay=files)

    return program


hwserver = _server(
    "hwserver",
    "hwserver --emulate --devices 'pressure*'",
    "Present the instrument's peripheral hardware on the network.",
)
hserver = _server(
    "hserver", "hserver --emulate", "Present the detector controller (NGC) on the network."
)
gtcserver = _server(
    "gtcserver",
    "gtcserver --emulate",
    "Present the telescope (GTC) on the network.",
    require_corba,
)


@click.command(cls=Command, log_level="info", epilog=example("hwlogger --instrument ours.toml"))
@given("instrument", "address")
def hwlogger(instrument: Instrument, address: Address) -> None:
    """Record every device into the stores of the instrument file."""
    recorder.serve(instrument, address)
