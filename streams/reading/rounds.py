"""Rounds and releases as they stand now: what runs, what answers, and what has been made and is needed."""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from streams.engines import serving_kind
from streams.erasures import PERSON
from streams.policy import Keep


class Activity(Struct, frozen=True):
    """`near`: a round may begin by time alone. `running`: one has begun and not ended."""

    near: bool
    running: bool


def activity(connection: Connection, near_s: float) -> Activity:
    """Of all domains together."""
    row = connection.execute(
        text(
            "SELECT EXISTS (SELECT FROM noria.domains WHERE wake_at < now() + make_interval(secs => :near)) AS near,"
            " EXISTS (SELECT FROM noria.rounds WHERE ended_at IS NULL) AS running"
        ),
        {"near": near_s},
    ).one()
    return Activity(row.near, row.running)


def orders_over(connection: Connection, rounds: Mapping[str, str]) -> set[str]:
    """The orders of which nothing is wanted any more. `rounds`: by order, the round that it is of. A round that has ended wants
    nothing but the order by which it is being made again; one that is not known here yet may want anything."""
    found = connection.execute(
        text(
            "SELECT o.order_id FROM unnest(cast(:orders AS text[]), cast(:rounds AS text[])) o (order_id, round_id)"
            " JOIN noria.rounds r ON r.round_id = o.round_id WHERE r.ended_at IS NOT NULL"
            " AND coalesce(r.rebuild ->> 'outcome' != 'under_way' OR r.rebuild ->> 'order_id' != o.order_id, true)"
        ),
        {"orders": list(rounds), "rounds": list(rounds.values())},
    )
    return set(found.scalars())


def comparison_over(connection: Connection, order_id: str) -> bool:
    """Whether the comparison of that order has ended; one that is not known here yet may be wanted."""
    outcome = connection.execute(
        text("SELECT outcome FROM noria.comparisons WHERE comparison_id = :order_id"), {"order_id": order_id}
    ).scalar_one_or_none()
    return outcome not in (None, "under_way")


def build_over(connection: Connection, order_id: str) -> bool:
    """Whether that build has ended; one that is not known here yet may be wanted."""
    outcome = connection.execute(
        text("SELECT outcome FROM noria.builds WHERE build_id = :order_id"), {"order_id": order_id}
    ).scalar_one_or_none()
    return outcome not in (None, "under_way")


class JudgedBy(Struct, frozen=True):
    """Of a reward model, the keys of whoever it learned from: those in use, and those of whoever was erased since."""

    kids: tuple[str, ...]
    erased: tuple[str, ...]


def judged_by(connection: Connection, reward_round: str) -> JudgedBy:
    """`reward_round` made the reward model. The keyring says it, which knows of an erasure before its event has been read."""
    rows = connection.execute(
        text(
            "SELECT k.kid, k.destroyed_at IS NOT NULL AS erased FROM noria.rounds r,"
            " LATERAL jsonb_object_keys(r.said_by) said (person), keyring.person_keys k WHERE r.round_id = :round_id"
            " AND k.subject = :prefix || said.person AND (k.destroyed_at IS NULL OR k.destroyed_at >= r.requested_at)"
            " ORDER BY k.kid"
        ),
        {"round_id": reward_round, "prefix": PERSON},
    ).all()
    return JudgedBy(tuple(row.kid for row in rows if not row.erased), tuple(row.kid for row in rows if row.erased))


def reward_round_of(connection: Connection, round_id: str) -> str | None:
    """Which round made the reward model that judges the answers which that one's training draws."""
    found = connection.execute(
        text("SELECT reward_round FROM noria.rounds WHERE round_id = :round_id"), {"round_id": round_id}
    )
    return found.scalar_one_or_none()


class Served(Struct, frozen=True):
    """What answers a domain that is not retired, and the kind of engine that serves that. `near`: a round may begin by time alone.
    `exam_items`: how many are in force; `mask`: the kinds of personal data that its policy masks."""

    domain: str
    engine: str
    model: str
    near: bool
    exam_items: int
    mask: tuple[str, ...]


