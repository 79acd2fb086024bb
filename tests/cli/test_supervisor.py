"""``hcam up`` restarts, stops and reports the programs that it keeps running."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.cli import supervisor
from hcam_devices.cli.supervisor import (
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    MAX_STOP_S,
    NEWS_PERIOD_S,
    STEADY_AFTER_S,
    Child,
    News,
    children,
    runs_here,
)
from hcam_devices.config.instrument import Instrument, load
from hcam_devices.wamp.uris import Address

from ..helpers import Clock
from ..telescope.virtual import in_virtual_time, now


class Process:
    """A process that ends by itself after some seconds; ``deaf``: SIGTERM does not end it."""

    def __init__(self, lives: float, *, deaf: bool = False) -> None:
        self.began, self.deaf = now(), deaf
        self.signals: list[tuple[str, float]] = []
        self.returncode: int | None = None
        self._over = asyncio.Event()
        asyncio.get_running_loop().call_later(lives, self._end, 1)

    def _end(self, status: int) -> None:
        if self.returncode is None:
            self.returncode = status
            self._over.set()

    async def wait(self) -> int:
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        self.signals.append(("TERM", now()))
        if not self.deaf:
            self._end(-15)

    def kill(self) -> None:
        self.signals.append(("KILL", now()))
        self._end(-9)


class Stage:
    """A child whose processes are ours, in virtual time: ``lives`` says how long each one runs."""

    def __init__(self) -> None:
        self.child = Child("hwserver", ["hwserver"], {}, News())
        self.processes: list[Process] = []
        self.lives: Callable[[int], float] = lambda n: 1.0
        self.deaf = False

    async def start(self, *command: str, **options: Any) -> Process:
        assert command[-1] == "hwserver"
        self.processes.append(Process(self.lives(len(self.processes)), deaf=self.deaf))
        return self.processes[-1]

    def run(self, seconds: float) -> None:
        """Keep the child running for so long, then stop it."""

        async def scenario() -> None:
            task = asyncio.create_task(self.child.keep_running())
            await asyncio.sleep(seconds)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(asyncio, "create_subprocess_exec", self.start)
            patched.setattr(time, "monotonic", now)
            in_virtual_time(scenario())

    @property
    def pauses(self) -> list[float]:
        """Seconds from the end of each process to the beginning of the next."""
        ends = [one.began + self.lives(n) for n, one in enumerate(self.processes)]
        begins = [one.began for one in self.processes[1:]]
        return [begin - end for begin, end in zip(begins, ends, strict=False)]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    return Stage()


def test_a_program_that_ends_is_begun_again_after_growing_pauses(stage: Stage) -> None:
    stage.run(200)
    expected = [min(FIRST_PAUSE_S * 2**n, LAST_PAUSE_S) for n in range(len(stage.pauses))]
    assert stage.pauses == pytest.approx(expected)
    assert stage.pauses[-1] == LAST_PAUSE_S
    assert stage.child.restarts == [one.returncode for one in stage.processes].count(1)
    assert "hwserver ended (1); restart" in stage.child.news.recent


def test_one_that_ran_for_long_is_begun_again_soon(stage: Stage) -> None:
    stage.lives = lambda n: STEADY_AFTER_S + 1 if n == 3 else 1.0
    stage.run(100)
    assert stage.pauses[:5] == pytest.approx([FIRST_PAUSE_S * factor for factor in (1, 2, 4, 1, 2)])


def test_one_that_is_stopped_is_told_to_end_and_not_begun_again(stage: Stage) -> None:
    stage.lives = lambda n: 1000.0
    stage.run(10)
    (process,) = stage.processes
    assert process.signals == [("TERM", 10.0)]
    assert stage.child.restarts == 0


def test_one_that_does_not_end_when_told_is_killed(stage: Stage) -> None:
    stage.lives, stage.deaf = (lambda n: 1000.0), True
    stage.run(10)
    (process,) = stage.processes
    assert process.signals == [("TERM", 10.0), ("KILL", 10.0 + MAX_STOP_S)]


def test_one_that_is_stopped_in_a_pause_is_not_begun_again(stage: Stage) -> None:
    stage.run(1 + FIRST_PAUSE_S / 2)
    (process,) = stage.processes
    assert process.signals == []
    assert stage.child.restarts == 1


@pytest.mark.parametrize("emulate", [True, False])
def test_the_router_is_the_first_of_those_that_run(stage: Stage, emulate: bool) -> None:
    instrument, address = load(), Address("127.0.0.1", 9000)
    names = runs_here(instrument)
    first, *servers = children(instrument, address, names, News(), emulate=emulate)
    assert first.name == "router"
    assert first.command[1:4] == ["router", "--port", "9000"]
    assert [child.name for child in servers] == list(instrument.servers)
    assert "hwlogger" in instrument.servers
    for child in servers:
        assert ("--emulate" in child.command) == (
            emulate and child.name not in ("hwlogger", "hwalarm")
        )
    for child in (first, *servers):
        assert child.command[-2:] == ["--instrument", str(instrument.path)]
        assert child.environment["WAMP_SERVER"] == str(address)


SITE = """
[router]
host = "192.0.2.1"

