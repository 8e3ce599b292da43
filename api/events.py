"""The log, read over HTTP: the last events, all from a place on, or as they come. Words stay sealed as they stand."""

import re
import threading
import time
from collections.abc import Iterator, Set
from datetime import datetime
from typing import Any

import msgspec
from flask import Blueprint, Response, request
from msgspec import Raw
from sqlalchemy import select

from api.access import caller, domains_asked, needs, token
from api.errors import ApiError
from api.known import domain_row
from api.services import Services
from api.wire import check_domain, reply, whole_argument
from streams import schema
from streams.codec import read_event
from streams.errors import Invalid, Unavailable
from streams.events import CONVERSATIONS, DOMAINS
from streams.log import Record
from streams.store import postgres_trouble

READABLE = (CONVERSATIONS, DOMAINS)
MOST = 5000
FOLLOWERS = 8
FOLLOW_LOOK_S = 0.3
KEEP_ALIVE_S = 10.0
SCAN_RECORDS = 20_000  # read at most this far back for the last events of one domain

Cursor = dict[tuple[str, int], int]  # the next offset to read, by (topic, partition)


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("events", __name__)
    followers = threading.Semaphore(FOLLOWERS)

    @views.get("/v1/events")
    @needs("data")
    def list_events() -> Response:
        domain = check_domain(request.args["domain"]) if "domain" in request.args else None
        if domain is not None:
            domain_row(services, domain)
        domains = domains_asked(domain)
        topics = _topics(request.args.get("topic"))
        limit = whole_argument("limit", 100, 1, MOST)
        after = request.args.get("after")
        if request.args.get("follow") == "1":
            if not followers.acquire(blocking=False):
                raise ApiError(429, f"{FOLLOWERS} follow the log already", code="too_many_followers", retry_after_s=10)
            return Response(
                _Follow(services, topics, domains, limit, after, followers), content_type="text/event-stream"
            )
        if after is None:
            found, cursor = last_events(services, topics, domains, limit)
        else:
            found, cursor = events_after(services, _cursor(services, topics, after), domains, limit)
        return reply({"data": found, "next": cursor_text(cursor)})

    @views.get("/v1/events/<event_id>")
    @needs("data")
    def show_event(event_id: str) -> Response:
        table = schema.events.c
        with postgres_trouble(), services.database.connect() as connection:
            row = connection.execute(
                select(table.topic, table.partition, table.offset, table.domain).where(table.event_id == event_id)
            ).one_or_none()
        if row is None or not caller().sees(row.domain):
            raise ApiError(404, "there is no such event", param="event_id", code="event_not_found")
        for record in services.recorder.log.read(row.topic, row.partition, row.offset, row.offset + 1):
            return reply(_shown(record))
        raise ApiError(404, "the log does not hold that event any more", param="event_id")

    return views


def last_events(
    services: Services, topics: tuple[str, ...], domains: Set[str] | None, limit: int
) -> tuple[list[dict[str, Any]], Cursor]:
    """The newest `limit` events in order of time, and where to go on from."""
    found: list[tuple[datetime, dict[str, Any]]] = []
    cursor: Cursor = {}
    for topic in topics:
        for partition, end in services.recorder.ends(topic).items():
            cursor[topic, partition] = end
            kept: list[tuple[datetime, dict[str, Any]]] = []
            upper, step = end, max(limit, 200)
            while upper > 0 and len(kept) < limit and end - upper < SCAN_RECORDS:
                lower = max(0, upper - step)
                kept = [*_read(services, topic, partition, lower, upper, domains), *kept]
                upper, step = lower, step * 4
            found += kept[-limit:]
    found.sort(key=lambda pair: pair[0])
    return [shown for _, shown in found[-limit:]], cursor


def events_after(
    services: Services, cursor: Cursor, domains: Set[str] | None, limit: int
) -> tuple[list[dict[str, Any]], Cursor]:
    """At most `limit` events from `cursor` on, of the next SCAN_RECORDS records of each partition, and where to go on from: it may
    have moved although nothing was found. Order holds within a partition."""
    found: list[tuple[datetime, dict[str, Any]]] = []
    reached = dict(cursor)
    ends = {topic: services.recorder.ends(topic) for topic in {topic for topic, _ in cursor}}
    for (topic, partition), start in cursor.items():
        end = min(ends[topic].get(partition, 0), start + SCAN_RECORDS)
        for record in services.recorder.log.read(topic, partition, start, end):
            if len(found) >= limit:
                break
            reached[topic, partition] = record.offset + 1
            found += _kept(record, domains)
        else:
            reached[topic, partition] = max(start, end)
    found.sort(key=lambda pair: pair[0])
    return [shown for _, shown in found], reached


