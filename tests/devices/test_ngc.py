"""The detector controller's driver: its command lines, its replies, what it makes of answers."""

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from hcam_devices.core import runs
from hcam_devices.core.device import Sample
from hcam_devices.core.process import Output, Programs
from hcam_devices.detector.sim import ALIAS, Simulator
from hcam_devices.devices import ngc
from hcam_devices.devices.ngc import DATABASE, FRAME, LIMIT, Controller
from hcam_devices.errors import NotAllowedError, ProtocolError

from .. import helpers
from ..detector.test_setup import COMMON, FULL, GOLDEN, IDLE, MINIMAL, ONE_QUAD, pairs
from ..helpers import offline, presented, reasons, sample_where, until

Answer = str | Output | Exception
Call = tuple[Any, ...]
STATE, SUBSTATE, CLOCKS, SEQUENCER, TIME, COUNTDOWN, STATUS, BASE, NEWEST = DATABASE
RUNNING: dict[str, Answer] = {SUBSTATE: "active", STATUS: "integrating"}
TABLE = "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: RAOFF, datatype: float64}\nRAOFF\n5.0\n"


def nok(said: str = "bad NOK", errors: str = "") -> Output:
    """Return what a program prints when it fails."""
    return Output.of(said.encode(), errors.encode(), 3)


class Fake(Programs):
    """Programs that answer from tables, in this process; ``begun`` is every command line."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.begun: list[list[str]] = []
        self.pauses: list[float] = []
        self.held: dict[str, asyncio.Event] = {}
        self.replies: dict[str, Answer] = {}
        values = ["ONLINE", "idle", "enabled", "running", "12.5", "2.500", "success"]
        self.database: dict[str, Answer] = dict(
            zip(DATABASE, [*values, f"{folder}/run", "run0012.fits"], strict=True)
        )
        self.told(frame=f"{FRAME} 7", limit=f"{LIMIT} 0")

    def told(self, frame: Answer = "", limit: Answer = "") -> None:
        """Choose what is told of the frames and of their limit."""
        self.replies |= {f"status {FRAME}": frame} if frame else {}
        self.replies |= {f"status {LIMIT}": limit} if limit else {}

    @property
    def given(self) -> list[list[str]]:
        """The command lines that are no questions."""
        return [argv for argv in self.begun if argv[0] != "dbRead" and argv[1] != "status"]

    @property
    def lines(self) -> list[str]:
        """What was given to ngcbCmd."""
        return [" ".join(argv[1:]) for argv in self.given]

    def _say(self, codec: Any, request: bytes, within: float) -> Any:
        name, *arguments = shlex.split(request.decode())
        said = self.replies.get(" ".join(arguments), "OK")
        if name == "dbRead":
            value = self.database[arguments[0].removeprefix(ALIAS)]
            said = f"{arguments[0]} = {value}" if isinstance(value, str) else value
        if isinstance(said, TimeoutError):
            raise TimeoutError(f"{name} did not end within {within:g} s")
        if isinstance(said, Exception):
            raise said
        return codec.reply(request, said if isinstance(said, Output) else Output(said.encode()))

    async def _answer(self, codec: Any, request: bytes, within: float) -> Any:
        self.begun.append(argv := shlex.split(request.decode()))
        if held := self.held.get(" ".join(argv[1:])):
            await held.wait()
        return self._say(codec, request, within)

    def ask_beside(self, codec: Any, ref: Any, within: float, then: Callable[[Any], None]) -> None:
        def ask() -> None:
            try:
                answer = self._say(codec, codec.request(ref), within)
            except Exception as error:  # noqa: BLE001  (as Programs does)
                answer = error
            then(answer)

        self.begun.append(list(ref))
        asyncio.get_running_loop().call_soon(ask)

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


class Clock(helpers.Clock):
    """A clock that also goes on whenever it is read, so that nothing is at the same time."""

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


class Desk:
    """A controller whose programs are fake."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.device = Controller("ngc", clock=self.clock)
        self.fake = self.device.link = Fake(folder)
        self.device.connection = "online"

    async def call(self, name: str, *args: Any, **named: Any) -> Any:
        """Call as the network does."""
        async with asyncio.timeout(helpers.AT_MOST):
            return await self.device.procedures()[name].call(*args, **named)

    async def poll(self, seconds: float = 2.0) -> Sample:
        """Let time go by, and return the next sample; what was asked beside is heard after it."""
        self.clock.now += seconds
        await self.device.poll()
        await asyncio.sleep(0)
        return self.device.snapshot()

    async def sample(self, changed: dict[str, Answer] | None = None) -> Sample:
        """Return a sample when everything has been read since the database has changed."""
        self.fake.database |= changed or {}
        await self.poll(60)
        return await self.poll()

    def hold(self, *lines: str) -> list[asyncio.Event]:
        """Let commands hang until they are let go."""
        self.fake.held = {line: asyncio.Event() for line in lines}
        return list(self.fake.held.values())

    async def begin(self, name: str, *args: Any) -> "asyncio.Task[Any]":
        """Call, and return when the next command line has begun."""
        before = len(self.fake.given)
        task = asyncio.create_task(self.call(name, *args))
        await until(lambda: len(self.fake.given) > before)
        return task


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def said(reply: Any) -> tuple[str, bool]:
    """Return message and success of a reply in either order, or of a bool."""
    match reply:
        case [str(message), bool(ok)] | [bool(ok), str(message)]:
            return message, ok
    return "", reply is True


