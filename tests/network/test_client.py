"""The client library against a real router and real servers."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.client import (
    Instrument,
    InvalidArgumentError,
    NoSuchProcedureError,
    NotArrivedError,
    OutcomeUnknownError,
    Reading,
    RouterError,
    UnknownNameError,
    connect,
)
from hcam_devices.wamp import described, telemetry, utils

from .tools import PATIENCE, Net, free_port, living, until


@pytest.fixture
def instrument(net: Net) -> Iterator[Instrument]:
    with connect() as found:
        yield found


@pytest.fixture
def fast(instrument: Instrument) -> Iterator[Instrument]:
    """The instrument with a quick slide."""
    instrument.slide.simulate("set", speed=450000)
    try:
        yield instrument
    finally:
        instrument.slide.simulate("set", speed=45000, stalled=False)


def test_the_newest_sample_is_there_at_once_and_nothing_is_asked(
    instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(instrument._core.telemetry, "call", calls.append)
    reading = instrument.ccd1.temperature
    assert (reading.device, reading.field, reading.unit) == ("ccd1", "temperature", "deg_C")
    assert isinstance(reading.raw, float)
    assert isinstance(reading.seq, int)
    assert instrument["FocalPlaneSlide"] is instrument["slide"] is instrument.slide
    assert instrument["ngc"]["exposure.time"].unit == "s"
    assert next(iter(instrument)) == "ccd1"
    for name in instrument:
        for field in instrument[name]:
            assert instrument[name][field].field == field
    assert calls == []


def test_a_server_is_asked_once_for_all_of_its_devices(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    call = telemetry.Telemetry.call

    async def noted(self: Any, device: str, procedure: str, *args: Any, **more: Any) -> Any:
        asked.append((device, procedure))
        return await call(self, device, procedure, *args, **more)

    monkeypatch.setattr(telemetry.Telemetry, "call", noted)
    with connect() as instrument:
        assert ("hwserver", "devices") in asked
        of_devices = {name for name, procedure in asked if procedure != "devices"}
        assert of_devices.isdisjoint(instrument.descriptions())
        assert "slide" in instrument.descriptions()


def test_a_device_of_which_its_server_does_not_tell_is_asked_itself(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(answer: Any) -> Any:
        return {name: told for name, told in described.unpacked(answer).items() if name != "slide"}

    monkeypatch.setattr(telemetry, "unpacked", without)
    with connect() as instrument:
        assert instrument.slide.position.unit == "pix"
        assert instrument.ccd1.temperature.unit == "deg_C"


def test_what_was_set_is_read_at_once(instrument: Instrument) -> None:
    for target in range(1000, 1030):
        assert instrument.slide.set("target_position", target) == target
        assert instrument.slide.target_position.raw == target


def test_a_motion_is_waited_for(fast: Instrument) -> None:
    for target in (900, 950):
        fast.slide.set("target_position", target)
        position = fast.slide.move(wait=True)
        assert isinstance(position, Reading)
        assert position.raw == pytest.approx(target, abs=0.5)
        assert fast.slide.position.raw == pytest.approx(target, abs=0.5)


def test_a_motion_that_ends_elsewhere_is_an_error(fast: Instrument) -> None:
    fast.slide.simulate("set", stalled=True)
    fast.slide.set("target_position", 700)
    with pytest.raises(NotArrivedError, match=r"stage did not arrive: it is outpos .*short of"):
        fast.slide.move(wait=True)


def test_refusals_carry_the_sentence_of_the_device(instrument: Instrument) -> None:
    with pytest.raises(InvalidArgumentError, match=r"1e\+09 pix is not within"):
        instrument.slide.set("target_position", 1e9)
    with pytest.raises(NoSuchProcedureError, match=r"slide has no 'dance'"):
        instrument.slide.call("dance")
    with pytest.raises(InvalidArgumentError, match="it takes no argument"):
        instrument.slide.stage.move(1)
    with pytest.raises(InvalidArgumentError, match="cannot be sent"):
        instrument.slide.set("target_position", object())
    with pytest.raises(UnknownNameError, match=r"no device 'slyde'; .*did you mean slide\?"):
        instrument["slyde"]
    with pytest.raises(UnknownNameError, match=r"no field 'positn'"):
        instrument.subscribe("slide.positn")
    with pytest.raises(AttributeError):
        _ = instrument.slyde
    with pytest.raises(AttributeError, match="nothing is set"):
        instrument.slide = 1


def test_first_the_newest_known_then_every_sample(instrument: Instrument) -> None:
    known = {f"ccd{n}": instrument[f"ccd{n}"].temperature.seq for n in range(1, 6)}
    found: dict[str, list[int]] = {name: [] for name in known}
    with instrument.subscribe("ccd*.temperature") as subscription:
        for reading in subscription:
            assert reading.field == "temperature"
            found[reading.device].append(reading.seq)
            if all(len(seqs) > 2 for seqs in found.values()):
                break
    for name, seqs in found.items():
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        assert seqs[0] in (known[name], known[name] + 1)
    assert list(instrument.subscribe("slide", seconds=0)) == []
    with pytest.raises(StopIteration):
        next(subscription)


def test_a_callback_may_command_and_its_errors_end_nothing(instrument: Instrument) -> None:
    done: list[object] = []

    def callback(reading: Reading) -> None:
        done.append(instrument.slide.set("target_position", 1000 + len(done)))
        raise RuntimeError("a bug")

    subscription = instrument.subscribe("slide.target_position", callback=callback)
    until(lambda: len(done) > 3)
    subscription.close()
    assert done[:3] == [1000, 1001, 1002]


def test_a_subscription_that_was_dropped_has_ended(instrument: Instrument) -> None:
    next(instrument.subscribe("slide"))
    streams = instrument._core.telemetry._streams
    until(lambda: gc.collect() >= 0 and all(stream.closed for stream in streams))
    next(utils.subscribe("hipercam.slide.telemetry"))
    until(
        lambda: (
            gc.collect() >= 0
            and sum(thread.name == "hcam" for thread in threading.enumerate()) == 1
        )
    )


async def test_an_asynchronous_subscription_that_was_dropped_has_ended(net: Net) -> None:
    async with connect() as instrument:
        async for _ in instrument.subscribe("slide"):
            break
        gc.collect()
        await asyncio.sleep(0)
        assert all(stream.closed for stream in instrument._core.telemetry._streams)


async def test_in_a_running_loop_the_plain_client_works_too(net: Net) -> None:
    with connect() as instrument:
        assert instrument.slide.set("target_position", 1000) == 1000


async def test_the_asynchronous_face(net: Net) -> None:
    async with connect() as instrument:
        assert instrument.ccd1.temperature.unit == "deg_C"
        assert await instrument.slide.set("target_position", 1001) == 1001
        assert await instrument.slide.stage.stop() is None
        with pytest.raises(InvalidArgumentError, match="is not within"):
            await instrument.slide.set("target_position", 1e9)
        found: list[object] = []
        async for reading in instrument.subscribe("slide.target_position"):
            if reading.raw not in found[-1:]:  # a sample that was due may repeat it
                found.append(reading.raw)
            if len(found) == 3:
                break
            await instrument.slide.set("target_position", 1001 + len(found))
        assert found == [1001, 1002, 1003]
        assert [reading async for reading in instrument.subscribe("slide", seconds=0)] == []
    with pytest.raises(RouterError):
        _ = instrument.ccd1.temperature


def test_samples_for_scripts_and_what_is_no_telemetry(net: Net) -> None:
    with utils.subscribe("hipercam.FocalPlaneSlide.telemetry") as found:
        assert next(found)["device"] == "slide"
    heard: list[str] = []
    subscription = utils.subscribe("hipercam.ccd*.telemetry", lambda s: heard.append(s["device"]))
    until(lambda: {*heard} == {f"ccd{n}" for n in range(1, 6)})
    subscription.close()
    for topic in ("hipercam.slide.command", "slide", "hipercam.slyde.telemetry"):
        with pytest.raises(InvalidArgumentError, match="is not the telemetry of a device"):
            utils.subscribe(topic)
    assert [thread for thread in threading.enumerate() if thread.name == "hcam"] == []


def test_without_a_router(monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"127.0.0.1:{free_port()}"
    with pytest.raises(RouterError, match=rf"no router at {where}.*hcam up"), connect(where):
        pass
    monkeypatch.setenv("WAMP_SERVER", where)
    with pytest.raises(RouterError, match=rf"no router at {where}.*hcam up"):
        connect().open()
    assert [thread for thread in threading.enumerate() if thread.name == "hcam"] == []


def test_a_key_file_is_given_or_found(net: Net, tmp_path: Path) -> None:
    net.hcam_here(
        "access", "add", "guest", "--role", "observer", "--out", str(tmp_path / "guest.key")
    )
    with connect(key=tmp_path / "guest.key") as instrument:
        assert instrument.ccd1.temperature.unit == "deg_C"
        with pytest.raises(utils.NotAuthorizedError):
            instrument.slide.set("target_position", 1000)
    net.hcam_here("access", "remove", "guest")
    with pytest.raises(utils.NotAuthorizedError, match="guest"):
        connect(key=tmp_path / "guest.key").open()


def test_the_page_about_python_runs(net: Net) -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    assert page.count("\n```sh\npython temperatures.py\n```\n") == 1
    blocks = re.findall(r"^```python.*?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) + 1 == page.count("\n```") // 2
    said = net.run(sys.executable, "-W", "error", "-c", "\n".join(blocks))
    assert "1e+09 pix is not within" in said
    assert re.search(r"^ccd5 -\d+\.\d+ deg_C$", said, re.MULTILINE)
    assert "{'connection': 'online', 'stage': 'inpos'}" in said


def script(net: Net, text: str, *, code: int = 0) -> str:
    """Run a script; return what it printed."""
    begin = "from hcam_devices.client import connect, RouterError\n"
    return net.run(sys.executable, "-c", begin + text, code=code)


def test_the_import_is_light(net: Net) -> None:
    said = script(net, "import sys; print(*sys.modules)").split()
    heavy = {"asyncio", "astropy", "autobahn", "numpy", "pydantic", "cryptography", "cbor2"}
    assert "hcam_devices.client" in said
    assert heavy & {*said} == set()
    said = script(net, "connect().open(); import sys; print(*sys.modules)").split()
    assert {
        "pydantic",
        "astropy",
        "hcam_devices.core",
        "hcam_devices.config.instrument",
    }.isdisjoint(said)


def test_a_script_that_closes_nothing_ends_cleanly(net: Net) -> None:
    said = script(net, "i = connect().open(); print(i.slide.position.unit); i.subscribe('slide')")
    assert said == "pix\n"


def test_a_fork_needs_its_own_connection_and_does_not_disturb_the_first(net: Net) -> None:
    said = script(
        net,
        """
