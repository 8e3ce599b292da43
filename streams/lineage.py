"""What a release has learned: the examples of the rounds on its own line (its round, that of the release it was trained from, and
so on down to the first release), and of no other. After a rollback, what the releases above have learned is not learned."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from sqlalchemy import Connection, text


class Made(Struct, frozen=True):
    """A round that was to make `release` out of `base_release`; None while, or if, its candidate has not passed the gate."""

    domain: str
    round_id: str
    base_release: int
    release: int | None


class Lines:
    """The lines of the releases of some domains."""

    def __init__(self, rounds: Iterable[Made]) -> None:
        self._made: dict[tuple[str, int], Made] = {
            (made.domain, made.release): made for made in rounds if made.release is not None
        }

    def of(self, domain: str, release: int | None) -> tuple[str, ...]:
        """The rounds whose examples `release` has learned, the newest first."""
        found: list[str] = []
        while release is not None and (made := self._made.get((domain, release))) and made.round_id not in found:
            found.append(made.round_id)
            release = made.base_release
        return tuple(found)


def lines(connection: Connection, domains: Sequence[str]) -> Lines:
    rows = connection.execute(
        text("SELECT domain, round_id, base_release, release FROM noria.rounds WHERE domain = ANY(:domains)"),
        {"domains": list(domains)},
    )
    return Lines(Made(row.domain, row.round_id, row.base_release, row.release) for row in rows)


def live_lines(connection: Connection, domains: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """By domain: the line of the release that answers."""
    found = lines(connection, domains)
    live = connection.execute(
        text("SELECT domain, live_release FROM noria.domains WHERE domain = ANY(:domains)"), {"domains": list(domains)}
    )
    return {row.domain: found.of(row.domain, row.live_release) for row in live}
