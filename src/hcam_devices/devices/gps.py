"""Spectracom TSYNC timing card, read with the example programs of its vendor.

    $ GetSatInfo 0        Number of satellites tracked:   9
    $ GR_GetValidity 0 0  Time Valid : 1
                          PPS Valid : 1
    $ HW_GetTime 0        Year : 2026, Day : 326, Hour, Minute, Second, Nanosecond : 999999600
                          Sync : TRUE                           (a line each)
    Could not open ...                   there is no card
    Error ...                            the card refused

Source: the predecessor's use of their output. It counted lines and ignored the labels, so these are
uncertain, except for the satellites. Values are found by the beginning of their labels; the error
about a missing one quotes the output.
"""

import re
import shlex
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any, ClassVar

from ..core import Alarm, Device, ProtocolError, Readback, RefusedError, Sample, Until
from ..core import Simulator as Base
from ..core.process import Output, Programs
from ..core.sim import Beyond, printed

SATELLITES, VALIDITY, TIME = "GetSatInfo", "GR_GetValidity", "HW_GetTime"
TRACKED = re.compile(r"Number of satellites tracked:\s*(\d+)")
FLAG = {"0": False, "1": True, "FALSE": False, "TRUE": True}


def find(label: str, said: str) -> str:
    """Return the number, TRUE or FALSE after a label. Raises ProtocolError if there is none."""
    line = rf"^[ \t]*{label}[^:\n]*:[ \t]*(\d+|TRUE|FALSE)[ \t\r]*$"
    if match := re.search(line, said, re.MULTILINE | re.IGNORECASE):
        return match[1].upper()
    raise ProtocolError(f"there is no {label!r} in {said[:300]!r}")


def number(label: str, said: str) -> int:
    """Return the number after a label. Raises ProtocolError if there is none."""
    text = find(label, said)
    if not text.isdecimal():
        raise ProtocolError(f"{label!r} is {text}, not a number")
    return int(text)


def flag(label: str, said: str) -> bool:
    """Return the truth value after a label. Raises ProtocolError if there is none."""
    text = find(label, said)
    if text not in FLAG:
        raise ProtocolError(f"{label!r} is {text}, neither true nor false")
    return FLAG[text]


def instant(said: str) -> str:
    """Return the card's time as a telemetry timestamp, truncated to milliseconds.

    It is calculated with integers, because as a float 59.9999996 s would be rounded to 60. In a
    leap second, which occurs only at 23:59 UTC, the second is 60. Raises ProtocolError if the
    output contains no valid time.
    """
    year, day, hour, minute, second, nanosecond = (
        number(label, said) for label in ("year", "day", "hour", "minute", "sec", "nano")
    )
    try:
        today = date(year, 1, 1) + timedelta(day - 1)
    except (ValueError, OverflowError):
        today = date.min
    leap = second == 60 and (hour, minute) == (23, 59)
    if (
        today.year != year
        or not (hour < 24 and minute < 60 and nanosecond < 10**9)
        or not (second < 60 or leap)
    ):
        raise ProtocolError(f"this is not a time: {said[:300]!r}")
    return f"{today}T{hour:02d}:{minute:02d}:{second:02d}.{nanosecond // 10**6:03d}Z"


class Codec:
    """The command lines of the programs, and the parser of their output."""

    def __init__(self, board: int = 0) -> None:
        self.board = board

    def request(self, ref: str, value: None = None) -> bytes:
        """Return the command line of a program, with its arguments."""
        return f"{ref} {self.board}{' 0' if ref == VALIDITY else ''}".encode()

    def reply(self, request: bytes, frame: bytes) -> dict[str, Any]:
        """Return the values in the output of a program.

        Raises ConnectionError if there is no card, RefusedError if the card refused.
        """
        errors = frame.errors if isinstance(frame, Output) else b""
        program, said = request.split()[0].decode(), (frame + errors).decode("ascii", "replace")
        if re.search(r"could not open", said, re.IGNORECASE):
            raise ConnectionError(f"{program}: {said.strip()[:200]}")
        if match := re.search(r"^[ \t]*(Error\b(?! closing).*)$", said, re.MULTILINE):
            raise RefusedError(f"{program}: {match[1].strip()[:200]}")
        match program:
            case "GetSatInfo":
                if not (tracked := TRACKED.search(said)):
                    raise ProtocolError(f"there is no number of satellites in {said[:300]!r}")
                return {"satellites": int(tracked[1])}
            case "GR_GetValidity":
                return {"time": flag("time valid", said), "pps": flag("pps valid", said)}
        return {"time": instant(said), "synced": flag("sync", said)}


def truth(program: str, ref: str, doc: str) -> Readback:
    """Return the readback of a truth value that a program prints."""
    return Readback(question=program, ref=ref, kind=bool, doc=doc)


