"""The link: one question at a time, each with a deadline; a late reply is never an answer."""

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.core import sim
from hcam_devices.core.link import (
    MAX_UNREAD,
    Exactly,
    Lasting,
    Serial,
    Tcp,
    Until,
)
from hcam_devices.core.modbus import Modbus
from hcam_devices.core.web import Web
from hcam_devices.devices import chiller
from hcam_devices.devices.chiller import Codec as Broker
from hcam_devices.devices.minitrend import PENS
from hcam_devices.devices.minitrend import Simulator as Recorder
from hcam_devices.errors import ProtocolError, RefusedError
from hcam_devices.telescope.corba import Corba
from hcam_devices.wamp import session
from hcam_devices.wamp.uris import Address

from ..helpers import AT_MOST, fed

Serving = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Echo:
    """A language: lines, answered by the same line."""

    cut = Until(b"\n")

    def request(self, ref: str, value: Any = None) -> bytes:
        if ref == "unsendable":
            raise ValueError(ref)
        return f"{ref}\n".encode()

    def reply(self, request: bytes, frame: bytes) -> str | None:
        match frame:
            case b"no":
                raise RefusedError("it said no")
            case b"nonsense":
                raise ProtocolError("nonsense")
            case b"by the way":
                return None
        return frame.decode()


ECHO = Echo()
CHILLER = chiller.Codec("gtc", "/", "TemperatureSensor3")


@asynccontextmanager
async def serving(serve: Serving) -> AsyncIterator[Tcp]:
    """Serve something, and give an open link to it."""
    ended = asyncio.Event()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()
            ended.set()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    link = Tcp(port=server.sockets[0].getsockname()[1], timeout=AT_MOST)
    await link.open()
    yield link
    link.close()
    server.close()
    async with asyncio.timeout(AT_MOST):
        await ended.wait()


def saying(*replies: bytes) -> Serving:
    """Answer each line with one of these, then only listen."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await reader.readline()
            writer.write(reply)
        await reader.read()

    return serve


def opening(host: str) -> list[Callable[[float], Awaitable[object]]]:
    """Return all that connects to a host by its name; each with its timeout, to port 9."""

    async def joining(within: float) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "JOIN_WITHIN", within)
            async with session.join(Address(host, 9)):
                pass

    return [
        lambda within: Tcp(host=host, port=9, timeout=within).open(),
        lambda within: Modbus(host=host, port=9, timeout=within).open(),
        lambda within: Web(host=host, port=9, timeout=within).ask(CHILLER, "T1"),
        lambda within: Corba(host=host, port=9, timeout=within).open(),
        joining,
    ]


async def test_name_servers_that_are_silent_hold_up_nothing_and_errors_name_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answer = list[str](), threading.Event()

    def silent(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        answer.wait(AT_MOST)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        for connect in [*opening("lab1"), *opening("lab2")] * 3:
            with pytest.raises(TimeoutError, match=r"the name servers, asked for lab\d, since 2"):
                await connect(0.02)
        assert asked == ["lab1", "lab2"]
        async with serving(echo) as link:  # neither the address nor a thread of asyncio waits
            assert await link.ask(ECHO, "hello") == "hello"
            assert await asyncio.to_thread(str, 1) == "1"
    finally:
        answer.set()
    for connect in opening("lab1"):
        with pytest.raises(OSError, match="no address of lab1: Name or service not known"):
            await connect(AT_MOST)


async def test_a_host_with_several_addresses_is_connected_to_where_it_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(2, 1, 6, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    async with serving(echo) as here:
        link = Tcp(host="lab1", port=here.port, timeout=AT_MOST)
        await link.open()
        assert await link.ask(ECHO, "hello") == "hello"
        link.close()


async def lost(link: Tcp) -> str:
    """Return why a link is lost."""
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(OSError) as error:  # noqa: PT011  (whatever it is, it is returned)
        await link.idle(AT_MOST, never)
    return str(error.value)


async def test_the_answer_comes_back_and_what_is_said_unasked_does_not() -> None:
    async with serving(saying(b"by the way\none\n", b"two\n")) as link:
        assert await link.ask(ECHO, "1") == "one"
        assert await link.ask(ECHO, "2") == "two"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Repeat each line; nothing may have been asked before it was."""
    while line := await reader.readline():
        assert not reader._buffer  # type: ignore[attr-defined]
        writer.write(line)


