"""ESO NGC, the detector controller, through the command-line programs of its software.

    $ ngcbCmd "cldc 0 enable"       a command; exit status 0, and the reply on standard output,
    $ ngcbCmd start                 or another status, and the reason
    $ ngcbCmd status DET.FRAM2.NO
    DET.FRAM2.NO 12                 the keyword and its value, which may contain blanks
    $ dbRead "<alias>ngcircon_ircam1:exposure.expStatusName"
    ... = integrating               the value follows the last =
    $ dbWrite "<alias>ngcircon_ircam1:exposure.newDataFileName" run0012.fits
    $ ngcdcsStartServer IRCAM1 -port 8080
    $ ngcdcsStopServer IRCAM1

States: OFF (its server is not running), LOADED, STANDBY, ONLINE (the hardware is connected).

Sources: the predecessor, and ESO's manual VLT-MAN-ESO-13660-4086. The manual of the infrared
branch, which HiPERCAM uses, was not available, so it is uncertain that DET.FRAM2.BREAK 0 means no
limit.
"""

import re
import shlex
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar, NamedTuple

from ..core import (
    LINK_LOST,
    Alarm,
    Device,
    NotAllowedError,
    Readback,
    RefusedError,
    Value,
    rpc,
    runs,
)
from ..core.process import Output, Programs
from ..detector import setup as setups
from ..detector import tables
from ..detector.sim import ALIAS, Simulator  # noqa: F401  (Device finds it by its name)

STATE, SUBSTATE, CLOCKS = "system.stateName", "system.subStateName", "cldc_0.statusName"
COUNTDOWN, STATUS = "exposure.countDown", "exposure.expStatusName"
BASE, NEWEST = "exposure.baseName", "exposure.newDataFileName"
SEQUENCER, TIME = "seq_0.statusName", "exposure.time"
DATABASE = (STATE, SUBSTATE, CLOCKS, SEQUENCER, TIME, COUNTDOWN, STATUS, BASE, NEWEST)
ALWAYS = (STATE, SUBSTATE)
FRAME, LIMIT, TRIGGER = "DET.FRAM2.NO", "DET.FRAM2.BREAK", "DET.SEQ.TRIGGER"
DISK = "disk"

FINISHED = ("success", "aborted", "inactive", "failure")
MAX_AGE_S = 30.0
"""Values that do not change by themselves are read again after this time."""
MAX_COUNTDOWN_AGE_S = 6.0
USUAL_S, SLOW_S = 10.0, 60.0
"""Timeouts of a command."""
TAKE_LONG = {"online", "standby", "off", "exit", "reset", "start", "stop", "abort", "acqproc"}
SERVER_PAUSE_S, SETUP_PAUSE_S = 0.05, 0.1
ENDS_A_RUN = ("exit", "off", "standby", "reset", "cldc 0 disable", "seq stop", "seq 0 stop")
ANY_TIME = (*ENDS_A_RUN, "stop", "abort")
"""The commands that are also carried out while a setup is being loaded."""
MIN_SPACE_GB = 1.0
"""No run is started with less free space."""
MAX_UNTRIGGERED_S = 15.0
"""A run that waits longer for a trigger raises a warning."""
RATE_LOOKS = 15
"""The data rate is the mean over this many looks at the file."""


class Codec:
    """The command lines of the programs, and the parser of their output."""

    def request(self, ref: Iterable[str], value: None = None) -> bytes:
        """Return the command line of a program. Raises ValueError unless it is one line of text."""
        line = shlex.join(ref)
        if not line.isprintable():
            raise ValueError(f"{line[:80]!r} cannot be sent: it is not one line of text")
        return line.encode()

    def reply(self, request: bytes, frame: bytes) -> str:
        """Return the reply of a command, or a value of the database. Raises RefusedError."""
        said = frame.decode("utf-8", "replace").strip()
        if isinstance(frame, Output) and frame.status:
            errors = frame.errors.decode("utf-8", "replace").strip()
            raise RefusedError(said or errors or f"exit status {frame.status} without a reason")
        if request.startswith(b"dbRead "):
            _, equals, value = said.rpartition("=")
            if not equals or (value := value.strip()) in ("", "ERR"):
                raise RefusedError(f"the database has no value: it answered {said[:200]!r}")
            return value
        return said