class TimingCard(Device):
    """The card that times the detector controller; telemetry carries the card's time."""

    link_type: ClassVar[Any] = Programs

    poll_every = 10.0
    advice: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("time_valid", "pps_valid", "synced"),
            "Check the cable from the antenna to the card, and num_sats: it needs about four. Data "
            "can be taken; note in the log that their times may be wrong.",
        ),
        "timestamp": "",  # the reason says all, and synced has the advice
    }
    board: int = 0
    """The number of the card, as its programs count."""

    num_sats = Readback(
        question=SATELLITES,
        ref="satellites",
        kind=int,
        doc="Number of satellites that the receiver tracks.",
    )
    time_valid = truth(VALIDITY, "time", "Whether the receiver's time is valid.")
    pps_valid = truth(VALIDITY, "pps", "Whether the receiver's pulse per second is valid.")
    synced = truth(
        TIME,
        "synced",
        "Whether the card is synchronised to its reference; if not, its time drifts.",
    )

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.codec = Codec(self.board)

    def snapshot(self) -> Sample:
        """Return the telemetry, whose timestamp is the card's time if it was read."""
        answer = self.answers.get(TIME)
        known = {"timestamp": answer["time"]} if isinstance(answer, dict) else {}
        return super().snapshot() | known

    def notices(self) -> Iterator[Alarm]:
        """Return an alarm for each reason to distrust the time."""
        reasons = {
            "time_valid": "the receiver reports that its time is not valid",
            "pps_valid": "the receiver reports that its pulse per second is not valid",
            "synced": "the card is not synchronised: its time drifts",
        }
        for name, reason in reasons.items():
            if self.readings[name].value is False:
                yield Alarm(name, "ERR", reason)
        if isinstance(self.answers.get(TIME), RefusedError):
            yield Alarm(
                "timestamp",
                "WARN",
                "the timestamps are the computer's time, because the card's cannot be read",
            )


class Simulator(Base):
    """A card that tracks nine satellites; in ``holdover`` it has lost them and runs freely.

    ``offset``: the time (s) by which the card is ahead of this computer.
    """

    programs = (SATELLITES, VALIDITY, TIME)
    controls = ("satellites", "time_valid", "pps_valid", "synced", "offset", "holdover")
    beyond: ClassVar[Beyond] = {
        name: {"alarm": {name: False}} for name in ("time_valid", "pps_valid", "synced")
    }
    cut = Until(b"\n")

    def __init__(self, wall: Callable[[], int] = time.time_ns, **settings: Any) -> None:
        super().__init__(**settings)
        self.wall = wall
        self.satellites, self.offset, self.holdover = 9, 0.0, False
        self.time_valid = self.pps_valid = self.synced = True

    def answer(self, frame: bytes) -> bytes:
        """Return the output of a program, EOT, and the exit status."""
        try:
            program, *arguments = shlex.split(frame.decode())
        except ValueError:
            return printed("usage: PROGRAM BOARD\n", 1)
        tracking = not self.holdover
        if arguments[:1] != ["0"]:
            return printed(f"Could not open /dev/tsyncpci{'/'.join(arguments[:1])}\n", 1)
        if program == SATELLITES:
            tracked = self.satellites if tracking else 0
            return printed(f"Number of satellites tracked:   {tracked}\n")
        if program == VALIDITY:
            valid = (self.time_valid and tracking, self.pps_valid and tracking)
            return printed(
                "\nGR_GetValidity 0 0\nTime Valid : {:d}\nPPS Valid : {:d}\n".format(*valid)
            )
        seconds, nanoseconds = divmod(self.wall() + round(self.offset * 1e9), 10**9)
        now = time.gmtime(seconds)
        return self._time(now.tm_year, now.tm_yday, *now[3:6], nanoseconds)

    def _time(self, *numbers: int) -> bytes:
        labels = ("Year", "Day", "Hour", "Minute", "Second", "Nanosecond")
        lines = [f"{label:<10} : {n}\n" for label, n in zip(labels, numbers, strict=True)]
        synced = "TRUE" if self.synced and not self.holdover else "FALSE"
        return printed(f"\nHW_GetTime 0\n{''.join(lines)}Sync       : {synced}\n")

    def fault_could_not_open(self, reply: bytes) -> bytes:
        """Report that there is no card."""
        return printed("Could not open /dev/tsyncpci0\n", 1)

    def fault_error(self, reply: bytes, program: str = "") -> bytes:
        """Let all programs fail, or one of them."""
        asked = self._program(reply)
        return printed("Error: -5\n", 1) if program in ("", asked) else reply

    def fault_closing(self, reply: bytes) -> bytes:
        """Print a harmless warning."""
        return b"Error closing /dev/tsyncpci0\n" + reply

    def fault_empty(self, reply: bytes) -> bytes:
        """Print nothing."""
        return printed("")

    def fault_status(self, reply: bytes, code: int = 3) -> bytes:
        """End with an exit status, which has no meaning."""
        return printed(reply.partition(b"\x04")[0].decode(), code)

    def fault_heading(self, reply: bytes) -> bytes:
        """Print headings of another version."""
        return b"TSYNC 4.0\n\n Sat  C/No  Error\n Board : A\n" + reply

    def fault_time(
        self,
        reply: bytes,
        *,
        year: int = 2026,
        day: int = 365,
        hour: int = 23,
        minute: int = 59,
        second: int = 59,
        nanosecond: int = 999_999_900,
    ) -> bytes:
        """Report a given time (default: 0.1 us before the end of a year)."""
        if self._program(reply) != TIME:
            return reply
        return self._time(year, day, hour, minute, second, nanosecond)

    def fault_leap_second(self, reply: bytes) -> bytes:
        """Report a time in the middle of a leap second."""
        return self.fault_time(reply, second=60, nanosecond=500_000_000)

    @staticmethod
    def _program(reply: bytes) -> str:
        words = {b"satellites": SATELLITES, b"PPS": VALIDITY, b"Nano": TIME}
        return next((program for word, program in words.items() if word in reply), "")
