"""The Gran Telescopio Canarias: header, offsets, dithering, focus, pointing model, and archive.

    -> getTelescopeParams               header groups: RADEG = 17.5541 / RA;M2UZ = -1.25 / mm
    -> requestTelescopeOffset 5.0 0.0   arcsec, relative; it is in position when both flags say so
    -> requestFocusOffset 10.0          100 times what a caller means

The telescope is accessed over CORBA (``telescope.corba``). Its interface is not public: operations
and units are known from their use in the predecessor, hcam_devices 1.7.4. ``telescope.motion``
sends each motion once and waits for its end; ``telescope.dithering`` dithers the telescope.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field

from ..core import (
    Alarm,
    Device,
    NotAllowedError,
    Procedure,
    Range,
    Readback,
    RefusedError,
    Rehearsal,
    Seconds,
    Value,
    rpc,
    runs,
    shorten,
)
from ..errors import WampError
from ..telescope.archive import Transfer
from ..telescope.corba import Corba
from ..telescope.dithering import Dithering
from ..telescope.frames import Frames
from ..telescope.headers import Item, parse, typed
from ..telescope.motion import Motion, Move, Position, position_in
from ..telescope.sim import IDL
from ..telescope.sim import Simulator as Base

log = logging.getLogger(__name__)

EVENTS = ("do_offset", "do_guide_step", "start_nodding", "stop_nodding", "frame_written")
"""Deployed clients call these as events of the chart ``gtc``, such as ``gtc.do_offset``."""
Arcsec: TypeAlias = Annotated[float, Field(json_schema_extra={"unit": "arcsec"})]
Millimetres: TypeAlias = Annotated[float, Field(json_schema_extra={"unit": "mm"})]
HEADER = "getTelescopeParams"
FOCUS_SCALE = 100
"""requestFocusOffset takes this many times the caller's value, as in the predecessor."""
PEER_WITHIN_S = 2.0
TURN_WITHIN_S = 4.0
"""The longest wait of a command for its turn, so that a caller, who usually waits 10 s, learns the
outcome."""


def reading_of(name: str, label: str, doc: str) -> Any:
    """Return a procedure that returns the last reading of a field, or raises RefusedError."""

    def last(self: Any) -> float:
        reading = self.readings[name]
        if reading.value is None:
            raise RefusedError(f"{name}: {reading.reason}")
        return float(reading.value)

    last.__doc__ = doc
    return rpc(read_only=True, label=label)(last)


class Simulator(Base):
    """The telescope, and the folder that it shares with the detector."""

    rehearsals = (
        Rehearsal(("telpars",), fault="empty"),
        Rehearsal(
            ("autoguider",),
            controls={"autoguider": False},
            begin=(("do_offset", 1.0, 0.0),),
            end=(("do_offset", -1.0, 0.0),),
        ),
        Rehearsal(
            ("gtc",),
            fault="failed",
            begin=(("do_offset", 1.0, 0.0),),
            end=(("acknowledge", True), ("do_offset", -1.0, 0.0)),
        ),
        Rehearsal(
            ("dither",),
            fault="refused",
            begin=(("load_nod_pattern", [1.0], [0.0]), ("start_nodding", 1)),
            end=(("stop_nodding",),),
        ),
        Rehearsal(
            ("archive",),
            controls={"transfer": 0.0},
            fault="archive",
            begin=(("archive",),),
            end=(("archive",),),
        ),
        Rehearsal(
            ("m1_noise_max",),
            fault="refused",
            begin=(("connection.disconnect",),),
            end=(("connection.disconnect",),),
            setting="m1_noise_max",
        ),
    )

    @property
    def link_settings(self) -> dict[str, Any]:  # type: ignore[override]  # known once served
        """The device's settings beside host and port."""
        folder = getattr(self, "folder", None)
        return {"idl": IDL} | ({"data": str(folder / "data")} if folder else {})


