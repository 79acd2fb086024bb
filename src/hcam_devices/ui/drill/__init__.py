"""``hcam drill``: rehearse alarms and interlocks with the simulated hardware.

Every declared alarm and interlock is driven through the simulators. An alarm has to be raised in
time, in a row of its own or hidden by its cause, with no other row, and to be over after an
acknowledgment. The act of an interlock has to be seen on the wire, verified and latched, and a
reset has to need what it should need. Everything is set back at the end. Then every emulated server
is away from the router for a moment. What cannot be driven is listed, too, with the reason.

A drill uses only the simulators and the commands of people. It stops no process, touches no disk,
and leaves out what would disturb a run.
"""

import asyncio
from collections.abc import Callable

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError

from ... import HcamError
from ...config.instrument import Instrument
from ...core.device import iso_from_s
from ...wamp.session import join
from ...wamp.uris import Address
from ...wamp.utils import unreachable
from ..bench import ASK_WITHIN_S, Bench
from ..troubles import count
from .alarms import Alarms
from .half import Row
from .interlocks import Interlocks

GRACE_S = 1.0
"""The time that a command and a sample may take on their way."""


async def rehearse(
    instrument: Instrument,
    address: Address,
    pattern: str,
    rows: list[Row],
    *,
    tell: Callable[[str], None],
    grace: float = GRACE_S,
) -> None:
    """Add a row for each alarm and interlock that matches a pattern.

    ``tell`` gets what is begun. ``grace`` is the time (s) that commands and samples may take on
    their way. Raises HcamError if there is no router, if a server does not run or is not emulated,
    or if something has tripped.
    """
    try:
        async with join(address, within=ASK_WITHIN_S) as session:
            bench = Bench(instrument, session)
            await bench.begin()
            following = asyncio.create_task(bench.follow_alarms())
            try:
                await _run(bench, pattern, rows, tell, grace)
            finally:
                following.cancel()
    except ApplicationError as error:
        reason = " ".join(map(str, error.args)) or error.error
        raise HcamError(f"the drill was stopped: {reason}") from None
    except (OSError, WampError) as error:
        raise HcamError(unreachable(address, error, ASK_WITHIN_S)) from None


async def _run(
    bench: Bench, pattern: str, rows: list[Row], tell: Callable[[str], None], grace: float
) -> None:
    """Add a row for each alarm and interlock. Raises HcamError if it cannot begin."""
    alarms = Alarms(bench, pattern, rows, tell, grace)
    interlocks = Interlocks(bench, pattern, rows, tell, grace)
    if not alarms and not interlocks and not rows:
        raise HcamError(f"nothing that can be rehearsed is called {pattern}")
    await interlocks.look_at_rest()
    await alarms.run()
    await interlocks.run()
    await alarms.acknowledge_others()
    await alarms.away()


def as_text(rows: list[Row], began: float, took: float, version: str, *, whole: bool) -> str:
    """Return the report: a line for each row, their numbers, and whether the drill was stopped."""
    wrong = sum(row.right is False for row in rows)
    undriven = sum(row.right is None for row in rows)
    title = f"Drill of {iso_from_s(began)}, hcam_devices {version}, {took:.0f} s"
    end = f"{count(len(rows), 'row')}, {wrong} wrong, {undriven} that cannot be driven"
    if not whole:
        end += "; the drill was stopped before its end"
    return "\n".join([title, "", *map(str, rows), "", end])
