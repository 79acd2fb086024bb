r"""A simulated detector controller with its five programs: states, setups, runs, FITS files.

    $ ngcbCmd "setup DET.SEQ1.DIT 2.5 OBJECT \"HT Cas\""     a whole line as one argument, or
    $ ngcbCmd status DET.FRAM2.NO                            word by word
    DET.FRAM2.NO 12
    $ ngcbCmd start
    the clocks are disabled NOK                              exit status 1
    $ dbRead "<alias>ngcircon_ircam1:system.stateName"
    system.stateName = ONLINE

Runs are ``run0001.fits`` and so on in ``data``: a primary header with every keyword that was set,
and a cube of 16-bit frames of 48 x 30 pixels, much smaller than real ones; each pixel is the number
of its frame. The file is valid at any time. ``exposures.jsonl`` beside ``data`` has a line for each
frame that was written, with the start and end of its exposure in Unix time.

Where the behaviour of the real controller is unknown, the simulator does this: it refuses a trigger
while no frame waits for one; ``stop`` ends a run at once and keeps the written frames; ``abort``
keeps the file; ``setup`` of a keyword that no program uses is refused.
"""

import asyncio
import json
import re
import shlex
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from ..core import runs
from ..core.fields import Range
from ..core.link import Until
from ..core.sim import Beyond, Rehearsal, printed
from ..core.sim import Simulator as Base
from .readout import Timing, timing

ALIAS = "<alias>ngcircon_ircam1:"
DETECTOR = re.compile(
    r"DET\.(SYSCFG|RESTRICT|SPEED|BIN[XY]1|CLRCCD|NCLRS|DUMMY|FASTCLK|EXPLED|GPS|INCPRSCX|INCOVSCY"
    r"|NSKIPS[1-5]|SEQ\.(CLKFILE|TRIGGER)|SEQ[1-5]\.DIT|TDELAY\.GUI|READ\.CURID|NDIT"
    r"|FRAM\.(NAMING|FILENAME)|FRAM2\.BREAK|WIN[12]\.(N[XY]|XS[EFGH]|XS[LU][LR]|YS|YS\.GUI)"
    r"|DRWIN\.(N[XY]|XS[EFGHLR]|YS|YS\.GUI))"
)
HEADER = re.compile(r"(?!SIMPLE|BITPIX|NAXIS|EXTEND|END$)[A-Z0-9_-]{1,8}")
TEXT = re.compile(r"[ !#-~]{0,68}")
DEFAULTS = {
    "DET.READ.CURID": "1",
    "DET.SPEED": "0",
    "DET.BINX1": "1",
    "DET.BINY1": "1",
    "DET.CLRCCD": "T",
    "DET.NCLRS": "5",
    "DET.DUMMY": "0",
    "DET.FASTCLK": "0",
    "DET.INCPRSCX": "F",
    "DET.INCOVSCY": "F",
    **{f"DET.NSKIPS{n}": "0" for n in range(1, 6)},
    "DET.SEQ.CLKFILE": "hipercam_se.bclk",
    "DET.SEQ.TRIGGER": "F",
    "DET.SEQ1.DIT": "1",
    "DET.TDELAY.GUI": "1000",
    "DET.FRAM2.BREAK": "0",
}
STATE, SUBSTATE, TRIGGER = "system.stateName", "system.subStateName", "DET.SEQ.TRIGGER"
AT_REST = {STATE: "OFF"}
COLUMNS, ROWS = 48, 30  # one block of FITS, so that a file needs no padding
NAXIS3 = 5 * 80
LEADS_TO = {"standby": "STANDBY", "off": "LOADED", "exit": "OFF"}
LOOK_PERIOD_S = 0.1
"""A clock that a test advances is noticed within this time."""
MAX_FRAMES = 100
"""Frames to write at a time, about 10 ms of work, before other tasks run."""


class _NOK(Exception):
    """The controller refuses a command; the text is its reason."""


