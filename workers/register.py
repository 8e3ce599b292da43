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
| models and adapters (artifacts)        | weights computed from words          | stay; the releases are listed                |

The first three and the artifacts need no act of a worker: what they hold is sealed. `work.places` lists the others one by one.
Whoever works with words in clear looks, every second, whether a key of theirs was destroyed (`Words`); whatever a worker that
died or gave up has left is removed by `sweep`. A training child makes no folder but within its own: once that was purged, it writes
nothing more and ends.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine, text

from streams.errors import Unavailable
from streams.facts.people import PlacesPurged
from streams.orders import PurgePlaces
from streams.store import postgres_trouble
from workers.context import Context
from workers.evaluator.memory import in_use, purge_left_overs
from workers.orders import ROUND_OVER

TRAINING_FOLDER = "training folder"
EXAM_ROOM = "exam room"
LOOK_EVERY_S = 1.0


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


def register(engine: Engine, kind: str, place: str, owner: str, kids: Sequence[str]) -> None:
    """Enter a folder before the first byte computed from people's words is written to it. Raises Unavailable."""
    with postgres_trouble(), engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO work.places (place, kind, owner, kids, made_at) VALUES (:place, :kind, :owner, :kids, now())"
                " ON CONFLICT (place) DO UPDATE SET kids = excluded.kids, owner = excluded.owner"
            ),
            {"place": place, "kind": kind, "owner": owner, "kids": list(kids)},
        )


def strike(engine: Engine, place: str) -> None:
    """Remove the folder and its entry: what it was made for is done. Raises Unavailable."""
    try:
        if Path(place).exists():
            shutil.rmtree(place)
    except FileNotFoundError:
        pass  # another was quicker
    except OSError as error:  # a child that has not been told yet wrote into it
        raise Unavailable(f"a place could not be removed: {type(error).__name__}") from None
    unregister(engine, place)


def unregister(engine: Engine, place: str) -> None:
    """Remove the entry of a place that holds nothing any more."""
    with postgres_trouble(), engine.begin() as connection:
        connection.execute(text("DELETE FROM work.places WHERE place = :place"), {"place": place})


def purge(engine: Engine, kids: Sequence[str]) -> dict[str, int]:
    """Remove every place that holds something of these keys; return how many of each kind. Raises Unavailable.

    An exam room in use is left to whoever uses it, who looks too."""
    with postgres_trouble(), engine.connect() as connection:
        found = connection.execute(
            text("SELECT place, kind FROM work.places WHERE kids && :kids ORDER BY place"), {"kids": list(kids)}
        ).all()
    purge_left_overs()
    for row in found:
        if row.kind != EXAM_ROOM or not in_use(Path(row.place)):
            strike(engine, row.place)
    return dict(Counter(row.kind for row in found))


def sweep(engine: Engine, training: Path) -> None:
    """Remove the places of rounds that have ended, and what lies in the folder `training` of this machine without standing in the
    register: its worker was killed. Raises Unavailable."""
    there = sorted(
        str(folder) for folder in training.glob("*")
    )  # looked at first: entries are made before their folders
    with postgres_trouble(), engine.connect() as connection:
        over = connection.execute(
            text(
                "SELECT p.place FROM work.places p JOIN noria.rounds r ON r.round_id = p.owner"
                f" WHERE p.kind = :kind AND {ROUND_OVER.replace(':order_id', 'right(p.place, 36)')}"
            ),
            {"kind": TRAINING_FOLDER},
        ).scalars()
        ended = list(over)
        known = set(connection.execute(text("SELECT place FROM work.places")).scalars())
    for place in [*ended, *(folder for folder in there if folder not in known)]:
        strike(engine, place)


def run(order: PurgePlaces, context: Context) -> None:
    """The step `purge`."""
    event = PlacesPurged(
        domain=order.domain,
        person=order.person,
        order_id=order.order_id,
        places=purge(context.engine, order.kids),
    )
    context.publish(order, event, "places_purged")
