"""What could not be read from the log: where it stood, why, and, for an operator, its bytes."""

import base64

import msgspec
from flask import Blueprint, Response
from msgspec import Struct

from api.access import needs
from api.errors import ApiError
from api.services import Services
from api.wire import parse_position, reply, whole_argument
from streams.events import QUARANTINE
from streams.log import Record

LOOKED_AT = 5000  # this far back, of each partition


class Quarantined(Struct, frozen=True):
    """One record. `value_base64` is None where the record was too large to be repeated: it stands at `place`."""

    place: str
    reason: str
    time: str
    bytes: int
    value_base64: str | None = None


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("quarantine", __name__)

    @views.get("/v1/quarantine")
    @needs("operator", every_domain=True)
    def list_quarantine() -> Response:
        limit = whole_argument("limit", 50, 0, LOOKED_AT)
        found = _newest(services, limit) if limit else []
        data = [
            {"place": one.place, "reason": one.reason, "time": one.time, "bytes": one.bytes} for one in found[:limit]
        ]
        return reply({"data": data, "count": count(services)})

    @views.get("/v1/quarantine/<place>")
    @needs("operator", every_domain=True)
    def show_quarantined(place: str) -> Response:
        stood = parse_position(place, "place")
        found = next((one for one in _newest(services, LOOKED_AT) if one.place == place), None)
        if found is None:
            raise ApiError(404, "nothing from there is in quarantine", param="place", code="not_quarantined")
        value = found.value_base64
        if value is None:
            for record in services.recorder.log.read(stood.topic, stood.partition, stood.offset, stood.offset + 1):
                value = base64.b64encode(record.value or b"").decode()
        return reply(msgspec.to_builtins(found) | {"value_base64": value})

    return views


def count(services: Services) -> int:
    """How many records are in quarantine. Raises Unavailable."""
    return sum(services.recorder.ends(QUARANTINE).values())


def _newest(services: Services, limit: int) -> list[Quarantined]:
    """The last so many of each partition, the newest first, each once: a relay that died may have said one twice."""
    found: dict[str, Quarantined] = {}
    for partition, end in services.recorder.ends(QUARANTINE).items():
        for record in services.recorder.log.read(QUARANTINE, partition, max(0, end - limit), end):
            one = _read(record)
            if one is not None:
                found[one.place] = one
    return sorted(found.values(), key=lambda one: one.time, reverse=True)


def _read(record: Record) -> Quarantined | None:
    """None for what somebody else has put there."""
    try:
        return msgspec.json.decode(record.value or b"", type=Quarantined)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