# --- command lines and replies --------------------------------------------------------------

SIMPLE = {
    "online": "online", "standby": "standby", "offline": "off", "exit": "exit", "reset": "reset",
    "start": "start", "stop": "stop", "abort": "abort", "pon": "cldc 0 enable",
    "poff": "cldc 0 disable", "seq_start": "seq 0 start", "seq_stop": "seq 0 stop",
    "trigger": "seq trigger",
}  # fmt: skip
START = ["ngcdcsStartServer", "IRCAM1", "-port"]
STOP = ["ngcdcsStopServer", "IRCAM1"]
LINES: list[tuple[Call, list[str]]] = [
    *(((name,), ["ngcbCmd", line]) for name, line in SIMPLE.items()),
    (("setup", "DET.SPEED", 1), ["ngcbCmd", "setup", "DET.SPEED", "1"]),
    (("setup", "DET.CLRCCD", True), ["ngcbCmd", "setup", "DET.CLRCCD", "T"]),
    (("setup", "OBJECT", "$HOME; it's"), ["ngcbCmd", "setup", "OBJECT", "$HOME; it's"]),
    (("cmd", "seq 0 start"), ["ngcbCmd", "seq 0 start"]),
    (("cmd", "x", 1, 2.5, False, "a b"), ["ngcbCmd", "x", "1", "2.5", "F", "a b"]),
]


@pytest.mark.parametrize(("call", "argv"), LINES)
async def test_a_command_has_its_line_and_its_reply(desk: Desk, call: Call, argv: Any) -> None:
    desk.fake.replies = {" ".join(argv[1:]): " fine \n"}
    assert await desk.call(*call) == ["fine", True]
    assert desk.fake.given == [argv]