async def test_questions_asked_at_once_are_asked_one_after_the_other() -> None:
    async with serving(echo) as link:
        answers = await asyncio.gather(*(link.ask(ECHO, str(n)) for n in range(50)))
    assert answers == [str(n) for n in range(50)]


async def test_a_codec_that_remembers_what_it_asked_is_not_asked_again_before_the_answer() -> None:
    class Remembering(Echo):
        asked = ""

        def request(self, ref: str, value: Any = None) -> bytes:
            self.asked = ref
            return super().request(ref)

        def reply(self, request: bytes, frame: bytes) -> str | None:
            return f"{frame.decode()} to {self.asked}"

    codec = Remembering()
    async with serving(echo) as link:
        answers = await asyncio.gather(*(link.ask(codec, name) for name in "abc"))
        assert answers == ["a to a", "b to b", "c to c"]


async def test_a_refusal_and_an_unsendable_value_leave_the_link_open() -> None:
    async with serving(saying(b"no\n", b"yes\n")) as link:
        with pytest.raises(RefusedError, match="it said no"):
            await link.ask(ECHO, "may I?")
        with pytest.raises(ValueError, match="unsendable"):
            await link.ask(ECHO, "unsendable")
        assert await link.ask(ECHO, "now?") == "yes"


@pytest.mark.parametrize(
    ("serve", "error", "why"),
    [
        (saying(b"nonsense\n"), ProtocolError, r"127\.0\.0\.1:\d+: nonsense; it said 'nonsense'"),
        (saying(b"half"), TimeoutError, "did not answer within 0.05 s; it said 'half'"),
        (saying(), TimeoutError, "did not answer within 0.05 s"),
    ],
)
async def test_an_interrupted_exchange_closes_the_link_for_everybody_and_says_why(
    serve: Serving, error: type[Exception], why: str
) -> None:
    async with serving(serve) as link:
        link.timeout = 0.05
        waiting = asyncio.create_task(lost(link))
        await asyncio.sleep(0)
        with pytest.raises(error, match=why):
            await link.ask(ECHO, "1")
        assert re.search(why, await waiting)
        with pytest.raises(ConnectionError, match=why):
            await link.ask(ECHO, "2")


async def test_an_answer_that_came_while_this_process_was_stopped_is_not_late() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Tcp(port=server.getsockname()[1], timeout=0.05)
        opening = asyncio.create_task(link.open())
        await asyncio.sleep(0)
        time.sleep(2 * link.timeout)  # noqa: ASYNC251  (stops the loop)
        await opening
        peer, _ = server.accept()
        with peer:
            asking = asyncio.create_task(link.ask(ECHO, "1"))
            await asyncio.sleep(0)
            assert peer.recv(10) == b"1\n"
            time.sleep(2 * link.timeout)  # noqa: ASYNC251
            peer.sendall(b"one\n")
            assert await asking == "one"
        link.close()


async def test_a_cancelled_exchange_closes_the_link_and_stays_cancelled() -> None:
    asked = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.set()
        await reader.read()

    async with serving(listen) as link:
        asking = asyncio.create_task(link.ask(ECHO, "1"))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(ConnectionError):
            await link.ask(ECHO, "2")


async def test_raw_bytes_get_all_that_is_said_within_the_time() -> None:
    async with serving(saying(b"one\ntwo\n", b"three\n")) as link:
        assert await link.exchange(b"1\n", 0.2) == b"one\ntwo\n"
        assert await link.ask(ECHO, "2") == "three"


async def test_the_late_reply_to_raw_bytes_does_not_answer_the_next_question() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await reader.readline()  # ends too, when the link is closed
        writer.write(b"one\n")
        await reader.read()

    async with serving(late) as link:
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.05 s$"):
            await link.exchange(b"1\n", 0.05)
        with pytest.raises(ConnectionError, match="did not answer"):
            await link.ask(ECHO, "2")


async def test_raw_bytes_whose_caller_goes_leave_no_late_reply() -> None:
    async with serving(saying(b"", b"one\n")) as link:
        sending = asyncio.create_task(link.exchange(b"1\n", AT_MOST))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        with pytest.raises(ConnectionError):
            await link.ask(ECHO, "2")


async def test_the_other_end_closing_is_noticed_while_idle() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(hang_up) as link:
        assert await lost(link) == f"{link} closed the connection"


