"""The observatory's cooling circuit, whose temperatures a FIWARE broker serves (NGSI v2, HTTP).

    -> GET /v2/entities/TemperatureSensor3?metadata=dateModified,*
       fiware-service: gtc
       fiware-servicePath: /
    <- 200 {"id": "TemperatureSensor3", "temperature1": {"value": 12.3, "metadata": {...}}, ...}
    <- 404 {"error": "NotFound", "description": "The requested entity has not been found. ..."}

The broker serves the last value for ever, so its age is checked. The metadata ``TimeInstant`` says
when it was measured. Without it, ``dateModified`` says when it changed; the broker sends that only
on request, and an update by an equal value does not count as a change. Sources: FIWARE Orion and
NGSI v2 specification; the place of each attribute is known from the predecessor.
"""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from ..core import (
    Device,
    ProtocolError,
    Readback,
    RefusedError,
    Seconds,
    Until,
    Value,
    is_number,
    iso_from_s,
    shorten,
)
from ..core import Simulator as Base
from ..core.web import Answer, Get, Web, path_of, quoted_segment, response

ENTITIES = "entities"
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


class Codec:
    """The part of NGSI v2 that reads one entity of a ``service`` and its ``path``."""

    def __init__(self, service: str, path: str, entity: str) -> None:
        self.entity = entity
        self.headers = {"fiware-service": service, "fiware-servicePath": path}

    def request(self, ref: str, value: None = None) -> Get:
        """Return the request for the entity in the collection ``ref``, which is ``ENTITIES``."""
        path = f"/v2/{ref}/{quoted_segment(self.entity)}"
        return Get(f"{path}?metadata=dateModified,*", self.headers)

    def reply(self, request: Get, answer: Answer) -> dict[str, Any]:
        """Return the entity. Raises RefusedError if the broker does not return it."""
        if not answer.ok:
            raise RefusedError(f"the broker answered {answer.status}: {self._why(answer.body)}")
        entity = self._object(answer.body)
        if (found := entity.get("id")) != self.entity:
            raise ProtocolError(
                f"the broker answered with {shorten(found)} instead of {self.entity}"
            )
        return entity

    def _why(self, body: bytes) -> str:
        try:
            error = self._object(body)
        except ProtocolError:
            return shorten(body)
        return f"{error.get('error')}: {error.get('description')}"[:200]

    @staticmethod
    def _object(body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ProtocolError(f"the broker's answer is not a JSON object: {shorten(body)}")
        return found


def number(value: object) -> float:
    """Return the value of a number or of a numeric text. Raises ValueError for anything else."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    if not is_number(value):
        raise ValueError(f"the broker's value is {shorten(value)}, not a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"the broker's value is {shorten(value)}, too large") from None


def measured_at(entity: dict[str, Any], attribute: dict[str, Any]) -> float | None:
    """Return the time when an attribute was measured or, if that is unknown, changed; or None.

    Raises ValueError if the broker's time cannot be parsed.
    """
    metadata = attribute.get("metadata")
    said = metadata if isinstance(metadata, dict) else {}
    for stamp in (said.get("TimeInstant"), entity.get("TimeInstant"), said.get("dateModified")):
        if isinstance(stamp, dict):
            try:
                moment = datetime.fromisoformat(stamp["value"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"the broker's time is {shorten(stamp)}, not a date and time"
                ) from None
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


def temperature(attribute: str, where: str) -> Readback:
    """Return the readback of an attribute of the entity."""
    doc = f"Temperature of the coolant {where}."
    return Readback(unit="deg_C", question=ENTITIES, ref=attribute, kind=number, doc=doc)


class CoolingCircuit(Device):
    """The temperatures of the coolant, at the input of the CCDs and in the cabinet."""

    link_type: ClassVar[Any] = Web

    poll_every = 10.0

    entity: str = "TemperatureSensor3"
    """The entity of the context broker that has the temperatures."""
    service: str = "gtc"
    """The header ``fiware-service`` of each request."""
    service_path: str = "/"
    """The header ``fiware-servicePath`` of each request."""
    oldest: Seconds = 900.0
    """The age (s) above which a value counts as unknown."""

    ccd_input = temperature("temperature3", "on its way to the CCDs")
    cab_pre_filter = temperature("temperature2", "in the cabinet, before the filter")
    cab_post_filter = temperature("temperature1", "in the cabinet, after the filter")

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.codec = Codec(self.service, self.service_path, self.entity)

    def value_in(self, answer: dict[str, Any], field: Readback) -> Value:
        """Return one attribute of the entity. Raises RefusedError if it is missing or too old."""
        attribute = answer.get(field.ref)
        if not isinstance(attribute, dict):
            raise RefusedError(f"{self.entity} has no {field.ref}")
        if attribute.get("value") is None:
            raise RefusedError(f"the broker has no value for {field.ref}")
        at = measured_at(answer, attribute)
        if at is not None and self.clock() - at > self.oldest:
            raise RefusedError(
                f"the broker's value is from {iso_from_s(at)}, more than {self.oldest:g} s ago"
            )
        return field.kind(attribute["value"])


class Simulator(Base):
    """A broker with one entity; ``temperature`` (deg_C) is that of the coolant for the CCDs.

    Without the header of its ``service`` it finds nothing.
    """

    controls = ("temperature", "service", "entity")
    cut = Until(b"\r\n\r\n")

    def __init__(self, wall: Callable[[], float] = time.time, **settings: Any) -> None:
        super().__init__(**settings)
        self.wall = wall
        self.temperature, self.service, self.entity = 5.0, "gtc", "TemperatureSensor3"

    def constant(self, frame: bytes) -> bytes:
        """Return a request without its headers, which contain the port."""
        return frame.partition(b"\r\n")[0]

    def answer(self, frame: bytes) -> bytes:
        """Answer a GET of the entity; anything else gets 400, 404 or 405."""
        first, *lines = frame.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        method, target, *_ = [*first.split(" "), "", ""]
        path = path_of(target)
        if method != "GET":
            return self._error(405, "MethodNotAllowed", "method not allowed")
        if not headers.get("fiware-servicepath", "/").startswith("/"):
            return self._error(400, "BadRequest", "Only /absolute/ Service Paths allowed")
        if headers.get("fiware-service") != self.service or path != f"/v2/entities/{self.entity}":
            reason = "The requested entity has not been found. Check type and id"
            return self._error(404, "NotFound", reason)
        return self._response(200, self._known())

    def _known(self) -> dict[str, Any]:
        noise = self.random.gauss(0, 0.05)
        values = (self.temperature + 7.3 + noise, self.temperature + 7.9, self.temperature + noise)
        return {
            "id": self.entity,
            "type": "TemperatureSensor",
            **{
                f"temperature{n}": {
                    "type": "Number",
                    "value": round(value, 2),
                    "metadata": {
                        "dateModified": {"type": "DateTime", "value": iso_from_s(self.wall() - 2)}
                    },
                }
                for n, value in enumerate(values, 1)
            },
        }

    def _error(self, status: int, error: str, description: str) -> bytes:
        return self._response(status, {"error": error, "description": description})

    @staticmethod
    def _response(status: int, content: dict[str, Any]) -> bytes:
        return response(status, json.dumps(content))

    def _altered(self, attribute: str, **change: Any) -> bytes:
        entity = self._known()
        entity.get(attribute, {}).update(change)
        return self._response(200, entity)

    def fault_error(self, reply: bytes, status: int = 500) -> bytes:
        """Answer everything with an error of the server."""
        return self._error(status, "InternalServerError", "on purpose")

    def fault_identity(self, reply: bytes, entity: str = "TemperatureSensor4") -> bytes:
        """Answer with another entity."""
        return self._response(200, self._known() | {"id": entity})

    def fault_null(self, reply: bytes, attribute: str = "temperature1") -> bytes:
        """Have no value of an attribute."""
        return self._altered(attribute, value=None)

    def fault_text(self, reply: bytes, text: str = "NaN", attribute: str = "temperature1") -> bytes:
        """Have a text as the value of an attribute."""
        return self._altered(attribute, value=text)

    def fault_missing(self, reply: bytes, attribute: str = "temperature1") -> bytes:
        """Not have an attribute."""
        return self._response(200, {k: v for k, v in self._known().items() if k != attribute})

    def fault_stale(
        self, reply: bytes, age: float = 86400.0, attribute: str = "temperature1"
    ) -> bytes:
        """Have an attribute that was measured long ago (seconds)."""
        at = {"type": "DateTime", "value": iso_from_s(self.wall() - age)}
        return self._altered(attribute, metadata={"TimeInstant": at})
