"""The link to the telescope: to our simulator, and to a telescope served by omniORB itself."""

import asyncio
import math
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from hcam_devices.core import sim
from hcam_devices.errors import OutcomeUnknownError, ProtocolError, RefusedError
from hcam_devices.host.installation import install_extra
from hcam_devices.telescope import giop, interface
from hcam_devices.telescope import sim as telescope_sim
from hcam_devices.telescope.corba import Corba
from hcam_devices.telescope.interface import start_orb
from hcam_devices.telescope.ior import addresses
from hcam_devices.telescope.sim import IDL, Simulator

from ..helpers import AT_MOST, until
from .orb import name_service, said, telescope

SOON = 0.2
"""Seconds of a call that is to time out."""


@asynccontextmanager
async def linked(simulator: Simulator, **settings: Any) -> AsyncIterator[Corba]:
    """Open a link to a simulated telescope."""
    async with sim.serve(simulator) as place:
        link = Corba(**({"timeout": AT_MOST} | place | settings))
        await link.open()
        yield link
        link.close()


@pytest.fixture
def untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have neither stubs nor an IDL file."""
    monkeypatch.setattr(interface, "_loaded", {"": None})
    monkeypatch.setattr(Simulator, "link_settings", {})


# --- values ---------------------------------------------------------------------------------


async def test_what_the_telescope_says_is_returned() -> None:
    async with linked(Simulator()) as link:
        assert await link.ask(None, "getHumidity") == 31.0
        assert await link.ask(None, "getCabinetTemperature3") == 19.0
        groups = await link.ask(None, "getTelescopeParams")
        assert groups[0].startswith("TELESCOP= 'GTC")


async def test_several_operations_are_called_in_one_turn_of_the_thread() -> None:
    simulator = Simulator()
    async with linked(simulator) as link:
        turns, in_thread = [], link._in_thread

        async def counted(work: Any) -> Any:
            turns.append(work)
            return await in_thread(work)

        link._in_thread = counted  # type: ignore[method-assign]  # to count
        simulator.simulate("error", exception="NO_RESOURCES", times=1)
        answers = await link.ask_all(None, ["getHumidity", "park", "getCabinetTemperature3"])
        assert [type(answer) for answer in answers] == [RefusedError, RefusedError, float]
        assert "has no operation park" in str(answers[1])
        assert len(turns) == 1


async def test_a_link_that_is_lost_between_operations_is_closed() -> None:
    simulator = Simulator()
    async with linked(simulator, timeout=SOON) as link:
        simulator.simulate("silence")
        with pytest.raises(TimeoutError, match="did not answer within"):
            await link.ask_all(None, ["getHumidity", "getTelescopeParams"])
        with pytest.raises(TimeoutError, match="did not answer within"):
            await link.ask_all(None, ["getHumidity"])


async def test_a_telescope_served_by_omniorb_understands_the_same(tmp_path: Path) -> None:
    async with name_service(tmp_path) as port, telescope(port) as process:
        link = Corba(port=port, idl=IDL, timeout=AT_MOST)
        await link.open()
        assert await link.ask(None, "getHumidity") == 50.0
        assert await link.ask(None, "areMACSFollowErrorBelowThreshold") is True
        assert "NAME = 'caf\xe9' / of Latin-1" in await link.ask(None, "getTelescopeParams")
        await link.ask(None, "requestTelescopeOffset", (5, -2.5))
        assert await said(process) == "offset 5.0 -2.5"


async def test_what_does_not_fit_the_interface_is_not_sent(tmp_path: Path) -> None:
    async with name_service(tmp_path) as port, telescope(port) as process:
        link = Corba(port=port, idl=IDL, timeout=AT_MOST)
        await link.open()
        for stars, why in (
            (2**31, r"a number from -2.14748e\+09 to 2.14748e\+09, not 2147483648"),
            (25.5, "a whole number, not 25.5"),
            (math.nan, "a number from"),
            (True, "a number, not True"),
            ("25", "a number, not '25'"),
        ):
            with pytest.raises(ValueError, match=f"startPointingModel takes {why}"):
                await link.ask(None, "startPointingModel", (stars,))
        with pytest.raises(ValueError, match=r"requestTelescopeOffset takes a .* not inf"):
            await link.ask(None, "requestTelescopeOffset", (1.0, math.inf))
        with pytest.raises(ValueError, match="startPointingModel takes 1 arguments, not 0"):
            await link.ask(None, "startPointingModel")
        with pytest.raises(ValueError, match="has no operation park"):
            await link.ask(None, "park")
        await link.ask(None, "startPointingModel", (25.0,))
        assert await said(process) == "stars 25"


async def test_a_command_that_may_have_been_carried_out_is_called_that(tmp_path: Path) -> None:
    async with name_service(tmp_path) as port, telescope(port) as process:
        link = Corba(port=port, idl=IDL, timeout=AT_MOST)
        await link.open()
        with pytest.raises(RefusedError, match=r"refused requestTelescopeOffset: .*NO_PERMISSION"):
            await link.ask(None, "requestTelescopeOffset", (101, 0))
        with pytest.raises(OutcomeUnknownError, match="requestTelescopeOffset may have been"):
            await link.ask(None, "requestTelescopeOffset", (0, 101))
        assert await said(process) == "offset 101.0 0.0"
        assert await said(process) == "offset 0.0 101.0"
        assert await said(process) == "", "the offset was sent again"


async def test_links_of_one_process_share_the_orb_and_keep_their_deadlines() -> None:
    async with linked(Simulator()) as one, linked(Simulator(), timeout=SOON) as other:
        assert start_orb() == start_orb()
        assert await one.ask(None, "getHumidity") == await other.ask(None, "getHumidity")
    silent = Simulator()
    async with linked(silent, timeout=SOON) as one, linked(Simulator()) as other:
        silent.simulate("silence")
        late = asyncio.ensure_future(one.ask(None, "getHumidity"))
        assert await other.ask(None, "getHumidity") == 31.0
        with pytest.raises(TimeoutError):
            await late


# --- without the types ----------------------------------------------------------------------


class Odd(Simulator):
    """A telescope whose numbers are of another type."""

    code, number, asked = "f", 12.0, 0

    def _telescope(self, request: giop.Request) -> bytes:
        self.asked += request.operation == "getHumidity"
        return request.reply(
            giop.NO_EXCEPTION, lambda writer: writer.number(self.code, self.number)
        )


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(("code", "number"), [("f", 12.0), ("d", 12.0), ("f", 0.0), ("i", 0)])
async def test_a_number_is_read_by_its_size(code: str, number: float) -> None:
    odd = Odd()
    odd.code, odd.number = code, number
    async with linked(odd) as link:
        for _ in range(3):
            assert await link.ask(None, "getHumidity") == number
        assert odd.asked == (3 if code == "d" else 4), "what fits is remembered"


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("code", "number", "why"),
    [
        ("i", 12, "did not return a float; name the site's IDL file"),
        ("q", 12, "did not return a double; name the site's IDL file"),
        ("B", 1, "returned neither double nor float; name the site's IDL file"),
    ],
)
async def test_what_is_no_such_number_is_refused(code: str, number: int, why: str) -> None:
    odd = Odd()
    odd.code, odd.number = code, number
    async with linked(odd) as link:
        for _ in range(2):
            with pytest.raises(RefusedError, match=f"getHumidity {why}"):
                await link.ask(None, "getHumidity")


@pytest.mark.usefixtures("untyped")
async def test_without_the_types_nothing_is_commanded() -> None:
    async with linked(Simulator()) as link:
        assert (await link.ask(None, "getTelescopeParams"))[1].startswith("RADEG")
        for operation, arguments in [
            ("requestTelescopeOffset", (1.0, 1.0)),
            ("changeStar", ()),
            ("getHumidity", (1,)),
        ]:
            with pytest.raises(ValueError, match=f"types of {operation} are unknown; name the"):
                await link.ask(None, operation, arguments)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("module HIPERTELESCOPESERVER {", "could not be compiled: .*Syntax error"),
        ("module OTHER { const long ONE = 1; };", "does not declare the module"),
    ],
)
async def test_an_idl_file_that_cannot_be_used_is_named(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "_loaded", {})
    monkeypatch.delitem(sys.modules, "HIPERTELESCOPESERVER", raising=False)
    path = tmp_path / "site.idl"
    path.write_text(text)
    with pytest.raises(ConnectionError, match=f"(?s){path} {why}"):
        await Corba(idl=str(path)).open()


@pytest.mark.parametrize("exception", ["BAD_OPERATION", "BAD_PARAM", "MARSHAL"])
async def test_an_interface_that_is_not_the_servers_is_suspected(exception: str) -> None:
    simulator = Simulator()
    async with linked(simulator) as link:
        simulator.simulate("error", exception=exception)
        suspected = rf"CORBA.{exception}.*another interface: compare .* \(setting idl: {IDL}\)"
        with pytest.raises(RefusedError, match=f"refused getHumidity: {suspected}"):
            await link.ask(None, "getHumidity")


async def test_an_answer_of_another_type_than_the_idl_says_is_suspected_too() -> None:
    odd = Odd()
    odd.code, odd.number = "B", 1
    async with linked(odd) as link:
        with pytest.raises(RefusedError, match=r"MARSHAL.*another interface"):
            await link.ask(None, "getHumidity")


async def test_one_process_knows_one_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "_loaded", {"/first.idl": object()})
    with pytest.raises(ConnectionError, match=r"already loaded from /first.idl; use /second.idl"):
        await Corba(idl="/second.idl").open()


# --- loss -----------------------------------------------------------------------------------


async def test_a_hanging_telescope_does_not_block_the_loop() -> None:
    simulator = Simulator()
    async with linked(simulator, timeout=SOON) as link:
        simulator.simulate("silence")
        hanging = asyncio.ensure_future(link.ask(None, "getHumidity"))
        ticks = 0
        while not hanging.done():
            await asyncio.sleep(0)
            ticks += 1
        with pytest.raises(TimeoutError, match=r"did not answer within 0.2 s"):
            await hanging
        assert ticks > 100
        simulator.simulate("clear")
        with pytest.raises(TimeoutError, match=r"did not answer within 0.2 s"):
            await link.ask(None, "getHumidity")  # it was closed for that reason
        await link.open()
        assert await link.ask(None, "getHumidity") == 31.0


async def test_one_call_is_made_at_a_time_even_if_one_is_given_up() -> None:
    simulator = Simulator()
    async with linked(simulator, timeout=SOON) as link:
        simulator.simulate("silence", times=1)
        given_up = asyncio.ensure_future(link.ask(None, "getHumidity"))
        while simulator.faults:  # noqa: ASYNC110  (until the call has arrived)
            await asyncio.sleep(0)
        next_one = asyncio.ensure_future(link.ask(None, "getHumidity"))
        given_up.cancel()
        assert await next_one == 31.0
        assert given_up.cancelled()


async def test_whoever_waits_is_told_why_it_was_closed() -> None:
    async with linked(Simulator()) as link:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(link.idle(AT_MOST, wake))
        await asyncio.sleep(0)
        link.close(ConnectionAbortedError("by request"))
        for task in (waiting, asyncio.ensure_future(link.ask(None, "getHumidity"))):
            with pytest.raises(ConnectionAbortedError, match="by request"):
                await task


async def test_a_telescope_that_was_restarted_is_looked_up_again(tmp_path: Path) -> None:
    async with name_service(tmp_path) as port:
        link = Corba(port=port, idl=IDL, timeout=AT_MOST)
        with pytest.raises(ConnectionError, match="has no object HIPERTelescopeServer: check"):
            await link.open()
        async with telescope(port):
            await link.open()
            assert await link.ask(None, "getHumidity") == 50.0
        with pytest.raises(ConnectionError, match=r"the telescope .* (broke|cannot be reached)"):
            await link.ask(None, "getHumidity")
        with pytest.raises(ConnectionRefusedError, match=r"the telescope .* cannot be reached"):
            await link.open()  # the name is still bound
        async with telescope(port):
            await link.open()
            assert await link.ask(None, "getHumidity") == 50.0


@pytest.mark.parametrize("operation", ["getHumidity", "requestTelescopeOffset"])
async def test_one_that_was_restarted_meanwhile_is_looked_up_again_at_once(operation: str) -> None:
    simulator = Simulator()
    async with linked(simulator) as link:
        for _ in range(2):
            simulator.simulate("disconnect")
            simulator.simulate("clear")
            await link.ask(None, operation, (1, 2) if operation.startswith("request") else None)
    assert [name for name in simulator.heard if name == operation] == [operation] * 2


def closing(simulator: Simulator, how: str) -> None:
    """Close the connections of a simulated telescope as a server closes idle ones."""
    if how == "CloseConnection":
        simulator.simulate("closed")
    else:
        simulator.hang_up()


async def test_a_telescope_is_named_by_where_it_is_and_by_where_its_name_is(
    tmp_path: Path,
) -> None:
    async with name_service(tmp_path) as port, telescope(port):
        link = Corba(port=port, idl=IDL, timeout=AT_MOST)
        await link.open()
        at = addresses(await link.reference())
        assert at != f"127.0.0.1:{port}"
        named = re.escape(f"the telescope (HIPERTelescopeServer of 127.0.0.1:{port}, at {at})")
        with pytest.raises(RefusedError, match=f"{named} refused requestTelescopeOffset"):
            await link.ask(None, "requestTelescopeOffset", (101, 0))


@pytest.mark.parametrize("how", ["CloseConnection", "FIN"])
@pytest.mark.parametrize("operation", ["getHumidity", "requestTelescopeOffset"])
async def test_a_connection_that_was_closed_while_idle_is_opened_again(
    how: str, operation: str
) -> None:
    simulator = Simulator()
    async with linked(simulator) as link:
        arguments = (1, 2) if operation.startswith("request") else None
        for _ in range(2):
            closing(simulator, how)
            await until(lambda: not simulator._hang_up)
            await link.ask(None, operation, arguments)
        closing(simulator, how)
        await link.open()
    assert [name for name in simulator.heard if name == operation] == [operation] * 2


async def test_omniorb_closing_an_idle_connection_is_not_noticed(tmp_path: Path) -> None:
    soon = ["-ORBinConScanPeriod", "1", "-ORBscanGranularity", "1"]
    async with name_service(tmp_path) as port, telescope(port, *soon) as process:
        link = Corba(port=port, idl=IDL, timeout=AT_MOST)
        await link.open()
        there = int(addresses(await link.reference()).rpartition(":")[2])
        for dec in range(2):
            await until(lambda: "CLOSE_WAIT" in connections_to(there))
            await link.ask(None, "requestTelescopeOffset", (5, dec))
            assert await said(process) == f"offset 5.0 {dec:.1f}"
        await until(lambda: "CLOSE_WAIT" in connections_to(there))
        assert await link.ask(None, "getHumidity") == 50.0


def connections_to(port: int) -> list[str]:
    """Return the states of this process' connections to a port."""
    found = psutil.Process().net_connections("tcp")
    return [one.status for one in found if one.raddr and one.raddr.port == port]


