"""Orders taken in from the log and claimed: each by one worker at a time, under a lease that a living worker renews.

`work` may be lost at any time: what was done already is known by what came of it, which stands on the log.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid5

from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from streams.codec import OrderOutline, cause_of, decode_order, outline_of, read_event, read_order
from streams.continuity import Continuity
from streams.errors import Invalid, Unavailable
from streams.events import DOMAINS, ORDERS
from streams.facts.orders import OrderFailed
from streams.log import Log
from streams.orders import BuildMaterial, CompareBases, CompareReleases, Order, SwapRelease
from streams.reading.rounds import build_over, comparison_over, orders_over
from streams.reading.said import said
from streams.store import positions, postgres_trouble
from streams.tables import LIVE

LEASE_S = 15.0
UNREADABLE = "unreadable"
ATTEMPTS = 5
# What is published of an order that was carried out, under an id computed from the order's.
RESULTS = (
    "snapshot_selected",
    "candidate_trained",
    "candidate_rebuilt",
    "candidate_evaluated",
    "comparison_made",
    "base_comparison_made",
    "material_built",
    "release_finished",
    "release_rolled_back",
    "places_purged",
)
_CLAIMABLE = (
    "state = 'open' AND kind = ANY(:kinds) AND (lease_until IS NULL OR lease_until < now())"
    " AND (not_before IS NULL OR not_before <= now())"
    # What has come of it may stand on the log, and have had no effect.
    " AND NOT EXISTS (SELECT FROM noria.parked p WHERE p.kind = 'domain' AND p.key = claims.domain)"
)


class Claim(Struct, frozen=True):
    """An order in hand. `attempt` counts from 1; whoever died with it is counted too. `decided_offset`: of a swap, where on the
    domain's partition the decision stands that asks for it; None if no decision stands there."""

    order: Order
    attempt: int
    worker: str
    decided_offset: int | None = None


class Unreadable(Exception):
    """An order that this code cannot read, and that is held now: whoever wrote it knew more, or a foreign tool did."""

    def __init__(self, outline: OrderOutline, attempt: int, reason: str) -> None:
        super().__init__(reason)
        self.outline = outline
        self.attempt = attempt


def kind_of(order: Order) -> str:
    return str(order.__struct_config__.tag)


def failure_name(attempt: int) -> str:
    return f"failed {attempt}"


def caught_up(connection: Connection, log: Log) -> bool:
    """Whether the projections have all that stands about domains on the log. Raises Unavailable."""
    ends = log.ends(DOMAINS)
    reached = positions(connection, LIVE)
    return all(reached.get((DOMAINS, partition), 0) >= end for partition, end in ends.items())


