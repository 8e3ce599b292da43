"""The reconciler: engines and routes are made equal to what the log says is live, again and again, in every process with the step
`swap`.

    look → what differs → wait until the tables have all that stood on the log then → look again → change what still differs

What differs is decided by `amends`, which is pure. An order in hand moves the route ahead of the log, and engines that it waits
for are its own business; all the rest follows from here: the live release answers, the one before stays warm for a rollback, what
is neither ends once nothing is in flight there, a domain that was retired is closed, and a schema `work` that was lost is made
again. Two reconcilers at once do no harm: each change holds only for the row that was looked at.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import assert_never

from msgspec import Struct
from sqlalchemy import Connection, text

from streams.engines import serving_kind
from streams.errors import Unavailable
from streams.events import DOMAINS
from streams.recipes import Needs
from streams.schema import machinery
from streams.store import positions, postgres_trouble
from streams.tables import LIVE
from workers.context import Context
from workers.routes import Route, Seen, close, engine_id, point, unwant, want

LOOK_EVERY_S = 1.0
CAUGHT_UP_WITHIN_S = 2.0  # longer is left to the next look
DRAIN_DEADLINE_S = 120.0  # of an engine that is wanted no more, since the route was moved
DOOR_SILENT_S = 5.0  # a door that has not been heard of for so long is gone
_TABLES = [table.name for table in machinery.sorted_tables if table.schema == "work"]
logger = logging.getLogger("noria.reconciler")


class Release(Struct, frozen=True):
    number: int
    model: str
    needs: Needs = "merged"


class Swap(Struct, frozen=True):
    """An order to swap that is open."""

    release: int
    decided_offset: int | None


class Engine(Struct, frozen=True):
    """The row of an engine that is wanted. `version` is another with each change of it."""

    engine_id: str
    release: int
    state: str
    version: str = ""


class Door(Struct, frozen=True):
    """What a living door last said: the generation of each domain's route, and how much is in flight on each engine."""

    generations: Mapping[str, int]
    in_flight: Mapping[str, int]


class Standing(Struct, frozen=True, kw_only=True):
    """What the log says of a domain, and what is there. `decided_offset`: of the decision that `live` follows from, where known;
    `before`: what answered before it, if its model is kept."""

    domain: str
    kind: str  # of its engines, where that carries what a release needs
    retired: bool = False
    live: Release | None = None
    before: Release | None = None
    decided_offset: int | None = None
    swaps: tuple[Swap, ...] = ()
    route: Route | None = None
    engines: tuple[Engine, ...] = ()


class Want(Struct, frozen=True):
    domain: str
    release: int
    kind: str
    model: str


class Unwant(Struct, frozen=True):
    engine_id: str
    version: str


class Point(Struct, frozen=True):
    domain: str
    release: int
    decided_offset: int
    seen: Seen | None


class Close(Struct, frozen=True):
    domain: str


Amend = Want | Unwant | Point | Close


def amends(standing: Standing, doors: Sequence[Door]) -> tuple[Amend, ...]:
    """What must change, for engines and route to be what the log says."""
    found: list[Amend] = []
    there = {engine.engine_id: engine for engine in standing.engines}
    live = standing.live
    needed = [] if standing.retired else [release for release in (live, standing.before) if release is not None]
    for release in needed:
        if engine_id(standing.domain, release.number) not in there:
            kind = serving_kind(standing.kind, release.needs)
            found.append(Want(standing.domain, release.number, kind, release.model))
    if standing.retired and standing.route is not None:
        found.append(Close(standing.domain))
    if live is not None and not standing.retired and not _level(standing, live):
        engine = there.get(engine_id(standing.domain, live.number))
        if engine is not None and engine.state in ("ready", "asleep"):  # whatever answers goes on until then
            route = standing.route
            seen = None if route is None else Seen(route.generation, route.decided_offset)
            found.append(Point(standing.domain, live.number, standing.decided_offset or 0, seen))
    kept = {release.number for release in needed}
    if not standing.retired:
        kept |= {swap.release for swap in standing.swaps}
    if standing.route is not None:
        kept.add(standing.route.release)
    for engine in standing.engines:
        if engine.release not in kept and _drained(standing, engine, doors):
            found.append(Unwant(engine.engine_id, engine.version))
    return tuple(found)


def _level(standing: Standing, live: Release) -> bool:
    """Whether the route is what the log says, or is ahead of it because of an order that has not told yet."""
    route = standing.route
    if route is None:
        return False
    if any(
        swap.release == route.release and swap.decided_offset == route.decided_offset
        for swap in standing.swaps
        if standing.decided_offset is None or (swap.decided_offset or 0) > standing.decided_offset
    ):
        return True
    return route.release == live.number and standing.decided_offset in (None, route.decided_offset)


def _drained(standing: Standing, engine: Engine, doors: Sequence[Door]) -> bool:
    """Whether no door sends anything there any more."""
    route = standing.route
    if route is not None and route.age_s > DRAIN_DEADLINE_S:
        return True
    generation = None if route is None else route.generation
    aware = all(door.generations.get(standing.domain) == generation for door in doors)
    return aware and not any(door.in_flight.get(engine.engine_id) for door in doors)