async def test_the_server_has_programs_of_its_own(desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.delenv("NGC_PORT", raising=False)
    assert await desk.call("start_ngc_server") is True
    monkeypatch.setenv("NGC_PORT", "9090")
    assert await desk.call("start_ngc_server", True) is True
    assert await desk.call("stop_ngc_server") is True
    assert desk.fake.given == [[*START, "8080"], [*START, "9090", "-gui"], STOP]
    assert desk.fake.pauses == [0.05] * 6


@pytest.mark.parametrize("mode", GOLDEN)
async def test_a_line_of_a_setup_is_one_argument_and_groups_have_pauses(
    desk: Desk, mode: str
) -> None:
    setup, lines = GOLDEN[mode]
    assert await desk.call("load_setup", setup) == [True, "All OK"]
    assert desk.fake.given == [["ngcbCmd", line] for line in lines.splitlines()]
    assert desk.fake.pauses == [0.1] * (5 if mode == "idle" else 4)


FAILURES: list[tuple[Answer, str]] = [
    (nok("what a pity NOK\n", "oh"), "what a pity NOK"),
    (nok("", "oh\n"), "oh"),
    (nok(""), "exit status 3 without a reason"),
    (ProtocolError("ngcbCmd was killed by signal 9"), "ngcbCmd was killed by signal 9"),
    (FileNotFoundError("ngcbCmd cannot be run"), "ngcbCmd cannot be run"),
    (TimeoutError(), "ngcbCmd did not end within 10 s; it may have been carried out"),
]


@pytest.mark.parametrize(("failure", "why"), FAILURES)
async def test_what_fails_is_told_in_the_reply(desk: Desk, failure: Answer, why: str) -> None:
    desk.fake.replies |= {"cldc 0 enable": failure, "seq stop": failure, "status": failure}
    assert await desk.call("pon") == [why, False]
    loaded = await desk.call("load_setup", IDLE)
    assert loaded == [False, f"seq stop failed: {why}. Applied before: nothing"]
    assert await desk.call("status") == [why.partition(";")[0], False]


@pytest.mark.parametrize("name", ["online", "reset", "start", "stop"])
async def test_what_takes_the_controller_long_has_a_minute(desk: Desk, name: str) -> None:
    desk.fake.replies[name] = TimeoutError()
    assert "within 60 s; it may" in said(await desk.call(name))[0]


@pytest.mark.parametrize(
    ("answer", "value", "ok"),
    [
        ("DET.SPEED 1", "1", True),
        ("DET.SPEED  HT  Cas ", "HT  Cas", True),
        ("DET.SPEED", "", True),
        ("DET.SPEED2 1", "unexpected answer to status DET.SPEED: 'DET.SPEED2 1'", False),
        ("", "unexpected answer to status DET.SPEED: ''", False),
        (nok("no such keyword NOK"), "no such keyword NOK", False),
    ],
)
async def test_a_status_is_that_of_no_other(desk: Desk, answer: Any, value: str, ok: bool) -> None:
    desk.fake.replies = {"status DET.SPEED": answer, "status": "ONLINE"}
    assert await desk.call("status", "DET.SPEED") == [value, ok]
    assert await desk.call("status") == ["ONLINE", True]
    assert desk.fake.begun == [["ngcbCmd", "status", "DET.SPEED"], ["ngcbCmd", "status"]]


@pytest.mark.parametrize("text", ["two\nlines", "\x00", "\x1b[2J", "\ud800"])
async def test_what_is_no_line_of_text_is_not_sent(desk: Desk, text: str) -> None:
    for call in (("cmd", text), ("cmd", "x", text), ("setup", "OBJECT", text), ("status", text)):
        message, ok = await desk.call(*call)
        assert "cannot be sent: it is not one line of text" in message
        assert ok is False
    assert desk.fake.begun == []


async def test_mistakes_of_the_caller_send_nothing(desk: Desk) -> None:
    wrong: list[Any] = ["Idle", {}, None, {"appdata": FULL | {"xbin": 3}}]
    for setup in [*wrong, COMMON | {"appdata": FULL, "user": {"PI": '"'}}]:
        message, ok = said(await desk.call("load_setup", setup))
        assert message
        assert ok is False
    calls: list[Call] = [("cmd", "x", float("nan")), ("setup", "X", [1]), ("add_hdu", TABLE, "5")]
    for call in calls:
        with pytest.raises(ValueError, match="validation error"):
            await desk.call(*call)
    assert desk.fake.begun == []


# --- telemetry ------------------------------------------------------------------------------


async def test_telemetry_has_numbers_under_the_names_that_clients_know(desk: Desk) -> None:
    desk.fake.told(limit=f"{LIMIT} 100")
    sample = await desk.sample()
    assert sample.pop("disk_free")["unit"] == "GB"
    assert {name: sample[name] for name in sample if name not in ("timestamp", "alarms")} == {
        "device": "ngc",
        "state": {"connection": "online"},
        **desk.fake.database,
        TIME: {"value": 12.5, "unit": "s"},
        COUNTDOWN: {"value": 2.5, "unit": "s"},
        "exposure.frame": 7,
        "run": 12,
        "frames_done": 7,
        "frames_expected": 100,
        "data_rate": {"value": 0.0, "unit": "MB / s"},
    }
    assert await desk.call("summary") == desk.fake.database


@pytest.mark.parametrize(
    "bad", ["ERR", "", nok("x = 5"), Output(b"ERR"), Output(b"no value"), Output(b"")]
)
async def test_what_the_database_does_not_say_is_null_and_why(desk: Desk, bad: Answer) -> None:
    for name, good in list(desk.fake.database.items()):
        sample = await desk.sample({name: bad})
        assert sample[name] is None
        assert reasons(sample, name)
        assert (await desk.call("summary")) == desk.fake.database | {name: "ERR"}
        assert not reasons(await desk.sample({name: good}), name)


@pytest.mark.parametrize("bad", ["soon", "nan", "1,5", "inf"])
async def test_a_bad_number_is_none_with_a_reason(desk: Desk, bad: str) -> None:
    desk.fake.told(frame=f"{FRAME} {bad}")
    sample = await desk.sample({TIME: bad})
    for field in (TIME, "frames_done", "exposure.frame"):
        assert sample[field] is None
        assert bad in reasons(sample, field)


@pytest.mark.parametrize(
    ("changed", "field", "value", "reason"),
    [
        ({STATUS: "integrating"}, "run", 13, ""),
        ({NEWEST: "/data/run0012_001.fits"}, "run", 12, ""),
        ({NEWEST: "/run0007/bias.fits"}, "run", None, "the number of the run is unknown"),
        ({STATUS: "dreaming"}, "run", None, "'dreaming'"),
        ({LIMIT: f"{LIMIT} 0"}, "frames_expected", None, ""),
        ({LIMIT: "DET.OTHER 5"}, "frames_expected", None, "unexpected answer"),
        ({LIMIT: nok()}, "frames_expected", None, "bad NOK"),
        ({LIMIT: TimeoutError()}, "frames_expected", None, "did not end within 10 s"),
        ({LIMIT: nok(), STATE: "STANDBY"}, "frames_expected", None, ""),
        ({STATE: "STANDBY"}, "frames_done", None, ""),
        ({SUBSTATE: "error"}, SUBSTATE, "error", "call reset"),
        ({SUBSTATE: nok()}, "data_rate", None, "it is unknown whether a run is active"),
        ({BASE: "run"}, "disk_free", None, "set data"),
        ({BASE: "/nowhere/run"}, "disk_free", None, "No such file"),
    ],
)
async def test_what_follows_from_answers_is_right_or_null(
    desk: Desk, changed: dict[str, Answer], field: str, value: Any, *, reason: str
) -> None:
    desk.fake.told(limit=changed.get(LIMIT, ""))
    sample = await desk.sample(changed)
    assert sample[field] == value
    assert reason in reasons(sample, field)
    assert bool(reason) == bool(reasons(sample, field))


async def test_the_data_rate_is_the_growth_of_the_file_over_half_a_minute(desk: Desk) -> None:
    file = desk.folder / "run0013.fits"
    file.write_bytes(b"x" * 1_000_000)
    sample = await desk.sample(RUNNING)
    for size in range(20):
        file.write_bytes(b"x" * 500_000 * (size + 3))
        sample = await desk.poll()
    assert sample["data_rate"]["value"] == pytest.approx(0.25, rel=1e-3)
    for _ in range(15):
        sample = await desk.poll()
    assert sample["data_rate"]["value"] == 0
    file.write_bytes(b"x")  # another one with that name
    sample = await desk.poll()
    assert sample["data_rate"] is None
    assert not reasons(sample, "data_rate")
    file.unlink()
    assert "check the setting data, the folder of the runs" in reasons(await desk.poll())
    desk.fake.told(frame=f"{FRAME} 0")  # no file is missed yet
    assert not reasons(await desk.sample(), "data_rate")
    sample = await desk.sample({STATUS: "dreaming"})
    assert sample["disk_free"]["value"] > 0


async def test_programs_are_started_only_for_what_can_have_changed(desk: Desk) -> None:
    async def polls(*seconds: float) -> list[tuple[int, int]]:
        counts = []
        for one in seconds:
            desk.fake.begun.clear()
            await desk.poll(one)
            names = [argv[0] for argv in desk.fake.begun]
            counts.append((names.count("dbRead"), names.count("ngcbCmd")))
        return counts

    assert await polls(2, 2, 2, 2) == [(9, 2), (9, 0), (2, 0), (2, 0)]
    assert await polls(31, 2) == [(9, 2), (2, 0)]
    desk.fake.database[SUBSTATE] = "active"
    assert await polls(2.1, 2.1, 2.1, 2.1) == [(9, 2), (2, 1), (1, 1), (2, 1)]
    desk.fake.told(frame=f"{FRAME} 2")  # another run began between two polls
    assert await polls(2, 2, 2) == [(1, 1), (9, 2), (1, 1)]
    desk.fake.told(frame="no server")  # so the state has to be asked for
    assert await polls(2, 2) == [(1, 1), (3, 1)]
    desk.fake.database |= {SUBSTATE: "idle", STATE: "STANDBY"}
    assert await polls(2, 2) == [(9, 0), (2, 0)]
    await desk.call("online")
    assert await polls(2, 2) == [(9, 0), (2, 0)]


async def test_a_run_whose_frame_waits_for_a_trigger_says_so_and_what_to_call(desk: Desk) -> None:
    def waits(sample: Sample) -> str:
        return reasons(sample, "frames_done")

    assert (await desk.call("setup", "DET.SEQ.TRIGGER", "T"))[1]
    desk.fake.told(frame=f"{FRAME} 0")
    await desk.sample({STATE: "ONLINE", SUBSTATE: "idle", CLOCKS: "enabled"})
    assert (await desk.call("start"))[1]
    desk.fake.database[SUBSTATE] = "active"
    assert not waits(await desk.poll(10)), "somebody may be about to dither"
    sample = await desk.poll(10)
    assert "frame 1 waits for a trigger" in waits(sample)
    assert "gtc.start_nodding" in waits(sample)
    assert "ngc.trigger" in waits(sample)

    assert (await desk.call("trigger"))[1]
    assert not waits(await desk.poll(60)), "it is exposing"
    desk.fake.told(frame=f"{FRAME} 1")
    await desk.poll()
    assert not waits(await desk.poll(10)), "the telescope may be moving"
    assert "frame 2 waits" in waits(await desk.poll(10))
    assert not waits(await desk.sample({SUBSTATE: "idle"}))
    desk.fake.told(frame=f"{FRAME} 0")
    assert (await desk.call("setup", "DET.SEQ.TRIGGER", "F"))[1]
    assert (await desk.call("start"))[1]
    await desk.sample({SUBSTATE: "active"})
    assert not waits(await desk.poll(60))


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        *((name,) for name in ("exit", "offline", "standby", "reset", "poff", "seq_stop")),
        ("stop_ngc_server",),
        ("load_setup", IDLE),
        ("cmd", "exit"),
        ("cmd", " EXIT"),
        ("cmd", "cldc 0 disable"),
        ("cmd", "cldc", 0, "disable"),
        ("cmd", "cldc  0 disable"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("substate", "confirm", "why"),
    [
        ("active", None, ""),
        ("active", True, ""),
        ("idle", False, ""),
        ("active", False, "a run is active, and this would end it"),
        (nok(), False, "it is unknown whether a run is active (bad NOK)"),
        (TimeoutError(), False, "unknown whether a run is active (dbRead did not end within 2 s)"),
    ],
)
async def test_people_are_asked_before_a_run_is_ended_and_programs_are_not(
    desk: Desk, call: Call, substate: Answer, confirm: bool | None, why: str
) -> None:
    desk.fake.database[SUBSTATE] = substate
    named: dict[str, Any] = {} if confirm is None else {"confirm": confirm}
    try:
        message, ok = said(await desk.call(*call, **named))
    except NotAllowedError as error:
        message, ok = str(error), False
    assert ok != bool(why), message
    assert bool(desk.fake.given) == ok
    if why:
        assert f"{why}; add confirm=true to do it anyway" in message


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({STATE: "LOADED"}, "the controller is LOADED; call online first"),
        ({SUBSTATE: "active"}, "one is active; call stop or abort first"),
        ({CLOCKS: "disabled"}, "the clock voltages are disabled; call pon first"),
        ({BASE: "/full/run"}, "0.99 GB of disk are free, and 1 GB are needed; delete files first"),
        ({STATE: nok(), SUBSTATE: nok(), CLOCKS: nok(), BASE: nok()}, ""),
        ({STATE: FileNotFoundError("dbRead cannot be run")}, ""),
    ],
)
async def test_a_run_is_started_unless_it_cannot_be(
    desk: Desk, changed: dict[str, Answer], why: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        runs, "look", lambda folder, _: (0.99 if "full" in str(folder) else 1, None)
    )
    await desk.sample({BASE: changed.get(BASE, "/data/run")})
    desk.fake.database |= changed
    reply = f"no run can be started: {why}" if why else "OK"
    assert await desk.call("start") == [reply, not why]
    assert desk.fake.lines == ([] if why else ["start"])