async def test_what_keeps_the_telescope_from_being_found_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulator = Simulator()
    async with linked(simulator) as link:
        simulator.simulate("unnamed")
        with pytest.raises(ConnectionError, match="has no object HIPERTelescopeServer: check"):
            await link.open()
        simulator.simulate("clear")
        monkeypatch.setattr(telescope_sim, "INTERFACE", "IDL:SOMETHING/else:1.0")
        with pytest.raises(ProtocolError, match=r"is not a IDL:HIPER.*name the site's IDL file"):
            await link.open()
        unknown = Corba(port=simulator.port, object_name="Another")
        with pytest.raises(
            ConnectionError, match=r"has no object Another: .* name \(object_name\)"
        ):
            await unknown.open()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionRefusedError, match=f"name service at 127.0.0.1:{port} cannot be"):
        await Corba(port=port).open()


async def test_an_exception_of_the_telescope_leaves_the_link_open() -> None:
    simulator = Simulator()
    async with linked(simulator) as link:
        for exception in ("UNKNOWN", "NO_IMPLEMENT", "what nobody knows"):
            simulator.simulate("error", exception=exception)
            with pytest.raises(RefusedError, match="refused getHumidity: CORBA"):
                await link.ask(None, "getHumidity")
        simulator.simulate("clear")
        assert await link.ask(None, "getHumidity") == 31.0