class Reconciler:
    def __init__(self, context: Context) -> None:
        self._context = context

    def keep(self, stopping: threading.Event) -> None:
        """Step until told to stop. Raises LostHistory."""
        while not stopping.wait(LOOK_EVERY_S):
            try:
                self.step()
            except Unavailable as error:
                logger.warning("%s", error)

    def step(self) -> tuple[Amend, ...]:
        """Change what is not as the log says; what was changed. Raises Unavailable, LostHistory."""
        self._make_work_again()
        first = set(self._look())
        if not first:
            return ()
        self._context.intake.take_in()
        # An order that was closed when that look was taken has told its outcome before: it stands below these ends.
        ends = self._context.log.ends(DOMAINS)
        if not self._context.intake.known or not self._caught_up(ends):
            return ()
        done = tuple(amend for amend in self._look() if amend in first)
        for amend in done:
            self._carry_out(amend)
        return done

    def _make_work_again(self) -> None:
        """Where the schema `work`, or a table of it, was dropped."""
        with postgres_trouble(), self._context.database.begin() as connection:
            there = connection.execute(
                text("SELECT count(*) FROM pg_tables WHERE schemaname = 'work' AND tablename = ANY(:names)"),
                {"names": _TABLES},
            ).scalar_one()
            if there == len(_TABLES):
                return
            logger.warning("tables of the schema work are not there: they are made again")
            connection.execute(text("SELECT public.noria_make_work()"))

    def _caught_up(self, ends: Mapping[int, int]) -> bool:
        """Whether the projections come to have all that stands before `ends`, within a moment."""
        deadline = time.monotonic() + CAUGHT_UP_WITHIN_S
        while True:
            with postgres_trouble(), self._context.database.connect() as connection:
                reached = positions(connection, LIVE)
            if all(reached.get((DOMAINS, partition), 0) >= end for partition, end in ends.items()):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)

    def _look(self) -> list[Amend]:
        options = {"isolation_level": "REPEATABLE READ"}  # as it stood at one moment
        with postgres_trouble(), self._context.database.connect().execution_options(**options) as connection:
            doors = _doors(connection)
            return [amend for standing in _standings(connection) for amend in amends(standing, doors)]

    def _carry_out(self, amend: Amend) -> None:
        database = self._context.database
        match amend:
            case Want():
                host = self._context.settings.host
                want(database, host, amend.domain, amend.release, amend.kind, amend.model)
            case Unwant():
                unwant(database, amend.engine_id, amend.version)
            case Point():
                logger.warning("the route of %s goes to release %d, as the log says", amend.domain, amend.release)
                name = engine_id(amend.domain, amend.release)
                with postgres_trouble(), database.begin() as connection:
                    point(connection, amend.domain, amend.release, name, amend.decided_offset, amend.seen)
            case Close():
                with postgres_trouble(), database.begin() as connection:
                    close(connection, amend.domain)
            case _:
                assert_never(amend)


def _doors(connection: Connection) -> list[Door]:
    rows = connection.execute(
        text("SELECT generations, in_flight FROM work.doors WHERE seen_at > now() - make_interval(secs => :silent)"),
        {"silent": DOOR_SILENT_S},
    )
    return [Door(row.generations, row.in_flight) for row in rows]


def _standings(connection: Connection) -> list[Standing]:
    swaps: dict[str, list[Swap]] = {}
    for row in connection.execute(text(_SWAPS)):
        swaps.setdefault(row.domain, []).append(Swap(row.release, row.decided_offset))
    engines: dict[str, list[Engine]] = {}
    for row in connection.execute(text(_ENGINES)):
        engines.setdefault(row.domain, []).append(Engine(row.engine_id, row.release, row.state, row.version))
    routes = {row.domain: Route(*row[1:]) for row in connection.execute(text(_ROUTES))}
    return [
        Standing(
            domain=row.domain,
            kind=row.engine,
            retired=row.retired,
            live=None if row.model is None else Release(row.live_release, row.model, row.needs),
            before=None if row.before_model is None else Release(row.before, row.before_model, row.before_needs),
            decided_offset=row.decided_offset,
            swaps=tuple(swaps.get(row.domain, ())),
            route=routes.get(row.domain),
            engines=tuple(engines.get(row.domain, ())),
        )
        for row in connection.execute(text(_DOMAINS))
    ]


_SWAPS = "SELECT domain, release, decided_offset FROM work.claims WHERE state = 'open' AND kind = 'swap_release'"
_ENGINES = "SELECT engine_id, domain, release, state, xmin::text AS version FROM work.engines WHERE wanted"
_ROUTES = (
    "SELECT domain, release, engine_id, generation, decided_offset, extract(epoch FROM now() - flipped_at)::float8"
    " FROM work.routes"
)
_WENT_LIVE = (
    "SELECT c.release, c.decided_offset FROM noria.events e LEFT JOIN work.claims c ON c.order_id = e.causation_id"
    " WHERE e.domain = d.domain AND e.type IN ('release_finished', 'release_rolled_back')"
    ' ORDER BY e."offset" DESC LIMIT 1'
)
# What went live last, and before that, by the orders that it came of.
_DOMAINS = (
    "SELECT d.domain, d.engine, d.retired_at IS NOT NULL AS retired, d.live_release, l.model, l.needs,"
    " CASE WHEN last.release = d.live_release THEN last.decided_offset END AS decided_offset,"
    " b.release AS before, b.model AS before_model, b.needs AS before_needs FROM noria.domains d"
    f" LEFT JOIN LATERAL ({_WENT_LIVE}) last ON true"
    f" LEFT JOIN LATERAL ({_WENT_LIVE} OFFSET 1) earlier ON true"
    " LEFT JOIN noria.releases l ON l.domain = d.domain AND l.release = d.live_release"
    " LEFT JOIN noria.releases b ON b.domain = d.domain AND b.release = earlier.release AND b.state != 'removed'"
    " AND b.release != d.live_release"
    # Of one that stands parked the tables do not know what the log says.
    " WHERE NOT EXISTS (SELECT FROM noria.parked p WHERE p.kind = 'domain' AND p.key = d.domain)"
)
