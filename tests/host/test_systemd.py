"""What programs tell systemd, with a socket in its place."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcam_devices.host import systemd

from ..helpers import AT_MOST


@pytest.fixture(params=["file", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    path = str(tmp_path / "notify")
    abstract = request.param == "abstract"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{path}" if abstract else path)
        listening.settimeout(AT_MOST)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
        yield listening


def test_a_message_is_one_datagram(manager: socket.socket) -> None:
    systemd.notify(systemd.READY)
    systemd.notify(systemd.ALIVE)
    assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]


def test_a_program_that_systemd_did_not_start_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(systemd.READY)
    assert not caplog.records


def test_a_message_that_cannot_be_sent_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        systemd.notify(systemd.READY)
    assert "READY=1 cannot be sent to systemd: [Errno 2]" in caplog.text


@pytest.mark.parametrize(
    ("microseconds", "pid", "period"),
    [
        ("30000000", None, 10.0),
        ("30000000", "own", 10.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("often", None, None),
        (None, None, None),
    ],
)
def test_how_often_systemd_asks(
    monkeypatch: pytest.MonkeyPatch,
    microseconds: str | None,
    pid: str | None,
    period: float | None,
) -> None:
    own = str(os.getpid()) if pid == "own" else pid
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", own)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog_period() == period


async def test_who_is_not_asked_feeds_no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    await systemd.feed_watchdog()


async def test_the_watchdog_hears_only_of_what_is_alive(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    answers = [True, False, False, True]

    async def is_alive() -> bool:
        if not answers:
            raise asyncio.CancelledError
        return answers.pop(0)

    with pytest.raises(asyncio.CancelledError):
        await systemd.feed_watchdog(is_alive)
    assert [manager.recv(100), manager.recv(100)] == [b"WATCHDOG=1"] * 2
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)
