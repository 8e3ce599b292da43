"""Swaps by hand: an engine that answers golden prompts, orders, doors and hosts that say what a test lets them say."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

from msgspec import structs

from streams.codec import decode
from streams.errors import Invalid, Unavailable
from streams.events import DOMAINS, Event
from streams.orders import SwapRelease
from tests.engine_server import EngineServer
from tests.integration.by_hand import change, rows
from tests.integration.conftest import eventually
from workers import swapper
from workers.context import Cancelled, Context
from workers.models.golden import GoldenLine
from workers.orders import Claim
from workers.routes import engine_id

GOLDEN = [
    GoldenLine(
        prompt=f"question {n}", prompt_ids=[1, 2, 3], token_ids=[7, 8], logprobs=[-0.5, -1.0], whole=[True, True]
    )
    for n in range(3)
]


class GoldenEngine(EngineServer):
    """An engine that answers golden prompts as the trainer would, but for `off` in log-probability."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.off = off
        self.more_prompt_tokens = 0

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if body.get("stream"):
            super()._answer(handler, body)
            return
        self.hold.wait()
        (line,) = [line for line in GOLDEN if line.prompt == body["messages"][0]["content"]]
        steps = [
            {"id": token, "logprob": logprob - self.off}
            for token, logprob in zip(line.token_ids, line.logprobs, strict=True)
        ]
        said = {
            "choices": [{"message": {"content": "x"}, "logprobs": {"content": steps}}],
            "usage": {"prompt_tokens": len(line.prompt_ids) + self.more_prompt_tokens},
        }
        raw = json.dumps(said).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)


def model(context: Context, tmp_path: Path) -> str:
    folder = tmp_path / f"model-{uuid4().hex}"
    folder.mkdir()
    (folder / "golden.jsonl").write_text("".join(json.dumps(structs.asdict(line)) + "\n" for line in GOLDEN))
    (folder / "which").write_text(uuid4().hex)
    return context.artifacts.put_dir(folder)


def order_for(context: Context, tmp_path: Path, release: int = 1, **more: Any) -> SwapRelease:
    return SwapRelease(
        order_id=uuid4(),
        domain=more.pop("domain", "roads"),
        release=release,
        model=model(context, tmp_path),
        engine=more.pop("engine", "llamacpp"),
        current=release - 1 if release else None,
        round_id=None,
        **more,
    )


def host_says(context: Context, order: SwapRelease, state: str, engine: EngineServer | None = None) -> None:
    """What the process that holds the engines does once one is wanted."""
    wanted = "SELECT 1 FROM work.engines WHERE engine_id = :id AND wanted"
    name = engine_id(order.domain, order.release)
    eventually(lambda: rows(context.database, wanted, id=name), f"{name} is wanted")
    update = (
        "UPDATE work.engines SET state = :state, base_url = :url, error = :error, control_tokens = '{}',"
        " context_tokens = 2048 WHERE engine_id = :id"
    )
    url, error = (engine.base_url, None) if engine else (None, "no such file")
    change(context.database, update, state=state, url=url, error=error, id=name)


def carry_out(context: Context, order: SwapRelease) -> None:
    """As the worker that holds the order."""
    context.held = claimed(context, order)
    swapper.run(order, context)


def claimed(context: Context, order: SwapRelease, decided_offset: int | None = None) -> Claim:
    """The order in the hands of `swapper-1`; it was decided on after all that were decided on before it."""
    change(
        context.database,
        "INSERT INTO work.claims (order_id, kind, domain, body, state, attempts, received_at, release, decided_offset)"
        " SELECT :id, 'swap_release', :domain, '', 'open', 0, clock_timestamp(), :release,"
        " coalesce(:decided, 1 + coalesce(max(decided_offset), 0)) FROM work.claims ON CONFLICT DO NOTHING",
        id=str(order.order_id),
        domain=order.domain,
        release=order.release,
        decided=decided_offset,
    )
    held = "UPDATE work.claims SET worker = 'swapper-1', attempts = 1, state = 'open' WHERE order_id = :id"
    change(context.database, held, id=str(order.order_id))
    query = "SELECT decided_offset FROM work.claims WHERE order_id = :id"
    ((decided,),) = rows(context.database, query, id=str(order.order_id))
    assert isinstance(decided, int)
    return Claim(order, 1, "swapper-1", decided)


