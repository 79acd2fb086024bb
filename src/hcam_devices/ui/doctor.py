"""``hcam doctor``: run every check at once and print the findings.

A check that hangs or fails costs only its own findings.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from autobahn.wamp.exception import Error as WampError
from pydantic import ValidationError

from .. import HcamError
from ..config.instrument import load
from ..host.home import home
from ..host.installation import this_program
from ..host.threads import ask
from ..wamp import uris
from ..wamp.about import About
from ..wamp.session import Session, join
from ..wamp.uris import Address
from ..wamp.utils import unreachable
from . import access_checks, checks
from .checks import ANSWER_WITHIN_S, HERE, LEVELS, Finding, Heard, Site
from .picture import Picture
from .terminal import follow
from .troubles import count

LOAD_WITHIN_S, ROUTER_WITHIN_S, CHECK_WITHIN_S = 2.0, 3.0, 3.0
"""The deadlines of reading the instrument file, of asking the router, and of each check: eight
seconds altogether, because checks run at once."""
Check: TypeAlias = Callable[[Site], Awaitable[Sequence[Finding]]]
CHECKS: Mapping[str, Check] = {
    "packages": checks.packages,
    "router": access_checks.router,
    "instrument file": checks.instrument_file,
    "hardware": checks.hardware,
    "serial ports": checks.serial_ports,
    "listeners": access_checks.listeners,
    "version 1.7": access_checks.version_1_7,
    "files": access_checks.files,
    "keys": access_checks.keys,
    "own role": access_checks.own_role,
    "certificates": access_checks.certificates,
    "clocks": checks.clocks,
    "servers": checks.servers,
    "versions": checks.versions,
    "recorder": checks.recorder,
    "messages": checks.messages,
    "web door": access_checks.web_door,
}
Found: TypeAlias = Sequence[tuple[str, Finding]]
"""Findings, each with the name of its check."""


async def learn(file: Path | None, find_address: Callable[[], Address]) -> Site:
    """Read the instrument file and ask the router and the servers; note errors, raise none."""
    site = Site(Address(), home())
    instrument, address = await asyncio.gather(
        ask("the instrument file", load, file, within=LOAD_WITHIN_S),
        ask("the address of the router", find_address, within=LOAD_WITHIN_S),
        return_exceptions=True,
    )
    if isinstance(instrument, (OSError, HcamError)):
        site.mistakes = str(instrument).splitlines()
    elif isinstance(instrument, BaseException):
        raise instrument
    else:
        site.instrument = instrument
    if isinstance(address, (OSError, HcamError)):
        site.no_router = f"the address of the router cannot be read: {str(address).splitlines()[0]}"
        return site
    if isinstance(address, BaseException):
        raise address
    site.address = address
    try:
        async with asyncio.timeout(ROUTER_WITHIN_S), join(site.address) as session:
            site.who, site.role = session.name, session.role
            await _ask_router(site, session)
    except HcamError as error:  # the router refused this key, or the key cannot be read
        site.no_router, site.refused = str(error), True
    except (OSError, WampError) as error:
        if not site.servers:
            site.no_router = unreachable(site.address, error, ROUTER_WITHIN_S)
    return site


async def _ask_router(site: Site, session: Session) -> None:
    if site.instrument is None:
        return
    picture = Picture(site.instrument, "*")
    site.samples, site.statuses = picture.samples, picture.servers

    async def hear(server: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                before = time.time()
                answer = await session.call(uris.rpc(server, "about"))
                after = time.time()
            about = About.model_validate(answer)
        except (OSError, WampError, ValidationError):
            return  # the check of the servers reports it
        offset = about.time - (before + after) / 2
        site.servers[server] = Heard(about, offset, (after - before) / 2)

    await asyncio.gather(
        follow(picture, session), *(hear(server) for server in site.instrument.servers)
    )


async def examine(file: Path | None, find_address: Callable[[], Address]) -> Found:
    """Run all checks and return their findings within eight seconds."""
    site = await learn(file, find_address)
    found = await asyncio.gather(*(_run(name, check, site) for name, check in CHECKS.items()))
    return [finding for findings in found for finding in findings]


async def _run(name: str, check: Check, site: Site) -> list[tuple[str, Finding]]:
    """Return the findings of a check, or one finding that it hangs or fails."""
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            return [(name, finding) for finding in await check(site)]
    except TimeoutError:
        text = f"this check did not end within {CHECK_WITHIN_S:g} s"
    except PermissionError as error:
        text = f"this user may not read {error.filename}"
        return [(name, Finding("WARN", HERE, text, f"run it as the owner of {site.home}"))]
    except Exception as error:  # noqa: BLE001  (a fault of one check must not hide the others)
        text = f"this check failed: {type(error).__name__}: {error}"
    return [(name, Finding("ERR", HERE, text, f"run {this_program()} doctor again"))]


def exit_status(found: Found) -> int:
    """Return 0 if all is well, 1 if the worst finding is a warning, 2 if it is an error."""
    return max((LEVELS.index(finding.level) for _, finding in found), default=0)


def as_text(found: Found) -> str:
    """Return a line for each finding, with its cure below it, and a line with their numbers."""
    width = max(map(len, CHECKS))
    lines = []
    for check, finding in found:
        lines.append(f"{finding.level:<4} {check:<{width}} {finding.where}: {finding.text}")
        if finding.cure:
            lines.append(f"{'':<{width + 6}}cure: {finding.cure}")
    levels = [finding.level for _, finding in found]
    lines.append(f"{count(levels.count('ERR'), 'error')}, {count(levels.count('WARN'), 'warning')}")
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def as_object(found: Found) -> dict[str, Any]:
    """Return the exit status and the findings."""
    findings = [{"row": check} | asdict(finding) for check, finding in found]
    return {"exit": exit_status(found), "findings": findings}
