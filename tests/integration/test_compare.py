"""A comparison from the door to its table: real Kafka and PostgreSQL, an examiner that is a stand-in."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from streams.artifacts import Artifacts
from streams.errors import Invalid
from streams.facts.comparisons import ComparisonMade
from streams.log import KafkaLog
from streams.orders import CompareReleases, Order
from streams.recalled import Recall
from streams.sealing import Keyring, MasterKey
from tests import door_world
from tests.door_world import World
from tests.integration.by_hand import change, rows
from tests.integration.test_exam_ahead import add_exam, correct, examples
from tests.memories import Bags
from workers import loop
from workers.context import Context
from workers.evaluator import compare
from workers.evaluator import step as evaluation
from workers.evaluator.installation import Installation
from workers.evaluator.opencompass import Cost, ExamRow
from workers.evaluator.questions import Question
from workers.recall import as_of
from workers.register import WordsGone

TRAINED = "sha256:" + "2" * 64
RECALL = Recall(of="corrections", most=1, least=0.0)
WORDS = {"first": "Who opens the red gate?", "later": "When does the mill stop?", "new": "Where is the old well?"}


class Examined:
    """Stands in for engine and OpenCompass. The trained model is right wherever it was trained; whoever is told the facts is right
    too, and takes longer for it. `meanwhile` happens before the answers are there."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(
        self,
        wanted: Sequence[evaluation.Examined],
        context: Context,
        tell: Callable[[int, int], None],
    ) -> list[list[ExamRow]]:
        tell(0, 1)
        self.asked += [(one.model, [question.item.question for question in one.questions]) for one in wanted]
        self.meanwhile()
        return [[self._row(one.model, question) for question in one.questions] for one in wanted]

    def _row(self, model: str, question: Question) -> ExamRow:
        told = question.item.question.startswith("Known facts:")
        taught = model == TRAINED and any(WORDS[name] in question.item.question for name in ("first", "later"))
        cost = Cost(50 if told else 10, 5, 0.5 if told else 0.25)
        return ExamRow(question.item.id, question.item.set, told or taught, "an answer", cost)