async def test_what_is_said_before_the_other_end_closes_is_told() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\xff\xfd\x01\r\nPort already in use\r\n\x1b[2J")
        await reader.read(1)

    async with serving(refuse) as link:
        await link.drain(0.05)  # like a greeting
        with pytest.raises(ConnectionError) as error:
            await link.ask(ECHO, "1")
    said = rb"\xff\xfd\x01".decode("unicode_escape") + " Port already in use \x1b[2J"
    assert str(error.value) == f"{link} closed the connection; it said {said!r}"
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "quote"),
    [
        (b"Login:\n", "'Login:'"),
        (b"by the way\n", "'by the way'"),
        (bytes(range(160, 240)), f"'{bytes(range(160, 240)).hex(' ')[:97]}...'"),
        (b"x" * 1000, f"'{'x' * 97}...'"),
    ],
)
async def test_what_is_said_instead_of_an_answer_is_told(said: bytes, quote: str) -> None:
    async with serving(saying(said)) as link:
        link.timeout = 0.2

        class Deaf(Echo):
            def reply(self, request: bytes, frame: bytes) -> str | None:
                return None

        with pytest.raises(TimeoutError) as error:
            await link.ask(Deaf(), "1")
    assert str(error.value) == f"{link} did not answer within 0.2 s; it said {quote}"


async def test_what_was_said_before_the_last_answer_is_not_told() -> None:
    async with serving(saying(b"by the way\none\n", b"no\n", b"")) as link:
        assert await link.ask(ECHO, "1") == "one"
        with pytest.raises(RefusedError):
            await link.ask(ECHO, "2")
        link.timeout = 0.05
        with pytest.raises(TimeoutError, match=r"within 0\.05 s$"):
            await link.ask(ECHO, "3")


async def test_a_host_without_an_address_is_named() -> None:
    with pytest.raises(OSError, match=r"no address of nowhere\.invalid: "):
        await Tcp(host="nowhere.invalid", port=23, timeout=AT_MOST).open()
    with pytest.raises(OSError, match=r"no address of nowhere\.invalid: "):
        await Web(host="nowhere.invalid", timeout=AT_MOST).ask(Broker("gtc", "/", "x"), "entities")


async def test_nothing_of_a_doubled_answer_is_taken_for_the_next() -> None:
    async with serving(saying(b"one\none\n", b"two\n")) as link:
        assert await link.ask(ECHO, "1") == "one"
        assert await link.ask(ECHO, "2") == "two"


async def test_somebody_who_never_stops_talking_fills_no_memory_and_stops_nobody() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * MAX_UNREAD)
            await writer.drain()

    async with serving(babble) as link:
        link.timeout = 0.2
        with pytest.raises(ProtocolError, match="will not stop talking"):
            await link.drain(0.1)
        with pytest.raises(TimeoutError):
            await link.ask(ECHO, "1")


async def test_a_greeting_is_discarded_however_it_is_cut() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"Welcome\nto\nthe rack":
            writer.write(bytes([byte]))
            await writer.drain()
        await saying(b"one\n")(reader, writer)

    async with serving(greet) as link:
        await link.drain(0.2)
        assert await link.ask(ECHO, "1") == "one"


async def test_nobody_there_is_said_with_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port} refused"):
            await Tcp(port=port).open()
        with pytest.raises(ConnectionError, match=str(port)):
            await Modbus(port=port).open()
    with pytest.raises(ConnectionError, match=r"not connected to 127\.0\.0\.1:1"):
        await Tcp(port=1).ask(ECHO, "1")


# --- a serial port --------------------------------------------------------------------------


class Parrot(sim.Simulator):
    """Repeats each line, on a pseudo-terminal."""

    cut = Until(b"\n")
    serial = True

    def answer(self, frame: bytes) -> bytes:
        return frame + b"\n"


@pytest.mark.parametrize("rtscts", [False, True])
async def test_a_serial_port_is_a_link_as_any_other(rtscts: bool) -> None:
    async with sim.serve(Parrot()) as place:
        link = Serial(**place, rtscts=rtscts)
        for _ in range(3):
            await link.open()
            said = [await link.ask(ECHO, name) for name in ("one", "two")]
            assert said == ["one", "two"]
            link.close()