import os, sys
instrument = connect().open()
pid = os.fork()
if pid == 0:
    for use in (lambda: instrument.slide.position, lambda: instrument.slide.set('x', 1),
                lambda: instrument.slide.call('describe'), lambda: instrument.subscribe('slide')):
        try:
            use()
        except Exception as error:
            print(type(error).__name__, 'forked' in str(error), flush=True)
    with connect() as own:
        print(own.slide.position.unit, flush=True)
    instrument.close()
    sys.exit()
print(os.waitpid(pid, 0)[1])
print(instrument.slide.call('describe')['device'], instrument.slide.position.unit)
""",
    )
    refused = "RouterError True"
    expected = [refused, "UnknownNameError False", refused, refused, "pix", "0", "slide pix"]
    assert said.splitlines() == expected


def test_ctrl_c_ends_a_subscription_or_a_wait_and_nothing_else(net: Net) -> None:
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            """
from hcam_devices.client import connect
with connect() as instrument:
    try:
        print('ready', flush=True)
        for reading in instrument.subscribe('slide.pos*', seconds=600):
            pass
    except KeyboardInterrupt:
        print('ended', instrument.slide.call('describe')['device'], flush=True)
    instrument.slide.simulate('set', speed=1)
    instrument.slide.set('target_position', 800)
    try:
        print('moving', flush=True)
        instrument.slide.move(wait=True)
    except KeyboardInterrupt as error:
        print(*error.__notes__, flush=True)
    instrument.slide.stop()
    instrument.slide.simulate('set', speed=45000)