[servers.hwserver]
host = "192.0.2.2"

[servers.hwserver-dome]
host = "192.0.2.3"

[devices.gauge1]
kind = "pdr900.VacuumGauge"
port = 1

[devices.gauge2]
kind = "pdr900.VacuumGauge"
server = "hwserver-dome"
port = 2
"""


@pytest.fixture
def site(tmp_path: Path) -> Instrument:
    """An instrument on three hosts: of the router and hwlogger, and of two servers."""
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    return load(file)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the only host that is this machine."""

    def be(own: str) -> None:
        def why_elsewhere(host: str) -> str:
            return "" if host == own else f"{host} is elsewhere"

        monkeypatch.setattr(supervisor, "why_elsewhere", why_elsewhere)

    return be


@pytest.mark.parametrize(
    ("own", "names"),
    [
        ("192.0.2.1", ["router", "hwalarm", "hwlogger"]),
        ("192.0.2.2", ["hwserver"]),
        ("192.0.2.3", ["hwserver-dome"]),
    ],
)
def test_a_machine_runs_what_the_file_gives_to_it(
    site: Instrument, here: Callable[[str], None], own: str, names: list[str]
) -> None:
    here(own)
    assert runs_here(site) == names
    assert runs_here(site, names[-1:]) == names[-1:]


def test_a_machine_refuses_to_run_what_belongs_elsewhere(
    site: Instrument, here: Callable[[str], None]
) -> None:
    here("192.0.2.2")
    with pytest.raises(HcamError, match=r"hwserver-dome: 192.0.2.3 is elsewhere"):
        runs_here(site, ["hwserver", "hwserver-dome"])
    with pytest.raises(HcamError, match=r"no server 'hwserver-dmoe'; .* mean hwserver-dome"):
        runs_here(site, ["hwserver-dmoe"])
    here("192.0.2.4")
    with pytest.raises(HcamError, match=r"router: 192.0.2.1 is elsewhere; .*/site.toml"):
        runs_here(site)


def test_a_server_with_a_key_does_not_use_that_of_a_person(
    site: Instrument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    monkeypatch.setenv("HCAM_KEY", "ada.key")
    keys = tmp_path / "access" / "keys"
    keys.mkdir(parents=True)
    (keys / "hwserver.key").touch()
    names = ["router", "hwserver", "hwserver-dome"]
    found = children(site, Address("192.0.2.1"), names, News(), emulate=True)
    given = {child.name: child.environment.get("HCAM_KEY") for child in found}
    assert given == {"router": None, "hwserver": None, "hwserver-dome": "ada.key"}


def test_a_further_server_is_run_by_the_program_before_the_dash(
    stage: Stage, site: Instrument
) -> None:
    (child,) = children(site, Address("192.0.2.1"), ["hwserver-dome"], News(), emulate=True)
    assert Path(child.command[0]).name == "hwserver"
    assert child.command[1:4] == ["--name", "hwserver-dome", "--emulate"]
    assert child.log.name == "hwserver-dome.log"
    assert child.environment["WAMP_SERVER"] == "192.0.2.1:8080"


@pytest.mark.parametrize(
    ("printed", "last"),
    [("", ""), ("one\ntwo\n", "two"), ("one\n\n  \n", "one"), ("é" * 2000 + "\nend", "end")],
)
def test_the_last_words_of_a_program_are_its_last_line(
    stage: Stage, printed: str, last: str
) -> None:
    stage.child.log.parent.mkdir()
    stage.child.log.write_text(printed)
    stage.child.note_end(None)
    assert stage.child.news.recent.endswith(f"{stage.child.log} ends: {last}")


def test_a_restart_is_told_with_its_time_and_for_some_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    clock = Clock(1_800_000_000.0)
    news = News(clock)
    child = Child("hwlogger", [], {}, news)
    child.log.parent.mkdir()
    child.log.write_text("once\nout of memory\n")
    child.note_end(1)
    child.note_end(-9)
    clock.now += NEWS_PERIOD_S - 1
    told = f"08:00:00 UTC hwlogger ended (-9); restart 2; {child.log} ends: out of memory"
    assert news.recent == told
    clock.now += 1
    assert not news.recent


async def test_an_emulated_instrument_is_not_recorded_among_real_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "hwserver.000001.2026-11-22.sqlite").touch()
    with pytest.raises(HcamError, match=f"{tmp_path} has records of real.*HCAM_HOME=~/emulated"):
        await supervisor.up(load(), Address(), ["hwserver"], emulate=True)
