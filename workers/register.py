"""The register of places: whatever holds people's words, or something computed from them, is named here, and is made
through `register`, so that it can be purged.

| place                                  | holds                                | when a person is erased                      |
|----------------------------------------|--------------------------------------|----------------------------------------------|
| log (Kafka)                            | sealed words                         | stays; does not open any more                |
| projections and states (`noria`)       | sealed words                         | the same; examples are retired               |
| keyring                                | person keys                          | the person's keys are destroyed: the erasure |
| snapshots, evaluation rows (artifacts) | sealed words                         | stay; do not open any more                   |
| training folder                        | adapter state computed from words    | removed, and the order begins anew           |
| exam room (memory only)                | words in clear while an exam runs    | removed; the exam begins anew                |
| models and adapters (artifacts)        | weights computed from words          | stay; the releases are listed                |

The first three and the artifacts need no act of a worker: what they hold is sealed. `work.places` lists the others one by one.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine, text

from streams.events import PlacesPurged
from streams.orders import PurgePlaces
from streams.store import postgres_trouble
from workers.context import Context


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
    """Remove the folder and its entry: what it was made for is done."""
    if Path(place).exists():
        shutil.rmtree(place)
    with postgres_trouble(), engine.begin() as connection:
        connection.execute(text("DELETE FROM work.places WHERE place = :place"), {"place": place})


def purge(engine: Engine, kids: Sequence[str]) -> dict[str, int]:
    """Remove every place that holds something of these keys; return how many of each kind. Raises Unavailable."""
    with postgres_trouble(), engine.connect() as connection:
        found = connection.execute(
            text("SELECT place, kind FROM work.places WHERE kids && :kids ORDER BY place"), {"kids": list(kids)}
        ).all()
    for row in found:
        strike(engine, row.place)
    return dict(Counter(row.kind for row in found))


def run(order: PurgePlaces, context: Context) -> None:
    """The step `purge`."""
    event = PlacesPurged(
        domain=order.domain,
        person=order.person,
        order_id=order.order_id,
        places=purge(context.engine, order.kids),
    )
    context.publish(order, event, "places_purged")