def run_with_host(context: Context, order: SwapRelease, engine: EngineServer) -> None:
    host = threading.Thread(target=host_says, args=(context, order, "ready", engine))
    host.start()
    try:
        carry_out(context, order)
    finally:
        host.join()


def in_thread(action: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except (Invalid, Unavailable, Cancelled) as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def door(context: Context, door_id: str, generation: int, in_flight: str = "{}", seen: str = "1 hour") -> None:
    """A door that was seen `seen` from now, so that it does not fall silent while a test runs."""
    change(
        context.database,
        "INSERT INTO work.doors (door_id, generations, in_flight, seen_at, host) VALUES (:id, CAST(:gen AS jsonb),"
        " CAST(:busy AS jsonb), now() + CAST(:seen AS interval), 'here') ON CONFLICT (door_id) DO UPDATE SET"
        " generations = excluded.generations, in_flight = excluded.in_flight, seen_at = excluded.seen_at",
        id=door_id,
        gen=json.dumps({"roads": generation}),
        busy=in_flight,
        seen=seen,
    )


def live(context: Context, release: int, domain: str = "roads") -> None:
    """The projections say that `release` is live."""
    change(
        context.database,
        "INSERT INTO noria.domains (domain, title, languages, system_prompt, base_model, engine, policy, live_release,"
        " corrections, preferences, people, due, missing, created_at)"
        " VALUES (:d, '', '{}', '', 'm', 'llamacpp', '{}', :r, 0, 0, 0, false, '{}', now())"
        " ON CONFLICT (domain) DO UPDATE SET live_release = excluded.live_release",
        d=domain,
        r=release,
    )


def route(context: Context) -> tuple[object, ...] | None:
    found = rows(context.database, "SELECT release, engine_id, generation FROM work.routes WHERE domain = 'roads'")
    return found[0] if found else None


def wanted(context: Context) -> dict[object, object]:
    return dict(rows(context.database, "SELECT engine_id, wanted FROM work.engines"))  # type: ignore[arg-type]


def told(context: Context, order: SwapRelease) -> list[Event]:
    found: list[Event] = []
    for partition, end in context.log.ends(DOMAINS).items():
        for record in context.log.read(DOMAINS, partition, 0, end):
            event = decode(record.value).event
            if getattr(event, "order_id", None) == order.order_id:
                found.append(event)
    return found


def close_all(context: Context) -> None:
    change(context.database, "UPDATE work.claims SET state = 'done'")


def released(context: Context, order: SwapRelease) -> None:
    """The projections say that the order's release is live, by that order; it is closed."""
    live(context, order.release, order.domain)
    change(
        context.database,
        "INSERT INTO noria.releases (domain, release, model, needs, state, started_at)"
        " VALUES (:d, :r, :m, 'merged', 'live', now())"
        " ON CONFLICT DO NOTHING",
        d=order.domain,
        r=order.release,
        m=order.model,
    )
    change(
        context.database,
        'INSERT INTO noria.events (event_id, topic, partition, "offset", type, time, source, key, domain, correlation_id,'
        " causation_id) SELECT gen_random_uuid()::text, :topic, 0, count(*), 'release_finished', now(), '/test', :d, :d, :d, :o"
        " FROM noria.events",
        topic=DOMAINS,
        d=order.domain,
        o=str(order.order_id),
    )
    change(context.database, "UPDATE work.claims SET state = 'done' WHERE order_id = :id", id=str(order.order_id))
    caught_up(context)


def caught_up(context: Context) -> None:
    """The projections have all that stands on the log."""
    for partition, end in context.log.ends(DOMAINS).items():
        change(
            context.database,
            "INSERT INTO noria.positions VALUES (:t, :p, :n) ON CONFLICT (topic, partition)"
            " DO UPDATE SET next_offset = excluded.next_offset",
            t=DOMAINS,
            p=partition,
            n=end,
        )