@pytest.fixture
def context(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    keyring = Keyring(world.database, MasterKey.made(world.settings.master_key))
    log = KafkaLog(world.kafka, "test-compare")
    monkeypatch.setattr(as_of, "sentence_encoder", Bags)
    monkeypatch.setattr(Installation, "missing", lambda self: None)
    yield Context(world.settings, world.database, log, keyring, "worker-1")
    log.close()


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Examined:
    examined = Examined()
    monkeypatch.setattr(compare, "examine", examined)
    there = Artifacts.has
    models = (TRAINED, door_world.MODEL)
    monkeypatch.setattr(Artifacts, "has", lambda self, name: name in models or there(self, name))
    return examined


@pytest.fixture
def told(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[ComparisonMade]:
    """What is published."""
    found: list[ComparisonMade] = []

    def publish(order: Order, event: ComparisonMade, name: str) -> None:
        assert name == "comparison_made"
        found.append(event)

    monkeypatch.setattr(context, "publish", publish)
    return found


def learned(world: World, domain: str, release: int, example_id: str, base_release: int) -> None:
    """A round that taught one example, and was released."""
    change(
        world.database,
        "INSERT INTO noria.rounds (round_id, domain, number, step, reasons, opening, pin, base_model, base_release,"
        " release, requested_at, ended_at)"
        " VALUES (:round, :domain, :release, 'released', '[]', false, 1, 'm', :base, :release, now(), now())",
        round=f"{domain}-{release}",
        domain=domain,
        release=release,
        base=base_release,
    )
    change(
        world.database,
        "INSERT INTO noria.learned (round_id, example_id) VALUES (:round, :example)",
        round=f"{domain}-{release}",
        example=example_id,
    )


@pytest.fixture
def order(world: World) -> Iterator[CompareReleases]:
    """Of a domain of whose three corrections release 1 has learned one and release 2 another, with two exam questions."""
    domain = world.domain()
    correct(world, domain, *WORDS.values())
    add_exam(world, domain, "Is it raining?", "Is it late?")
    first, later, _ = (str(row[0]) for row in examples(world, domain))
    learned(world, domain, 1, first, 0)
    learned(world, domain, 2, later, 1)
    yield CompareReleases(
        order_id=uuid4(),
        domain=domain,
        release=2,
        base_model=door_world.MODEL,
        model=TRAINED,
        pin=10**9,
        engine="llamacpp",
        recall=RECALL,
    )
    change(world.database, "DELETE FROM noria.learned WHERE round_id LIKE :like", like=f"{domain}-%")
    change(world.database, "DELETE FROM noria.rounds WHERE domain = :domain", domain=domain)


def right(event: ComparisonMade) -> dict[str, dict[str, tuple[int, int]]]:
    return {name: {v: (one.right, one.n) for v, one in of_set.items()} for name, of_set in event.sets.items()}


def test_each_model_answers_bare_and_with_recall_and_each_question_counts_in_its_set(
    context: Context, examined: Examined, told: list[ComparisonMade], order: CompareReleases
) -> None:
    compare.run(order, context)
    (event,) = told
    assert (event.order_id, event.release) == (order.order_id, 2)
    taught = {"base": (0, 1), "base_recalled": (1, 1), "trained": (1, 1), "trained_recalled": (1, 1)}
    assert right(event) == {
        "fixes": taught,
        "earlier": taught,
        "untaught": taught | {"trained": (0, 1)},
        "general": {"base": (0, 2), "base_recalled": (2, 2), "trained": (0, 2), "trained_recalled": (2, 2)},
    }
    bare, recalled = (event.sets["fixes"][v] for v in ("trained", "trained_recalled"))  # type: ignore[index]
    assert (bare.prompt_tokens, bare.completion_tokens, bare.seconds) == (10, 5, 0.25)
    assert (recalled.prompt_tokens, recalled.seconds) == (50, 0.5)
    assert [model for model, _ in examined.asked] == [door_world.MODEL, TRAINED]


def test_what_was_answered_before_is_not_asked_again(
    world: World, context: Context, examined: Examined, told: list[ComparisonMade], order: CompareReleases
) -> None:
    compare.run(order, context)
    examined.asked.clear()
    later = replace(order, order_id=uuid4())
    compare.run(later, context)
    assert examined.asked == [] and told[1].sets == told[0].sets
    add_exam(world, order.domain, "Is it far?")
    compare.run(later, context)
    assert [(model, len(asked)) for model, asked in examined.asked] == [(door_world.MODEL, 2), (TRAINED, 2)]
    assert all(asked[0] == "Is it far?" and "Is it far?" in asked[1] for _, asked in examined.asked)


def test_without_recall_or_training_there_is_less_to_compare(
    context: Context, examined: Examined, told: list[ComparisonMade], order: CompareReleases
) -> None:
    compare.run(replace(order, recall=Recall()), context)
    assert {tuple(of_set) for of_set in told[0].sets.values()} == {("base", "trained")}
    compare.run(replace(order, model=order.base_model, release=0), context)
    assert {tuple(of_set) for of_set in told[1].sets.values()} == {("base", "base_recalled")}
    assert "fixes" not in told[1].sets and right(told[1])["untaught"]["base"] == (0, 3)


def test_a_question_for_which_nothing_is_good_enough_is_served_bare(
    context: Context, examined: Examined, told: list[ComparisonMade], order: CompareReleases
) -> None:
    compare.run(replace(order, recall=replace(RECALL, least=1.0)), context)
    assert all(not question.startswith("Known facts:") for _, asked in examined.asked for question in asked)
    assert right(told[0])["earlier"]["base_recalled"] == (0, 1)


def test_erased_in_the_middle_it_begins_anew_without_their_words(
    world: World, context: Context, examined: Examined, told: list[ComparisonMade], order: CompareReleases
) -> None:
    def erased_meanwhile() -> None:
        examined.meanwhile = lambda: None
        change(world.database, "UPDATE noria.examples SET retired_reason = 'erased' WHERE domain = :d", d=order.domain)
        raise WordsGone

    examined.meanwhile = erased_meanwhile
    compare.run(order, context)
    assert set(told[0].sets) == {"general"}, "the corrections were all of one person"


def test_a_model_that_is_gone_and_a_domain_without_a_question_are_named(
    world: World, context: Context, examined: Examined, order: CompareReleases
) -> None:
    with pytest.raises(Invalid, match="is not on the disk any more"):
        compare.run(replace(order, model="sha256:" + "7" * 64), context)
    with pytest.raises(Invalid, match="nothing to compare"):
        compare.run(replace(order, domain=world.domain()), context)


def test_the_door_asks_for_one_at_a_time_a_worker_makes_it_and_the_door_shows_it(
    world: World, context: Context, examined: Examined
) -> None:
    domain = world.domain()
    add_exam(world, domain, "Is it raining?", "Is it late?")
    path = f"/v1/domains/{domain}/comparisons"
    assert world.as_data.post(path, json={}).status_code == 403
    asked = world.as_operator.post(path, json={}).json()
    assert asked["known"] is False
    shown = world.as_data.get(path, params={"after": asked["position"]}).json()["data"]
    assert [(row["comparison_id"], row["outcome"], row["sets"]) for row in shown] == [
        (asked["comparison_id"], "under_way", None)
    ]
    again = world.as_operator.post(path, json={}).json()
    assert again == {"comparison_id": asked["comparison_id"], "known": True, "position": None}

    def worked() -> dict[str, Any] | None:
        """The comparison, once a worker has carried out what is asked."""
        loop.work_once(context, {"compare_releases": ("evaluate", compare.run)}, threading.Event())
        return next((row for row in world.as_data.get(path).json()["data"] if row["outcome"] == "made"), None)

    made = door_world.wait_until(worked, what="the comparison")
    base: dict[str, Any] = made["sets"]["general"]["base"]
    assert (base["n"], base["right"], base["share"], base["low"]) == (2, 0, 0.0, 0.0) and 0.6 < base["high"] < 0.7
    assert made["costs"]["base"] == {"prompt_tokens": 10.0, "completion_tokens": 5.0, "seconds": 0.25}
    assert [event["data"]["release"] for event in world.events(domain, "comparison_made")] == [0]
    ((state,),) = rows(world.database, "SELECT state FROM work.claims WHERE order_id = :id", id=asked["comparison_id"])
    assert state == "done"


def test_a_comparison_of_a_domain_that_is_retired_is_carried_out_no_more(
    world: World, context: Context, examined: Examined
) -> None:
    domain = world.domain()
    add_exam(world, domain, "Is it raining?")
    path = f"/v1/domains/{domain}/comparisons"
    asked = world.as_operator.post(path, json={}).json()
    world.caught_up(asked["position"])
    world.caught_up(world.as_operator.post(f"/v1/domains/{domain}/retire", json={}).json()["position"])

    def claimed() -> list[tuple[object, ...]]:
        loop.work_once(context, {"compare_releases": ("evaluate", compare.run)}, threading.Event())
        return rows(world.database, "SELECT state FROM work.claims WHERE order_id = :id", id=asked["comparison_id"])

    assert door_world.wait_until(claimed, what="the order") == [("cancelled",)]
    assert [row["outcome"] for row in world.as_data.get(path).json()["data"]] == ["cancelled"]
    assert examined.asked == []


def test_a_domain_in_which_nothing_answers_compares_nothing(world: World) -> None:
    created = world.as_operator.post(
        "/v1/domains", json={"domain": f"d-{uuid4().hex[:8]}", "base_model": door_world.MODEL}
    )
    refused = world.as_operator.post(f"/v1/domains/{created.json()['domain']}/comparisons", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_release")
    assert world.as_data.get("/v1/domains/nowhere/comparisons").status_code == 404
