"""What is measured by vectors from an endpoint: while it is down nothing is chosen, and for what reason is said."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from streams.errors import Invalid, Unavailable
from streams.orders import SelectSnapshot
from streams.recalled import Embeddings, Recall
from streams.selection import Leakage
from tests.candidates import candidate
from workers.selector.instruments import RoundInstruments
from workers.selector.pipeline import choose

EXAM = {"item-1": "Who opens the gate?"}


class Endpoint(BaseHTTPRequestHandler):
    """Vectors of so many numbers as are left in `dims`, the last for good."""

    dims: list[int]

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        width = self.dims.pop(0) if len(self.dims) > 1 else self.dims[0]
        rows = [{"index": at, "embedding": [1.0] * width} for at in range(len(texts))]
        said = json.dumps({"data": rows}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def measured(port: int, allowed: bool = True) -> RoundInstruments:
    address = f"127.0.0.1:{port}"
    settings = SimpleNamespace(embeddings_key="k", private_endpoints=(address,) if allowed else ())
    context: Any = SimpleNamespace(settings=settings, check=lambda: None)
    recall = Recall(of="corrections", embeddings=Embeddings(base_url=f"http://{address}/v1", model="m-1"))
    order = SelectSnapshot(order_id=uuid4(), domain="roads", round_id="r", pin=9, recall=recall)
    return RoundInstruments(order, context, [], {}, EXAM, lambda prompt, answer: 1)


def test_while_the_endpoint_of_the_domains_vectors_is_down_nothing_is_chosen(endpoint: HTTPServer) -> None:
    port = endpoint.server_port
    endpoint.server_close()
    with pytest.raises(Unavailable, match="m-1 does not answer: ConnectError"):
        choose((Leakage(cosine=0.9),), [candidate("one")], measured(port))
    with pytest.raises(Invalid, match="private"):
        measured(port, allowed=False).embed(["?"])


def test_an_endpoint_that_changes_its_dimensions_meanwhile_is_named(endpoint: HTTPServer) -> None:
    Endpoint.dims = [2, 2, 3]
    instruments = measured(endpoint.server_port)
    assert instruments.embed(["one", "two"]).shape == (2, 2) and instruments.measured_with["encoder"] == "m-1"
    with pytest.raises(Invalid, match="m-1 answers with vectors of 3 numbers, no longer of 2"):
        instruments.embed(["three"])
