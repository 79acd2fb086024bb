"""The telescope: what it says, how it is moved, and that no motion is lost or made twice."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.devices.gtc import Simulator, Telescope
from hcam_devices.errors import NotAllowedError, OutcomeUnknownError, RefusedError
from hcam_devices.telescope.motion import Motion, Move

from ..helpers import AT_MOST, ENTRIES, offline, online, presented, reasons, sample_where

ENTRY = ENTRIES["gtc"]
QUICK = {"motion": 0.05, "settling": 0.02}


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    """A telescope that moves at once, and keeps its log in a folder."""
    simulator = Simulator()
    simulator.folder = tmp_path
    simulator.simulate("set", **QUICK)
    return simulator


@asynccontextmanager
async def running(simulator: Simulator, **settings: Any) -> AsyncIterator[Any]:
    """Run the telescope until it has been read; calls are made as the network makes them."""
    async with presented(ENTRY, simulator, **({"timeout": AT_MOST} | settings)) as device:
        await sample_where(device, online)
        yield device


def call(device: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    return device.procedures()[name].call(*args, **kwargs)


async def offset(device: Any, dra: float, ddec: float) -> None:
    """Offset the telescope (arcsec), and wait until it is in position again."""
    move = Move("offset", "requestTelescopeOffset", (dra, ddec), dra, ddec, settles=True)
    await asyncio.shield(await device.motion.begin(move))


def motions(simulator: Simulator) -> list[dict[str, Any]]:
    """Return the motions that the telescope itself has logged."""
    log = simulator.folder / "motions.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines]


def offsets(simulator: Simulator) -> list[tuple[float, float]]:
    """Return the offsets among them, arcsec."""
    moves = motions(simulator)
    return [(move["dra"], move["ddec"]) for move in moves if move["kind"] == "offset"]


def in_state(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda sample: bool(online(sample) and sample["state"]["gtc"] == state)


# --- what it says ---------------------------------------------------------------------------


async def test_its_telemetry_is_what_clients_know(simulator: Simulator) -> None:
    async with running(simulator) as device:
        sample = await sample_where(device, in_state("inpos"))
        groups = call(device, "get_telescope_pars")
        items = call(device, "header_items")
        numbers = {
            name: call(device, name)
            for name in ("get_focus", "get_humidity", "get_rack_temperature", "get_dewpoint")
        }
    assert sample["rack_temp"] == {"value": 21.0, "unit": "deg_C"}
    assert sample["humidity"] == {"value": 31.0, "unit": "%"}
    assert sample["dewpoint"] == {"value": -6.81, "unit": "deg_C"}
    assert sample["ra_offset"] == sample["dec_offset"] == {"value": 0.0, "unit": "arcsec"}
    assert sample["state"] == {"connection": "online", "gtc": "inpos", "archive": "idle"}
    assert sample["alarms"] == []
    assert sample["telpars"]["RADEG"] == 17.5541
    assert sample["telpars"]["TELESCOP"] == "GTC"
    assert groups[0].startswith("TELESCOP= 'GTC")
    assert items["RADEG"] == {"value": 17.5541, "comment": "RA (degrees)"}
    assert numbers == {
        "get_focus": -1.25,
        "get_humidity": 31.0,
        "get_rack_temperature": 21.0,
        "get_dewpoint": -6.81,
    }


async def test_what_cannot_be_read_is_null_with_a_reason(simulator: Simulator) -> None:
    async with running(simulator) as device:
        simulator.simulate("empty")
        sample = await sample_where(device, lambda one: online(one) and one["telpars"] is None)
        assert "empty header" in reasons(sample, "telpars")
        assert sample["dewpoint"] is None
        assert sample["rack_temp"]["value"] == 21.0
        with pytest.raises(RefusedError, match="empty header"):
            call(device, "get_telescope_pars")
        simulator.simulate("clear")
        simulator.simulate("junk")
        sample = await sample_where(
            device, lambda one: one["telpars"] and one["telpars"]["T_TUBE"] == "warm"
        )
        assert sample["dewpoint"] is None
        assert reasons(sample, "dewpoint") == (
            "DEWPOINT in the telescope's header is 'n/a', not a number"
        )
        assert not any(isinstance(v, float) and math.isnan(v) for v in sample["telpars"].values())
        simulator.simulate("refuse")
        sample = await sample_where(device, offline)
        assert sample["telpars"] is None
        with pytest.raises(ConnectionError, match="gtc is offline"):
            call(device, "get_telescope_pars")


async def test_the_limit_of_the_noise_is_set_only_if_the_site_says_so(simulator: Simulator) -> None:
    async with running(simulator):
        assert simulator.noise_max == 0.0
    async with running(simulator, m1_noise_max=600.0):
        assert simulator.noise_max == 600.0


# --- motion ---------------------------------------------------------------------------------


async def test_an_offset_moves_the_telescope_and_tells_the_autoguider(simulator: Simulator) -> None:
    told: list[Any] = []

    async def peer(*args: Any, **kwargs: Any) -> None:
        told.append(args)

    async with running(simulator) as device:
        device.call_peer = peer
        before = device.header["RADEG"].value
        for name in ("do_offset", "gtc.do_offset"):
            await call(device, name, raoff=5, decoff=-2.5)
        offsetting = await sample_where(device, in_state("inpos"))
        assert device.header["RADEG"].value != before
    assert offsetting["ra_offset"]["value"] == 10.0
    assert offsetting["dec_offset"]["value"] == -5.0
    assert offsets(simulator) == [(5.0, -2.5)] * 2
    assert told == [("autoguider", "add_relative_dither", 5.0, -2.5)] * 2


async def test_a_motion_that_could_not_be_sent_says_that_nothing_was() -> None:
    async def ask(operation: str, arguments: tuple[object, ...]) -> None:
        raise ConnectionRefusedError("the telescope cannot be reached")

    async def header() -> dict[str, float]:
        return {}

    motion = Motion(ask, header, lambda: None)
    with pytest.raises(ConnectionError, match="cannot be reached; nothing was sent"):
        await motion.begin(Move("focus offset", "requestFocusOffset", (1.0,)))
    assert motion.unknown is None


async def test_a_motion_that_the_end_of_the_server_cuts_short_is_of_unknown_outcome() -> None:
    sent = asyncio.Event()

    async def ask(operation: str, arguments: tuple[object, ...]) -> None:
        sent.set()
        await asyncio.get_running_loop().create_future()

    async def header() -> dict[str, float]:
        return {"RADEG": 17.5, "DECDEG": 60.0}

    motion = Motion(ask, header, lambda: None)
    move = Move("offset", "requestTelescopeOffset", (5.0, 0.0), 5.0, 0.0, settles=True)
    asked = asyncio.create_task(motion.begin(move))
    await sent.wait()
    await motion.close()
    with pytest.raises(OutcomeUnknownError, match=r"the offset \(5.0, 0.0\) may have been carried"):
        await asked
    assert motion.unknown
    assert motion.doing is None


async def test_while_it_moves_it_is_offsetting(simulator: Simulator) -> None:
    simulator.simulate("unsettled")
    async with running(simulator, settle_within=AT_MOST) as device:
        await call(device, "do_offset", 1, 0)
        await sample_where(device, in_state("offsetting"))
        simulator.simulate("clear")
        sample = await sample_where(device, in_state("inpos"))
    assert sample["in_position"] is True


async def test_an_autoguider_that_is_not_there_is_a_notice(simulator: Simulator) -> None:
    async with running(simulator) as device:
        await call(device, "do_offset", 5, 0)
        sample = await sample_where(device, in_state("inpos"))
        why = "was not informed of the offset (5, 0) arcsec: autoguider.add_relative_dither cannot"
        assert why in reasons(sample, "autoguider")
        device.call_peer = Detector(simulator).call
        await device.inform_autoguider(0, 0)
        assert not reasons(device.snapshot(), "autoguider")


async def test_offset_returns_in_position_and_each_takes_its_turn(simulator: Simulator) -> None:
    async with running(simulator) as device:
        await asyncio.gather(
            offset(device, 5, 0), offset(device, 0, 5), call(device, "do_guide_step", 0.1, 0)
        )
    log = motions(simulator)
    assert [(one["dra"], one["ddec"]) for one in log] == [(5, 0), (0, 5), (0.1, 0)]
    for one, following in pairwise(log):
        assert following["begin"] >= one["end"], "a motion began before the one before had ended"
    assert device.motion.total == (5, 5), "guide steps do not count"


async def test_a_caller_that_goes_away_leaves_no_motion_without_its_end(
    simulator: Simulator,
) -> None:
    async with running(simulator) as device:
        one = asyncio.ensure_future(offset(device, 5, 0))
        await sample_where(device, in_state("offsetting"))
        one.cancel()
        await offset(device, 0, 5)
    log = motions(simulator)
    assert len(log) == 2
    assert log[1]["begin"] >= log[0]["end"]


async def test_a_command_whose_turn_does_not_come_is_refused(
    simulator: Simulator,
) -> None:
    simulator.simulate("unsettled")
    async with running(simulator, settle_within=AT_MOST) as device:
        await call(device, "do_offset", 1, 0)
        with pytest.raises(NotAllowedError, match=r"still busy with the offset \(1.0, 0.0\); noth"):
            await call(device, "do_offset", 1, 0, within=0.05)
        assert offsets(simulator) == [(1, 0)]
        simulator.simulate("clear")


async def test_who_holds_the_turn_moves_alone(simulator: Simulator) -> None:
    async with running(simulator) as device:
        async with device.turn():
            await device.request(5, 0)
            await device.settle()
            with pytest.raises(NotAllowedError, match="busy with a dithered exposure; nothing"):
                await call(device, "do_guide_step", 0.1, 0, within=0.05)
            waiting = asyncio.ensure_future(call(device, "do_guide_step", 0.2, 0))
            await sample_where(device, in_state("inpos"))
            assert offsets(simulator) == [(5, 0)]
        await waiting
    assert offsets(simulator) == [(5, 0), (0.2, 0)]


async def test_a_guide_step_has_to_wait_for_the_telescope(simulator: Simulator) -> None:
    async with running(simulator) as device:
        simulator.simulate("unsettled")
        with pytest.raises(NotAllowedError, match="the follow error of the drives is above"):
            await call(device, "do_guide_step", 0.1, 0)
        simulator.simulate("clear")
        await call(device, "do_guide_step", 0.1, 0)
    assert offsets(simulator) == [(0.1, 0)]


async def test_no_guide_step_is_sent_unless_the_telescope_is_known_to_be_in_position(
    simulator: Simulator,
) -> None:
    async with running(simulator) as device:
        simulator.simulate("unsettled")
        simulator.simulate("empty")
        with pytest.raises(NotAllowedError, match="the follow error of the drives is above"):
            await call(device, "do_guide_step", 0.1, 0)
        simulator.simulate("error")
        with pytest.raises(NotAllowedError, match="unknown whether the telescope is in position"):
            await call(device, "do_guide_step", 0.1, 0)
    assert offsets(simulator) == []


async def test_focus_and_pointing_model_are_commanded(simulator: Simulator) -> None:
    async with running(simulator) as device:
        simulator.simulate("set", focus_speed=1000.0)
        await call(device, "change_focus", 0.25)
        await sample_where(device, lambda one: online(one) and one["focus"]["value"] == -1.0)
        await call(device, "start_pointing_model")
        assert simulator.stars == 25
        await call(device, "start_pointing_model", nstars=3)
        await call(device, "add_star")
        await call(device, "change_star")
        await call(device, "change_star", nearby=False)
        assert simulator.stars == 2
        await call(device, "add_star", carry_on=False)
    asked = [one for one in simulator.heard if "tar" in one or "Point" in one]
    assert asked == [
        *("startPointingModel", "startPointingModel", "addStarAndContinue"),
        *("changeStar", "changePointing", "addStarAndFinish"),
    ]


def test_the_limits_of_the_instrument_file_are_described() -> None:
    procedures = Telescope("gtc", offset_limit=7.0, most_stars=9).procedures()

    def limits(name: str, parameter: str) -> list[float]:
        schema = procedures[name].describe(name)["parameters"]["properties"][parameter]
        return [schema["minimum"], schema["maximum"]]

    for name in ("do_offset", "gtc.do_offset"):
        assert limits(name, "raoff") == limits(name, "decoff") == [-7, 7]
    assert limits("gtc.do_guide_step", "decoff") == [-10, 10]
    assert limits("change_focus", "offset") == [-1, 1]
    assert limits("start_pointing_model", "nstars") == [1, 9]


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("do_offset", (301, 0), "offset: 301 arcsec is not within -300 to 300 arcsec; nothing"),
        ("do_offset", (0, -301), "offset: -301 arcsec is not within"),
        ("do_guide_step", (11, 0), "guide step: 11 arcsec is not within -10 to 10 arcsec"),
        ("change_focus", (1.5,), "focus: 1.5 mm is not within -1 to 1 mm"),
        ("start_pointing_model", (51,), "nstars: 51 is not within 1 to 50"),
        ("start_pointing_model", (0,), "nstars: 0 is not within 1 to 50"),
        ("do_offset", (math.nan, 0), "finite number"),
        ("do_offset", ("5", 0), "valid number"),
        ("do_offset", (True, 0), "valid number"),
        ("start_pointing_model", (2.5,), "valid integer"),
        ("add_star", ("no",), "valid boolean"),
    ],
)
async def test_what_is_out_of_limits_or_no_such_value_is_not_sent(
    name: str, arguments: tuple[Any, ...], why: str, simulator: Simulator
) -> None:
    async with running(simulator) as device:
        simulator.heard.clear()
        with pytest.raises(ValueError, match=why):
            await call(device, name, *arguments)
        await sample_where(device, online)
    assert not simulator.commands()


async def test_offline_nothing_is_sent(simulator: Simulator) -> None:
    async with running(simulator) as device:
        simulator.simulate("refuse")
        await sample_where(device, offline)
        for name, arguments in (("do_offset", (1, 0)), ("change_focus", (0.1,)), ("archive", ())):
            with pytest.raises(ConnectionError, match=r"gtc is offline .* nothing was sent"):
                await call(device, name, *arguments)
    assert not simulator.commands()


async def test_what_the_telescope_refuses_is_not_repeated_and_allows_the_next(
    simulator: Simulator,
) -> None:
    async with running(simulator, poll_every=3600.0) as device:
        for exception in ("TRANSIENT", "NO_PERMISSION"):
            simulator.simulate("refused", exception=exception)
            with pytest.raises((RefusedError, ConnectionError)):
                await call(device, "do_offset", 1, 0)
            simulator.simulate("clear")
            await device.disconnect()
            await sample_where(device, in_state("inpos"))
        await offset(device, 2, 0)
    assert offsets(simulator) == [(2, 0)]
    assert device.motion.total == (2, 0)


# --- what becomes of it is not known --------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "moves"), [("unanswered", 1), ("broken", 1), ("failed", 1), ("unheard", 0)]
)
async def test_a_motion_of_unknown_outcome_is_never_sent_again(
    fault: str, moves: int, simulator: Simulator
) -> None:
    async with running(simulator, timeout=0.5) as device:
        simulator.simulate(fault)
        with pytest.raises(OutcomeUnknownError, match="may have been carried out") as raised:
            await call(device, "do_offset", 20, 0)
        found = "as if it was carried out" if moves else "as if it was not carried out"
        for said in (found, "Before: RADEG 17.5541", "now RADEG", "acknowledge(moved=True)"):
            assert said in str(raised.value)
        sample = await sample_where(device, in_state("unknown"))
        assert found in reasons(sample, "gtc")
        assert sample["ra_offset"]["value"] == 0.0
        for name in ("do_offset", "do_guide_step"):
            with pytest.raises(NotAllowedError, match=r"nothing was sent: the outcome of the off"):
                await call(device, name, 1, 0)
        with pytest.raises(NotAllowedError, match="nothing was sent"):
            await offset(device, 1, 0)
        assert offsets(simulator) == [(20, 0)] * moves
        said = await call(device, "acknowledge")
        assert said == f"the motion counts as {'' if moves else 'not '}carried out"
        sample = await sample_where(device, in_state("inpos"))
        assert sample["ra_offset"]["value"] == 20.0 * moves
        assert reasons(sample, "gtc") == ""
        await offset(device, 1, 0)
    assert offsets(simulator) == [(20, 0)] * moves + [(1, 0)]


async def test_what_a_position_cannot_tell_a_person_has_to_say(simulator: Simulator) -> None:
    async with running(simulator, timeout=0.5) as device:
        with pytest.raises(NotAllowedError, match="there is no motion of unknown outcome"):
            await call(device, "acknowledge")
        simulator.simulate("unanswered")
        with pytest.raises(OutcomeUnknownError, match="does not show whether"):
            await call(device, "do_offset", 0.05, 0.001)
        await sample_where(device, in_state("unknown"))
        with pytest.raises(ValueError, match="check it, and give moved=True or moved=False"):
            await call(device, "acknowledge")
        await call(device, "acknowledge", moved=True)
        sample = await sample_where(device, in_state("inpos"))
    assert sample["ra_offset"]["value"] == 0.05


async def test_a_request_carried_out_late_is_made_once_and_seen(simulator: Simulator) -> None:
    async with running(simulator, timeout=0.3) as device:
        arrives = simulator.latency

        def hang(frame: bytes) -> float:
            if b"requestTelescopeOffset" in frame:
                simulator.latency = arrives  # type: ignore[method-assign]
                simulator.simulate("hang", seconds=5.0)
            return arrives(frame)

        simulator.latency = hang  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknownError, match="the position cannot be read yet"):
            await call(device, "do_offset", 20, 0)
        assert offsets(simulator) == []
        seen = await sample_where(device, lambda one: "as if it was carried out" in reasons(one))
    assert "unknown" in seen["state"]["gtc"]
    assert offsets(simulator) == [(20, 0)]


async def test_a_telescope_that_is_restarted_in_mid_motion_is_waited_for(
    simulator: Simulator,
) -> None:
    async with running(simulator, timeout=0.5) as device:
        simulator.simulate("unsettled")
        making = asyncio.ensure_future(offset(device, 5, 0))
        await sample_where(device, lambda one: offsets(simulator))
        simulator.simulate("disconnect")
        simulator.hang_up()
        await sample_where(device, offline)
        simulator.simulate("clear")
        await making
    assert offsets(simulator) == [(5, 0)]


async def test_a_telescope_that_never_settles_is_an_alarm_until_it_does(
    simulator: Simulator,
) -> None:
    async with running(simulator, settle_within=0.3) as device:
        simulator.simulate("unsettled")
        with pytest.raises(TimeoutError, match=r"not in position 0.3 s after the offset \(5, 0"):
            await offset(device, 5, 0)
        sample = await sample_where(device, in_state("outpos"))
        assert "the follow error of the drives is above its threshold" in reasons(sample, "gtc")
        assert "do not send the offset again" in reasons(sample, "gtc")
        simulator.simulate("clear")
        sample = await sample_where(device, in_state("inpos"))
    assert reasons(sample, "gtc") == ""
    assert sample["ra_offset"]["value"] == 5.0
    assert offsets(simulator) == [(5, 0)]


async def test_a_follow_error_that_comes_and_goes_is_not_in_position(simulator: Simulator) -> None:
    async with running(simulator, settle_within=1.0, poll_every=3600.0) as device:
        simulator.simulate("flapping")
        with pytest.raises(TimeoutError, match="not in position"):
            await offset(device, 5, 0)


# --- the archive ----------------------------------------------------------------------------


async def test_a_transfer_disturbs_nothing_and_says_how_it_ends(simulator: Simulator) -> None:
    simulator.simulate("set", transfer=1.0)
    async with running(simulator) as device:
        await call(device, "archive")
        with pytest.raises(NotAllowedError, match="already running"):
            await call(device, "archive")
        await offset(device, 5, 0)
        sample = await sample_where(device, in_state("inpos"))
        assert sample["state"]["archive"] == "running"
        assert sample["archive"]["began"]
        assert sample["archive"]["ended"] is None
        sample = await sample_where(device, lambda one: one["state"]["archive"] == "finished")
        assert sample["archive"]["ended"] >= sample["archive"]["began"]


async def test_a_transfer_that_does_not_end_is_a_failure_and_no_loss(simulator: Simulator) -> None:
    simulator.simulate("set", transfer=AT_MOST)
    async with running(simulator, archive_within=0.5) as device:
        await call(device, "archive")
        sample = await sample_where(device, lambda one: one["state"]["archive"] == "failed")
    assert online(sample)
    assert "may still be running: check the archive" in reasons(sample, "archive")


def test_the_device_knows_the_folder_of_the_detector(tmp_path: Path) -> None:
    simulator = Simulator()
    simulator.folder = tmp_path
    device = ENTRY.build(**simulator.link_settings)
    assert isinstance(device, Telescope)
    assert device.data == str(tmp_path / "data")


# --- dithering ------------------------------------------------------------------------------

SQUARE = {"ra": [0, 5, 5, 0], "dec": [0, 0, 5, 5]}


class Detector:
    """A detector that writes a frame into its run at each trigger, after a short exposure."""

    def __init__(self, simulator: Simulator) -> None:
        self.file = simulator.folder / "data" / "run0001.fits"
        self.file.parent.mkdir()
        cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 3", "NAXIS1  = 10", "NAXIS2  = 10"]
        text = "".join(f"{card:<80}" for card in [*cards, "NAXIS3  = 1", "END"])
        self.file.write_text(f"{text:<2880}")
        self.now = simulator.now
        self.exposures: list[tuple[float, float]] = []
        self.told: list[tuple[float, float]] = []
        self.active = True

    async def call(self, device: str, procedure: str, *args: Any, within: float = 10.0) -> Any:
        if (device, procedure) == ("autoguider", "add_relative_dither"):
            self.told.append(args)
            return None
        assert device == "ngc"
        if procedure == "summary":
            return {"exposure.newDataFileName": "/data/run0000.fits"}
        if procedure == "telemetry":
            return {"system.subStateName": "active" if self.active else "idle"}
        assert procedure == "trigger"
        self._exposing = asyncio.create_task(self._expose())
        return ["", True]

    async def _expose(self) -> None:
        begin = self.now()
        await asyncio.sleep(0.01)
        self.exposures.append((begin, self.now()))
        with self.file.open("ab") as run:
            run.write(bytes(200))

    async def frames(self, number: int) -> None:
        async with asyncio.timeout(AT_MOST):
            while len(self.exposures) < number:  # noqa: ASYNC110  (a frame has been written)
                await asyncio.sleep(0.01)


async def test_each_frame_of_a_dithered_run_is_exposed_at_its_place_and_in_no_motion(
    simulator: Simulator,
) -> None:
    detector = Detector(simulator)
    async with running(simulator) as device:
        device.call_peer = detector.call
        call(device, "load_nod_pattern", **SQUARE)
        await call(device, "gtc.start_nodding")
        await detector.frames(3)
        await call(device, "do_offset", 1, 0, within=AT_MOST)
        await sample_where(device, lambda one: one["state"]["gtc"].startswith("nodding."))
        await detector.frames(6)
        await call(device, "gtc.stop_nodding")
        await sample_where(device, in_state("inpos"))
        rows = (await call(device, "nod_table")).splitlines()
    nods = [one for one in offsets(simulator) if one != (1, 0)]
    assert nods[:6] == [(0, 0), (5, 0), (0, 5), (-5, 0), (0, -5), (5, 0)]
    assert (1, 0) in offsets(simulator), "the observer's offset took its turn"
    for begin, end in detector.exposures:
        for motion in motions(simulator):
            assert end <= motion["begin"] or begin >= motion["end"], "exposed in a motion"
    assert [row.split()[:3] for row in rows if row[0].isdigit()][:3] == [
        ["0.0", "0.0", "1"],
        ["5.0", "0.0", "2"],
        ["5.0", "5.0", "3"],
    ]


async def test_dithering_ends_with_the_run(simulator: Simulator) -> None:
    detector = Detector(simulator)
    async with running(simulator) as device:
        device.call_peer = detector.call
        call(device, "load_nod_pattern", **SQUARE)
        await call(device, "start_nodding")
        await detector.frames(2)
        await sample_where(device, online)
        detector.active = False
        await sample_where(device, in_state("inpos"))
        assert reasons(await sample_where(device, online), "dither") == ""
        count = len(detector.exposures)
        detector.active = True
        await call(device, "start_nodding")
        await detector.frames(count + 1)


async def test_a_nod_of_unknown_outcome_pauses_the_dither(simulator: Simulator) -> None:
    detector = Detector(simulator)
    async with running(simulator, timeout=0.5) as device:
        device.call_peer = detector.call
        call(device, "load_nod_pattern", **SQUARE)
        await call(device, "start_nodding")
        await detector.frames(1)
        simulator.simulate("unanswered")
        sample = await sample_where(device, lambda one: device.dithering.state == "paused")
        assert "it is not sent again" in reasons(sample, "dither")
        with pytest.raises(NotAllowedError, match="acknowledge"):
            await call(device, "resume")
        told, frames = offsets(simulator), len(detector.exposures)
        await sample_where(device, online)
        await call(device, "acknowledge")
        await call(device, "resume")
        await detector.frames(frames + 4)
        await call(device, "stop_nodding")
        table = (await call(device, "nod_table")).splitlines()
    assert told == offsets(simulator)[: len(told)]
    steps = [one for one in offsets(simulator) if one != (0, 0)]
    around = [(5, 0), (0, 5), (-5, 0), (0, -5)]
    assert all(one == around[n % 4] for n, one in enumerate(steps)), "a nod was lost or doubled"
    places = [tuple(map(float, row.split()[:2])) for row in table if row[0].isdigit()]
    assert places[:4] == [(0, 0), (5, 0), (5, 5), (0, 5)]


async def test_without_the_folder_of_the_runs_nothing_is_dithered(simulator: Simulator) -> None:
    async with running(simulator, data="") as device:
        call(device, "load_nod_pattern", **SQUARE)
        with pytest.raises(NotAllowedError, match="dithering needs the folder of the runs"):
            await call(device, "start_nodding")