class Intake:
    """Brings new orders from the log into `work.claims`, once each.

    `work` may be new, lost or of yesterday, and so may the projections: before the first order is taken in, and again when the log
    or PostgreSQL was away, the projections must know what came of the old ones."""

    def __init__(self, database: Engine, log: Log) -> None:
        self._database = database
        self._log = log
        self._continuity = Continuity(database, log)
        self._known = False

    @property
    def known(self) -> bool:
        """Whether `work.claims` holds every order that stood on the log when it was last taken in."""
        return self._known

    def take_in(self) -> int:
        """How many were new. Raises Unavailable, or LostHistory when the log is not the one that was read."""
        try:
            self._continuity.check()
            return self._take_in()
        except Unavailable:
            self._known = False
            raise

    def _take_in(self) -> int:
        ends = self._log.ends(ORDERS)
        taken = 0
        with postgres_trouble(), self._database.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('noria.intake'))"))
            rows = connection.execute(
                text("SELECT partition, next_offset FROM work.intake WHERE topic = :t"), {"t": ORDERS}
            )
            start: dict[int, int] = {row.partition: row.next_offset for row in rows}
            if not (start and self._known):
                self._known = False
                if not caught_up(connection, self._log):
                    return 0
            self._known = True
            for partition, end in ends.items():
                if start.get(partition, 0) < end:
                    taken += self._take_in_partition(connection, partition, start.get(partition, 0), end)
        return taken

    def _take_in_partition(self, connection: Connection, partition: int, start: int, end: int) -> int:
        taken, last = 0, None
        for last in self._log.read(ORDERS, partition, start, end):
            order: Order | OrderOutline | None
            try:
                order, kind = (read := read_order(last.value)), kind_of(read)
            except Invalid as error:
                order, kind = outline_of(last.value), UNREADABLE
                words = str(error)
            asks: dict[str, int | None] = {"release": None, "decided_offset": None}
            if order is None:
                # Nobody's order; it stays on the log, and this says where.
                place = f"{ORDERS}-{partition}@{last.offset}"
                row = {"order_id": place, "kind": words, "domain": "", "state": UNREADABLE, "attempts": 0}
            else:
                state, attempts = _standing(connection, self._log, order)
                row = {
                    "order_id": str(order.order_id),
                    "kind": kind,
                    "domain": order.domain,
                    "state": state,
                    "attempts": attempts,
                }
            if isinstance(order, SwapRelease):
                asks = {"release": order.release, "decided_offset": _decided(connection, last.value)}
            connection.execute(
                text(
                    "INSERT INTO work.claims (order_id, kind, domain, body, state, attempts, received_at, release, decided_offset)"
                    " VALUES (:order_id, :kind, :domain, :body, :state, :attempts, clock_timestamp(), :release, :decided_offset)"
                    # One that a rebuilt log did not imply may have been said again since.
                    " ON CONFLICT (order_id) DO UPDATE SET"
                    " (kind, domain, body, state, attempts, received_at, release, decided_offset)"
                    " = (excluded.kind, excluded.domain, excluded.body, excluded.state, excluded.attempts, excluded.received_at,"
                    " excluded.release, excluded.decided_offset)"
                    " WHERE claims.kind = 'unexplained' AND convert_from(claims.body, 'UTF8')::bigint <= :offset"
                ),
                {**row, **asks, "body": last.value, "offset": last.offset},
            )
            taken += 1
        connection.execute(
            text(
                "INSERT INTO work.intake AS i (topic, partition, next_offset, last_offset, last_digest)"
                " VALUES (:t, :p, :n, :last, :digest) ON CONFLICT (topic, partition) DO UPDATE SET"
                " next_offset = excluded.next_offset, last_offset = coalesce(excluded.last_offset, i.last_offset),"
                " last_digest = coalesce(excluded.last_digest, i.last_digest)"
            ),
            {
                "t": ORDERS,
                "p": partition,
                "n": end,
                "last": None if last is None else last.offset,
                "digest": None if last is None else last.digest,
            },
        )
        return taken


def _decided(connection: Connection, value: bytes) -> int | None:
    """Where on the domain's partition the decision stands that the order of these bytes follows from: what caused it is on the log
    before it, and in the tables."""
    return next((event.offset for event in said(connection, [str(cause_of(value))]) if event.topic == DOMAINS), None)


def _standing(connection: Connection, log: Log, order: Order | OrderOutline) -> tuple[str, int]:
    """What is left to do of an order by what the log says of it: its state as a claim, and the attempts that have failed."""
    failures = {str(uuid5(order.order_id, failure_name(attempt))): attempt for attempt in range(1, ATTEMPTS + 2)}
    results = _results(order)
    found = said(connection, [*results, *failures])
    if any(event.event_id in results for event in found):
        return "done", 0
    last = max(found, key=lambda event: failures[event.event_id], default=None)
    attempts = failures[last.event_id] if last is not None else 0
    if _over(connection, order):
        return "cancelled", attempts
    if last is not None:
        for record in log.read(last.topic, last.partition, last.offset, last.offset + 1):
            event = read_event(record.topic, record.key, record.value).event
            if isinstance(event, OrderFailed) and not event.will_retry:
                return "failed", attempts
    return "open", attempts


def _results(order: Order | OrderOutline) -> list[str]:
    """The ids of what would be published of it."""
    return [str(uuid5(order.order_id, name)) for name in RESULTS]


def has_result(database: Engine, order: Order) -> bool:
    """Whether what came of the order stands on the log already: whoever carried it out died before closing it. Raises
    Unavailable."""
    with postgres_trouble(), database.connect() as connection:
        return bool(said(connection, _results(order)))


