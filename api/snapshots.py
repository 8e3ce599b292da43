"""The training set of a round: by which steps it was chosen, what became of each candidate, and what it holds, opened."""

from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from api.access import caller, needs
from api.errors import ApiError
from api.formats.turns import to_alpaca
from api.recall import MemoryAway
from api.rounds import the_round
from api.services import Services
from api.wire import reply, whole_argument
from streams import history
from streams.artifacts import open_artifacts
from streams.errors import Erased, Invalid
from streams.history import open_question
from streams.reading.learning import examples_as_of, line_of_round
from streams.recall_client import MOST_PLACES, MapQuestion
from streams.sealing import open_sealed
from streams.snapshots import Line, Snapshot, changes, counts, load
from streams.store import postgres_trouble

PAGE_LINES = 1000
MOST_LINES = 10_000
PAGE_ROWS = 200
MOST_ROWS = 1000
"""Each is opened, in a process that answers others meanwhile."""


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("snapshots", __name__)
    artifacts = open_artifacts(services.settings.artifacts, services.settings.shared_artifacts)

    @lru_cache(maxsize=4)  # a page of lines after the other; one of 100,000 candidates takes 50 MB
    def read(digest: str) -> Snapshot:
        return load(digest, artifacts)

    def snapshot_of(round_id: str) -> tuple[dict[str, Any], Snapshot]:
        found = the_round(services, round_id)
        digest = found["snapshot"]
        if digest is None:
            raise ApiError(409, f"round {found['number']} has chosen no training set", code="no_snapshot")
        if not artifacts.has(digest):
            message = f"the training set of round {found['number']} does not lie among the artifacts of this machine"
            raise ApiError(409, message, code="snapshot_removed")
        return found, read(digest)

    @views.get("/v1/rounds/<round_id>/snapshot")
    @needs("data")
    def show_snapshot(round_id: str) -> Response:
        found, snapshot = snapshot_of(round_id)
        about = {name: found[name] for name in ("round_id", "domain", "number", "snapshot")}
        return reply(
            about
            | {
                "pin": snapshot.pin,
                "opening": snapshot.opening,
                "selection": msgspec.to_builtins(snapshot.selection),
                "libraries": snapshot.libraries,
                "rows": len(snapshot.rows),
                "new": sum(row.role == "new" for row in snapshot.rows),
                "counts": msgspec.to_builtins(counts(snapshot)),
            }
        )

    @views.get("/v1/rounds/<round_id>/snapshot/lines")
    @needs("data")
    def list_lines(round_id: str) -> Response:
        _, snapshot = snapshot_of(round_id)
        start = whole_argument("since", 0, 0, 2**63 - 1)
        most = whole_argument("limit", PAGE_LINES, 1, MOST_LINES)
        wanted, step, kept = (request.args.get(name) for name in ("candidate", "step", "kept"))
        if kept not in (None, "true", "false"):
            raise ApiError(400, "kept is true or false", param="kept")
        lines = [
            line
            for line in snapshot.lines
            if wanted in (None, line.id) and step in (None, line.step) and kept in (None, str(line.kept).lower())
        ]
        if wanted is not None and not lines:
            raise ApiError(404, f"{wanted} was no candidate of this round", code="candidate_not_found")
        data = [_told(line) for line in lines[start : start + most]]
        return reply({"data": data, "next": start + most if start + most < len(lines) else None})

    @views.get("/v1/rounds/<round_id>/snapshot/changes")
    @needs("data")
    def list_changes(round_id: str) -> Response:
        _, snapshot = snapshot_of(round_id)
        if (since := request.args.get("from")) is None:
            raise ApiError(400, "from names the round with whose training set it is compared", param="from")
        _, before = snapshot_of(since)
        data = [
            {
                "id": one.id,
                "kind": one.kind,
                "before": None if one.before is None else _told(one.before),
                "after": None if one.after is None else _told(one.after),
            }
            for one in changes(before, snapshot)
        ]
        return reply({"data": data})

    @lru_cache(maxsize=4)
    def places(domain: str, round_id: str, pin: int, shown: tuple[str, ...]) -> dict[str, tuple[float, float]]:
        return services.recaller.map(MapQuestion(domain, round_id, pin, shown))

    @views.get("/v1/rounds/<round_id>/snapshot/map")
    @needs("data")
    def map_snapshot(round_id: str) -> Response:
        """Where its examples lie beside each other; the words of each are opened now, and whose open no more has no point."""
        found, snapshot = snapshot_of(round_id)
        new = {row.example_id for row in snapshot.rows if row.role == "new"}
        lines = {line.id: line for line in snapshot.lines if line.kind == "example"}
        shown = tuple(sorted(lines, key=lambda id: (id not in new, sha256(id.encode()).digest()))[:MOST_PLACES])
        done = services.limits.hold_open(caller())  # for seconds
        try:
            at = places(found["domain"], round_id, snapshot.pin, shown)
        except MemoryAway as error:
            raise ApiError(503, f"no map is made: {error}", code="memory_unavailable", retry_after_s=2) from None
        finally:
            done()
        with postgres_trouble(), services.database.connect() as connection:
            line = line_of_round(connection, found["domain"], round_id)
            rows = examples_as_of(connection, found["domain"], snapshot.pin, line)
        points = []
        for row in rows:
            if (place := at.get(row.example_id)) is None:
                continue
            try:
                question, answer = (
                    open_question(row.prompt, services.keyring),
                    open_sealed(row.answer, services.keyring),
                )
            except (Erased, Invalid):
                continue
            about = {"x": place[0], "y": place[1], "new": row.example_id in new, "question": question, "answer": answer}
            points.append(_told(lines[row.example_id]) | about)
        about = {name: found[name] for name in ("round_id", "domain", "number", "snapshot")}
        return reply(about | {"points": points, "left_out": len(lines) - len(shown)})

    @views.get("/v1/rounds/<round_id>/snapshot/export")
    @needs("data")
    def export_snapshot(round_id: str) -> Response:
        _, snapshot = snapshot_of(round_id)
        start = whole_argument("since", 0, 0, 2**63 - 1)
        most = whole_argument("limit", PAGE_ROWS, 1, MOST_ROWS)
        data, erased = [], 0
        for row in snapshot.rows[start : start + most]:
            try:
                with postgres_trouble():
                    messages = history.open_whole(row.prompt, services.keyring)
                    answer = open_sealed(row.answer, services.keyring)
            except Erased:
                erased += 1
                continue
            data.append(to_alpaca(messages, answer) | {"example_id": row.example_id, "role": row.role})
        there = start + most < len(snapshot.rows)
        return reply({"data": data, "erased": erased, "retired": 0, "next": start + most if there else None})

    return views


def _told(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in line.__struct_fields__}
