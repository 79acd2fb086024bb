"""The driver of the detector controller: what it sends, makes of replies, and refuses."""

import asyncio
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.axis import NotAllowedError
from hcam_devices.detector.sim import ALIAS, Simulator
from hcam_devices.device import Sample
from hcam_devices.devices import ngc
from hcam_devices.devices.ngc import Controller
from hcam_devices.link import Codec
from hcam_devices.process import Output, Programs

from ..helpers import ENTRIES, Clock, living, presented, reasons, sample_where

APP = {
    "app": "FullFrame", "numexp": 3, "readout": "Fast", "xbin": 1, "ybin": 1, "clear": 1,
    "led_flsh": 0, "oscan": 0, "multipliers": [1] * 5, "exptime": 10.0, "dwell": 0.1,
}  # fmt: skip
TABLE = "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: A, datatype: int64}\nA\n1\n"


class Desk(Programs):
    """Programs that are not run: the simulator answers, unless something else is ``forced``."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self.simulator = simulator
        self.lines: list[list[str]] = []
        self.forced: dict[str, Exception | Output] = {}
        self.gate: asyncio.Event | None = None
        """Until it is set, commands have begun and do not end."""
        self.commands_at_once = self.most_at_once = 0

    def say(self, request: bytes) -> Output:
        words = shlex.split(request.decode())
        self.lines.append(words)
        for part, forced in self.forced.items():
            if part in " ".join(words):
                if isinstance(forced, Exception):
                    raise forced
                return forced
        said, _, status = self.simulator.answer(request).partition(b"\x04")
        return Output.of(said, b"", int(status))

    async def _answer(self, codec: Codec, request: bytes, within: float) -> Any:
        command = self._commanding.locked() and not request.startswith((b"dbRead", b"ngcbCmd st"))
        self.commands_at_once += command
        self.most_at_once = max(self.most_at_once, self.commands_at_once)
        try:
            output = self.say(request)
            await asyncio.sleep(0)
            if command and self.gate:
                await self.gate.wait()
            return codec.reply(request, output)
        finally:
            self.commands_at_once -= command

    def ask_beside(
        self, codec: Codec, ref: Any, within: float, then: Callable[[Any], None]
    ) -> None:
        request = codec.request(ref)
        try:
            answer = codec.reply(request, self.say(request))
        except Exception as error:  # noqa: BLE001  (as the link does)
            answer = error
        asyncio.get_running_loop().call_soon(then, answer)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Rig:
    """A driver at its desk, and a clock that only goes on when it is told."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.simulator = Simulator(clock=self.clock, wall=self.clock)
        self.simulator.folder = folder
        (folder / "data").mkdir()
        self.ngc = Controller("ngc", clock=self.clock)
        self.desk = self.ngc.link = Desk(self.simulator)
        self.ngc.connection = "online"

    @property
    def sent(self) -> list[list[str]]:
        """What was sent since this was last looked at, but for what is only read."""
        lines, self.desk.lines = self.desk.lines, []
        return [line for line in lines if line[0] != "dbRead" and line[1] != "status"]

    async def power_on(self) -> None:
        await self.ngc.start_ngc_server()
        for step in (self.ngc.online, self.ngc.pon):
            assert (await step())[1]

    async def poll(self, after: float = 0.0) -> Sample:
        self.clock.now += after
        await self.ngc.poll()
        await self.ngc.poll()  # what is asked beside is known at the next one
        return self.ngc.snapshot()

    async def load(self, user: dict[str, Any] | None = None, **app: Any) -> list[Any]:
        done: list[Any] = await self.ngc.load_setup({"appdata": APP | app, "user": user or {}})
        return done


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.simulator.answer(b"ngcdcsStopServer IRCAM1")  # which closes the file of a run


@pytest.fixture
async def on(rig: Rig) -> Rig:
    await rig.power_on()
    assert rig.sent
    return rig


@pytest.fixture
async def active(on: Rig) -> Rig:
    assert (await on.load(numexp=0))[0]
    assert (await on.ngc.start())[1]
    assert on.sent[-1] == ["ngcbCmd", "start"]
    return on


