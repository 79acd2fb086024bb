"""``hcam audit`` and ``hcam history close``: ask the recorder or, without one, use its stores."""

import time
from contextlib import closing
from pathlib import Path

from .. import HcamError
from ..config.instrument import load
from ..config.stores import embedded_folders
from ..host.home import home
from ..journal.points import night_bounds, night_named, night_of
from ..wamp import uris, utils
from . import audit as audits
from .audit import Audit, Published
from .inventory import lost_between, readers
from .stores import AwayError
from .stores.embedded import EmbeddedStore

ANSWER_WITHIN = 600.0
"""The longest time (s) in which the recorder reads every store, or closes a night."""


def audit(night: str, file: Path | None) -> Audit:
    """Return the audit of a night: a date, tonight (also if empty) or yesterday.

    If the recorder at WAMP_SERVER does not answer, the stores of the instrument file are read, and
    no journal is asked. Raises HcamError if ``night`` is not a night.
    """
    night = night_named(night, round(time.time() * 1000))
    try:
        _find_recorder()
        answer = utils.call(uris.rpc("recorder", "audit"), night, timeout=ANSWER_WITHIN)
        return Audit.model_validate(answer)
    except utils.NoSuchProcedureError:
        return _of_stores(night, file, "the recorder is not running")
    except (utils.RouterError, utils.OutcomeUnknownError) as error:
        reason = f"no router answers at {uris.address()}"
        if isinstance(error, utils.OutcomeUnknownError) and _router_answers():
            reason = "the recorder does not answer (see HCAM_HOME/log/hwlogger.log)"
        return _of_stores(night, file, reason)


def close(night: str, file: Path | None) -> list[str]:
    """Write what there is of a night (a date, tonight or yesterday) into its closed files.

    Return a sentence for each file that could not be written. Raises HcamError if ``night`` is not
    a night, or if the files of a store cannot be used.
    """
    night = night_named(night, round(time.time() * 1000))
    try:
        night_bounds(night)
        _find_recorder()
    except ValueError as error:
        raise HcamError(str(error)) from None
    except (utils.NoSuchProcedureError, utils.RouterError, utils.OutcomeUnknownError):
        troubles = []
        for folder in embedded_folders(load(file).stores):
            try:
                with closing(EmbeddedStore(folder.name, folder)) as store:
                    troubles += store.close_nights(night)
            except AwayError as error:
                raise HcamError(str(error)) from None
        return troubles
    found: list[str] = utils.call(uris.rpc("recorder", "close"), night, timeout=ANSWER_WITHIN)
    return found


def _find_recorder() -> None:
    """Raise an error at once if there is no recorder, or no router, that answers."""
    utils.call(uris.rpc("recorder", "describe"), timeout=utils.PRESENT_WITHIN)


def _router_answers() -> bool:
    """Return whether the router itself answers a call."""
    try:
        utils.call("wamp.session.count", timeout=utils.PRESENT_WITHIN)
    except (utils.RouterError, utils.OutcomeUnknownError):
        return False
    return True


def _of_stores(night: str, file: Path | None, reason: str) -> Audit:
    """Return the audit of the stores alone; ``reason``: why no journal is asked."""
    night = night or night_of(int(time.time() * 1000))
    instrument = load(file)
    silent = f"{reason}, so no journal was asked"
    published = {name: Published(silent=silent) for name in instrument.names}
    try:
        start, end = (bound / 1000 for bound in night_bounds(night))
        for lost in lost_between(instrument.stores, home(), start, end):
            published.setdefault(lost.device, Published(silent=silent)).lost.append(lost)
        found = readers(instrument.stores, home(), night)
        return audits.audit(night, published, found, time.time())
    except ValueError as error:
        raise HcamError(str(error)) from None