async def test_an_unplugged_serial_port_is_noticed_while_idle_and_found_again() -> None:
    parrot = Parrot()
    async with sim.serve(parrot) as place:
        link = Serial(**place)
        await link.open()
        parrot.simulate("refuse")
        with pytest.raises(OSError, match="disconnected"):
            await link.idle(AT_MOST, asyncio.get_running_loop().create_future())
        link.close()
        with pytest.raises(ConnectionError, match="port cannot be opened: No such file"):
            await link.open()
        parrot.simulate("clear")
        async with asyncio.timeout(AT_MOST):
            while True:
                with suppress(ConnectionError):
                    await link.open()
                    break
                await asyncio.sleep(0.01)
        assert await link.ask(ECHO, "three") == "three"
        link.close()


async def test_what_was_said_to_whoever_had_the_serial_port_before_is_not_heard() -> None:
    async with sim.serve(Parrot()) as place:
        link = Serial(**place)
        await link.open()
        await link.tell(ECHO, "late")
        link.close()
        await link.open()
        assert await link.ask(ECHO, "now") == "now"
        link.close()


async def test_a_serial_port_has_one_user() -> None:
    async with sim.serve(Parrot()) as place:
        first, second = Serial(**place), Serial(**place)
        await first.open()
        with pytest.raises(ConnectionError, match="locked by another"):
            await second.open()
        first.close()


async def test_a_serial_port_that_was_written_to_after_it_was_unplugged_is_lost() -> None:
    parrot = Parrot()
    async with sim.serve(parrot) as place:
        link = Serial(**place)
        await link.open()
        parrot.hang_up()
        with pytest.raises(OSError, match=r"Input/output error|disconnected"):
            await link.ask(ECHO, "anybody?")
        link.close()


# --- no wire --------------------------------------------------------------------------------


async def test_a_link_without_a_wire_is_there_until_it_is_closed() -> None:
    link, loop = Lasting(), asyncio.get_running_loop()
    await link.open()
    woken = loop.create_future()
    woken.set_result(None)
    await link.idle(AT_MOST, woken)
    link.close(ConnectionAbortedError("by request"))
    with pytest.raises(ConnectionAbortedError, match="by request"):
        await link.idle(AT_MOST, loop.create_future())


@given(st.lists(st.integers(1, 5)))
def test_frames_survive_any_split(sizes: list[int]) -> None:
    assert fed(Until(b";FF"), b"one;FF\r\n two;FF;FFrest", sizes) == [b"one", b"two", b""]
    assert fed(Exactly(3), b"onetwore", sizes) == [b"one", b"two"]


# --- Modbus ---------------------------------------------------------------------------------


@asynccontextmanager
async def modbus(simulator: Recorder) -> AsyncIterator[Modbus]:
    async with sim.serve(simulator) as place:
        link = Modbus(**place, timeout=0.1)
        await link.open()
        yield link
        link.close()


async def test_modbus_reads_input_registers() -> None:
    async with modbus(Recorder()) as link:
        (value,) = struct.unpack(">f", struct.pack(">2H", *await link.ask(None, (PENS[0], 2))))
        assert value == pytest.approx(1.05, abs=0.1)


async def test_a_modbus_exception_is_a_refusal_with_its_meaning() -> None:
    async with modbus(Recorder()) as link:
        with pytest.raises(RefusedError, match=r"exception 2 \(illegal address\)"):
            await link.ask(None, (0x5000, 1))
        assert len(await link.ask(None, PENS)) == 20


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("silence", "did not answer within 0.1 s"),
        ("truncated", "did not answer within 0.1 s"),
        ("identity", "did not answer within 0.1 s"),
        ("disconnect", "closed the connection"),
    ],
)
async def test_modbus_without_an_answer_closes_the_link_and_says_why(fault: str, why: str) -> None:
    simulator = Recorder()
    async with modbus(simulator) as link:
        simulator.simulate(fault, **({"when": "before"} if fault == "disconnect" else {}))
        with pytest.raises(OSError, match=why):
            await link.ask(None, PENS)
        with pytest.raises(OSError, match=why):
            await link.idle(AT_MOST, asyncio.get_running_loop().create_future())
        with pytest.raises(ConnectionError, match="not connected"):
            await link.ask(None, PENS)


async def test_a_modbus_question_cancelled_as_its_answer_arrives_is_cancelled() -> None:
    async with modbus(Recorder()) as link:
        asking = asyncio.create_task(link.ask(None, PENS))

        def cancel(sending: bool, pdu: Any) -> Any:
            if not sending:
                asking.cancel()
            return pdu

        assert link._client
        link._client.ctx.trace_pdu = cancel
        with pytest.raises(asyncio.CancelledError):
            await asking