def waiting(database: Engine, kinds: Sequence[str]) -> bool:
    """Whether an order of these kinds could be claimed. Raises Unavailable."""
    with postgres_trouble(), database.connect() as connection:
        found = connection.execute(
            text(f"SELECT EXISTS (SELECT FROM work.claims WHERE {_CLAIMABLE})"), {"kinds": [*kinds, UNREADABLE]}
        )
        return bool(found.scalar_one())


def claim(database: Engine, kinds: Sequence[str], worker: str, host: str) -> Claim | None:
    """The oldest open order of these kinds that nobody holds, now held by `worker` of `host`. Raises Unreadable, for one that this
    code cannot read (and whose kind may be any), and Unavailable."""
    with postgres_trouble(), database.begin() as connection:
        row = connection.execute(
            text(
                "UPDATE work.claims SET worker = :worker, host = :host, attempts = attempts + 1,"
                " lease_until = now() + make_interval(secs => :lease) WHERE order_id = ("
                f" SELECT order_id FROM work.claims WHERE {_CLAIMABLE}"
                " ORDER BY received_at, order_id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING body, attempts, decided_offset"
            ),
            {"worker": worker, "host": host, "lease": LEASE_S, "kinds": [*kinds, UNREADABLE]},
        ).one_or_none()
    if row is None:
        return None
    try:
        order = decode_order(bytes(row.body))
    except Invalid as error:
        outline = outline_of(bytes(row.body))
        assert outline is not None, "or it would not be open"
        raise Unreadable(outline, row.attempts, str(error)) from None
    return Claim(order, row.attempts, worker, row.decided_offset)


def renew(database: Engine, held: Claim) -> bool:
    """Renew the lease; False when the order is no longer ours to carry out (lost, or its round has ended)."""
    with postgres_trouble(), database.begin() as connection:
        renewed = connection.execute(
            text(
                "UPDATE work.claims SET lease_until = now() + make_interval(secs => :lease)"
                " WHERE order_id = :order_id AND worker = :worker AND attempts = :attempt AND state = 'open'"
            ),
            {
                "lease": LEASE_S,
                "order_id": str(held.order.order_id),
                "worker": held.worker,
                "attempt": held.attempt,
            },
        )
        if renewed.rowcount != 1:
            return False
        return not _over(connection, held.order)


def _over(connection: Connection, order: Order | OrderOutline) -> bool:
    """Whether the round that the order is of has ended, and is not being made again by it; or the comparison or build."""
    if isinstance(order, CompareReleases | CompareBases):
        return comparison_over(connection, str(order.order_id))
    if isinstance(order, BuildMaterial):
        return build_over(connection, str(order.order_id))
    return order.round_id is not None and bool(orders_over(connection, {str(order.order_id): order.round_id}))


def is_held(connection: Connection, held: Claim) -> bool:
    """Whether the order is still ours, which stays so until the transaction ends."""
    found = connection.execute(
        text(
            "SELECT FROM work.claims WHERE order_id = :order_id AND worker = :worker AND attempts = :attempt"
            " AND state = 'open' FOR UPDATE"
        ),
        {"order_id": str(held.order.order_id), "worker": held.worker, "attempt": held.attempt},
    )
    return found.one_or_none() is not None


def give_up(database: Engine, order_id: UUID) -> None:
    """Close an order that cannot be read: that it failed is told."""
    with postgres_trouble(), database.begin() as connection:
        connection.execute(
            text("UPDATE work.claims SET state = 'failed', lease_until = NULL WHERE order_id = :order_id"),
            {"order_id": str(order_id)},
        )


def finish(database: Engine, held: Claim, state: str) -> None:
    """Close the claim: `done`, `failed` or `cancelled`."""
    _close(database, held, "state = :value, lease_until = NULL", state)


def give_back(database: Engine, held: Claim, not_before: datetime) -> None:
    """Leave the order for a later attempt."""
    _close(database, held, "lease_until = NULL, not_before = :value", not_before)


def _close(database: Engine, held: Claim, change: str, value: object) -> None:
    with postgres_trouble(), database.begin() as connection:
        connection.execute(
            text(f"UPDATE work.claims SET {change} WHERE order_id = :order_id AND worker = :worker AND attempts = :n"),
            {"value": value, "order_id": str(held.order.order_id), "worker": held.worker, "n": held.attempt},
        )
