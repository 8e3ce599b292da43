"""A real round whose worker, stream, relay and swapper are killed in its middle ends once, in a release or a refusal."""

import pytest

from api.client import Answer, Door, Json
from tests import ward
from tests.faults.crowd import Acknowledged
from tests.faults.killer import Killer
from tests.faults.tally import Tally, tally_of
from tests.local_noria import LocalNoria, until
from tests.waiting import TRAINING_S

DOMAIN = "ward"
LEARNED = ward.FACTS[:6]
# Long enough to be killed in its middle, and no longer.
RECIPE = ward.POLICY["recipe"] | {"epochs": 120, "batch_rows": 6}
POLICY = {
    "thresholds": {"corrections": len(LEARNED), "people": 2, "named_people": "each", "settle_s": 0},
    "recipe": RECIPE,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_round_whose_processes_are_killed_at_every_step_ends_once_and_was_started_once(
    noria: LocalNoria, said: Acknowledged
) -> None:
    with noria.door() as door:
        door.create_domain({"domain": DOMAIN, "policy": POLICY, "base_model": ward.MODEL})
        until(lambda: any(model["id"] == DOMAIN for model in door.models()), "the first release answers")
        correct_all(door, said)
        killer = Killer(noria, seed=1)
        wait_for_step(door, "train")
        for kind in ("worker", "streams"):
            killer.kill(kind)
        wait_for_step(door, "evaluate")
        for kind in ("worker", "relay"):
            killer.kill(kind)
        until(
            lambda: the_round(door)["ended_at"] or the_round(door)["step"] == "swap",
            "the gate decides",
            patience_s=TRAINING_S,
        )
        killer.kill("swapper")
        until(lambda: the_round(door)["ended_at"], "the round ends", patience_s=TRAINING_S)
        with tally_of(noria) as tally:
            tally.settle()
            check_round(tally, the_round(door))
            report = tally.replayed()
            assert report.equal, (report.differences, report.unsaid, report.unexplained)
        print(f"round {the_round(door)['step']}; killed {dict(killer.killed)}")


def correct_all(door: Door, said: Acknowledged) -> None:
    for number, fact in enumerate(LEARNED):
        person = ("ada", "bo")[number % 2]
        asked = door.chat(
            DOMAIN, [{"role": "user", "content": ward.question(fact)}], person=person, more={"max_tokens": 8}
        )
        answer = next(part for part in asked if isinstance(part, Answer))
        given = door.feedback(answer.reply_ids[0], person=person, correction=fact[3])
        said.feedback.add(given.event_id)
        said.corrections.add(given.event_id)


def the_round(door: Door) -> Json:
    (found,) = door.rounds(DOMAIN)
    return found


def wait_for_step(door: Door, step: str) -> None:
    """Until the round's step has told how far it is, so that a kill hits its middle."""

    def there() -> bool:
        rounds = door.rounds(DOMAIN)
        assert not rounds or not rounds[0]["ended_at"], rounds[0]
        return bool(rounds) and rounds[0]["step"] == step and rounds[0]["progress"] is not None

    until(there, f"the round is in its step {step}", patience_s=TRAINING_S)


def check_round(tally: Tally, ended: Json) -> None:
    """One of each event and each order, and the two steps that were killed were taken up by a second attempt."""
    assert ended["step"] in ("released", "refused"), (ended["step"], ended["failure"])
    assert ended["kept"] == len(LEARNED)
    released = ended["step"] == "released"
    by_type = dict(tally.rows(f"SELECT type, count(*) FROM noria.events WHERE domain = '{DOMAIN}' GROUP BY type"))
    for name in ("round_requested", "snapshot_selected", "candidate_trained", "candidate_evaluated"):
        assert by_type[name] == 1, (name, by_type)
    assert by_type.get("gate_passed", 0) == released and by_type.get("gate_refused", 0) == (not released)
    assert by_type["release_finished"] == 1 + released
    claims = tally.rows(f"SELECT kind, state, attempts FROM work.claims WHERE domain = '{DOMAIN}' ORDER BY kind")
    steps = [(kind, state) for kind, state, _ in claims if kind != "swap_release"]
    assert steps == [(kind, "done") for kind in ("evaluate_candidate", "select_snapshot", "train_candidate")]
    assert [state for kind, state, _ in claims if kind == "swap_release"] == ["done"] * (1 + released)
    assert all(attempts == 2 for kind, _, attempts in claims if kind in ("train_candidate", "evaluate_candidate"))