# --- what is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "arguments", "line"),
    [
        ("online", (), "online"),
        ("standby", (), "standby"),
        ("offline", (), "off"),
        ("exit", (), "exit"),
        ("reset", (), "reset"),
        ("stop", (), "stop"),
        ("abort", (), "abort"),
        ("pon", (), "'cldc 0 enable'"),
        ("poff", (), "'cldc 0 disable'"),
        ("seq_start", (), "'seq 0 start'"),
        ("seq_stop", (), "'seq 0 stop'"),
        ("trigger", (), "'seq trigger'"),
        ("setup", ("DET.SEQ1.DIT", 2.5), "setup DET.SEQ1.DIT 2.5"),
        ("setup", ("DET.CLRCCD", True), "setup DET.CLRCCD T"),
        ("cmd", ('setup OBJECT "HT Cas"',), "'setup OBJECT \"HT Cas\"'"),
        ("cmd", ("acqproc", 1, False), "acqproc 1 F"),
    ],
)
async def test_a_procedure_is_one_command(
    active: Rig, call: str, arguments: tuple[Any, ...], line: str
) -> None:
    active.desk.forced["ngcbCmd"] = Output(b" as you wish \n")
    assert await getattr(active.ngc, call)(*arguments) == ["as you wish", True]
    assert active.sent == [["ngcbCmd", *shlex.split(line)]]


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (Output.of(b"it is broken NOK\n", b"trace", 1), "it is broken NOK"),
        (Output.of(b"", b"no licence\n", 2), "no licence"),
        (Output.of(b"", b"", 3), "exit status 3 without a reason"),
    ],
)
async def test_a_command_that_fails_says_why(on: Rig, printed: Output, reason: str) -> None:
    on.desk.forced["seq trigger"] = printed
    assert await on.ngc.trigger() == [reason, False]


async def test_what_is_no_line_of_text_is_not_sent(on: Rig) -> None:
    message, done = await on.ngc.setup("OBJECT", "a\nb")
    assert not done
    assert "not one line of text" in message
    assert on.sent == []


async def test_a_command_that_does_not_end_may_have_been_carried_out_and_is_not_repeated(
    on: Rig,
) -> None:
    on.desk.forced["seq trigger"] = TimeoutError("ngcbCmd did not end within 10 s")
    message, done = await on.ngc.trigger()
    assert not done
    assert message == "ngcbCmd did not end within 10 s; it may have been carried out"
    await on.poll(after=60)
    assert on.sent == [["ngcbCmd", "seq trigger"]]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"DET.FRAM.FILENAME run of tonight\n", ["run of tonight", True]),
        (b"DET.NDIT 5\n", ["unexpected answer to status DET.FRAM.FILENAME: 'DET.NDIT 5'", False]),
    ],
)
async def test_a_status_is_that_of_the_keyword_that_was_asked(
    on: Rig, said: bytes, answer: list[Any]
) -> None:
    on.desk.forced["status"] = Output(said)
    assert await on.ngc.status("DET.FRAM.FILENAME") == answer
    on.desk.forced.clear()
    assert await on.ngc.status() == ["ONLINE", True]


# --- telemetry ------------------------------------------------------------------------------


async def test_what_the_database_does_not_say_is_null_with_the_reason(on: Rig) -> None:
    on.desk.forced = {ngc.TIME: Output(b"x = ERR"), ngc.CLOCKS: Output(b"cldc = \n")}
    sample = await on.poll()
    assert sample["exposure.time"] is sample["cldc_0.statusName"] is None
    assert "the database has no value: 'x = ERR'" in reasons(sample, "exposure.time")
    assert sample["system.stateName"] == "ONLINE"
    summary = await on.ngc.summary()
    assert summary["exposure.time"] == summary["cldc_0.statusName"] == "ERR"
    assert summary["system.stateName"] == "ONLINE"


async def test_numbers_are_numbers(active: Rig) -> None:
    sample = await active.poll(after=25)
    frames = active.simulator.frames
    assert frames > 0
    assert (sample["exposure.frame"], sample["frames_done"]) == (frames, frames)
    assert sample["run"] == 1
    assert sample["frames_expected"] is None  # endless
    assert "frames_expected" not in reasons(sample)
    assert 0 < sample["exposure.countDown"]["value"] <= sample["exposure.time"]["value"]
    assert sample["exposure.countDown"]["unit"] == "s"
    await active.ngc.abort()
    assert (await active.load(numexp=7))[0]
    assert (await active.poll())["frames_expected"] == 7
    await active.ngc.exit()
    sample = await active.poll()
    assert sample["exposure.frame"] is sample["frames_expected"] is None
    assert sample["system.stateName"] == "OFF"


