"""What stands around a fact on the log: when, where and why it was recorded. Pure."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from msgspec import Meta, Struct

if TYPE_CHECKING:  # every fact of the vocabulary, whose rooms know the envelope that it stands in
    from streams.events import Event

SERVICES = "/noria/api/services/"  # begins the source of what a service's key said for people

Number = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]  # what a column of a table holds
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Moment = Annotated[datetime, Meta(tz=True)]  # a time without a zone is refused: it cannot be compared with any other


class Envelope(Struct, frozen=True, kw_only=True):
    """One event with where, when and why it was recorded. `time` is aware UTC."""

    id: UUID
    source: str
    time: datetime
    key: str
    event: "Event"
    correlation_id: str
    causation_id: UUID | None = None

    @property
    def service(self) -> str | None:
        """The id of the key by which the door recorded it, if that names the people that it speaks for."""
        return self.source.removeprefix(SERVICES) if self.source.startswith(SERVICES) else None


class Recorded(Struct, frozen=True):
    """An envelope and its place on the log."""

    envelope: Envelope
    topic: str
    partition: int
    offset: int


class Consequence(Struct, frozen=True):
    """An event that another event implies; its id is computed from its cause's, or from what it decides about."""

    id: UUID
    event: "Event"
