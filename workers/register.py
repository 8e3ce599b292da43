"""The register of places: whatever holds people's words, or something computed from them, is named here, and is made
through `register`, so that it can be purged.

| place                                  | holds                                | when a person is erased                      |
|----------------------------------------|--------------------------------------|----------------------------------------------|
| log (Kafka)                            | sealed words                         | stays; does not open any more                |
| projections and states (`noria`)       | sealed words                         | the same; examples are retired               |
| keyring                                | person keys                          | the person's keys are destroyed: the erasure |
| snapshots, evaluation rows (artifacts) | sealed words                         | stay; do not open any more                   |
| training folder                        | adapter state computed from words    | the child ends, the folder is removed, and   |
|                                        |                                      | the order begins anew without their words    |
| exam room (memory only)                | words in clear while an exam runs    | the exam ends, the room is emptied, and the  |
|                                        |                                      | exam begins anew without their words         |
| vectors (`work.vectors`)               | sealed vectors, and what an example  | the rows are removed                         |
|                                        | helps with, computed from words      |                                              |
| memory (the process `recall` only)     | words in clear, in an index          | taken out with the event, within a second    |
| models and adapters (artifacts)        | weights computed from words          | stay; the releases are listed                |

The first three and the artifacts need no act of a worker: what they hold is sealed. `work.places` lists the others one by one.
Whoever works with words in clear looks, every second, whether a key of theirs was destroyed (`Words`); whatever a worker that
died or gave up has left is removed by `sweep`. A place is on one host, and only that one removes it. A training child makes no
folder but within its own: once that was purged, it writes nothing more and ends.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Engine, text

from streams.errors import Unavailable
from streams.facts.people import PlacesPurged
from streams.orders import PurgePlaces
from streams.reading.rounds import orders_over
from streams.store import postgres_trouble
from workers.context import Context
from workers.evaluator.memory import in_use, purge_left_overs

TRAINING_FOLDER = "training folder"
EXAM_ROOM = "exam room"
VECTORS = "vectors"
LOOK_EVERY_S = 1.0
OTHERS_WITHIN_S = 20.0


class WordsGone(Exception):
    """Somebody whose words are in use in clear was erased: begin anew without them."""


class Words:
    """The keys of the words that a step has in clear. `look` raises WordsGone once one of them was destroyed."""

    def __init__(self, context: Context, kids: Sequence[str]) -> None:
        self._context = context
        self._kids = kids
        self._looked_at = float("-inf")

    def look(self, at_once: bool = False) -> None:
        """At most every LOOK_EVERY_S, unless `at_once`. Raises Unavailable, too."""
        now = time.monotonic()
        if not at_once and now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        with postgres_trouble():
            if self._context.keyring.destroyed(self._kids):
                raise WordsGone


def register(database: Engine, host: str, kind: str, place: str, owner: str, kids: Sequence[str]) -> None:
    """Enter a folder of this host before the first byte computed from people's words is written to it. Raises Unavailable."""
    with postgres_trouble(), database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO work.places (host, place, kind, owner, kids, made_at)"
                " VALUES (:host, :place, :kind, :owner, :kids, now())"
                " ON CONFLICT (host, place) DO UPDATE SET kids = excluded.kids, owner = excluded.owner"
            ),
            {"host": host, "place": place, "kind": kind, "owner": owner, "kids": list(kids)},
        )


def strike(database: Engine, host: str, place: str) -> None:
    """Remove the folder of this host and its entry: what it was made for is done. Raises Unavailable."""
    try:
        if Path(place).exists():
            shutil.rmtree(place)
    except FileNotFoundError:
        pass  # another was quicker
    except OSError as error:  # a child that has not been told yet wrote into it
        raise Unavailable(f"a place could not be removed: {type(error).__name__}") from None
    unregister(database, host, place)