# --- setups ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2, 4, 7, 8])
async def test_a_setup_ends_at_what_fails_and_tells_what_was_done(desk: Desk, place: int) -> None:
    setup, golden = GOLDEN["full frame, dithering"]
    lines = golden.splitlines()
    desk.fake.replies[lines[place]] = nok()
    before = "; ".join(lines[:place]) or "nothing"
    told = f"{lines[place]} failed: bad NOK. Applied before: {before}"
    assert await desk.call("load_setup", setup) == [False, told]
    assert desk.fake.lines == lines[: place + 1]


FIRST = {"RADEG", "DECDEG", "LST", "M2UZ", "T_TUBE", "GTCPROG", "GTCPRGID", "GTCOBID", "OBSERVER"}
SECOND = {"RUNCOM", "FILTERS", "PI"}


@pytest.mark.parametrize(
    ("failing", "failure", "blanked"),
    [
        ("", "", FIRST | SECOND),
        ("setup RUNCOM", nok(), FIRST),
        ("setup RUNCOM", TimeoutError(), FIRST | SECOND),
        ("setup RADEG", nok(), set()),
        ("seq stop", TimeoutError(), set()),
    ],
)
async def test_what_a_setup_has_left_in_the_header_is_blanked_once_by_the_next(
    desk: Desk, failing: str, failure: Answer, blanked: set[str]
) -> None:
    good = dict(desk.fake.replies)
    if failing:
        lines = GOLDEN["drift"][1].splitlines()
        desk.fake.replies[next(line for line in lines if line.startswith(failing))] = failure
    assert said(await desk.call("load_setup", COMMON | {"appdata": FULL}))[1] is not bool(failing)
    desk.fake.replies = good
    for expected in (blanked, set()):
        desk.fake.begun.clear()
        assert await desk.call("load_setup", MINIMAL) == [True, "All OK"]
        sent = pairs(desk.fake.lines)
        assert {word for word, value in sent.items() if not value} == expected


