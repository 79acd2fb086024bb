"""A server without a router: its locks, its folders, and how it ends."""

import asyncio
import errno
import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.config.instrument import load
from hcam_devices.host.home import AlreadyRunningError
from hcam_devices.journal import Journal
from hcam_devices.wamp.emulated import has_real_records
from hcam_devices.wamp.server import Server, until_told
from hcam_devices.wamp.uris import Address

from ..helpers import AT_MOST, until

MIXED = "are now mixed into the records of"


def server(name: str, device: str, folder: Path) -> Server:
    """Return a server of one device, which finds no router."""
    return made(name, device, folder, emulate=True)


def made(name: str, device: str, folder: Path, *, emulate: bool) -> Server:
    entry = load().entries[device]
    return Server(name, [entry], Address("127.0.0.1", 1), folder, emulate=emulate)


async def test_two_servers_with_one_journal_are_refused_although_they_share_no_device(
    tmp_path: Path,
) -> None:
    first = server("hwserver", "pressure1", tmp_path)
    running = asyncio.create_task(first.run())
    try:
        await until(lambda: bool(first.devices))
        async with asyncio.timeout(AT_MOST):
            with pytest.raises(AlreadyRunningError, match=r"^hwserver\.sqlite is .* HCAM_HOME"):
                await server("hwserver", "pressure2", tmp_path).run()
            with pytest.raises(AlreadyRunningError, match=r"^pressure1 is already in use"):
                await server("another", "pressure1", tmp_path).run()
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("in_the_way", ["locks", "journal"])
async def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, in_the_way: str) -> None:
    (tmp_path / in_the_way).touch()
    with pytest.raises(HcamError, match=rf"{in_the_way}.* cannot be written .*: make room"):
        await server("hwserver", "pressure1", tmp_path).run()


async def test_a_home_with_records_of_hardware_and_of_simulators_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def warned(name: str, device: str, *, emulate: bool) -> str:
        """Run a server for a moment; return what it says of the records."""
        caplog.clear()
        one = made(name, device, tmp_path, emulate=emulate)
        running = asyncio.create_task(one.run())
        await until(lambda: bool(one.devices))
        running.cancel()
        await asyncio.wait([running])
        return next((said for said in caplog.messages if MIXED in said), "")

    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "hwlogger.000001.2026-11-22.sqlite").touch()  # of no hardware
    for _ in range(2):
        assert not await warned("hwserver", "pressure1", emulate=True)
    assert not has_real_records(tmp_path)
    assert "records of simulators" in await warned("hserver", "ngc", emulate=False)
    assert not await warned("hserver", "ngc", emulate=False)
    assert has_real_records(tmp_path)
    assert "records of real hardware" in await warned("hwserver", "pressure1", emulate=True)


async def test_a_server_that_ends_while_the_telescope_settles_keeps_every_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    presented = server("gtcserver", "gtc", tmp_path)
    running = asyncio.create_task(presented.run())
    try:
        await until(lambda: "gtc" in presented.devices)
        telescope: Any = presented.devices["gtc"]
        await until(lambda: telescope.connection == "online")
        await telescope.do_offset(raoff=5.0, decoff=0.0)
    finally:
        running.cancel()
        await asyncio.wait([running])
    telescope.emit()  # like a call that ends late
    assert telescope.motion.doing is None
    assert "not being kept" not in caplog.text
    assert not telescope.motion._tasks
    journal = Journal(tmp_path / "journal" / "gtcserver")
    last = journal.samples("gtc", 0, 10_000)[-1]
    journal.close()
    assert last["seq"] > 1
    assert last["state"]["gtc"] != "offsetting"


RAISED = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
from hcam_devices.host.limits import MAX_OPEN_FILES, raise_open_files_limit
wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
assert raise_open_files_limit() == wanted == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""


def test_a_server_may_open_as_many_files_as_the_system_allows() -> None:
    subprocess.run([sys.executable, "-c", RAISED], check=True, timeout=60)


def test_a_server_that_may_open_too_few_files_says_what_to_raise(tmp_path: Path) -> None:
    gauges = (f'[devices.g{n}]\nkind = "pdr900.VacuumGauge"\nport = 1\n' for n in range(60))
    (tmp_path / "many.toml").write_text("".join(gauges))
    program = Path(sys.prefix) / "bin" / "hwserver"
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 40; exec {program} --emulate --instrument many.toml"],
        cwd=tmp_path,
        env={"HCAM_HOME": str(tmp_path), "WAMP_SERVER": "127.0.0.1:1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "hwserver needs about 290 open files, and this process may open 40 files" in done.stderr
    assert "hwserver cannot start (Too many open files), and this process may open" in done.stderr
    assert "ulimit -Hn" in done.stderr
    assert "Traceback" not in done.stderr


async def test_connections_that_find_no_open_file_are_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(until_told(server("hwserver", "pressure1", tmp_path)))
    await until(lambda: loop.get_exception_handler() is not None)
    for _ in range(3):
        refused = OSError(errno.EMFILE, "Too many open files")
        loop.call_exception_handler({"message": "socket.accept()", "exception": refused})
    loop.call_exception_handler({"message": "a true surprise", "exception": ValueError()})
    running.cancel()
    await asyncio.wait([running])
    said = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert [one for one in said if "files" in one] == [one for one in said if "accepted" in one]
    assert len([one for one in said if "accepted" in one]) == 1
    assert any("a true surprise" in one for one in said)


async def test_systemd_is_told_that_a_server_is_ready_although_there_is_no_router(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        running = asyncio.create_task(server("hwserver", "pressure1", tmp_path).run())
        heard: set[bytes] = set()
        try:
            async with asyncio.timeout(AT_MOST):
                while heard != {b"READY=1", b"WATCHDOG=1"}:
                    heard.add(await asyncio.get_running_loop().sock_recv(manager, 100))
        finally:
            running.cancel()
            await asyncio.wait([running])