def words(line: str) -> list[str]:
    """Split a command line at blanks outside of double quotes."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = True, '"', "", ""
    return list(lexer)


@dataclass
class Run:
    """A run in progress."""

    number: int
    file: BinaryIO
    timing: Timing
    triggered: bool
    limit: int
    """The number of frames after which the run ends; 0 is endless."""
    begins: float | None
    """The simulated time when the frame began; None while it waits for a trigger."""
    frames: int = 0

    @property
    def written_after(self) -> float:
        """The time (s) from the beginning of a frame until it is in the file."""
        return self.timing.exposure + self.timing.readout


class Simulator(Base):
    """A controller whose server is not running yet. Its time runs ``speed`` times as fast.

    It writes up to a thousand frames per second. If more are due, its time runs more slowly, so
    that no frame is lost.
    """

    programs = ("ngcbCmd", "dbRead", "dbWrite", "ngcdcsStartServer", "ngcdcsStopServer")
    controls = ("speed", "substate", "taken")
    beyond: ClassVar[Beyond] = {SUBSTATE: {"alarm": {"substate": "error"}}}
    rehearsals = (
        Rehearsal(
            ("disk_free",),
            controls={"taken": 1e6},
            begin=(("connection.disconnect",),),  # or the disk is looked at every 30 s
            end=(("connection.disconnect",),),
        ),
        Rehearsal(
            ("start_ngc_server", "stop_ngc_server", "setup_ngc_server"),
            fault="nok",
            options={"program": "ngcdcs"},
            # without a server its setup fails, too
            begin=(("stop_ngc_server",), ("start_ngc_server",), ("setup_ngc_server",)),
            end=(("start_ngc_server",), ("setup_ngc_server",), ("stop_ngc_server",)),
            only_while=AT_REST,
        ),
        Rehearsal(
            ("frames_done",),
            begin=(
                ("start_ngc_server",),
                ("online",),
                ("pon",),
                ("setup", TRIGGER, True),
                ("start",),
            ),
            end=(("abort",), ("setup", TRIGGER, False), ("stop_ngc_server",)),
            takes=15.0,
            only_while=AT_REST,
        ),
    )
    unplugged = "hang"
    ranges: ClassVar[dict[str, Range]] = {"speed": (1e-3, 1e4), "taken": (0, 1e6)}
    cut = Until(b"\n")

    def __init__(self, wall: Callable[[], float] = time.time, **settings: Any) -> None:
        super().__init__(**settings)
        self.wall = wall
        self.speed = 1.0
        self.taken = 0.0
        """What others have taken of the space on the disk, in GB."""
        self.state, self.substate = "OFF", "idle"
        self.clocks, self.sequencer = "disabled", "idle"
        self.status, self.frames = "inactive", 0
        self.newest: str | None = None
        self.keywords = dict(DEFAULTS)
        self.run: Run | None = None
        self._now = 0.0
        self._program = ""
        self._news: asyncio.Event | None = None

    @property
    def data(self) -> Path:
        """The folder of the runs."""
        return self.folder / "data"

    @property
    def link_settings(self) -> dict[str, Any]:  # type: ignore[override]  # its folder is set later
        """The device's settings beside the programs: the folder of the runs, and how it looks."""
        return {"data": str(self.data), "look": self.look}

    def look(self, folder: Path, file: Path | None) -> tuple[float, int | None]:
        """Return the space left on the disk and the size of a file: see ``runs.look``."""
        free, size = runs.look(folder, file)
        return max(free - self.taken, 0.0), size

    async def background(self) -> None:
        """Write frames when they are due, until cancelled."""
        self.data.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(_fits)  # takes half a second, which would delay the first run
        self._news = asyncio.Event()
        try:
            while True:
                self.catch_up()
                self._news.clear()
                due = LOOK_PERIOD_S if self.run and self.run.begins is not None else None
                with suppress(TimeoutError):
                    async with asyncio.timeout(due):
                        await self._news.wait()
        finally:
            self._leave("OFF")

    # --- the programs -----------------------------------------------------------------------

    def reply(self, frame: bytes) -> bytes:
        """Note the program, because some faults concern only one program."""
        self._program = frame.partition(b" ")[0].decode("ascii", "replace")
        return super().reply(frame)

    def answer(self, frame: bytes) -> bytes:
        """Return the output of a program, EOT, and the exit status."""
        try:
            program, *arguments = shlex.split(frame.decode())
            if self._struck("nok"):
                raise _NOK("simulated failure")
            return printed(f"{self._do(program, arguments)}\n")
        except (_NOK, ValueError) as error:  # ValueError: not UTF-8, or an open quote
            return printed(f"{error} NOK\n", 1)
        finally:
            if self._news:
                self._news.set()

    def _do(self, program: str, arguments: list[str]) -> str:
        match program, arguments:
            case "ngcbCmd", _:
                return self._command(words(" ".join(arguments)))
            case "dbRead", [where]:
                name = where.removeprefix(ALIAS)
                if where == name or name not in (known := self.database()):
                    raise _NOK(f"no such attribute: {where}")
                return f"{name} = {known[name]}"
            case "dbWrite", [where, value]:
                if where != f"{ALIAS}exposure.newDataFileName":
                    raise _NOK(f"no such attribute: {where}")
                self.newest = value
                return ""
            case "ngcdcsStartServer", ["IRCAM1", "-port", port, *gui] if (
                port.isdecimal() and gui in ([], ["-gui"])
            ):
                if self.state != "OFF":
                    raise _NOK("the server is running already")
                self.state, self.substate, self.keywords = "LOADED", "idle", dict(DEFAULTS)
                return f"IRCAM1 started, port {port}"
            case "ngcdcsStopServer", ["IRCAM1"]:
                self._leave("OFF")
                return "IRCAM1 stopped"
        raise _NOK(f"usage: {program} ...")

    def database(self) -> dict[str, str]:
        """Return all readable attributes by name."""
        total, left = self._times()
        return {
            "system.stateName": self.state,
            "system.subStateName": self.substate,
            "cldc_0.statusName": self.clocks,
            "seq_0.statusName": self.sequencer,
            "exposure.time": f"{total:.3f}",
            "exposure.countDown": f"{left:.3f}",
            "exposure.expStatusName": self.status,
            "exposure.baseName": str(self.data / "run"),
            "exposure.newDataFileName": self._newest(),
        }

    def _times(self) -> tuple[float, float]:
        """Return the duration of the run (of a frame if it is endless), and the time left (s)."""
        if not (run := self.run):
            return 0.0, 0.0
        cycle = run.timing.cycle
        whole = (run.limit or 1) * cycle
        gone = 0.0 if run.begins is None else self._now - run.begins
        done = run.frames * cycle + gone if run.limit else gone
        return whole, min(max(whole - done, 0.0), whole)

    def _newest(self) -> str:
        if self.newest is None:
            numbers = [runs.number_of(path.name) or 0 for path in self.data.glob("run*.fits")]
            self.newest = runs.file_name(max(numbers, default=0))
        return self.newest

    def _command(self, line: list[str]) -> str:
        if self.state == "OFF":
            raise _NOK("the server does not answer")
        match line:
            case ["status"]:
                return self.state
            case ["status", key]:
                known = self.keywords | {"DET.FRAM2.NO": str(self.frames)}
                if key not in known:
                    raise _NOK(f"no such keyword: {key}")
                return f"{key} {known[key]}"
            case ["setup", *pairs]:
                self._setup(pairs)
            case ["online"]:
                if self.state != "ONLINE":
                    self._leave("ONLINE")
            case ["standby" | "off" | "exit" as command]:
                self._leave(LEADS_TO[command])
            case ["acqproc", _, *_] if self.state != "LOADED":
                pass
            case _ if self.state == "ONLINE":
                self._command_online(line)
            case _:
                raise _NOK(f"{' '.join(line)[:80]} is not possible while {self.state}")
        return "OK"

    def _command_online(self, line: list[str]) -> None:
        match line:
            case ["reset"]:
                self._leave("ONLINE")
            case ["cldc", "0", "enable" | "disable" as what]:
                self.clocks = f"{what}d"
                if what == "disable":
                    self._end("aborted")
            case ["seq", "start"] | ["seq", "0", "start"]:
                self.sequencer = "running"
            case ["seq", "stop"] | ["seq", "0", "stop"]:
                self._end("aborted")
                self.sequencer = "idle"
            case ["seq", "trigger"]:
                self._trigger()
            case ["start"]:
                self._start()
            case ["stop" | "abort" as how]:
                if not self.run:
                    raise _NOK("no exposure is active")
                self._end("success" if how == "stop" else "aborted")
            case _:
                raise _NOK(f"unknown command: {' '.join(line)[:80]}")

    def _leave(self, state: str) -> None:
        self._end("aborted")
        self.state, self.substate = state, "idle"
        self.clocks, self.sequencer = "disabled", "idle"

    def _setup(self, pairs: list[str]) -> None:
        if not pairs or len(pairs) % 2:
            raise _NOK("setup takes pairs of a keyword and a value")
        given = dict(zip(pairs[::2], pairs[1::2], strict=True))
        for key, value in given.items():
            if not (DETECTOR.fullmatch(key) or HEADER.fullmatch(key)):
                raise _NOK(f"no such keyword: {key}")
            if not TEXT.fullmatch(value):
                raise _NOK(f"{key} cannot be {value!r}")
        self.keywords |= given

    # --- exposures --------------------------------------------------------------------------

    def _start(self) -> None:
        if self.clocks != "enabled":
            raise _NOK("the clocks are disabled")
        if self.run:
            raise _NOK("an exposure is active")
        if self.substate == "error":
            raise _NOK("the controller has to be reset")
        number, cards = (runs.number_of(self._newest()) or 0) + 1, header(self.keywords)
        takes, limit = timing(self.keywords), int(self.keywords["DET.FRAM2.BREAK"])
        try:
            file = (self.data / runs.file_name(number)).open("xb", buffering=0)
            file.write(cards)
        except OSError as error:
            raise _NOK(str(error)) from None
        triggered = self.keywords["DET.SEQ.TRIGGER"] == "T"
        self.run = Run(number, file, takes, triggered, limit, None if triggered else self._now)
        self.frames, self.status = 0, "integrating"
        self.substate, self.sequencer = "active", "running"

    def _trigger(self) -> None:
        if not self.run or not self.run.triggered or self.run.begins is not None:
            raise _NOK("nothing waits for a trigger")
        self.run.begins = self._now

    def advance(self, dt: float) -> None:
        """Write the frames that are due after ``dt`` seconds."""
        self._now += dt * self.speed
        for _ in range(MAX_FRAMES):
            run = self.run
            if run is None or run.begins is None:
                return None
            if self.fault("failure"):
                return self._end("failure")
            if run.begins + run.written_after > self._now:
                return None
            self._write(run, run.begins, self.speed)
            run.begins = None if run.triggered else run.begins + run.timing.cycle
        # the next frame is due at once, later frames are not
        if self.run and self.run.begins is not None:
            self._now = min(self._now, self.run.begins + self.run.written_after)
        return None

    def _write(self, run: Run, begins: float, speed: float) -> None:
        run.frames = self.frames = run.frames + 1
        try:
            if self.fault("disk_full"):
                raise OSError("no space left")
            run.file.seek(0, 2)
            run.file.write(struct.pack(">h", run.frames % 2**15) * COLUMNS * ROWS)
            run.file.seek(NAXIS3)
            run.file.write(f"NAXIS3  = {run.frames:>20}".ljust(80).encode())
            begin = self.wall() - (self._now - begins) / speed
            line = {"run": run.number, "frame": run.frames, "begin": begin}
            line["end"] = begin + run.timing.exposure / speed
            with (self.folder / "exposures.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        except OSError:
            self.frames -= 1
            self._end("failure")
        if run.frames == run.limit:
            self._end("success")

    def _end(self, status: str) -> None:
        if run := self.run:
            run.file.close()
            self.run, self.status, self.sequencer = None, status, "idle"
            self.newest = runs.file_name(run.number)
            self.substate = "error" if status == "failure" else "idle"

    # --- faults -----------------------------------------------------------------------------

    def fault_nok(self, program: str = "") -> None:
        """Refuse the commands of the programs whose names begin so, or of all programs."""

    def fault_hang(self, program: str = "") -> None:
        """Let the programs whose names begin so, or all, carry out a command and never end."""

    def fault_err(self) -> None:
        """Answer ERR from the database."""

    def fault_failure(self) -> None:
        """End the exposure in the sub-state error."""

    def fault_disk_full(self) -> None:
        """End the exposure in the sub-state error when the next frame is written."""

    def own_faults(self, reply: bytes) -> bytes:
        """Return a reply after applying the faults of the programs."""
        if self._struck("hang"):
            return b""
        return printed("ERR\n") if self._program == "dbRead" and self.fault("err") else reply

    def _struck(self, name: str) -> bool:
        options = self.faults.get(name)
        return bool(options and self._program.startswith(options["program"]) and self.fault(name))


def _fits() -> Any:
    from astropy.io import fits  # noqa: PLC0415  (half a second, needed for runs only)

    return fits


def header(keywords: dict[str, str]) -> bytes:
    """Return the primary header of a run without frames, with the controller's keywords."""
    cards = _fits().Header()
    for name, value in (
        ("SIMPLE", True),
        ("BITPIX", 16),
        ("NAXIS", 3),
        ("NAXIS1", COLUMNS),
        ("NAXIS2", ROWS),
        ("NAXIS3", 0),
        ("EXTEND", True),
    ):
        cards[name] = value
    for name, text in keywords.items():
        long = f"HIERARCH ESO {name.replace('.', ' ')}"
        cards[name if HEADER.fullmatch(name) else long] = _value(text)
    return bytes(cards.tostring().encode("ascii"))


def _value(text: str) -> bool | int | float | str:
    """Return the FITS value of a text: T and F are logical, numbers are numbers."""
    if text in ("T", "F"):
        return text == "T"
    for kind in (int, float):
        if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", text):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