""",
        ],
        env=net.environment,
        cwd=net.home,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout
    try:
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "ended slide\n"
        assert program.stdout.readline() == "moving\n"
        until(lambda: net.newest("slide")["state"]["stage"] == "moving")
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "slide: the motion of stage goes on\n"
        assert program.wait(PATIENCE) == 0
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
    until(lambda: net.newest("slide")["state"]["stage"] != "moving")


def test_a_frozen_server_has_an_unknown_outcome(net: Net, instrument: Instrument) -> None:
    assert net.server
    os.killpg(net.server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(OutcomeUnknownError, match=r"slide\.stage\.stop .* within 0\.5 s"):
            instrument.slide.stop(timeout=0.5)
        assert instrument.slide.position.unit == "pix"
    finally:
        os.killpg(net.server.pid, signal.SIGCONT)


def test_a_server_that_ends_and_comes_back(own: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    own.start_router()
    with connect() as instrument:
        with pytest.raises(NoSuchProcedureError, match="hwserver is not running"):
            _ = instrument.slide.position
        with pytest.raises(NoSuchProcedureError, match="hwserver is not running"):
            instrument.slide.call("stage.move")
        heard = instrument.subscribe("slide.position")
        server = own.start_server()
        assert isinstance(next(heard).seq, int)
        assert instrument.slide.position.unit == "pix"
        until(lambda: instrument.slide.position.raw is not None)
        instrument.slide.simulate("set", speed=1)
        instrument.slide.set("target_position", 500)
        monkeypatch.setattr(telemetry, "MAX_SILENCE_S", PATIENCE)

        def kill_once_it_moves() -> None:
            until(lambda: own.newest("slide")["state"]["stage"] == "moving")
            for process in living(own.home, "hwserver"):
                process.kill()

        dies = threading.Thread(target=kill_once_it_moves)
        dies.start()
        with pytest.raises(OutcomeUnknownError, match="its server has ended"):
            instrument.slide.move(wait=True)
        dies.join()
        server.wait()
        gone = instrument.slide.position
        assert (gone.raw, gone.seq, gone.time) == (None, None, None)
        assert gone.reason == "its server has gone"
        assert own.router
        for process in living(own.home, "crossbar"):
            process.kill()
        own.router.wait()
        until(lambda: instrument._core.telemetry.session is None)
        with pytest.raises(RouterError, match="no connection"):
            _ = instrument.slide.position
        with pytest.raises(RouterError, match="no connection"):
            instrument.slide.set("target_position", 1)


async def test_deadlines_of_the_asynchronous_face_are_its_callers(net: Net) -> None:
    async with connect() as instrument:
        await instrument.slide.simulate("set", speed=1)
        await instrument.slide.set("target_position", 500)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await instrument.slide.move(wait=True)
        finally:
            await instrument.slide.stop()
            await instrument.slide.simulate("set", speed=45000)
