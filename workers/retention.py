"""What grows is kept within bounds: models that the policy keeps no longer, and orders that were carried out long ago.

    candidate retired (on the log) → the tables say so → its model and adapter are removed

The log decides: `CandidateRetired` has no effect for a model that is in use where it comes to stand (`rounds.in_use`), and nothing
is removed before the tables say that it had one. So a release whose model is gone cannot be gone back to, and whoever dies in
between leaves files that the next look removes. What was removed can be made again: `workers.trainer.rebuild`.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from sqlalchemy import Connection, text

from streams.artifacts import IN_USE_LOCK
from streams.codec import read_event
from streams.facts.releases import CandidateRetired, ReleaseFinished, ReleaseRolledBack
from streams.policy import LEAST_RELEASES
from streams.reading.rounds import Candidate, candidates_kept, keepings, models_needed, models_retired, releases_in_use
from streams.reading.said import went_live
from streams.store import postgres_trouble
from workers.context import Context
from workers.orders import caught_up

LOOK_EVERY_S = 60.0
ORDERS_KEPT_DAYS = 30
REBUILT_KEPT_DAYS = 1  # at the least: whoever asked for it is to have the time to use it
ARRIVING_S = 86_400.0  # longer than anything takes to be put among the artifacts


class Retention:
    """Looks every LOOK_EVERY_S."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._looked_at = float("-inf")

    def step(self) -> None:
        """Raises Unavailable."""
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            retire(self._context, datetime.now(UTC))
            remove(self._context)
            forget_orders(self._context)
            self._context.artifacts.clear_arriving(ARRIVING_S)


def retire(context: Context, now: datetime) -> list[CandidateRetired]:
    """Say of every candidate beyond what its domain's policy keeps that it is retired. Raises Unavailable."""
    with postgres_trouble(), context.database.connect() as connection:
        found = list(_beyond(context, connection, now))
    for standing, event in found:
        # What had no effect, because it was in use, may be said again once the domain stands elsewhere.
        context.say([(uuid5(UUID(event.round_id), f"candidate_retired {standing}"), event)], event.round_id)
    return [event for _, event in found]


def _beyond(context: Context, connection: Connection, now: datetime) -> Iterator[tuple[str, CandidateRetired]]:
    """What is to be retired, with where its domain stands."""
    for keeping in keepings(connection):
        domain, keep = keeping.domain, keeping.keep
        # What has an engine is to be gone back to at once.
        near = releases_in_use(connection, keeping) | _with_engines(connection, domain)
        made = candidates_kept(connection, domain)
        released = [one for one in made if one.step == "released"]
        rewards = [one for one in made if one.step == "kept"]
        refused = [one for one in made if one.step not in ("released", "kept")]
        standing = f"{keeping.live_release} of {released[0].release if released else 0}"
        over = [one for one in released[max(keep.releases, LEAST_RELEASES) :] if one.release not in near]
        since = now - timedelta(days=keep.days)
        answered = _answered(context, connection, domain, since) if over and keep.days else set()
        reason = f"more than {keep.releases} releases, and none of the last {keep.days} days (keep.releases, keep.days)"
        found = [(one, reason) for one in over if one.release not in answered]
        reason = f"more than {keep.refused} refused (keep.refused)"
        found += [(one, reason) for one in refused[max(keep.refused, 0) :]]
        found += [(one, "another reward model was made since") for one in rewards[1:]]
        for one, reason in found:
            if one.rebuilt_at is None:
                yield standing, _retired(domain, one, reason)
            elif one.rebuilt_at < now - timedelta(days=max(keep.days, REBUILT_KEPT_DAYS)):
                # It may have been retired before, when its domain stood as it stands now.
                yield f"{standing} {one.rebuilt_by}", _retired(domain, one, reason)


def _answered(context: Context, connection: Connection, domain: str, since: datetime) -> set[int]:
    """The releases that answered at some time since then: which could be asked, and which may be gone back to."""
    found = went_live(connection, domain, since)
    for said in found:
        if said.event_id not in context.went_live:
            for record in context.log.read(said.topic, said.partition, said.offset, said.offset + 1):
                event = read_event(record.topic, record.key, record.value).event
                assert isinstance(event, ReleaseFinished | ReleaseRolledBack)
                release = event.release if isinstance(event, ReleaseFinished) else event.to
                context.went_live[said.event_id] = release
    return {context.went_live[said.event_id] for said in found}


def _with_engines(connection: Connection, domain: str) -> set[int]:
    found = connection.execute(
        text("SELECT release FROM work.engines WHERE domain = :domain AND wanted"), {"domain": domain}
    )
    return set(found.scalars())


def _retired(domain: str, made: Candidate, reason: str) -> CandidateRetired:
    return CandidateRetired(
        domain=domain,
        round_id=made.round_id,
        release=made.release if made.step == "released" else None,
        model=made.model,
        adapter=made.adapter,
        reason=reason,
    )


def remove(context: Context) -> list[str]:
    """Remove the models and adapters of retired candidates that nothing else needs; their digests. Raises Unavailable.

    Nothing while a backup is made, or while what was made is not yet told (`Context.keeping`)."""
    kept = context.artifacts
    with postgres_trouble(), context.database.begin() as connection:
        if not connection.execute(text(f"SELECT pg_try_advisory_xact_lock({IN_USE_LOCK})")).scalar_one():
            return []
        if not caught_up(connection, context.log):  # what was made since may be the same model
            return []
        gone = models_retired(connection)
        needed = models_needed(connection)
        # The engines are asked after the tables. Nothing that is retired comes to be needed in between: what is made again is told
        # under the lock, and an engine is wanted only of what the tables name.
        serving = "SELECT model FROM work.engines WHERE wanted OR state IN ('starting', 'ready')"
        needed |= set(connection.execute(text(serving)).scalars())
        if context.settings.models_index.exists():
            needed |= set(json.loads(context.settings.models_index.read_bytes()).values())
        # The same corrections make the same model: what one round's retirement names, another's may need.
        there = kept.all() if gone - needed else []
        removed = [digest for digest in there if digest in gone and digest not in needed]
        for digest in removed:
            kept.remove(digest)
    return removed


def forget_orders(context: Context) -> int:
    """Remove the claims of orders that were carried out long ago; what came of each stands on the log, which is asked if they are
    ever taken in again. Those by which the release went live that answers, and the one before it, stay: the reconciler asks for
    them. Raises Unavailable."""
    with postgres_trouble(), context.database.begin() as connection:
        done = connection.execute(
            text(
                "DELETE FROM work.claims c WHERE state != 'open' AND received_at < now() - make_interval(days => :days)"
                " AND NOT (kind = 'swap_release' AND order_id IN (SELECT e.causation_id FROM noria.events e"
                " WHERE e.domain = c.domain AND e.type IN ('release_finished', 'release_rolled_back')"
                ' ORDER BY e."offset" DESC LIMIT 2))'
            ),
            {"days": ORDERS_KEPT_DAYS},
        )
        return int(done.rowcount)
