"""A recorded night is published again, in its order and pace, and never where the instrument is."""

import asyncio
import io
import signal
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from autobahn.wamp.types import SubscribeOptions

from hcam_devices import HcamError
from hcam_devices.history.replay import Progress, paced, recorded, replay
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.points import Point, flatten, unflatten
from hcam_devices.wamp import uris
from hcam_devices.wamp.uris import Address

from ..helpers import Clock, records
from .tools import BIN, PATIENCE, Client, Net, Sample, client, free_port, soon, until

NIGHT = "2026-11-22"


def sample(device: str, seq: int, clock_time: str = "23:00:00.000") -> Sample:
    return {
        "device": device,
        "seq": seq,
        "epoch": "4f3c",
        "timestamp": f"{NIGHT}T{clock_time}Z",
        "state": {"connection": "online", "stage": "inpos"},
        "alarms": [{"field": "pressure", "severity": "ERR", "reason": 'a "quoted" one'}],
        "position": {
            "current": {"value": 1100.5, "unit": "pix"},
            "target": {"value": 1100.0, "unit": "pix"},
        },
        "pressure": {"value": seq / 7, "unit": "mbar"},
        "mode": "fast",
    }


async def each(points: Iterable[Point]) -> AsyncIterator[Point]:
    for one in points:
        yield one


def played(samples: Iterable[Sample]) -> AsyncIterator[Point]:
    return each(flatten(one) for one in samples)


async def hear_all(session: Client) -> list[Sample]:
    """Return a list that fills with whatever telemetry is heard from now on."""
    heard: list[Sample] = []
    await session.subscribe(heard.append, uris.ALL_TELEMETRY, SubscribeOptions(match="wildcard"))
    return heard


async def test_every_sample_arrives_in_order_as_it_was_and_the_instrument_hears_none(
    net: Net,
) -> None:
    night = [sample(("replayed1", "replayed2")[n % 2], n) for n in range(1, 501)]
    said: list[int] = []
    async with client(net.address, realm="replay") as there, client(net.address) as here:
        replayed, live = await hear_all(there), await hear_all(here)
        count = await replay(played(night), net.address, lambda _, number: said.append(number))

        async def all_there() -> bool:
            return len(replayed) >= len(night)

        await soon(all_there)
        await here.call("wamp.session.count")  # everything from the router has arrived
        assert replayed == night
        assert count == said[-1] == 500
        assert not [one for one in live if str(one["device"]).startswith("replayed")]


async def test_who_comes_late_hears_the_last_sample_of_each_device(net: Net) -> None:
    night = [sample("late1", 1), sample("late2", 1), sample("late1", 2)]
    await replay(played(night), net.address, lambda *_: None)
    for realm, expected in (("replay", [night[2]]), ("hipercam", [])):
        async with client(net.address, realm=realm) as session:
            heard: list[Sample] = []
            retained = SubscribeOptions(get_retained=True)
            await session.subscribe(heard.append, uris.telemetry("late1"), retained)
            await session.call("wamp.session.count")
            assert heard == expected


def test_watch_shows_it_and_says_that_it_is_a_replay(net: Net) -> None:
    asyncio.run(replay(played([sample("slide", 1)]), net.address, lambda *_: None))
    shown = net.hcam_here("watch", "--once", "--realm", "replay", "slide")
    assert f"REPLAY {NIGHT} 23:00:00" in shown
    assert "1100.50 (target 1100.00)" in shown
    assert "REPLAY" not in net.hcam_here("watch", "--once", "slide")


async def test_points_come_as_their_times_say_divided_by_the_speed() -> None:
    clock = Clock(0.0)
    seconds = [0, 1, 1, 61, 3661]
    points = [Point("a", "e", n, 10**12 + 1000 * n, {}, {}) for n in seconds]

    async def sleep(wait: float) -> None:
        clock.now += wait

    came = {point.seq: clock.now async for point in paced(each(points), 60, clock, sleep)}
    assert came == pytest.approx({0: 0.0, 1: 1 / 60, 61: 61 / 60, 3661: 3661 / 60})


async def test_a_late_sample_does_not_delay_those_after_it() -> None:
    clock = Clock()
    slept: list[float] = []
    points = [Point("a", "e", n, 1000 * n, {}, {}) for n in range(4)]

    async def sleep(wait: float) -> None:
        slept.append(wait)
        clock.now += wait

    async for point in paced(each(points), 1, clock, sleep):
        if point.seq == 0:
            clock.now += 2.5
    assert slept == [0.5]


async def test_no_router_is_told_with_what_was_published() -> None:
    nowhere = Address("127.0.0.1", free_port())
    with pytest.raises(HcamError, match=r"no router at .* published until then: nothing"):
        await replay(played([sample("a", 1)]), nowhere, lambda *_: None)