@pytest.mark.parametrize("fails", [False, True])
async def test_a_server_that_was_started_has_an_empty_header(desk: Desk, fails: bool) -> None:
    await desk.call("load_setup", COMMON | {"appdata": FULL})
    if fails:
        desk.fake.replies["IRCAM1 -port 8080"] = nok("it runs already NOK")
    assert await desk.call("start_ngc_server") is not fails
    await desk.call("load_setup", MINIMAL)
    assert any('PI ""' in line for line in desk.fake.lines) is fails


@pytest.mark.parametrize("limit", [f"{LIMIT} 100", f"{LIMIT} 0", nok(), TimeoutError()])
async def test_an_endless_run_has_no_limit_that_an_earlier_one_left(
    desk: Desk, limit: Answer
) -> None:
    desk.fake.told(limit=limit)
    message, ok = said(await desk.call("load_setup", MINIMAL))
    left = limit == f"{LIMIT} 100"
    assert (ok, "was set to 0: check that" in message) == (True, left)
    assert pairs(desk.fake.lines).get(LIMIT) == ("0" if left else None)
    assert await desk.call("load_setup", COMMON | {"appdata": ONE_QUAD}) == [True, "All OK"]
    assert pairs(desk.fake.lines)[LIMIT] == "100"


async def test_nothing_comes_in_between_the_commands_of_a_setup(desk: Desk) -> None:
    lines = GOLDEN["idle"][1].splitlines()
    first, fourth, naming = desk.hold(lines[0], lines[3], "setup DET.FRAM.NAMING auto")
    loading = await desk.begin("load_setup", IDLE)
    calls: list[Call] = [("load_setup", MINIMAL), ("start",), ("cmd", "start"), ("pon",)]
    for call in calls:
        why = "load_setup is not finished; try again when it is"
        assert said(await desk.call(*call)) == (why, False)
    with pytest.raises(NotAllowedError, match="load_setup is not finished"):
        await desk.call("setup_ngc_server")
    aborting = asyncio.create_task(desk.call("abort"))  # that must not wait
    await asyncio.sleep(0)
    first.set()
    assert await aborting == ["OK", True]
    fourth.set()
    assert (await loading)[0] is True
    assert desk.fake.lines == [lines[0], "abort", *lines[1:]]
    assert await desk.call("start") == ["OK", True]
    server = await desk.begin("setup_ngc_server")
    assert "setup_ngc_server is not finished" in said(await desk.call("load_setup", MINIMAL))[0]
    naming.set()
    assert await server is True


