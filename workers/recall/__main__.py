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
from workers.recall.encoder import Encoder, encoder_of
from workers.recall.follower import Follower
from workers.recall.held import EncoderFailed
from workers.recall.server import application, make_server
from workers.selector.mapped import Maps

LOOK_EVERY_S = 0.5


def held_encoder(recall: Recall, settings: Settings) -> Encoder:
    """Raises EncoderFailed, where an endpoint may not be asked."""
    try:
        found = encoder_of(recall, settings)
    except (Invalid, Unavailable) as error:
        raise EncoderFailed(str(error)) from None
    if recall.embeddings is None:
        found.embed(["?"])  # it reads its model for the first: no door is to wait for that
    return found


def work(settings: Settings, stopping: threading.Event) -> None:
    if not settings.recall_url:
        raise Invalid("not set: NORIA_RECALL (is `noria up` running? it writes it under the home's run folder)")
    database = open_database(settings.database_url, SHARES["recall"])
    keyring = Keyring(database, MasterKey(settings.master_key))
    follower = Follower(database, keyring, lambda recall: held_encoder(recall, settings))
    moved, erased = Waiter(database, "noria_positions"), Waiter(database, ERASED_CHANNEL)
    maps = Maps(database, keyring, lambda recall: encoder_of(recall, settings))
    app = application(lambda: follower.held, keyring.derive(KEY), maps.lay_out)
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
