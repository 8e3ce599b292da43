"""The door as a web application, and the process that serves it: `python -m api.app`."""

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

from flask import Flask, Response, g, request
from sqlalchemy import text
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from api import (
    bases,
    comparisons,
    conversations,
    datasets,
    domains,
    door,
    events,
    examples,
    grants,
    material,
    memory,
    people,
    preferences,
    quarantine,
    queue,
    rounds,
    snapshots,
    style,
)
from api.access import authenticate, caller, check_domains, needs
from api.cors import allow_origins
from api.documents import routes as documents
from api.documents.protocol import FILE_BYTES
from api.errors import ApiError, refusal_of
from api.keys import CHANNEL, ApiKeys
from api.known import parked_rows
from api.limits import Limits
from api.metrics import Metrics
from api.recall import Recaller
from api.recording import Recorder
from api.routing import Routes
from api.server import TRUST, Trust, make_server, question_of, too_large, was_asked
from api.services import Services
from api.turns import Turns
from api.wire import DATASET_BODY_BYTES, parse_position, reply
from streams.connections import SHARES
from streams.disk import RememberedUse
from streams.erasures import Journal
from streams.errors import Invalid, Unavailable
from streams.log import KafkaLog, LostHistory
from streams.sealing import Keyring, MasterKey
from streams.settings import Settings, from_env
from streams.store import open_database, postgres_trouble
from streams.structs import learn_structs

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
QUEUE_A_SLOT = 4
FRESHNESS_TIMEOUT_S = 10.0
LARGE_BODIES = dict.fromkeys(datasets.LARGE_BODIES | material.LARGE_BODIES, DATASET_BODY_BYTES) | dict.fromkeys(
    documents.LARGE_BODIES, FILE_BYTES
)
HOLD_A_THREAD = frozenset({"door.chat_completions", "events.list_events"})