# --- the controller's server ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "last"),
    [
        ("", None),
        ("bias.fits runaway.fits run0003.fits.part", None),
        ("run0002.fits run9999.fits run10000.fits", "run10000.fits"),
        ("run0011.fits run0012_001.fits run0012.fits", "run0012.fits"),
    ],
)
async def test_runs_are_counted_on_from_those_there(desk: Desk, files: str, last: Any) -> None:
    for name in files.split():
        (desk.folder / name).touch()
    assert await desk.call("setup_ngc_server") is True
    assert desk.fake.given == [
        ["ngcbCmd", "setup", "DET.SYSCFG", "hipercam_5ccd.cfg"],
        ["ngcbCmd", "setup", "DET.FRAM.NAMING", "auto"],
        ["ngcbCmd", "setup", "DET.FRAM.FILENAME", "run"],
        ["dbWrite", ALIAS + NEWEST, str(desk.folder / last) if last else "run0000.fits"],
    ]
    assert desk.fake.pauses == [0.05] * 8


@pytest.mark.parametrize(
    ("base", "reply", "why"),
    [
        ("/nowhere/run", "OK", "No such file or directory: '/nowhere'"),
        (nok("ERR"), "OK", "folder of the runs is unknown (base name 'ERR'): set data"),
        (TimeoutError(), "OK", "dbRead did not end within 2 s"),
        ("", nok(), "ngcbCmd setup DET.FRAM.NAMING auto: bad NOK"),
        ("", TimeoutError(), "within 60 s; it may have been carried out"),
    ],
)
async def test_a_server_that_is_not_set_up_is_an_alarm_until_it_is(
    desk: Desk, base: Answer, reply: Answer, why: str
) -> None:
    good = dict(desk.fake.database)
    desk.fake.database[BASE] = base or good[BASE]
    desk.fake.replies["setup DET.FRAM.NAMING auto"] = reply
    assert await desk.call("setup_ngc_server") is False
    assert len(desk.fake.given) == (0 if base else 2)
    told = reasons(desk.device.snapshot(), "setup_ngc_server")
    assert told.startswith("setup_ngc_server failed: ")
    assert why in told
    desk.fake.database, desk.fake.replies = good, {}
    assert await desk.call("setup_ngc_server") is True
    assert not reasons(desk.device.snapshot(), "setup_ngc_server")