class Terminal(io.StringIO):
    """A terminal that remembers everything."""

    def isatty(self) -> bool:
        return True


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    clock, shown = Clock(0.0), Terminal()
    progress = Progress(shown, clock)
    for n in range(101):
        progress(flatten(sample("ccd1", n + 1, f"23:{n // 60:02}:{n % 60:02}.000")), n + 1)
        clock.now += 0.02
    progress.end()
    lines = shown.getvalue().split("\r")
    assert lines[-1] == f"{NIGHT} 23:01:40 UTC   50 times as fast   101 samples\x1b[K\n"
    assert 8 <= len(lines) <= 14


@pytest.fixture
def history(tmp_path: Path) -> NightFiles:
    """A folder with a small night."""
    store = EmbeddedStore("local", tmp_path / "history")
    times = ("13:00:00.000", "22:59:59.999", "23:00:00.000", "23:30:00.000", "23:59:59.000")
    for number, clock_time in enumerate(times, 1):
        for device in ("ccd1", "slide"):
            store.write(records([flatten(sample(device, number, clock_time))]))
    store.close()
    return NightFiles(tmp_path / "history")


async def numbers(points: AsyncIterator[Point]) -> list[tuple[str, int]]:
    return [(point.device, point.seq) async for point in points]


async def test_a_part_of_a_night_and_some_devices_can_be_chosen(history: NightFiles) -> None:
    assert len(await numbers(recorded(history, NIGHT))) == 10
    part = recorded(history, NIGHT, "ccd*", "23:00", "23:59:59")
    assert await numbers(part) == [("ccd1", 3), ("ccd1", 4)]
    assert await numbers(recorded(history, NIGHT, "ccd*", "23:59", "12:00")) == [("ccd1", 5)]
    whole = [unflatten(point) async for point in recorded(history, NIGHT, "slide", "23:30")]
    assert whole[0] == sample("slide", 4, "23:30:00.000")


@pytest.mark.parametrize(
    ("night", "pattern", "said"),
    [
        (NIGHT, "pressure*", rf"device of {NIGHT} matches 'pressure\*'; there are: ccd1, slide$"),
        ("2026-11-21", "*", "no samples of 2026-11-21; its nights are: 2026-11-22"),
        ("../../etc/passwd", "*", "is not a night such as 2026-11-22"),
    ],
)
async def test_nothing_to_replay_is_told(
    history: NightFiles, night: str, pattern: str, said: str
) -> None:
    with pytest.raises(HcamError, match=said):
        await numbers(recorded(history, night, pattern))


async def test_a_time_without_samples_is_told(history: NightFiles) -> None:
    with pytest.raises(HcamError, match="0:24 is not after 00:25 in a night"):
        await numbers(recorded(history, NIGHT, "*", "00:25", "0:24"))
    with pytest.raises(HcamError, match=f"^the end of night {NIGHT} is not after 2027-01-01 in"):
        await numbers(recorded(history, NIGHT, "*", "2027-01-01"))
    for wrong in ("24:00", "soon", "12", "-1:00"):
        with pytest.raises(HcamError, match="is not a time such as"):
            await numbers(recorded(history, NIGHT, "*", wrong))
    with pytest.raises(HcamError, match=rf"samples of ccd\* in {NIGHT}, but none at that time"):
        await numbers(recorded(history, NIGHT, "ccd*", "00:25", "00:26"))


def test_the_command_publishes_and_no_option_leads_into_the_realm_of_the_instrument(
    net: Net, history: NightFiles
) -> None:
    again = (
        "env",
        f"HCAM_HOME={history.folder.parent}",
        BIN / "hcam",
        "replay",
        NIGHT,
        "--speed",
        "1e6",
    )
    said = net.run(*again, code=1)
    assert "refuses local, which has no key" in said
    assert "not authorized to publish" in said
    (history.folder.parent / "access").symlink_to(net.access)
    told = net.run(*again)
    assert told.startswith(f"{NIGHT} 23:59:59 UTC   ")
    assert told.endswith("   10 samples\n")
    assert f"REPLAY {NIGHT} 23:59:59" in net.hcam_here(
        "watch", "--once", "--realm", "replay", "ccd1"
    )
    assert "No such option" in net.hcam_here("replay", NIGHT, "--realm", "hipercam", code=2)


def test_ctrl_c_ends_a_replay_quietly(net: Net, history: NightFiles) -> None:
    (history.folder.parent / "access").symlink_to(net.access)
    process = net.start(
        *("env", f"HCAM_HOME={history.folder.parent}", BIN / "hcam", "replay", NIGHT),
        log="replay.out",
    )
    until(lambda: f"REPLAY {NIGHT} 13:00" in net.hcam_here("watch", "--once", "--realm", "replay"))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    assert (net.home / "replay.out").read_text().endswith("   2 samples\n")
