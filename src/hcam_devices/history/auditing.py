"""``hcam audit``: asks the recorder for an audit or, without a recorder, reads the stores."""

import time
from pathlib import Path

from .. import HcamError
from ..config.instrument import load
from ..host.home import home
from ..journal.points import night_bounds, night_named, night_of
from ..wamp import uris, utils
from . import audit as audits
from .audit import Audit, Published
from .inventory import lost_between, readers

MAX_AUDIT_S = 600.0
"""The longest time of the recorder's audit, which reads every store."""


def audit(night: str, file: Path | None) -> Audit:
    """Return the audit of a night: a date, tonight (also if empty) or yesterday.

    If the recorder at WAMP_SERVER does not answer, the stores of the instrument file are read, and
    no journal is asked. Raises HcamError if ``night`` is not a night.
    """
    night = night_named(night, round(time.time() * 1000))
    try:
        utils.call(uris.rpc("recorder", "describe"), timeout=utils.PRESENT_WITHIN)
        answer = utils.call(uris.rpc("recorder", "audit"), night, timeout=MAX_AUDIT_S)
        return Audit.model_validate(answer)
    except utils.NoSuchProcedureError:
        return _of_stores(night, file, "the recorder is not running")
    except (utils.RouterError, utils.OutcomeUnknownError) as error:
        reason = f"no router answers at {uris.address()}"
        if isinstance(error, utils.OutcomeUnknownError) and _router_answers():
            reason = "the recorder does not answer (see HCAM_HOME/log/hwlogger.log)"
        return _of_stores(night, file, reason)


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
