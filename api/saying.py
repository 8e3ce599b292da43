"""What a request says on the log: its events, all of one moment, in the name of the key that asked, recorded together."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from api.access import caller, source_of
from api.keys import Caller
from api.recording import APPEND_TIMEOUT_S
from api.services import Services
from streams.codec import envelope_for
from streams.errors import Unavailable
from streams.events import Event
from streams.log import Position


def say(
    services: Services,
    events: Sequence[tuple[UUID, Event]],
    correlation_id: str,
    *,
    who: Caller | None = None,
    causation_id: UUID | None = None,
    causes: Mapping[UUID, UUID] = {},
    at: datetime | None = None,
    timeout_s: float = APPEND_TIMEOUT_S,
    patience_s: float | None = None,
) -> list[Position]:
    """Append events under their ids, in order; where each stands. `who`: whose request it is, where it is not under way any more;
    `at`: when it came, where that is known already. `causes`: by its id, what an event follows from, where that is not the same
    for all.
    `patience_s`: for how long it is tried again and again. Raises Unavailable, LostHistory; Invalid for an event that is too large.
    """
    source, at = source_of(caller() if who is None else who), at or datetime.now(UTC)
    envelopes = [
        envelope_for(
            event,
            id=id_,
            source=source,
            time=at,
            correlation_id=correlation_id,
            causation_id=causes.get(id_, causation_id),
        )
        for id_, event in events
    ]
    try:
        with services.metrics.append_s.time():
            if patience_s is None:
                return services.recorder.append(envelopes, timeout_s)
            return services.recorder.append_patiently(envelopes, patience_s)
    except Unavailable:
        services.metrics.append_failures.inc()
        raise