# --- tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "changed", "why"),
    [
        (5, {}, ""),
        (5, RUNNING, ""),
        (5, {STATUS: "dreaming"}, ""),
        (13, RUNNING, "run 13 is still being written; add the table after it"),
        (5, {SUBSTATE: "active", STATUS: "dreaming"}, "the number of the run is unknown"),
        (5, {SUBSTATE: nok()}, "bad NOK"),
        (5, {SUBSTATE: TimeoutError()}, "dbRead did not end within 2 s"),
        (5, {BASE: nok()}, "the folder of the runs is unknown"),
        (6, {}, "there is no run0006.fits"),
        (0, {}, "0 is not the number of a run"),
    ],
)
async def test_a_table_is_appended_to_a_run_that_has_ended(
    desk: Desk, run: int, changed: dict[str, Answer], why: str
) -> None:
    file = desk.folder / "run0005.fits"
    fits.PrimaryHDU(np.ones((1, 4, 4), "i2")).writeto(file)
    before = file.read_bytes()
    desk.fake.database |= changed
    message, ok = await desk.call("add_hdu", TABLE, run)
    assert (why or "1 row appended to run0005.fits") in message
    assert ok is (not why)
    assert (file.read_bytes() != before) is ok


async def test_what_is_no_table_is_not_appended(desk: Desk) -> None:
    message, ok = await desk.call("add_hdu", "no table", 5)
    assert "table" in message
    assert ok is False