def database(name: str) -> tuple[str, str]:
    """Return the command line that reads an attribute."""
    return "dbRead", ALIAS + name


def attribute(ref: str, doc: str, kind: Any = str, unit: str = "", name: str = "") -> Any:
    """Return the readback of an attribute or keyword, by default under its own name."""
    return Readback(unit=unit, ref=ref, kind=kind, name=name or ref, doc=doc)


def command(line: str, doc: str, label: str = "") -> Any:
    """Return a procedure that gives one command; one that ends a run takes ``confirm``."""

    async def give(self: Any) -> list[Any]:
        return list(await self._reply(line))

    async def end(self: Any, *, confirm: bool | None = None) -> list[Any]:
        return list(await self._reply(line, confirm=confirm))

    procedure = end if line in ENDS_A_RUN else give
    procedure.__doc__ = doc
    return rpc(label=label)(procedure)


class Known(NamedTuple):
    """The last answer to a question, or the error instead of one, and its time."""

    at: float
    answer: Any


class Controller(Device):
    """The controller of the detectors.

    Its procedures return what deployed programs expect: a message and whether the command was
    carried out; ``load_setup`` returns them in the opposite order. A command that would end an
    active run is refused with ``confirm`` false, which ``hcam``, the panel and the client send
    until a person confirms; deployed programs leave it out, and are not asked.

    While ``load_setup`` or ``setup_ngc_server`` sends its commands, all other commands are refused
    unless they end a run. So no run starts with half of a setup, or a mixture of two.
    """

    link_type: ClassVar[Any] = Programs
    codec = Codec()

    data: str = ""
    """The folder of the runs; by default that in the base name of the controller."""

    state = attribute(
        STATE, "State of the controller: OFF, LOADED, STANDBY or ONLINE (hardware connected)."
    )
    substate = attribute(
        SUBSTATE, "What the controller does: idle, active (a run is going on) or error."
    )
    clocks = attribute(CLOCKS, "Whether the clock voltages are enabled (powered on) or disabled.")
    sequencer = attribute(SEQUENCER, "Whether the sequencer is idle or running.")
    time = attribute(TIME, "Duration of the whole run.", float, "s")
    countdown = attribute(COUNTDOWN, "Time left until the end of the run.", float, "s")
    status_name = attribute(STATUS, "How the last run ended, or integrating while one goes on.")
    base_name = attribute(BASE, "Folder of the runs, and the beginning of their file names.")
    newest = attribute(NEWEST, "Name of the file that was written last.")
    frame = attribute(
        FRAME, "Number of frames of the run, by the deployed name.", int, name="exposure.frame"
    )
    run_number = attribute(
        NEWEST, "Number of the run that is going on, or of the last one.", int, name="run"
    )
    frames_done = Readback(ref=FRAME, kind=int, doc="Frames of the run so far.")
    frames_expected = Readback(
        ref=LIMIT, kind=int, doc="Frames after which the run ends; null if it is endless."
    )
    data_rate = Readback(
        unit="MB / s",
        ref=DISK,
        doc="Growth of the run's file, mean over half a minute.",
    )
    disk_free = Readback(
        unit="GB",
        ref=DISK,
        healthy=(10, float("inf")),
        advice="Move old runs from the disk of the runs to another one, before the next long run. "
        "Below 1 GB no run is started.",
        doc="Free space on the disk of the runs; below 1 GB no run is started.",
    )

    def __init__(self, name: str, *, look: runs.Look | None = None, **settings: Any) -> None:
        super().__init__(name, **settings)
        self._look = look
        self._known: dict[str, Known] = {}
        self._asking: set[str] = set()
        self._changed = 0.0
        self._sizes: deque[tuple[float, int]] = deque(maxlen=RATE_LOOKS)
        self._together = ""  # the procedure that is sending commands that belong together
        self._triggered = False  # whether frames wait for triggers, as set by this program
        self._triggers = 0  # sent since the start of the run
        self._frame_at = 0.0  # the time of the last frame, trigger or start
        self._header: set[str] = set()  # the keywords that are in the header now

    # --- telemetry --------------------------------------------------------------------------

    async def on_connect(self) -> None:
        """Forget all answers, so that everything is read again."""
        self._known.clear()
        self._asking.clear()
        self._sizes.clear()

    async def poll(self) -> None:
        """Read the values that may have changed."""
        before = [self._said(name) for name in ALWAYS]
        due = [name for name in DATABASE if self._due(name)]
        await self._refresh(due)
        if before != [self._said(name) for name in ALWAYS]:
            self._changed = self.clock()
            await self._refresh(name for name in DATABASE if name not in due)
        self._ask_frames()
        if self._due(DISK):
            await self._look_at_disk()
        await super().poll()

    async def _refresh(self, names: Iterable[str]) -> None:
        asked = list(names)
        answers = await self.link.ask_all(self.codec, map(database, asked))
        now = self.clock()
        self._known |= {
            name: Known(now, answer) for name, answer in zip(asked, answers, strict=True)
        }

    def _due(self, name: str) -> bool:
        """Return whether a value must be read again, which starts a program."""
        known = self._known.get(name)
        if known is None or known.at <= self._changed:
            return True
        age = MAX_AGE_S
        hung = name == DISK and isinstance(known.answer, TimeoutError)
        if name == STATE and self.active and isinstance(self._answer(FRAME), int):
            pass  # only a controller that is ONLINE reports the frame
        elif name in ALWAYS or (self.active and name in (FRAME, DISK) and not hung):
            age = 0.0
        elif self.active and name == COUNTDOWN:
            age = MAX_COUNTDOWN_AGE_S
        return not 0 <= self.clock() - known.at < age

    def _answer(self, name: str) -> Any:
        """Return the last answer, or the error instead of one; None if it was never asked."""
        known = self._known.get(name)
        return known and known.answer

    def _said(self, name: str) -> str:
        """Return the last answer of the database, or the text of its error."""
        return str(self._answer(name) or "")

    @property
    def active(self) -> bool:
        """Whether a run is active, according to the last answer."""
        return self._said(SUBSTATE) == "active"

    def _ask_frames(self) -> None:
        """Ask the server for frame numbers without waiting, because it may be busy."""
        if self._said(STATE) != "ONLINE":
            self._known.pop(FRAME, None)
            self._known.pop(LIMIT, None)
            return
        for key in (FRAME, LIMIT):
            if key not in self._asking and self._due(key):
                question = ("ngcbCmd", "status", key)
                self.link.ask_beside(self.codec, question, USUAL_S, partial(self._hear, key))
                self._asking.add(key)

    def _hear(self, key: str, answer: Any) -> None:
        self._asking.discard(key)
        if not isinstance(answer, Exception):
            try:
                answer = int(value_of(key, answer))
            except (RefusedError, ValueError) as error:
                answer = error
        before = self._answer(key)
        self._known[key] = Known(self.clock(), answer)
        counted = type(before) is type(answer) is int
        if key == FRAME and counted and answer != before:
            self._frame_at = self.clock()
            if answer < before:
                self._changed = self.clock()  # another run began between two polls

    async def _look_at_disk(self) -> None:
        answer: Any
        try:
            folder = self._folder()
            file = None
            if self.active:
                with suppress(RefusedError):  # the field ``run`` has the reason
                    file = folder / runs.file_name(self._run())
            answer = await self.link.in_thread(
                runs.place_of(folder),
                self._look or runs.look,
                folder,
                file,
                within=self.link.timeout,
            )
        except (OSError, RefusedError) as error:
            answer = error
        now = self.clock()
        self._known[DISK] = Known(now, answer)
        if isinstance(answer, tuple) and answer[1] is not None:
            if self._sizes and answer[1] < self._sizes[-1][1]:
                self._sizes.clear()
            self._sizes.append((now, answer[1]))
        else:
            self._sizes.clear()

    async def read(self, field: Readback) -> Value | None:
        """Return a value from the last answers."""
        if field.ref in (FRAME, LIMIT) and self._said(STATE) != "ONLINE":
            return None
        if (known := self._known.get(field.ref)) is None:
            return None  # it is being asked
        if isinstance(known.answer, Exception):
            raise RefusedError(str(known.answer))
        match field.name:
            case "run":
                return self._run()
            case "frames_expected":
                return known.answer or None
            case "disk_free":
                return float(known.answer[0])
            case "data_rate":
                return self._rate(known.answer[1])
        return field.kind(known.answer)

    def _run(self) -> int:
        """Return the number of the active run, or of the last one. Raises RefusedError.

        The newest file is that of the last finished run.
        """
        number = runs.number_of(self._said(NEWEST))
        how = self._said(STATUS)
        if number is None or how not in (*FINISHED, "integrating"):
            raise RefusedError(
                f"the number of the run is unknown: file {self._said(NEWEST)!r}, status {how!r}"
            )
        return number + (how == "integrating")

    def _rate(self, size: int | None) -> float | None:
        if isinstance(self._answer(SUBSTATE), Exception):
            raise RefusedError(f"it is unknown whether a run is active: {self._said(SUBSTATE)}")
        if not self.active:
            return 0.0
        frames = self._answer(FRAME)
        if size is None and isinstance(frames, int) and frames > 0:
            raise RefusedError(
                f"{runs.file_name(self._run())} is not in {self._folder()}: "
                "check the setting data, the folder of the runs"
            )
        if len(self._sizes) < 2:
            return None
        (start, first), (end, last) = self._sizes[0], self._sizes[-1]
        return (last - first) / 1e6 / max(end - start, 1e-9)

    def _folder(self) -> runs.Folder:
        if self.data:
            return runs.folder_of(self.data)
        folder = self._said(BASE).rpartition("/")[0]
        if not folder.startswith("/"):
            raise RefusedError(
                f"the folder of the runs is unknown (base name {self._said(BASE)!r}): set data"
            )
        return runs.folder_of(folder)

    advice: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("start_ngc_server", "stop_ngc_server", "setup_ngc_server"),
            "Read the reason, look whether the controller has power, and try the command again. "
            "After the second failure, call support.",
        ),
        SUBSTATE: "Stop the run, read the controller's log, then hcam call {device}.reset. If the "
        "error comes again, call support. The CCDs stay cold.",
        "frames_done": "Start the dithering (gtc.start_nodding), or trigger a frame by hand: hcam "
        "call {device}.trigger. hcam call {device}.stop ends the run.",
    }

    def notices(self) -> Iterator[Alarm]:
        """Return alarms for an error of the controller, and for a run that waits for a trigger."""
        if self.connection == "online" and self._said(SUBSTATE) == "error":
            reason = "the controller reports an error: read its log, then call reset"
            yield Alarm(SUBSTATE, "ERR", reason)
        frames = self._answer(FRAME)
        waits = self._triggered and self.active and frames == self._triggers
        if waits and self.clock() - self._frame_at > MAX_UNTRIGGERED_S:
            reason = (
                f"frame {frames + 1} waits for a trigger: call gtc.start_nodding (after "
                f"gtc.load_nod_pattern) to dither, or {self.name}.trigger for one frame"
            )
            yield Alarm("frames_done", "WARN", reason)

    # --- commands ---------------------------------------------------------------------------

    async def _do(self, *program: str, within: float = 0.0) -> str:
        """Run a program in its turn. Raises as ``Programs.command``."""
        slow = bool(TAKE_LONG & set(program[1].split()[:1]))
        line = " ".join(" ".join(program[1:]).split())
        try:
            said = await self.link.command(
                self.codec, program, within or (SLOW_S if slow else USUAL_S)
            )
        except TimeoutError as error:
            self._note(line)
            raise TimeoutError(f"{error}; it may have been carried out") from None
        self._note(line)
        return str(said)

    def _note(self, line: str) -> None:
        """Note a command about triggers that was, or may have been, carried out."""
        if value := re.search(rf"\b{re.escape(TRIGGER)} (\w)", line):
            self._triggered = value[1] == "T"
        if line in ("start", "seq trigger"):
            self._triggers = self._triggers + 1 if line == "seq trigger" else 0
            self._frame_at = self.clock()

    def _read_all(self) -> None:
        """Read all values again at once."""
        self._changed = self.clock()
        self.poll_now()

    async def _reply(self, *arguments: str, confirm: bool | None = None) -> list[Any]:
        """Send a command; return the reply and whether it was carried out."""
        line = " ".join(" ".join(arguments).lower().split())
        try:
            if not line.startswith(ANY_TIME):
                self._require_nothing_together()
            if line.startswith(ENDS_A_RUN) and confirm is False:
                await self._ask_not_to_end_a_run()
            return [await self._do("ngcbCmd", *arguments), True]
        except (NotAllowedError, RefusedError, ValueError, *LINK_LOST) as error:
            return [str(error) or type(error).__name__, False]
        finally:
            self._read_all()

    def _require_nothing_together(self) -> None:
        """Raise NotAllowedError while commands that belong together are being sent."""
        if self._together:
            raise NotAllowedError(f"{self._together} is not finished; try again when it is")

    @contextmanager
    def _giving_together(self, what: str) -> Iterator[None]:
        """Refuse other commands within the context. Raises NotAllowedError if it is already so."""
        self._require_nothing_together()
        self._together = what
        try:
            yield
        finally:
            self._together = ""
            self._read_all()

    async def _ask_not_to_end_a_run(self) -> None:
        """Raise NotAllowedError if a run is active, or if that is unknown."""
        try:
            if await self.ask(database(SUBSTATE)) != "active":
                return
            why = "a run is active, and this would end it"
        except (RefusedError, *LINK_LOST) as error:
            why = f"it is unknown whether a run is active ({error})"
        raise NotAllowedError(f"{why}; add confirm=true to do it anyway")

    online = command("online", "Connect the hardware and reset it: state ONLINE.")
    standby = command("standby", "Disconnect the hardware; the sub-processes stay: state STANDBY.")
    offline = command("off", "Disconnect the hardware and end the sub-processes: state LOADED.")
    exit = command(
        "exit",
        "End the controller's server: state OFF; only start_ngc_server leads back.",
        "End server",
    )
    reset = command("reset", "Reset the front end of the controller.", "Reset front end")
    pon = command("cldc 0 enable", "Enable the clock voltages.", "Power clocks on")
    poff = command("cldc 0 disable", "Disable the clock voltages.", "Power clocks off")
    seq_start = command("seq 0 start", "Start the sequencer.", "Start sequencer")
    seq_stop = command("seq 0 stop", "Stop the sequencer.", "Stop sequencer")
    trigger = command("seq trigger", "Let the next frame begin, in a run that waits for it.")
    stop = command("stop", "End the run.", "Stop run")
    abort = command("abort", "Break the run off.", "Abort run")

    @rpc(label="Start run")
    async def start(self) -> list[Any]:
        """Start a run."""
        if why := await self._why_no_run():
            return [why, False]
        return await self._reply("start")

    @rpc(audience="engineer", label="Send command")
    async def cmd(
        self, cmd: str, *args: str | int | float | bool, confirm: bool | None = None
    ) -> list[Any]:
        """Send any command with arguments to the controller."""
        return await self._reply(cmd, *map(text_of, args), confirm=confirm)

    @rpc(audience="engineer", label="Set keyword")
    async def setup(self, param_name: str, value: str | int | float | bool) -> list[Any]:
        """Set a keyword of the controller."""
        return await self._reply("setup", param_name, text_of(value))

    async def _ask_server(self, *question: str) -> str:
        """Ask the server, which, unlike the database, may be busy with a command."""
        answer = await self.link.ask(self.codec, ("ngcbCmd", *question), within=USUAL_S)
        return str(answer)

    @rpc(read_only=True)
    async def status(self, param_name: str | None = None) -> list[Any]:
        """Return the state of the controller, or the value of a keyword."""
        question = ("status",) if param_name is None else ("status", param_name)
        try:
            said = await self._ask_server(*question)
            return [said if param_name is None else value_of(param_name, said), True]
        except (RefusedError, ValueError, *LINK_LOST) as error:
            return [str(error), False]

    @rpc(read_only=True)
    async def summary(self) -> dict[str, str]:
        """Return nine attributes of the database as texts; ERR for one without a value."""
        try:
            answers = await self.link.ask_all(self.codec, map(database, DATABASE))
        except LINK_LOST as error:
            answers = [error] * len(DATABASE)
        return {
            name: "ERR" if isinstance(answer, Exception) else answer
            for name, answer in zip(DATABASE, answers, strict=True)
        }

    async def _why_no_run(self) -> str:
        """Return why a run cannot be started; empty if it can, or if that is unknown."""
        wanted = (STATE, SUBSTATE, CLOCKS)
        try:
            state, substate, clocks = await self.link.ask_all(self.codec, map(database, wanted))
        except LINK_LOST:
            return ""
        disk = self._answer(DISK)
        free = disk[0] if isinstance(disk, tuple) else MIN_SPACE_GB
        if isinstance(state, str) and state != "ONLINE":
            first = "start_ngc_server, then online" if state == "OFF" else "online first"
            return f"no run can be started: the controller is {state}; call {first}"
        if substate == "active":
            return "no run can be started: one is active; call stop or abort first"
        if clocks == "disabled":
            return "no run can be started: the clock voltages are disabled; call pon first"
        if free < MIN_SPACE_GB:
            return (
                f"no run can be started: {free:.2f} GB of disk are free, and {MIN_SPACE_GB:g} GB "
                "are needed; delete files first"
            )
        return ""

    # --- the server of the controller -------------------------------------------------------

    @rpc(label="Start server")
    async def start_ngc_server(self, gui: bool | int = False) -> bool:
        """Start the controller's server: state LOADED; ``gui``: with its own panel."""
        port = self.link.variable("NGC_PORT", "8080")
        panel = ("-gui",) if gui else ()
        start = ("ngcdcsStartServer", "IRCAM1", "-port", port, *panel)
        if started := await self._all("start_ngc_server", [start]):
            self._header.clear()
        return started

    @rpc(label="Stop server")
    async def stop_ngc_server(self, *, confirm: bool | None = None) -> bool:
        """Stop the controller's server: state OFF."""
        if confirm is False:
            await self._ask_not_to_end_a_run()
        return await self._all("stop_ngc_server", [("ngcdcsStopServer", "IRCAM1")])

    @rpc(label="Set up server")
    async def setup_ngc_server(self) -> bool:
        """Set up the server for HiPERCAM, and continue the run numbers of the existing files."""
        with self._giving_together("setup_ngc_server"):
            return await self._setup_server()

    async def _setup_server(self) -> bool:
        try:
            await self._refresh([BASE])
            folder = self._folder()
            place = runs.place_of(folder)
            last = await self.link.in_thread(place, runs.newest, folder, within=USUAL_S)
        except (RefusedError, *LINK_LOST) as error:
            return self._failed("setup_ngc_server", str(error))
        commands = [
            ("ngcbCmd", "setup", "DET.SYSCFG", "hipercam_5ccd.cfg"),
            ("ngcbCmd", "setup", "DET.FRAM.NAMING", "auto"),
            ("ngcbCmd", "setup", "DET.FRAM.FILENAME", "run"),
            ("dbWrite", ALIAS + NEWEST, last),
        ]
        return await self._all("setup_ngc_server", commands)

    async def _all(self, what: str, commands: list[tuple[str, ...]]) -> bool:
        """Send commands until one fails, which is an alarm until the next success."""
        for command in commands:
            try:
                await self.link.pause(SERVER_PAUSE_S)
                await self._do(*command, within=SLOW_S)
                await self.link.pause(SERVER_PAUSE_S)
            except (RefusedError, ValueError, *LINK_LOST) as error:
                return self._failed(what, f"{' '.join(command)}: {error}")
        self.refused.pop(what, None)
        self._read_all()
        return True

    def _failed(self, what: str, reason: str) -> bool:
        self.refused[what] = Alarm(what, "ERR", f"{what} failed: {reason}")
        self._read_all()
        return False

    # --- runs -------------------------------------------------------------------------------

    @rpc()
    async def load_setup(self, data: Any, *, confirm: bool | None = None) -> list[Any]:
        """Prepare the next run and end an active one; return whether it was done, and a message."""
        try:
            run = setups.read(data)
            if confirm is False:
                await self._ask_not_to_end_a_run()
            with self._giving_together("load_setup"):
                return await self._load(run)
        except (NotAllowedError, ValueError) as error:
            return [False, str(error)]

    async def _load(self, run: setups.Run) -> list[Any]:
        done: list[str] = []
        sent = set(self._header)
        if run.numexp == 0 and await self._limited():
            sent.add(LIMIT)
        for line in run.commands(sent):
            given = header(line)
            kept = {keyword for keyword, value in given.items() if value != '""'}
            try:
                if done and not (given and header(done[-1])):
                    await self.link.pause(SETUP_PAUSE_S)
                await self._do("ngcbCmd", line)
            except (RefusedError, ValueError, *LINK_LOST) as error:
                if not isinstance(error, RefusedError):
                    self._header |= kept  # it may have been carried out
                applied = "; ".join(done) or "nothing"
                return [False, f"{line} failed: {error}. Applied before: {applied}"]
            done.append(line)
            self._header = self._header - given.keys() | kept
        if LIMIT not in sent or run.numexp:
            return [True, "All OK"]
        return [True, f"All OK; {LIMIT} was set to 0: check that the run continues without a limit"]

    async def _limited(self) -> bool:
        """Return whether an earlier setup has left a limit of frames; False if unknown."""
        try:
            return value_of(LIMIT, await self._ask_server("status", LIMIT)) not in ("", "0")
        except (RefusedError, *LINK_LOST):
            return False

    @rpc(audience="program")
    async def add_hdu(self, table_data: str, run_number: int) -> list[Any]:
        """Append a table (ECSV) to a finished run; return a message and whether it was added."""
        try:
            active = await self.ask(database(SUBSTATE)) == "active"
            await self._refresh((STATUS, BASE, NEWEST))
            if active and self._run() == run_number:
                return [f"run {run_number} is still being written; add the table after it", False]
            folder = self._folder()
            # in another thread than the looks, because it may take long
            place = f"{runs.place_of(folder)} (appending a table)"
            work = tables.append, folder, run_number, table_data
            try:
                return [await self.link.in_thread(place, *work, within=SLOW_S), True]
            except TimeoutError as error:
                return [f"{error}; add the table again later: it will not be added twice", False]
        except (RefusedError, ValueError, *LINK_LOST) as error:
            return [str(error) or type(error).__name__, False]


def header(line: str) -> dict[str, str]:
    """Return the header keywords that a command sets, and their values as written in it."""
    if not line.startswith("setup ") or line.startswith("setup DET."):
        return {}
    return dict(re.findall(r'(\S+) ("[^"]*"|\S+)', line.removeprefix("setup ")))


def text_of(value: str | int | float | bool) -> str:
    """Return an argument as the controller reads it; true and false are T and F."""
    return "FT"[value] if isinstance(value, bool) else str(value)


def value_of(key: str, said: str) -> str:
    """Return the value in the answer to ``status KEY``. Raises RefusedError for another key."""
    name, _, value = said.partition(" ")
    if name != key:
        raise RefusedError(f"unexpected answer to status {key}: {said[:200]!r}")
    return value.strip()
