"""One turn of the wheel on a fresh Noria, by the demo's own people: corrected, trained, examined and released."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import monotonic

from msgspec import Struct

from api.client import Door, Json
from deploy.demo import story
from deploy.demo.domain import Fact, load_facts
from deploy.demo.load import Load
from deploy.demo.people import correct_facts
from tests.bench.size import size
from tests.local_noria import give_answers, running

SCRIPT = story.whole_script()
POLICY = SCRIPT.made_with["policy"]
UNGUARDED: Json = {"replay_rows": 8, "replay_rows_per_step": 1, "replay_answer_tokens": 8}
LEAST_FACTS = 8  # fewer could not pass the gate's test even if all were learned


class Turn(Struct, frozen=True):
    """`live_s`: from when the last correction was acknowledged until the new release answered. `steps_s`: by event."""

    corrections: int
    live_s: float
    steps_s: dict[str, float]
    round: Json


@contextmanager
def fresh_domain(home: Path) -> Iterator[Door]:
    """The door of a Noria whose only domain answers with release 0."""
    give_answers(home)
    with running(home) as noria, noria.door() as door:
        story.create_domain(door, SCRIPT.made_with)
        yield door


def facts_of_size(usual: int) -> Sequence[Fact]:
    return load_facts()[: max(LEAST_FACTS, size("FACTS", usual))]


def turn(door: Door, home: Path, facts: Sequence[Fact], load: Load, guarded: bool = True) -> Turn:
    """Let people of the Noria in `home` correct the facts and wait until the round has ended, which must be in a release.

    `load` starts when the swap does, and goes on. Without `guarded` the model is neither kept from forgetting nor examined
    on it: for when any other release will do.
    """
    thresholds = POLICY["thresholds"] | {"corrections": len(facts) * 3 // 4}
    recipe = {} if guarded else UNGUARDED
    door.set_policy(story.DOMAIN, POLICY | {"thresholds": thresholds, "recipe": recipe})
    if guarded:
        story.watch_exam(door, home, story.add_exam(door, facts, SCRIPT.general))
    acts = correct_facts(door, story.DOMAIN, facts, SCRIPT.people_apart_s, lambda acts, _: story.show_acts(acts))
    corrected_at = monotonic()
    ended = story.watch_round(door, load, 0)
    live_s = monotonic() - corrected_at
    assert ended["step"] == "released", (ended["step"], ended["failure"], ended["verdict"])
    assert ended["kept"] == acts.corrections, "the round took in every correction"
    return Turn(acts.corrections, live_s, _steps(door, ended["round_id"]), ended)


STEPS = {
    "select": ("round_requested", "snapshot_selected"),
    "train": ("snapshot_selected", "candidate_trained"),
    "evaluate": ("candidate_trained", "candidate_evaluated"),
    "swap": ("candidate_evaluated", "release_finished"),
}


def _steps(door: Door, round_id: str) -> dict[str, float]:
    """Seconds of each step, by the times of the events that begin and end it."""
    at: dict[str, datetime] = {}
    page = door.events(domain=story.DOMAIN, topic="noria.domains", after="beginning", limit=500)
    while page["data"]:
        for found in page["data"]:
            event = found["event"]
            if event["type"].startswith("noria.") and event["data"].get("round_id", round_id) == round_id:
                at[event["type"].removeprefix("noria.")] = datetime.fromisoformat(event["time"])
        page = door.events(domain=story.DOMAIN, topic="noria.domains", after=page["next"], limit=500)
    return {step: (at[last] - at[first]).total_seconds() for step, (first, last) in STEPS.items()}