def served(connection: Connection, near_s: float) -> list[Served]:
    rows = connection.execute(
        text(
            "SELECT d.domain, d.engine, r.model, r.needs,"
            " coalesce(d.wake_at < now() + make_interval(secs => :near), false) AS near,"
            " (SELECT count(*) FROM noria.exam_items i WHERE i.domain = d.domain AND i.retired_offset IS NULL)"
            " AS exam_items, d.policy -> 'mask' AS mask"
            " FROM noria.domains d JOIN noria.releases r ON r.domain = d.domain AND r.release = d.live_release"
            " WHERE d.retired_at IS NULL ORDER BY d.domain"
        ),
        {"near": near_s},
    )
    return [
        Served(
            row.domain, serving_kind(row.engine, row.needs), row.model, row.near, row.exam_items, tuple(row.mask or ())
        )
        for row in rows
    ]


class Keeping(Struct, frozen=True):
    """What a domain's policy keeps, and the release that answers."""

    domain: str
    live_release: int | None
    keep: Keep


def keepings(connection: Connection) -> list[Keeping]:
    """Of every domain but those that stand parked: of these the tables do not know what is needed."""
    rows = connection.execute(
        text(
            "SELECT domain, live_release, policy -> 'keep' AS keep FROM noria.domains d"
            " WHERE NOT EXISTS (SELECT FROM noria.parked p WHERE p.kind = 'domain' AND p.key = d.domain)"
        )
    )
    return [Keeping(row.domain, row.live_release, msgspec.convert(row.keep or {}, Keep)) for row in rows]


def releases_in_use(connection: Connection, keeping: Keeping) -> set[int]:
    """What answers, what it was made from, what is compared, and what a round is made from or something is made again from."""
    found = connection.execute(
        text(
            "SELECT live_release FROM noria.domains WHERE domain = :domain"
            " UNION SELECT base_release FROM noria.rounds WHERE domain = :domain AND release = :live"
            " UNION SELECT base_release FROM noria.rounds WHERE domain = :domain"
            " AND (ended_at IS NULL OR rebuild ->> 'outcome' = 'under_way')"
            " UNION SELECT release FROM noria.comparisons WHERE domain = :domain AND outcome = 'under_way'"
        ),
        {"domain": keeping.domain, "live": keeping.live_release},
    )
    return {release for release in found.scalars() if release is not None}


class Candidate(Struct, frozen=True):
    """What a round that has ended has made, and whose files are kept. `step`: where the round ended. `rebuilt_by`, `rebuilt_at`: by
    which order it was made again, and when."""

    round_id: str
    step: str
    release: int | None
    model: str
    adapter: str
    rebuilt_by: str | None
    rebuilt_at: datetime | None


def candidates_kept(connection: Connection, domain: str) -> list[Candidate]:
    """The newest first."""
    rows = connection.execute(
        text(
            "SELECT round_id, step, release, model, adapter,"
            " CASE rebuild ->> 'outcome' WHEN 'equal' THEN rebuild ->> 'order_id' END AS rebuilt_by,"
            " CASE rebuild ->> 'outcome' WHEN 'equal' THEN (rebuild ->> 'at')::timestamptz END AS rebuilt_at"
            " FROM noria.rounds WHERE domain = :domain"
            " AND model IS NOT NULL AND removed_at IS NULL AND ended_at IS NOT NULL ORDER BY number DESC"
        ),
        {"domain": domain},
    )
    return [msgspec.convert(dict(row), Candidate) for row in rows.mappings()]


def models_retired(connection: Connection) -> set[str]:
    """The digests of the models and adapters of retired candidates. Another round may have made the same, and need it."""
    found = connection.execute(
        text(
            "SELECT model FROM noria.rounds WHERE removed_at IS NOT NULL"
            " UNION SELECT adapter FROM noria.rounds WHERE removed_at IS NOT NULL"
        )
    )
    return {digest for digest in found.scalars() if digest is not None}


def models_needed(connection: Connection) -> set[str]:
    """The digests of the bases, and of the models and adapters that domains, releases and rounds still name."""
    found = connection.execute(
        text(
            "SELECT base_model FROM noria.domains"
            " UNION SELECT base_model FROM noria.rounds"
            " UNION SELECT model FROM noria.bases"
            " UNION SELECT model FROM noria.releases WHERE state != 'removed'"
            " UNION SELECT model FROM noria.rounds WHERE removed_at IS NULL"
            " UNION SELECT adapter FROM noria.rounds WHERE removed_at IS NULL"
        )
    )
    return {digest for digest in found.scalars() if digest is not None}
