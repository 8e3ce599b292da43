"""What doors ask of the memory, over HTTP on the loopback: `POST /recall` with `streams.recall_client.Question`, `POST /map` with
`MapQuestion`."""

import hmac
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import waitress.server

from streams.errors import Invalid, Unavailable
from streams.recall_client import MOST_PLACES, Answer, MapAnswer, MapQuestion, Question
from streams.recalled import MOST_MEMORIES, Recalled
from workers.recall.held import Held

THREADS = 8
BODY_BYTES = 256 * 1024
logger = logging.getLogger("noria.recall")
_question = msgspec.json.Decoder(Question)
_map_question = msgspec.json.Decoder(MapQuestion)
Start = Callable[[str, list[tuple[str, str]]], Any]
_STATUS = {
    200: "200 OK",
    400: "400 Bad Request",
    401: "401 Unauthorized",
    404: "404 Not Found",
    503: "503 Service Unavailable",
}


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def application(
    memories: Callable[[], Mapping[str, Held]], key: str, lay_out: Callable[[MapQuestion], MapAnswer]
) -> Callable[[dict[str, Any], Start], Iterable[bytes]]:
    """The WSGI app. `memories`: by domain, as they are now."""

    def serve(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        try:
            status, body = 200, _serve(environ, memories(), key, lay_out)
        except Refused as refused:
            status, body = refused.status, {"error": str(refused)}
        except (Invalid, Unavailable) as error:  # of an endpoint for embeddings
            logger.warning("%s", error)
            status, body = 503, {"error": str(error)}
        said = msgspec.json.encode(body)
        start(_STATUS[status], [("Content-Type", "application/json"), ("Content-Length", str(len(said)))])
        return [said]

    return serve


def _serve(
    environ: dict[str, Any], memories: Mapping[str, Held], key: str, lay_out: Callable[[MapQuestion], MapAnswer]
) -> Any:
    asked = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if asked == ("GET", "/healthz"):
        return {
            "ready": all(held.ready for held in memories.values()),
            "domains": {
                domain: {"memories": len(held.index), "pending": held.pending} for domain, held in memories.items()
            },
        }
    said = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
    if not hmac.compare_digest(said.encode(), key.encode()):
        raise Refused(401, "the key is not right")
    if asked not in (("POST", "/recall"), ("POST", "/map")):
        raise Refused(404, "no such path")
    said = environ["wsgi.input"].read()
    try:
        question = (_question if asked[1] == "/recall" else _map_question).decode(said)
    except msgspec.MsgspecError:
        raise Refused(400, "no question that can be read") from None
    if isinstance(question, MapQuestion):
        if len(question.examples) > MOST_PLACES:
            raise Refused(400, f"a map has at most {MOST_PLACES} places")
        return lay_out(question)
    if not 1 <= question.most <= MOST_MEMORIES:
        raise Refused(400, f"most must be from 1 to {MOST_MEMORIES}")
    held = memories.get(question.domain)
    if held is None or not held.ready:
        raise Refused(503, "the memory of that domain is not held yet")
    hits = held.search(question.question, question.kinds, question.most)
    good = [hit for hit in hits if held.index.good_enough(hit, question.least)]
    return Answer(tuple(Recalled(hit.kind, hit.id, round(hit.score, 4)) for hit in good))


def make_server(app: Callable[[dict[str, Any], Start], Iterable[bytes]], base_url: str) -> Any:
    """Raises Invalid where the address is none, or is another's."""
    address = urlsplit(base_url)
    if address.hostname is None or address.port is None:
        raise Invalid(f"NORIA_RECALL must be http://host:port; got {base_url!r}")
    try:
        return waitress.server.create_server(
            app,
            host=address.hostname,
            port=address.port,
            threads=THREADS,
            ident="noria",
            clear_untrusted_proxy_headers=True,
            max_request_body_size=BODY_BYTES,
            inbuf_overflow=2 * BODY_BYTES,  # people's words must not lie on a disk in clear
            outbuf_overflow=1 << 20,
            channel_timeout=600,  # doors keep their connections
            connection_limit=1000,
            asyncore_use_poll=True,
            backlog=512,
            expose_tracebacks=False,
        )
    except OSError as error:
        raise Invalid(f"{base_url}: {error.strerror}") from None
