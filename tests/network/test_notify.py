"""People are told by a real hwalarm: over mail and a webhook on loopback, and over kills."""

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from hcam_devices.alarms.notify import AGAIN
from hcam_devices.wamp.utils import WampError, call

from ..alarms.sinks import Sink, body_of, mail, webhook
from .tools import INSTRUMENT, Net, living, soon, until

RPC = "hipercam.alarms.rpc."


class Told(NamedTuple):
    """A running hwalarm, and the services of those whom it tells."""

    net: Net
    hook: Sink
    post: Sink
    beats: Sink

    def start(self) -> subprocess.Popen[bytes]:
        process = self.net.start_alarms("--instrument", self.net.home / "told.toml")
        until(answers)
        return process

    def messages(self) -> list[str]:
        return [body_of(one) for one in self.hook.taken]


def answers() -> bool:
    try:
        return isinstance(call(f"{RPC}list"), list)
    except WampError:
        return False


@asynccontextmanager
async def told(net: Net, after: float) -> AsyncIterator[Told]:
    """Run a router and hwalarm, which tells of the servers that do not run here."""
    async with webhook() as hook, mail() as post, webhook() as beats:
        (net.home / "told.toml").write_text(
            f"""{INSTRUMENT.path.read_text()}
[notify]
heartbeat = "http://127.0.0.1:{beats.port}/beat-of-secret"
[notify.observer]
after = {after}
urls = [
    "json://ada:secret@127.0.0.1:{hook.port}/token",
    "mailto://127.0.0.1:{post.port}/?from=hcam@example.org&to=ada@example.org",
]
"""
        )
        if net.router is None:
            await asyncio.to_thread(net.start_router)
        found = Told(net, hook, post, beats)
        await asyncio.to_thread(found.start)
        yield found


async def all_sent() -> bool:
    return all(one["sent"] for one in await asyncio.to_thread(call, f"{RPC}messages"))


async def hcam(net: Net, *arguments: str, code: int) -> str:
    """Run ``hcam`` without holding up the services."""
    return await asyncio.to_thread(partial(net.hcam, *arguments, code=code))


async def killed(told: Told) -> None:
    (process,) = living(told.net.home, "bin/hwalarm")
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.wait)
    await asyncio.to_thread(until, lambda: not living(told.net.home, "alarms.send"))


async def test_people_are_told_over_every_way_and_over_kills(own: Net) -> None:
    async with told(own, after=0) as the:
        await the.hook.is_asked()
        await the.post.is_asked()
        await the.beats.is_asked()
        first = the.messages()[0]
        assert "ERR hserver.status: hserver is not running" in first
        said = await asyncio.to_thread(own.hcam, "alarms", "messages")
        assert "to observer" in said

        said = await hcam(own, "doctor", "--instrument", str(own.home / "told.toml"), code=2)
        assert re.search(r"OK +messages .*: observer can be told, and a heartbeat is sent", said)
        assert "everybody can read the URLs of [notify]" in said

        # a test message, that all take, and that one refuses
        said = await asyncio.to_thread(own.hcam, "alarms", "test", "observer")
        assert "to observer: This is a test by local: alarms arrive here. (sent at " in said
        the.hook.answer = "refuse"
        said = await hcam(own, "alarms", "test", "observer", code=1)
        assert "(waits: json (1 of 2): HTTP status 500)" in said
        said = await hcam(own, "alarms", code=1)
        assert re.search(r"not told: \d+ messages? to observer .*: json \(1 of 2\): HTTP", said)
        the.hook.answer = "take"
        await soon(all_sent)

        # killed while it is sending: the message comes again, and says so
        the.hook.answer, the.hook.asked = "hang", asyncio.Semaphore(0)
        await asyncio.to_thread(own.hcam, "call", "alarms.test", "observer")
        await the.hook.is_asked()
        await killed(the)
        the.hook.answer = "take"
        await asyncio.to_thread(the.start)

        async def again() -> bool:
            return any("This is a test by local" in one and AGAIN in one for one in the.messages())

        await soon(again)

        # killed before it has sent, or while it does: the message comes
        mails = len(the.post.taken)
        await asyncio.to_thread(call, f"{RPC}test", "observer")
        await killed(the)
        before = len([one for one in the.messages() if "This is a test" in one])
        await asyncio.to_thread(the.start)
        await soon(all_sent)
        tests = [one for one in the.messages() if "This is a test" in one]
        assert len(tests) > before
        assert len(the.post.taken) > mails
        everything = "".join(
            file.read_text(errors="replace")
            for file in (own.home / "hwalarm.out", own.home / "router.out")
        )
        everything += json.dumps([own.newest("alarms"), call(f"{RPC}messages"), call(f"{RPC}log")])
        assert "secret" not in everything
        assert "token" not in everything