# --- programs that hang, or are not there ---------------------------------------------------


async def test_while_a_command_hangs_there_is_telemetry_but_no_other_command(desk: Desk) -> None:
    [enabling] = desk.hold("cldc 0 enable")
    first = await desk.begin("pon")
    second = asyncio.create_task(desk.call("seq_start"))
    sample = await desk.sample()
    assert (sample[TIME]["value"], sample["frames_done"]) == (12.5, 7)
    assert desk.fake.lines == ["cldc 0 enable"]
    desk.fake.replies["cldc 0 enable"] = TimeoutError()
    enabling.set()
    late = "ngcbCmd did not end within 10 s; it may have been carried out"
    assert await first == [late, False]
    assert await second == ["OK", True]
    await desk.sample()
    assert desk.fake.lines == ["cldc 0 enable", "seq 0 start"]


async def test_a_true_program_that_hangs_is_given_up_and_not_run_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    simulator, asked = Simulator(), []
    simulator.folder, answer = tmp_path, simulator.answer

    def noted(frame: bytes) -> bytes:
        asked.append(frame)
        return answer(frame)

    monkeypatch.setattr(simulator, "answer", noted)
    entry = helpers.ENTRIES["ngc"]
    async with presented(entry, simulator, timeout=helpers.AT_MOST) as device:
        call = {name: one.call for name, one in device.procedures().items()}
        assert await call["start_ngc_server"]() is True
        assert (await call["online"]())[1] is True
        monkeypatch.setattr(ngc, "USUAL_S", 0.3)
        simulator.simulate("hang", program="ngcbCmd")
        late = "ngcbCmd did not end within 0.3 s"
        assert await call["pon"]() == [f"{late}; it may have been carried out", False]
        await sample_where(device, lambda one: one[CLOCKS] == "enabled")  # it has been
        await sample_where(device, lambda one: late in reasons(one, "frames_done"))
        monkeypatch.setattr(ngc, "USUAL_S", helpers.AT_MOST)
        simulator.simulate("clear")
        assert await call["seq_start"]() == ["OK", True]
        await sample_where(device, lambda one: one["frames_done"] == 0)
    assert [frame for frame in asked if b"cldc 0" in frame] == [b"ngcbCmd 'cldc 0 enable'"]


async def test_without_its_programs_it_is_offline_and_says_so(tmp_path: Path) -> None:
    device = Controller("ngc", folder=str(tmp_path), poll_every=0.02)
    async with helpers.living(device):
        sample = await sample_where(device, offline)
        assert f"{tmp_path}/dbRead cannot be run: No such file" in reasons(sample, "connection")
        for reply in (await device.pon(), await device.start(), await device.status()):
            assert "ngcbCmd cannot be run" in said(reply)[0]
        assert await device.summary() == dict.fromkeys(DATABASE, "ERR")
        assert await device.stop_ngc_server() is False
        sample = await sample_where(device, offline)
        assert "ngcdcsStopServer cannot be run" in reasons(sample, "stop_ngc_server")