def unregister(database: Engine, host: str, place: str) -> None:
    """Remove the entry of a place that holds nothing any more."""
    with postgres_trouble(), database.begin() as connection:
        connection.execute(
            text("DELETE FROM work.places WHERE host = :host AND place = :place"), {"host": host, "place": place}
        )


def purge(database: Engine, host: str, kids: Sequence[str]) -> dict[str, int]:
    """Remove every place of this host that holds something of these keys; return how many of each kind. Raises Unavailable.

    An exam room in use is left to whoever uses it, who looks too."""
    purge_left_overs()
    with postgres_trouble(), database.begin() as connection:
        rows = connection.execute(text("DELETE FROM work.vectors WHERE kids && :kids"), {"kids": list(kids)})
        vectors = rows.rowcount
    found = [place for place in _holding(database, kids) if place.host == host]
    for place in found:
        if place.kind != EXAM_ROOM or not in_use(Path(place.place)):
            strike(database, host, place.place)
    return dict(Counter(place.kind for place in found)) | ({VECTORS: vectors} if vectors else {})


class _Place(Struct, frozen=True):
    host: str
    place: str
    kind: str


def _holding(database: Engine, kids: Sequence[str]) -> list[_Place]:
    """The places of every host that hold something of these keys."""
    with postgres_trouble(), database.connect() as connection:
        rows = connection.execute(
            text("SELECT host, place, kind FROM work.places WHERE kids && :kids ORDER BY host, place"),
            {"kids": list(kids)},
        )
        return [_Place(*row) for row in rows]


def sweep(database: Engine, host: str, training: Path) -> None:
    """Remove the places of this host whose round has ended or somebody of whom was erased, and what lies in its folder `training`
    without standing in the register: its worker was killed. Raises Unavailable."""
    there = sorted(
        str(folder) for folder in training.glob("*")
    )  # looked at first: entries are made before their folders
    with postgres_trouble(), database.connect() as connection:
        rows = connection.execute(
            text("SELECT place, owner FROM work.places WHERE host = :host AND kind = :kind"),
            {"host": host, "kind": TRAINING_FOLDER},
        )
        rounds = {row.place: row.owner for row in rows}
        over = orders_over(connection, {Path(place).name: round_id for place, round_id in rounds.items()})
        ended = [place for place in rounds if Path(place).name in over]
        gone = connection.execute(
            text(
                "SELECT p.place, p.kind FROM work.places p WHERE p.host = :host AND EXISTS ("
                " SELECT FROM keyring.person_keys k WHERE k.kid = ANY(p.kids) AND k.destroyed_at IS NOT NULL)"
            ),
            {"host": host},
        )
        ended += [row.place for row in gone if row.kind != EXAM_ROOM or not in_use(Path(row.place))]
        known = set(connection.execute(text("SELECT place FROM work.places")).scalars())  # hosts may share a disk
    for place in [*ended, *(folder for folder in there if folder not in known)]:
        strike(database, host, place)


def run(order: PurgePlaces, context: Context) -> None:
    """The step `purge`. It ends when nothing of these keys is left on any host: each purges its own disk (`sweep`). Raises
    Unavailable, naming the hosts that have not yet."""
    purged = Counter(purge(context.database, context.settings.host, order.kids))
    others = [place for place in _holding(context.database, order.kids) if place.host != context.settings.host]
    purged.update(place.kind for place in others)
    deadline = time.monotonic() + OTHERS_WITHIN_S
    while others and time.monotonic() < deadline:
        context.check()
        context.cancelled.wait(LOOK_EVERY_S)
        others = [place for place in _holding(context.database, order.kids) if place.host != context.settings.host]
    if others:
        raise Unavailable(f"something of theirs is left on {', '.join(sorted({place.host for place in others}))}")
    event = PlacesPurged(
        domain=order.domain,
        person=order.person,
        order_id=order.order_id,
        places=dict(purged),
    )
    context.publish(order, event, "places_purged")
