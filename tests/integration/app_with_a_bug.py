"""The stream's process, with a bug that one domain meets."""

from streams import app, rounds
from streams.domain import Domain
from streams.envelope import Recorded
from streams.events import DomainEvent

_fold = rounds.fold


def _fails(state: Domain, recorded: Recorded, event: DomainEvent) -> Domain:
    if event.domain == "poor":
        raise KeyError(event.domain)
    return _fold(state, recorded, event)


if __name__ == "__main__":
    rounds.fold = _fails
    raise SystemExit(app.main())