async def test_the_rate_is_that_of_the_file_of_the_run(active: Rig) -> None:
    file = active.simulator.data / "run0001.fits"
    size = file.stat().st_size
    sample = await active.poll()
    for _ in range(5):
        size += 20_000_000
        with file.open("r+b") as grown:
            grown.truncate(size)
        active.clock.now += 2
        await active.ngc.poll()
        sample = active.ngc.snapshot()
    assert sample["data_rate"]["value"] == pytest.approx(10.0, rel=0.01)
    active.ngc.data = str(active.simulator.folder)
    assert "is the setting data the folder of the runs?" in reasons(await active.poll(25))


@pytest.mark.parametrize("newest", ["latest.fits", "ERR"])
async def test_a_run_that_cannot_be_told_is_no_number(on: Rig, newest: str) -> None:
    on.desk.forced[ngc.NEWEST] = Output(f"x = {newest}".encode())
    sample = await on.poll()
    assert sample["run"] is None
    assert reasons(sample, "run")


async def test_only_what_can_have_changed_is_read(on: Rig) -> None:
    def read() -> list[str]:
        lines, on.desk.lines = on.desk.lines, []
        return [line[-1].removeprefix(ALIAS) for line in lines]

    await on.poll()
    await on.poll(after=1)
    read()
    on.clock.now += 2
    await on.ngc.poll()
    assert read() == [ngc.STATE, ngc.SUBSTATE]
    on.simulator.answer(b"ngcbCmd standby")  # by somebody else
    on.clock.now += 2
    await on.ngc.poll()
    assert set(read()) == set(ngc.DATABASE)
    on.clock.now += ngc.MOST_AGE
    await on.ngc.poll()
    assert set(read()) == set(ngc.DATABASE)


async def test_in_a_run_the_frames_stand_for_the_state(active: Rig) -> None:
    def read() -> list[str]:
        lines, active.desk.lines = active.desk.lines, []
        return [line[-1].removeprefix(ALIAS) for line in lines]

    await active.poll()
    await active.poll(after=1)
    read()
    active.clock.now += 2
    await active.ngc.poll()
    assert read() == [ngc.SUBSTATE, ngc.FRAME]
    active.desk.forced[ngc.FRAME] = Output.of(b"the server does not answer NOK", b"", 1)
    await active.poll(after=2)
    assert ngc.STATE in read()


async def test_another_run_that_began_between_two_polls_is_seen(active: Rig) -> None:
    await active.poll(after=25)
    assert (await active.poll(after=1))["run"] == 1
    active.simulator.answer(b"ngcbCmd abort")
    active.simulator.answer(b"ngcbCmd start")
    await active.poll(after=1)
    assert (await active.poll(after=1))["run"] == 2


async def test_an_error_of_the_controller_is_an_alarm(active: Rig) -> None:
    active.simulator.simulate("failure")
    assert "then call reset" in reasons(await active.poll(after=12))


async def test_without_its_programs_it_is_offline_and_comes_back(tmp_path: Path) -> None:
    device = Controller("ngc", folder=str(tmp_path), poll_every=0.02)
    async with living(device):
        sample = await sample_where(device, lambda sample: True)
        assert sample["state"]["connection"] == "offline"
        assert "dbRead cannot be run: No such file" in reasons(sample)
        (tmp_path / "dbRead").write_text("#!/bin/sh\necho x = ONLINE\n")
        (tmp_path / "ngcbCmd").write_text("#!/bin/sh\necho $2 0\n")
        for program in ("dbRead", "ngcbCmd"):
            (tmp_path / program).chmod(0o700)
        await sample_where(device, lambda sample: sample["system.stateName"] == "ONLINE")


# --- safety ---------------------------------------------------------------------------------

ENDING = ["exit", "offline", "standby", "reset", "poff", "stop_ngc_server"]


async def ask(rig: Rig, call: str, **named: Any) -> str:
    """Return why a call was refused; nothing if it was not."""
    name, *arguments = call.split(":")
    try:
        reply = await getattr(rig.ngc, name)(*arguments, **named)
    except NotAllowedError as error:
        return str(error)
    return "" if reply is True or reply[1] else str(reply[0])


