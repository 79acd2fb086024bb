"""The servers, which present devices on the network, ``hwlogger``, and ``hwalarm``."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from .. import HcamError
from ..config.instrument import Instrument, program_of
from ..core.device import settings_of
from ..host.machine import why_elsewhere
from ..telescope.interface import require_corba
from ..wamp import server
from ..wamp.uris import Address
from .program import DEVICES, EMULATE, Command, example, given

log = logging.getLogger(__name__)


def _server(
    name: str,
    sample: str,
    doc: str,
    needs: Callable[[], object] = lambda: None,
    *,
    path: Callable[[Callable[..., None]], Callable[..., None]] = lambda program: program,
) -> click.Command:
    """Return the program that presents the devices of one server.

    ``needs`` raises HcamError if the program cannot run in this installation. ``path`` adds the
    argument of that name.
    """

    @click.command(
        cls=Command, silent=True, log_level="info", name=name, help=doc, epilog=example(sample)
    )
    @path
    @EMULATE
    @DEVICES
    @click.option(
        "--replay",
        multiple=True,
        metavar="DEVICE=FILE",
        help="Let the simulator of DEVICE answer as in FILE, a recording of hcam wire (with "
        "--emulate).",
    )
    @click.option(
        "--name",
        "named",
        default=name,
        metavar="SERVER",
        help=f"The server in the instrument file: {name} (the default) or {name}-PLACE.",
    )
    @given("instrument", "address")
    def program(
        instrument: Instrument,
        address: Address,
        *,
        named: str,
        emulate: bool,
        pattern: str,
        replay: tuple[str, ...],
        path: str | None = None,
    ) -> None:
        if replay and not emulate:
            raise HcamError("--replay works only with simulators: add --emulate")
        if program_of(named) != name:
            raise HcamError(
                f"{name} cannot run the server {named}: the name must begin with {name}-"
            )
        needs()
        if path:
            instrument = _with_data(instrument, named, path)
        host = instrument.hosts.get(named)
        if host and not emulate and (reason := why_elsewhere(host)):
            log.warning("%s belongs on another machine: %s", named, reason)
        parts = (text.partition("=") for text in replay)
        files = {device: Path(file) for device, _, file in parts}
        server.serve(named, instrument, pattern, address, emulate=emulate, replay=files)

    return program


def _with_data(instrument: Instrument, server: str, path: str) -> Instrument:
    """Return an instrument in which the devices of a server find the runs in a folder."""
    chosen = {
        entry.name: replace(entry, settings=entry.settings | {"data": path})
        for entry in instrument.choose(server)
        if "data" in settings_of(entry.cls)
    }
    return replace(instrument, entries=instrument.entries | chosen)


hwserver = _server(
    "hwserver",
    "hwserver --emulate --devices 'pressure*'",
    "Present the peripheral hardware of the instrument on the network.",
)
hserver = _server(
    "hserver", "hserver --emulate", "Present the detector controller (NGC) on the network."
)
gtcserver = _server(
    "gtcserver",
    "gtcserver --emulate",
    "Present the telescope (GTC) on the network. PATH is the folder of the runs, in place of data "
    "in the instrument file; with --emulate it is that of the simulated detector.",
    require_corba,
    path=click.argument("path", required=False),
)


@click.command(
    cls=Command, silent=True, log_level="info", epilog=example("hwlogger --instrument ours.toml")
)
@given("instrument", "address")
def hwlogger(instrument: Instrument, address: Address) -> None:
    """Record every device into the stores of the instrument file."""
    from ..history import recorder  # noqa: PLC0415  (30 ms, which the other servers do not need)

    recorder.serve(instrument, address)


@click.command(
    cls=Command, silent=True, log_level="info", epilog=example("hwalarm --instrument ours.toml")
)
@given("instrument", "address")
def hwalarm(instrument: Instrument, address: Address) -> None:
    """Judge the telemetry of every device, keep the alarms, and tell people of them."""
    from ..alarms.server import serve  # noqa: PLC0415  (which the other servers do not need)
    from ..history.figures import entry_of  # noqa: PLC0415  (see above)

    serve(instrument, entry_of(instrument), address)