# --- processes ------------------------------------------------------------------------------


def run(program: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python on a program of a few lines."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


async def printed(process: subprocess.Popen[str]) -> str:
    """Return what it prints until it ends."""
    try:
        output, _ = await asyncio.to_thread(process.communicate, timeout=AT_MOST)
    finally:
        process.kill()
    return output.strip()


async def test_without_omniorb_all_starts_and_says_how_to_get_it() -> None:
    program = """
        import asyncio, sys
        sys.modules["omniORB"] = None
        import hcam_devices.cli.servers
        from hcam_devices.config.instrument import load
        rack = load().entries["rack"].build()
        async def main():
            ended = asyncio.create_task(rack.run())
            rack.listeners.append(lambda sample: ended.cancel())
            await asyncio.wait([ended])
            print(rack.connection, rack.offline_reason)
        asyncio.run(main())
    """
    said = await printed(run(program))
    assert said.startswith("rack: the telescope needs CORBA, but this installation lacks")
    assert said.endswith(f"): {install_extra('gtc')}")
    assert "\noffline the telescope needs CORBA" in said


async def test_without_omniorb_gtcserver_says_in_a_line_how_to_get_it() -> None:
    program = """
        import sys
        sys.modules["omniORB"] = None
        from hcam_devices.cli.servers import gtcserver
        gtcserver(["--emulate"])
    """
    process = run(program)
    said = await printed(process)
    assert process.returncode == 1
    assert "\n" not in said
    assert said.startswith("Error: the telescope needs CORBA, but this installation lacks")
    assert said.endswith(f"): {install_extra('gtc')}")


async def test_a_process_with_a_long_call_ends_at_once_when_it_is_told() -> None:
    program = """
        import asyncio, sys
        from hcam_devices.telescope.corba import Corba
        async def main():
            link = Corba(port=int(sys.argv[1]), idl=sys.argv[2], timeout=20)
            await link.open()
            long = asyncio.create_task(link.ask_apart(sys.argv[3], 3600))
            while True:
                print(await link.ask(None, "getHumidity"), flush=True)
                if sys.stdin.readline() == "end\\n":
                    return
        asyncio.run(main())
    """
    simulator = Simulator()
    simulator.simulate("set", transfer=3600.0)
    async with sim.serve(simulator) as place:
        process = run(program, str(place["port"]), IDL, telescope_sim.TRANSFER)
        output, _ = await asyncio.to_thread(
            process.communicate, "go on\ngo on\nend\n", timeout=AT_MOST
        )
    assert (output, process.returncode) == ("31.0\n31.0\n31.0\n", 0)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
async def test_the_simulator_speaks_every_version_of_giop(version: str) -> None:
    program = """
        import asyncio, sys
        from hcam_devices.telescope.corba import Corba
        async def main():
            link = Corba(port=int(sys.argv[1]), timeout=20)
            await link.open()
            print(await link.ask(None, "getHumidity"), await link.ask(None, "getM1Temperature"))
        asyncio.run(main())
    """
    async with sim.serve(Simulator()) as place:
        port = str(place["port"])
        assert await printed(run(program, port, ORBmaxGIOPVersion=version)) == "31.0 9.0"


async def test_a_process_with_a_hanging_call_ends_when_it_is_told() -> None:
    program = """
        import asyncio, signal, sys
        from hcam_devices.telescope.corba import Corba
        async def main():
            link = Corba(port=int(sys.argv[1]), timeout=1)
            await link.open()
            call = asyncio.create_task(link.ask(None, "getHumidity"))
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, call.cancel)
            await asyncio.wait([call])
            print("cancelled:", call.cancelled())
        asyncio.run(main())
    """
    simulator = Simulator()
    asked = asyncio.Event()
    real = simulator.answer

    def answer(frame: bytes) -> bytes:
        if b"getHumidity" in frame:
            asked.set()
            return b""
        return real(frame)

    simulator.answer = answer  # type: ignore[method-assign]
    async with sim.serve(simulator) as place:
        process = run(program, str(place["port"]))
        async with asyncio.timeout(AT_MOST):
            await asked.wait()
        process.send_signal(signal.SIGTERM)
        assert await printed(process) == "cancelled: True"
        assert process.returncode == 0