@pytest.mark.parametrize("call", [*ENDING, "cmd:exit", "cmd:cldc 0 disable", "cmd:off"])
async def test_people_are_asked_before_a_run_is_ended(active: Rig, call: str) -> None:
    assert "a run is active" in await ask(active, call, confirm=False)
    active.desk.forced["dbRead"] = TimeoutError("dbRead did not end within 2 s")
    assert "cannot be told" in await ask(active, call, confirm=False)
    assert active.sent == []
    active.desk.forced.clear()
    assert not await ask(active, call, confirm=True)
    assert len(active.sent) == 1
    assert active.simulator.run is None


@pytest.mark.parametrize("call", ENDING)
async def test_programs_that_never_heard_of_confirm_go_on_working(active: Rig, call: str) -> None:
    assert not await ask(active, call)
    assert len(active.sent) == 1


async def test_a_run_that_cannot_work_is_not_started(rig: Rig, monkeypatch: Any) -> None:
    assert "is OFF; call start_ngc_server, then online, first" in await ask(rig, "start")
    await rig.power_on()
    await rig.ngc.poff()
    assert "call pon first" in await ask(rig, "start")
    await rig.ngc.pon()
    monkeypatch.setattr(ngc, "look", lambda folder, file: (0.5, None))
    await rig.poll(after=60)
    assert "0.50 GB are left on the disk; make room first" in await ask(rig, "start")
    assert ["ngcbCmd", "start"] not in rig.sent
    rig.desk.forced["dbRead"] = TimeoutError("dbRead did not end within 2 s")
    rig.ngc._known.clear()
    assert not await ask(rig, "start")  # what is not known is left to the controller
    rig.desk.forced.clear()
    assert "call stop or abort first" in await ask(rig, "start")


async def test_never_two_commands_at_once_and_no_start_amid_a_setup(on: Rig) -> None:
    on.desk.gate = asyncio.Event()
    waiting = [
        asyncio.create_task(call)
        for call in (on.load(), on.load(numexp=5), on.ngc.start(), on.ngc.seq_stop())
    ]
    for _ in range(50):
        sample = await on.poll(after=2)  # telemetry goes on
    assert sample["system.stateName"] == "ONLINE"
    on.desk.gate.set()
    replies = await asyncio.gather(*waiting)
    assert [reply[0] for reply in replies[:2]] == [True, True]
    lines = [" ".join(line[1:]) for line in on.sent if line[1] != "seq 0 stop"]
    assert lines[0] == "seq stop"
    assert lines[-1] == "start"
    assert [line.partition(" ")[0] for line in lines].count("acqproc") == 2
    half = len(lines) // 2
    assert next(line for line in lines[:half] if "BREAK" in line).endswith("DET.FRAM2.BREAK 3")
    assert lines[half] == "seq stop"
    assert on.desk.most_at_once == 1


# --- setups ---------------------------------------------------------------------------------


async def test_a_setup_with_a_mistake_sends_nothing(on: Rig) -> None:
    done, message = await on.load(xbin=0, dwell=-1)
    assert not done
    assert "appdata.xbin" in message
    assert "appdata.dwell" in message
    assert on.sent == []


async def test_a_setup_ends_with_the_command_that_fails(on: Rig) -> None:
    on.desk.forced["setup DET.SEQ"] = on.desk.forced["DET.SPEED"] = Output.of(
        b"no clocks NOK", b"", 1
    )
    done, message = await on.load({"target": "HT Cas"})
    assert not done
    assert "failed: no clocks NOK. Applied before: seq stop; setup DET.READ.CURID 1;" in message
    assert on.sent[-1][1].startswith("setup DET.")  # and nothing after it
    on.desk.forced = {"seq stop": Output.of(b"busy NOK", b"", 1)}
    assert await on.load() == [False, "seq stop failed: busy NOK. Applied before: nothing"]


async def test_what_an_earlier_setup_left_in_the_header_is_cleared_once(on: Rig) -> None:
    assert (await on.load({"comment": "cloudy"}))[0]
    assert on.simulator.keywords["RUNCOM"] == "cloudy"
    on.desk.forced["RUNCOM"] = Output.of(b"no NOK", b"", 1)
    assert not (await on.load())[0]
    on.desk.forced.clear()
    assert on.sent
    assert (await on.load())[0]  # it was not cleared, so it still is to be
    assert on.simulator.keywords["RUNCOM"] == ""
    assert any('RUNCOM ""' in line[1] for line in on.sent)
    assert (await on.load())[0]
    assert not any("RUNCOM" in line[1] for line in on.sent)
    assert (await on.load({"comment": "cloudy"}))[0]
    await on.ngc.exit()
    await on.power_on()  # a new server knows nothing of it
    assert on.sent
    assert (await on.load())[0]
    assert not any("RUNCOM" in line[1] for line in on.sent)