class Telescope(Device):
    """The GTC: its readings and the commands that HiPERCAM gives it."""

    link_type: ClassVar[Any] = Corba
    peers: ClassVar[dict[str, tuple[str, ...]]] = {
        "ngc": ("summary", "telemetry", "trigger"),
        "autoguider": ("add_relative_dither",),
    }

    data: str = ""
    """The folder of the detector's runs; dithering needs it."""
    frame_within: Seconds = 300.0
    """The time (s) from its trigger within which a dithered frame must be written: more than the
    longest exposure and its readout."""
    offset_limit: Annotated[float, Field(gt=0)] = 300.0
    """The largest offset in each coordinate, arcsec: about the field of view. The telescope's own
    limit is unknown."""
    guide_limit: Annotated[float, Field(gt=0)] = 10.0
    """The largest guide step in each coordinate, arcsec. A guess."""
    focus_limit: Annotated[float, Field(gt=0)] = 1.0
    """The largest change of the focus, in the caller's unit (inferred to be mm). A guess."""
    most_stars: Annotated[int, Field(ge=1)] = 50
    """The largest number of stars of a pointing model. A guess."""
    m1_noise_max: Annotated[float, Field(gt=0)] | None = None
    """The attribute m1NoiseMaxValue to set on connecting; by default it is not set."""
    settle_after: Seconds = 0.2
    """The time (s) until the flags notice a motion. From the predecessor; uncertain."""
    settle_within: Seconds = 60.0
    """The time (s) until it must be in position. Uncertain."""
    archive_within: Seconds = 3600.0
    """The time (s) within which a transfer into the archive must end."""

    rack_temp = Readback(
        unit="deg_C",
        ref="getCabinetTemperature1",
        doc="Temperature at the top of the rack, reported by the telescope.",
    )
    humidity = Readback(unit="%", ref="getHumidity", doc="Relative humidity of the air.")
    dewpoint = Readback(unit="deg_C", ref="DEWPOINT", doc="Dew point, from the telescope's header.")
    focus = Readback(
        unit="mm",
        ref="M2UZ",
        doc="Position of the focus, from the telescope's header (the unit is inferred).",
    )
    in_position = Readback(kind=bool, doc="Whether follow errors and noise of M1 are small enough.")
    ra_offset = Readback(
        unit="arcsec", doc="Sum of the offsets in RA that the telescope has accepted."
    )
    dec_offset = Readback(
        unit="arcsec", doc="Sum of the offsets in Dec that the telescope has accepted."
    )

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.motion = Motion(
            self._ask,
            self._read_header,
            self._changed,
            self.settle_after,
            self.settle_within,
            self._position,
        )
        self.turn, self.settle = self.motion.turn, self.motion.settle
        self.dithering = Dithering(
            self,
            self._trigger,
            Frames(runs.folder_of(self.data)),
            self.inform_autoguider,
            limit=self.offset_limit,
            frame_within=lambda: self.frame_within,
            changed=self.emit,
            clock=self.clock,
        )
        self.transfer = Transfer(self.clock, self.emit)
        self.parts = [self.dithering, self.motion, self.transfer]
        self.groups: list[str] | None
        self.header: Mapping[str, Item]
        self._lose_header("the telescope's header has not been read yet")
        self.not_done: dict[str, str] = {}
        """What could not be told or set, and why."""
        self._exposing = False

    async def _ask(self, operation: str, arguments: tuple[object, ...] = ()) -> Any:
        return await self.link.ask(None, operation, arguments)

    # --- readings ---------------------------------------------------------------------------

    async def on_connect(self) -> None:
        """Set the limit of the M1 noise if the instrument file contains it."""
        self.not_done.pop("m1_noise_max", None)
        if self.m1_noise_max is None:
            return
        try:
            await self._ask("_set_m1NoiseMaxValue", (self.m1_noise_max,))
        except (RefusedError, ValueError) as error:
            self.not_done["m1_noise_max"] = f"m1_noise_max was not set: {error}"

    async def poll(self) -> None:
        """Read the header and the fields; end dithering if its run has ended."""
        await self._follow_run()
        try:
            await self._read_header()
        except RefusedError as error:
            self._lose_header(str(error))
        await super().poll()

    async def _read_header(self) -> Mapping[str, float | str]:
        groups = [str(group) for group in await self._ask(HEADER)]
        if not groups:
            raise RefusedError(f"the telescope ({self.link}) sent an empty header")
        self.groups, self.header = groups, parse(groups)
        return typed(self.header)

    def _disconnected(self, error: BaseException) -> None:
        super()._disconnected(error)
        self._lose_header(f"{self.name} is offline")

    def _lose_header(self, reason: str) -> None:
        self.groups, self.header, self.header_reason = None, {}, reason

    def _changed(self) -> None:
        """Publish the fields of the motion at once, then poll."""
        if self.connection == "online":
            for name in self.motion.fields:
                if name not in self.disabled:
                    self.readings[name] = self.motion.reading(name)
        self.emit()
        self.poll_now()

    async def read(self, field: Readback) -> Value:
        """Return one value. Raises RefusedError, with the reason, if there is none."""
        if field.name == "in_position":
            return not await self.motion.out_of_position()
        if field.ref in ("DEWPOINT", "M2UZ"):
            return self._from_header(field.ref)
        return float(await self.link.number(field.ref))

    def _from_header(self, key: str) -> float:
        if self.groups is None:
            raise RefusedError(self.header_reason)
        if key not in self.header:
            raise RefusedError(f"the telescope's header has no {key}")
        number = self.header[key].typed()
        if isinstance(number, str):
            raise RefusedError(f"{key} in the telescope's header is {number!r}, not a number")
        return number

    def _position(self) -> Position:
        return position_in(typed(self.header))

    # --- what the network sees --------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """Return the states; while the telescope is dithered, ``gtc`` is the state of dithering."""
        state = self.motion.state
        moved_by_nod = self.dithering.state == "nodding" or state != "offsetting"
        if self.dithering.state != "disabled" and state not in ("unknown", "offline"):
            state = f"nodding.{self.dithering.state}" if moved_by_nod else state
        return super().states() | {"gtc": state}

    def values(self) -> dict[str, Any]:
        """Return the fields and the header (``telpars``)."""
        header = None if self.groups is None else typed(self.header)
        return super().values() | {"telpars": header}

    advice: ClassVar[dict[str, str]] = {
        "telpars": "Ask the telescope's operator whether its server runs. Data can be taken; note "
        "pointing and airmass in the log, because the header has none.",
        "dither": "Do what the reason says. To end the dithering: hcam call {device}.stop_nodding. "
        "The frames taken so far are good.",
        "gtc": "Ask the telescope's operator where the telescope is before you move it again; "
        "nothing is repeated by itself.",
        "archive": "Data are safe on the disk of the runs. Start the transfer again in the "
        "morning, and tell support.",
        "m1_noise_max": "Data can be taken. Ask the telescope's operator to set the limit.",
        "autoguider": "Ask the telescope's operator whether the star is still guided on.",
    }

    def notices(self) -> Iterator[Alarm]:
        """Return alarms about the header, the limit of the M1 noise, and the autoguider."""
        for field, reason in self.not_done.items():
            yield Alarm(field, "WARN", reason)
        if self.connection == "online" and self.groups is None:
            yield Alarm("telpars", "ERR", self.header_reason)

    def procedures(self) -> dict[str, Procedure]:
        """Return all procedures, including the deployed names of events of the chart."""
        found = super().procedures()
        offset, step, focus = (
            (-limit, limit) for limit in (self.offset_limit, self.guide_limit, self.focus_limit)
        )
        ranges: dict[str, dict[str, Range]] = {
            "do_offset": {"raoff": offset, "decoff": offset},
            "do_guide_step": {"raoff": step, "decoff": step},
            "change_focus": {"offset": focus},
            "start_pointing_model": {"nstars": (1, self.most_stars)},
        }
        found |= {name: replace(found[name], ranges=some) for name, some in ranges.items()}
        return found | {
            f"gtc.{event}": replace(found[event], audience="program") for event in EVENTS
        }

    @rpc(read_only=True, label="Header groups")
    def get_telescope_pars(self) -> list[str]:
        """Return the groups of the telescope's header from the last reading."""
        self.require_online()
        if self.groups is None:
            raise RefusedError(self.header_reason)
        return self.groups

    @rpc(read_only=True, label="Header")
    def header_items(self) -> dict[str, dict[str, Any]]:
        """Return the telescope's header: the value and the comment of each item."""
        self.get_telescope_pars()
        values = typed(self.header)
        return {
            name: {"value": value, "comment": self.header[name].comment}
            for name, value in values.items()
        }

    get_focus = reading_of(
        "focus", "Focus", "Return the focus (M2UZ of the header), in mm as far as is known."
    )
    get_rack_temperature = reading_of(
        "rack_temp",
        "Rack temperature",
        "Return the temperature at the top of the rack, in deg_C.",
    )
    get_humidity = reading_of("humidity", "Humidity", "Return the relative humidity, in percent.")
    get_dewpoint = reading_of("dewpoint", "Dew point", "Return the dew point, in deg_C.")

    # --- motion -----------------------------------------------------------------------------

    async def request(self, dra: float, ddec: float) -> None:
        """Request an offset (arcsec, relative) within a turn; return once it is accepted.

        Raises as ``Motion.begin``. The autoguider is not informed.
        """
        await self.motion.request(self._offset(dra, ddec))

    def _offset(self, dra: float, ddec: float) -> Move:
        self._within("offset", dra, ddec, limit=self.offset_limit, unit="arcsec")
        self.require_online()
        return Move("offset", "requestTelescopeOffset", (dra, ddec), dra, ddec, settles=True)

    def _within(self, what: str, *values: float, limit: float, unit: str) -> None:
        for value in values:
            if not abs(value) <= limit:
                raise ValueError(
                    f"{what}: {value:g} {unit} is not within -{limit:g} to {limit:g} {unit}; "
                    "nothing was sent"
                )

    @rpc(moves="gtc", label="Offset telescope")
    async def do_offset(
        self, raoff: Arcsec, decoff: Arcsec, within: Seconds = TURN_WITHIN_S
    ) -> None:
        """Offset the telescope (arcsec, relative) and inform the autoguider.

        Return when the telescope has accepted the offset. It is in position again when the state
        ``gtc`` is no longer ``offsetting``. The command waits up to ``within`` seconds for the end
        of an exposure or another motion, and is refused after that.
        """
        await self.motion.begin(self._offset(raoff, decoff), within)
        await self.inform_autoguider(raoff, decoff)

    async def inform_autoguider(self, dra: float, ddec: float) -> None:
        """Send an offset (arcsec) to the autoguider; a failure becomes an alarm."""
        within = PEER_WITHIN_S
        try:
            await self.call_peer("autoguider", "add_relative_dither", dra, ddec, within=within)
        except Exception as error:  # noqa: BLE001  (no fault of the autoguider ends a dither)
            self.not_done["autoguider"] = (
                f"the autoguider was not informed of the offset ({dra:g}, {ddec:g}) arcsec: "
                f"{error or type(error).__name__}"
            )
        else:
            self.not_done.pop("autoguider", None)
        self.emit()

    @rpc(audience="program")
    async def do_guide_step(
        self, raoff: Arcsec, decoff: Arcsec, within: Seconds = TURN_WITHIN_S
    ) -> None:
        """Offset the telescope a little (arcsec) while it is in position; tell nobody else.

        If its turn does not come ``within`` that many seconds it is refused.
        """
        self._within("guide step", raoff, decoff, limit=self.guide_limit, unit="arcsec")
        step = raoff, decoff
        move = Move("guide step", "requestTelescopeOffset", step, *step, in_position=True)
        await self._begin(move, within)

    async def _begin(self, move: Move, within: float = TURN_WITHIN_S) -> None:
        self.require_online()
        await self.motion.begin(move, within)

    @rpc()
    async def change_focus(self, offset: Millimetres) -> None:
        """Change the focus of the telescope by an offset (inferred to be in mm)."""
        self._within("focus", offset, limit=self.focus_limit, unit="mm")
        await self._begin(Move("focus offset", "requestFocusOffset", (FOCUS_SCALE * offset,)))

    @rpc(label="Acknowledge motion")
    async def acknowledge(self, moved: bool | None = None) -> str:
        """Allow motions again after one of unknown outcome; ``moved``: whether it was carried out.

        Without ``moved`` the position decides, if it can. Return a text with the decision.
        """
        carried_out = self.motion.acknowledge(self._position(), moved=moved)
        self.dithering.acknowledge(moved=carried_out)
        self._changed()
        return f"the motion counts as {'' if carried_out else 'not '}carried out"

    # --- dithering --------------------------------------------------------------------------

    async def _trigger(self) -> None:
        answer = await self.call_peer("ngc", "trigger")
        match answer:
            case [_, True]:
                return
            case [str(reason), False]:
                raise RefusedError(f"the detector was not triggered: {reason}")
        raise RefusedError(f"the detector answered {shorten(answer)} to the trigger")

    def _require_data(self) -> None:
        if not self.data:
            raise NotAllowedError(
                "dithering needs the folder of the runs: set data in the instrument file"
            )

    @rpc(label="Load dither pattern")
    def load_nod_pattern(self, ra: list[Arcsec], dec: list[Arcsec]) -> None:
        """Load a dither pattern: offsets from the start in RA and Dec (arcsec)."""
        self.dithering.load(ra, dec)

    @rpc(label="Start dithering")
    async def start_nodding(self, run: int | None = None) -> None:
        """Dither a run (default: the present or next one) around the present position."""
        self.require_online()
        self._require_data()
        self.dithering.start(run or await self._detector_run())
        self.motion.total = (0.0, 0.0)
        self._exposing = False
        self._changed()

    async def _detector_run(self) -> int | None:
        """Return the number of the active or next run; None if the detector does not answer.

        The newest file of the detector is that of the last finished run.
        """
        try:
            said = await self.call_peer("ngc", "summary", within=PEER_WITHIN_S)
            last = runs.number_of(str(said["exposure.newDataFileName"]))
        except (WampError, ValueError, LookupError, TypeError) as error:
            log.warning("%s: the number of the run is unknown: %s", self.name, error)
            return None
        return None if last is None else last + 1

    async def _follow_run(self) -> None:
        """End dithering if the detector's run has ended."""
        if self.dithering.state == "disabled":
            return
        try:
            said = await self.call_peer("ngc", "telemetry", within=PEER_WITHIN_S)
        except WampError as error:
            log.debug("%s: it is unknown whether the run has ended: %s", self.name, error)
            return  # the next trigger will show it
        exposing = isinstance(said, dict) and said.get("system.subStateName") == "active"
        if self._exposing and not exposing:
            self.dithering.run_ended()
        self._exposing = exposing

    @rpc(label="Stop dithering")
    async def stop_nodding(self) -> None:
        """Stop dithering: at once, or after a motion that is under way."""
        await self.dithering.stop()

    @rpc(label="Resume dithering")
    async def resume(self, exposed: bool | None = None) -> None:
        """Resume dithering after a pause; ``exposed``: whether an unseen frame was exposed."""
        await self.dithering.resume(exposed)

    @rpc(label="Dither next run")
    async def track_new_run(self) -> None:
        """Dither the next run that has no frames yet."""
        self._require_data()
        await self.dithering.track_new_run()

    @rpc(audience="program")
    def frame_written(self) -> None:
        """Report that the awaited frame has been written."""
        self.dithering.frame_written()

    @rpc(audience="program")
    def run_ended(self) -> None:
        """Report that the detector's run has ended; dithering ends too."""
        self.dithering.run_ended()

    @rpc(read_only=True, label="Dither table")
    async def nod_table(self) -> str:
        """Return the offset of each frame of the run (RAOFF, DECOFF in arcsec) as ECSV."""
        self._require_data()
        return await self.dithering.as_ecsv()

    # --- pointing model ---------------------------------------------------------------------

    @rpc()
    async def start_pointing_model(self, nstars: int = 25) -> None:
        """Begin a pointing model of ``nstars`` stars."""
        if not 1 <= nstars <= self.most_stars:
            raise ValueError(f"nstars: {nstars} is not within 1 to {self.most_stars}")
        await self._begin(Move("pointing model", "startPointingModel", (nstars,)))

    @rpc()
    async def add_star(self, carry_on: bool = True) -> None:
        """Add the star to the pointing model; continue with the next star, or finish."""
        await self._begin(Move("star", "addStarAndContinue" if carry_on else "addStarAndFinish"))

    @rpc()
    async def change_star(self, nearby: bool = True) -> None:
        """Choose another star for the pointing model, nearby or elsewhere in the sky."""
        await self._begin(Move("star", "changeStar" if nearby else "changePointing"))

    # --- archive ----------------------------------------------------------------------------

    @rpc(label="Transfer to archive")
    async def archive(self) -> None:
        """Begin a transfer of the observations into the GTC's archive.

        The state ``archive`` shows its progress.
        """
        self.require_online()
        self.transfer.start(self.link.ask_apart, self.archive_within)
        self.emit()