def cursor_text(cursor: Cursor) -> str:
    return ",".join(f"{topic}-{partition}@{offset}" for (topic, partition), offset in sorted(cursor.items()))


def _cursor(services: Services, topics: tuple[str, ...], text: str) -> Cursor:
    """`beginning`, `end`, or the `next` of an earlier answer; partitions it does not name are read from their beginning."""
    start: Cursor = {}
    for topic in topics:
        for partition, end in services.recorder.ends(topic).items():
            start[topic, partition] = end if text == "end" else 0
    if text in ("beginning", "end"):
        return start
    for part in text.split(","):
        found = re.fullmatch(r"(noria\.[a-z_]+)-(\d{1,9})@(\d{1,18})", part)
        if found is None:
            raise ApiError(400, "after must be `beginning`, `end` or the `next` of an earlier answer", param="after")
        place = (found[1], int(found[2]))
        if place in start:
            start[place] = int(found[3])
    return start


def _topics(said: str | None) -> tuple[str, ...]:
    if said is None:
        return READABLE
    for topic in READABLE:
        if said in (topic, topic.removeprefix("noria.")):
            return (topic,)
    raise ApiError(400, f"topic must be one of {', '.join(READABLE)}", param="topic")


def _read(
    services: Services, topic: str, partition: int, start: int, end: int, domains: Set[str] | None
) -> Iterator[tuple[datetime, dict[str, Any]]]:
    for record in services.recorder.log.read(topic, partition, start, end):
        yield from _kept(record, domains)


def _kept(record: Record, domains: Set[str] | None) -> list[tuple[datetime, dict[str, Any]]]:
    """The event with its time, unless it is another domain's or cannot be read (it is in quarantine then)."""
    try:
        envelope = read_event(record.topic, record.key, record.value)
    except Invalid:
        return []
    return [(envelope.time, _shown(record))] if domains is None or envelope.event.domain in domains else []


def _shown(record: Record) -> dict[str, Any]:
    return {"position": f"{record.topic}-{record.partition}@{record.offset}", "event": Raw(record.value)}


class _Follow:
    """The log as server-sent events, each with the cursor to go on from as its id; until the client leaves."""

    def __init__(
        self,
        services: Services,
        topics: tuple[str, ...],
        domains: Set[str] | None,
        limit: int,
        after: str | None,
        followers: threading.Semaphore,
    ) -> None:
        self._followers = followers
        self._left = threading.Event()
        self._gone = request.environ.get("waitress.client_disconnected", lambda: False)
        resumed = request.headers.get("Last-Event-ID") or after
        try:
            if resumed is None:
                self._first, self._cursor = last_events(services, topics, domains, limit)
            else:
                self._first, self._cursor = [], _cursor(services, topics, resumed)
        except BaseException:
            followers.release()
            raise
        self._services, self._domains, self._token = services, domains, token()
        self._events = self._follow()

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        if not self._left.is_set():
            self._left.set()
            self._followers.release()

    def _follow(self) -> Iterator[bytes]:
        yield b": the log follows\n\n"
        yield from self._sent(self._first)
        quiet_since = time.monotonic()
        while not self._left.is_set() and not self._gone():
            try:
                found, self._cursor = events_after(self._services, self._cursor, self._domains, MOST)
                holds = not isinstance(self._services.keys.caller(self._token), str)
            except Unavailable:
                yield b": the log does not answer\n\n"  # the client comes back with the last id that it was given
                return
            if not holds:
                yield b": the key does not hold any more\n\n"
                return
            if found:
                yield from self._sent(found)
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > KEEP_ALIVE_S:
                yield b": nothing new\n\n"
                quiet_since = time.monotonic()
            self._left.wait(FOLLOW_LOOK_S)

    def _sent(self, found: list[dict[str, Any]]) -> Iterator[bytes]:
        for number, shown in enumerate(found, 1):
            # Only the last of a batch names a place to go on from: before it, what comes next is not in one order.
            id_ = b"id: " + cursor_text(self._cursor).encode() + b"\n" if number == len(found) else b""
            yield id_ + b"data: " + msgspec.json.encode(shown) + b"\n\n"
