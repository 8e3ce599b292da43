"""A data team of three: they bring triples and cases, have the builders propose examples, and look at each in their queue.

All of it goes through the public API. No builder here asks a teacher.
"""

import csv
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import Struct

from api.client import Door, Json
from deploy.demo.domain import ROAD_TRAFFIC
from streams.errors import Unavailable
from streams.syllogisms import is_chinese

TEAM = ("gu", "hana", "ivan")  # what two are to judge and both wrote anew, the third settles
BUILD_DEADLINE_S = LOOKED_AT_DEADLINE_S = 300.0
LOOK_EVERY_S = 0.2


class Brought(Struct, frozen=True):
    """What the team brings, at `most` so many of whose cases are made examples of; and its verdict by what a proposal asks: what is
    not in `verdicts` it accepts as it is."""

    triples: tuple[Json, ...]
    syllogisms: tuple[Json, ...]
    most: int
    verdicts: Mapping[str, Json]


class Looked(Struct, frozen=True):
    """What came of it: how much each builder proposed, what the builders dropped, by reason, and what the team said."""

    proposed: dict[str, int]
    dropped: dict[str, int]
    accepted: int
    edited: int
    rejected: int


def road_traffic(syllogisms_of: frozenset[str], most: int) -> Brought:
    """The demo's triples, and its English cases on those facts."""
    with (ROAD_TRAFFIC / "triples.csv").open(encoding="utf-8", newline="") as file:
        triples = tuple(csv.DictReader(file))
    cases = _lines(ROAD_TRAFFIC / "syllogisms.jsonl")
    english = tuple(
        {name: case[name] for name in ("major", "minor", "conclusion")}
        for case in cases
        if case["fact"] in syllogisms_of and not is_chinese(case["minor"])
    )
    return Brought(triples, english, most, {said["asked"]: said for said in _lines(ROAD_TRAFFIC / "verdicts.jsonl")})


def _lines(path: Path) -> list[Json]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def bring(door: Door, domain: str, brought: Brought) -> Looked:
    """Bring it, let it be built, and look at all that was proposed. The same again changes nothing."""
    for what, add, items in (
        ("triples", door.add_triples, brought.triples),
        ("syllogisms", door.add_seeds, brought.syllogisms),
    ):
        add(domain, list(items), uuid5(NAMESPACE_URL, f"urn:noria:demo:{domain}:{what}").hex)
    builds = [_built(door, domain, "self-kg", None), _built(door, domain, "syllogism", brought.most)]
    until = time.monotonic() + LOOKED_AT_DEADLINE_S
    while True:
        looked = [_looks(door, domain, person, brought.verdicts) for person in TEAM]
        proposals = door.proposals(domain, "all", limit=1000)["data"]
        states = Counter(one["state"] for one in proposals)
        if not any(looked) and not states["proposed"]:
            break
        if time.monotonic() > until:
            raise Unavailable(f"the queue was not empty within {LOOKED_AT_DEADLINE_S:.0f} s; see logs/streams.log")
    return Looked(
        proposed=dict(sorted(Counter(one["builder"] for one in proposals).items())),
        dropped=dict(sum((Counter(build["dropped"]) for build in builds), Counter[str]())),
        accepted=states["accepted"],
        edited=states["edited"],
        rejected=states["rejected"],
    )


def _built(door: Door, domain: str, builder: str, most: int | None) -> Json:
    asked, until = door.build(domain, builder, most), time.monotonic() + BUILD_DEADLINE_S
    while (build := next(iter(door.builds(domain, limit=1, after=asked["position"]))))["outcome"] == "under_way":
        if time.monotonic() > until:
            raise Unavailable(f"the build {builder} did not end within {BUILD_DEADLINE_S:.0f} s; see logs/builder.log")
        time.sleep(LOOK_EVERY_S)
    if build["outcome"] != "made":
        raise Unavailable(f"the build {builder} {build['outcome']}: {build['failure']}")
    return build


def _looks(door: Door, domain: str, person: str, verdicts: Mapping[str, Json]) -> bool:
    """Let one of the team judge what waits for them first; whether anything did."""
    item = door.next_in_queue(domain, person)
    if item is None:
        return False
    proposal = item["proposal"]
    said = verdicts.get(f"{proposal['instruction']} {proposal['input']}".strip(), {"verdict": "accept"})
    if item["verdicts"]:
        judged: Json = {"takes": item["verdicts"][0]["judgement_id"]}
    elif said["verdict"] == "edit":
        judged = {"verdict": "edit", "edited": {name: said[name] for name in ("instruction", "output")}}
    else:
        judged = {"verdict": said["verdict"]}
    door.judge(domain, item["proposal_id"], judged, person)
    return True


def by_source(door: Door, domain: str, round_id: str) -> dict[str, int]:
    """Of what a round learned anew how much came from where: `correction`, or the builder that proposed it, or `import`."""
    sources, before = dict[str, str](), None
    while True:
        page = door.examples_table(domain, {}, 200, before)
        sources |= {row["example_id"]: row["source"] for row in page["data"] if row["example_id"] is not None}
        before = page["next"]
        if before is None:
            break
    rows = door.snapshot_rows(round_id)["data"]
    return dict(sorted(Counter(sources[row["example_id"]] for row in rows if row["role"] == "new").items()))