def create_app(services: Services) -> Flask:
    learn_structs()
    app = Flask("noria", static_folder=None)
    app.url_map.strict_slashes = False
    app.extensions[TRUST] = Trust(services.keys.remembers, services.settings.body_bytes)
    on_disk = RememberedUse(services.settings)
    open_paths = OPEN_PATHS | ({"/metrics"} if services.settings.metrics_open else set())
    allow_origins(app, services.settings.cors_origins)  # before a key is asked for: a preflight carries none

    @app.before_request
    def admit() -> Response | None:
        """Everything that can be refused by the headers, in both of a request's turns: before its body is read, and with it."""
        g.started = time.monotonic()
        question = question_of(request.environ)
        is_open = request.path in open_paths
        if not is_open:
            authenticate(services.keys, services.wrong_keys, only_looks=question is not None)
            if not was_asked(request.environ):
                services.limits.count_request(caller())
            if "\x00" in request.path:  # no name holds one, and PostgreSQL takes none
                raise ApiError(404, "no such path")
            check_domains()
        most = LARGE_BODIES.get(request.endpoint or "", services.settings.body_bytes)
        request.max_content_length = 0 if is_open else most
        if (request.content_length or 0) > request.max_content_length:
            raise RequestEntityTooLarge
        if question is not None:
            question.takes = request.max_content_length
            return Response(status=204)
        if is_open:
            return None
        if request.method == "GET" and "after" in request.args and request.endpoint != "events.list_events":
            wanted = parse_position(request.args["after"])
            if not services.recorder.stands(wanted):
                raise ApiError(400, f"nothing stands at {wanted}", param="after")
            with services.limits.waiting(caller()):
                there = services.recorder.wait_for([wanted], FRESHNESS_TIMEOUT_S)
            if not there:
                raise ApiError(504, f"the projections did not reach {wanted} in time", param="after")

        if request.endpoint in HOLD_A_THREAD and (request.method == "POST" or "follow" in request.args):
            g.held = [services.limits.hold_open(caller())]
        return None

    @app.after_request
    def count(response: Response) -> Response:
        question = question_of(request.environ)
        if question is not None and question.takes is not None:
            return response  # the request goes on
        route = request.url_rule.rule if request.url_rule is not None else "none"
        services.metrics.requests.labels(route, str(response.status_code)).inc()
        services.metrics.duration_s.labels(route).observe(time.monotonic() - g.get("started", time.monotonic()))
        response.headers["Cache-Control"] = "no-store"
        for release in g.pop("held", ()):
            response.call_on_close(release)
        return response

    @app.get("/healthz")
    def healthz() -> Response:
        return reply({"status": "ok"})

    @app.get("/readyz")
    def readyz() -> Response:
        missing, reason = [], None
        if not services.recorder.log.answers(0.5):
            missing.append("kafka")
        elif services.recorder.refused:
            missing.append("kafka")
            reason = services.recorder.refused
        try:
            services.recorder.check_sound()
        except LostHistory as error:
            missing.append("log")
            reason = str(error)
        try:
            with postgres_trouble(), services.database.connect() as connection:
                connection.execute(text("SELECT 1"))
        except Unavailable:
            missing.append("postgres")
        if not services.routes.there():
            missing.append("engine")
        if missing:
            return reply({"status": "not ready", "missing": missing, "reason": reason}, 503, {"Retry-After": "2"})
        return reply({"status": "ready"})

    def metrics() -> Response:
        routes, _, in_flight = services.routes.table()
        services.metrics.in_flight.clear()
        for engine_id, drafts in in_flight.items():
            services.metrics.in_flight.labels(engine_id).set(drafts)
        for domain, route in routes.items():
            services.metrics.live_release.labels(domain).set(route.release)
        use = on_disk.get()
        services.metrics.disk_free.set(use.free)
        for kind, size in use.kinds.items():
            services.metrics.disk.labels(kind).set(size)
        try:
            services.metrics.quarantined.set(quarantine.count(services))
        except Unavailable:
            pass  # as many as there were when the log last answered
        try:
            parked = Counter(one["kind"] for one in parked_rows(services))
            for kind in ("domain", "exchange"):
                services.metrics.parked.labels(kind).set(parked[kind])
        except Unavailable:
            pass  # as many as there were when PostgreSQL last answered
        return Response(services.metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")

    app.get("/metrics")(metrics if services.settings.metrics_open else needs("data", every_domain=True)(metrics))

    concepts = (
        door,
        conversations,
        bases,
        domains,
        rounds,
        snapshots,
        comparisons,
        datasets,
        examples,
        preferences,
        style,
        documents,
        material,
        queue,
        memory,
        events,
        people,
        quarantine,
        grants,
    )
    for module in concepts:
        app.register_blueprint(module.blueprint(services))

    app.register_error_handler(Exception, _to_client)
    return app


def _to_client(error: Exception) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        refusal = too_large(request.max_content_length or 0)
    elif isinstance(error, HTTPException):
        status = error.code or 500
        if 300 <= status < 400:
            return Response(status=status, headers=dict(error.get_headers()))
        message = {404: "no such path", 405: "this path does not take that method"}.get(status, error.name)
        refusal = ApiError(status, message)
    else:
        refusal = refusal_of(error)
    return reply(refusal.body, refusal.status, refusal.headers)


def build(settings: Settings, client_id: str = "noria-door") -> Services:
    """The services of a door on this machine, its routes not yet followed."""
    database = open_database(settings.database_url, SHARES["door"])
    keys = ApiKeys(database)
    keyring = Keyring(database, MasterKey(settings.master_key), journal=Journal(settings.erasures))
    told = {CHANNEL: keys.forget}
    metrics = Metrics()
    return Services(
        settings=settings,
        database=database,
        recorder=Recorder(KafkaLog(settings.kafka, client_id), database),
        keyring=keyring,
        keys=keys,
        routes=Routes(
            settings.database_url, settings.engine_slots * QUEUE_A_SLOT, keyring, told=told, host=settings.host
        ),
        metrics=metrics,
        turns=Turns(database),
        recaller=Recaller(settings.recall_url, keyring, database, metrics),
        limits=Limits(settings.key_limits),
    )


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for chatty in ("kafka", "httpx", "httpcore", "waitress.queue"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        settings = from_env(os.environ)
        address = urlsplit(settings.door_url)
        if address.hostname is None or address.port is None:
            raise Invalid(f"NORIA_DOOR must be http://host:port; got {settings.door_url!r}")
        services = build(settings)
    except (Invalid, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1

    def leave(number: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    stopping = threading.Event()
    services.recorder.look()
    threading.Thread(target=services.recorder.watch, args=(stopping,), name="continuity", daemon=True).start()
    services.routes.start()
    services.routes.wait_ready(5)
    try:
        server = make_server(create_app(services), address.hostname, address.port)
    except OSError as error:
        print(f"{settings.door_url}: {error.strerror}", file=sys.stderr)
        services.routes.stop()
        return 1
    print(f"door: {settings.door_url}", flush=True)
    try:
        server.run()
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        stopping.set()
        services.routes.stop()
        services.recorder.log.close()
        services.database.dispose()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
