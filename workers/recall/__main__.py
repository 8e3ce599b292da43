"""`python -m workers.recall`: the memory of every domain of this Noria, held ready for its doors."""

import threading
from contextlib import suppress

from streams import process
from streams.connections import SHARES
from streams.erasures import ERASED_CHANNEL
from streams.errors import Invalid, Unavailable
from streams.recall_client import KEY
from streams.recalled import Recall
from streams.relay import Waiter
from streams.sealing import Keyring, MasterKey
from streams.settings import Settings
from streams.store import open_database
from streams.structs import learn_structs
from workers.endpoints import check_address
from workers.recall.encoder import Encoder, EndpointEncoder, SentenceEncoder
from workers.recall.follower import Follower
from workers.recall.held import EncoderFailed
from workers.recall.server import application, make_server
from workers.selector.mapped import Maps

LOOK_EVERY_S = 0.5


class Encoders:
    """One of each kind, whatever the number of domains that use it."""

    def __init__(self, key: str, private_endpoints: tuple[str, ...]) -> None:
        self._key = key
        self._private_endpoints = private_endpoints
        self._own: SentenceEncoder | None = None

    def __call__(self, recall: Recall) -> Encoder:
        """Raises EncoderFailed, where an endpoint may not be asked."""
        if recall.embeddings is not None:
            try:
                check_address(recall.embeddings.base_url, self._private_endpoints)
            except (Invalid, Unavailable) as error:
                raise EncoderFailed(str(error)) from None
            return EndpointEncoder(recall.embeddings.base_url, recall.embeddings.model, self._key)
        if self._own is None:
            self._own = SentenceEncoder()
            self._own.embed(["?"])  # it reads its model for the first: no door is to wait for that
        return self._own


def work(settings: Settings, stopping: threading.Event) -> None:
    if not settings.recall_url:
        raise Invalid("not set: NORIA_RECALL (is `noria up` running? it writes it under the home's run folder)")
    database = open_database(settings.database_url, SHARES["recall"])
    keyring = Keyring(database, MasterKey(settings.master_key))
    follower = Follower(database, keyring, Encoders(settings.embeddings_key, settings.private_endpoints))
    moved, erased = Waiter(database, "noria_positions"), Waiter(database, ERASED_CHANNEL)
    app = application(lambda: follower.held, keyring.derive(KEY), Maps(database, keyring).lay_out)
    server = make_server(app, settings.recall_url)
    learn_structs()
    threading.Thread(target=server.run, name="server", daemon=True).start()

    def step() -> None:
        if erased.wait(0):
            keyring.forget()
        if not follower.step():
            moved.wait(LOOK_EVERY_S)

    try:
        process.keep(step, stopping)
    finally:
        with suppress(OSError):
            server.close()


if __name__ == "__main__":
    raise SystemExit(process.run(work))