async def test_an_endless_run_after_a_limited_one_has_its_limit_taken_away(on: Rig) -> None:
    assert await on.load(numexp=0) == [True, "All OK"]
    assert not any("BREAK" in line[1] for line in on.sent)
    assert (await on.load(numexp=5))[0]
    done, message = await on.load(numexp=0)
    assert done
    assert "see whether the run goes on without a limit" in message
    assert on.simulator.keywords["DET.FRAM2.BREAK"] == "0"


# --- the server of the controller -----------------------------------------------------------


async def test_the_server_is_started_and_stopped(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.delenv("NGC_PORT", raising=False)
    assert await rig.ngc.start_ngc_server() is True
    assert await rig.ngc.stop_ngc_server() is True
    monkeypatch.setenv("NGC_PORT", "9090")
    assert await rig.ngc.start_ngc_server(gui=True) is True
    assert await rig.ngc.start_ngc_server() is False
    assert "start_ngc_server failed: ngcdcsStartServer" in reasons(rig.ngc.snapshot())
    assert "the server is running already" in reasons(rig.ngc.snapshot())
    await rig.ngc.stop_ngc_server()
    assert await rig.ngc.start_ngc_server() is True
    assert "start_ngc_server" not in reasons(rig.ngc.snapshot())
    start, stop = ["ngcdcsStartServer", "IRCAM1", "-port"], ["ngcdcsStopServer", "IRCAM1"]
    gui = [[*start, "9090", "-gui"], [*start, "9090"]]
    assert rig.sent == [[*start, "8080"], stop, *gui, stop, [*start, "9090"]]


@pytest.mark.parametrize(
    ("there", "last"),
    [
        ([], "run0000.fits"),
        (["run0002.fits", "run0010.fits", "notes.txt"], "run0010.fits"),
        (["run9999.fits", "run10000.fits"], "run10000.fits"),
        (["run0012.fits", "runabc.fits"], "run0012.fits"),
    ],
)
async def test_the_numbers_of_the_runs_go_on(rig: Rig, there: list[str], last: str) -> None:
    await rig.ngc.start_ngc_server()
    assert rig.sent
    data = rig.simulator.data
    for name in there:
        (data / name).touch()
    assert await rig.ngc.setup_ngc_server() is True
    path = str(data / last) if there else last
    assert rig.sent == [
        ["ngcbCmd", "setup", "DET.SYSCFG", "hipercam_5ccd.cfg"],
        ["ngcbCmd", "setup", "DET.FRAM.NAMING", "auto"],
        ["ngcbCmd", "setup", "DET.FRAM.FILENAME", "run"],
        ["dbWrite", f"{ALIAS}exposure.newDataFileName", path],
    ]


async def test_no_numbers_go_on_in_a_folder_that_is_not_known(rig: Rig) -> None:
    rig.desk.forced[ngc.BASE] = Output(b"x = run")
    assert await rig.ngc.setup_ngc_server() is False
    assert "no folder can be told from 'run': set data" in reasons(rig.ngc.snapshot())
    assert rig.sent == []


# --- tables ---------------------------------------------------------------------------------


async def test_a_table_waits_for_the_end_of_its_run(active: Rig) -> None:
    active.clock.now += 25
    assert "run 1 is still being written" in (await active.ngc.add_hdu(TABLE, 1))[0]
    await active.ngc.stop()
    assert (await active.ngc.add_hdu(TABLE, 1))[1] is True
    await active.ngc.start()
    assert (await active.ngc.add_hdu(TABLE, 1)) == [
        "run0001.fits has this table already", True
    ]  # fmt: skip
    for table, run in ((TABLE, 99), ("no table", 1)):
        message, done = await active.ngc.add_hdu(table, run)
        assert message
        assert done is False


async def test_the_real_programs_say_the_same() -> None:
    async with presented(ENTRIES["ngc"], Simulator()) as device:
        assert isinstance(device, Controller)
        assert await device.start_ngc_server() is True
        assert await device.online() == ["OK", True]
        await sample_where(device, lambda sample: sample["system.stateName"] == "ONLINE")
