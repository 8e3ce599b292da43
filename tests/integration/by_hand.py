"""Store, relay and log moved by hand, and events to put on the log: nothing happens but what a test calls."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4, uuid5

from msgspec.structs import replace
from sqlalchemy import Engine, text

from streams.codec import decode_order, encode, encode_order, envelope_for, topic_of
from streams.events import CONVERSATIONS, DOMAINS, ORDERS, QUARANTINE, Event
from streams.facts.comparisons import Answers, BaseComparisonMade, ComparisonMade
from streams.facts.conversations import (
    ConversationEvent,
    DraftPicked,
    PromptAsked,
    ReplyCommented,
    ReplyCorrected,
    ReplyDrafted,
    ReplyRated,
)
from streams.facts.domains import DomainCreated, PolicySet
from streams.facts.examples import RankingAccepted
from streams.facts.material import MaterialBuilt
from streams.facts.people import PlacesPurged
from streams.facts.releases import CandidateRebuilt, ReleaseFinished, ReleaseRolledBack, ReleaseStarted
from streams.facts.rounds import CandidateEvaluated, CandidateTrained, SnapshotSelected
from streams.gate import FIXES, Paired
from streams.log import Log, Message, Position, Record
from streams.orders import (
    BuildMaterial,
    CompareBases,
    CompareReleases,
    EvaluateCandidate,
    Order,
    PurgePlaces,
    RebuildCandidate,
    SelectSnapshot,
    SwapRelease,
    TrainCandidate,
)
from streams.policy import Policy, Thresholds
from streams.relay import Relay
from streams.schema import machinery, projections
from streams.sealed import Sealed
from streams.store import Store

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
MODEL = "sha256:" + "1" * 64
CANDIDATE = "sha256:" + "2" * 64
NOBODYS_KEY = "kid-of-"  # begins the key of what looks like sealed words


def rows(database: Engine, query: str, **given: object) -> list[tuple[object, ...]]:
    with database.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), given)]


def change(database: Engine, statement: str, **given: object) -> None:
    with database.begin() as connection:
        connection.execute(text(statement), given)


def empty(database: Engine) -> None:
    """Every table as it was after the migrations."""
    names = ", ".join(table.fullname for metadata in (projections, machinery) for table in metadata.sorted_tables)
    change(database, f"TRUNCATE {names} RESTART IDENTITY CASCADE")


def sealed(person: str, ref: str = "somewhere#text") -> Sealed:
    """What looks like sealed words; nothing here opens it."""
    return Sealed(kid=f"{NOBODYS_KEY}{person}", ref=ref, jwe="eyJhbGciOiJkaXIifQ..aaaa.bbbb.cccc")


def placed(event: Event, id: UUID) -> Event:
    """The event with what looks like sealed words said in it."""
    for field in ("messages", "text", "item", "passage", "title", "triple", "seed", "proposal"):
        said = getattr(event, field, None)
        if isinstance(said, Sealed) and said.kid.startswith(NOBODYS_KEY):
            event = replace(event, **{field: replace(said, ref=f"{id}#{field}")})
    if isinstance(event, RankingAccepted):
        answers = tuple(replace(one, ref=f"{id}#answers.{number}") for number, one in enumerate(event.answers))
        event = replace(event, prompt=replace(event.prompt, ref=f"{id}#prompt"), answers=answers)
    return event


def message(event: Event, *, id: UUID | None = None, at: datetime = AT, cause: UUID | None = None) -> Message:
    id = id or uuid4()
    envelope = envelope_for(
        placed(event, id), id=id, source="/test", time=at, correlation_id=event.domain, causation_id=cause
    )
    return Message(topic_of(event), envelope.key, encode(envelope))


def order_message(order: Order) -> Message:
    value = encode_order(order, source="/test", time=AT, causation_id=uuid5(order.order_id, "cause"))
    return Message(ORDERS, str(order.order_id), value)


def ranking(domain: str, person: str) -> RankingAccepted:
    """Three answers that a data team brought, of which two are equally good."""
    return RankingAccepted(
        domain=domain,
        ranking_id=f"ranking of {person}",
        person=person,
        prompt=sealed(person),
        answers=(sealed(person), sealed(person), sealed(person)),
        tiers=((2,), (0, 1)),
        said_at=AT,
    )


def created(domain: str) -> DomainCreated:
    return DomainCreated(
        domain=domain,
        title="Road traffic",
        languages=("en", "zh"),
        system_prompt="",
        base_model=MODEL,
        engine="llamacpp",
        replay_prompts=("Name three primary colours.",),
    )


def policy(domain: str, **thresholds: object) -> PolicySet:
    return PolicySet(domain=domain, policy=Policy(thresholds=Thresholds(**thresholds)), by="curator")  # type: ignore[arg-type]


def talk(domain: str, person: str, conversation: str | None = None) -> list[ConversationEvent]:
    """One prompt with two drafts, and every kind of feedback on the first: a correction and a preference come of it."""
    name = conversation or f"c-{uuid4().hex}"
    prompt, first, second = f"{name}-p", f"{name}-r1", f"{name}-r2"
    asked = PromptAsked(
        domain=domain,
        conversation_id=name,
        prompt_id=prompt,
        person=person,
        messages=sealed(person, f"{prompt}#messages"),
        release=0,
        drafts=2,
    )
    drafts = [
        ReplyDrafted(
            domain=domain,
            conversation_id=name,
            prompt_id=prompt,
            reply_id=reply,
            person=person,
            index=index,
            release=0,
            text=sealed(person, f"{reply}#text"),
            finish_reason="stop",
            prompt_tokens=7,
            completion_tokens=3,
            duration_s=0.25,
        )
        for index, reply in enumerate((first, second))
    ]
    about = {
        "domain": domain,
        "conversation_id": name,
        "prompt_id": prompt,
        "reply_id": first,
        "person": person,
        "request_digest": "d",
    }
    said = sealed(person, f"{first}#feedback")
    return [
        asked,
        *drafts,
        DraftPicked(**about),
        ReplyRated(**about, rating=-1, scale="thumb"),
        ReplyCorrected(**about, text=said),
        ReplyCommented(**about, text=said),
    ]


class ByHand:
    """A log with a store that follows it and a relay that writes it, each only when it is told to."""

    def __init__(self, database: Engine, log: Log) -> None:
        self.database = database
        self.log = log
        self.store = Store(database)
        self.relay = Relay(database, log)

    def say(self, *events: Event, at: datetime = AT) -> list[Position]:
        return self.log.append([message(event, at=at) for event in events], 10)

    def records(self, *topics: str, since: dict[tuple[str, int], int] | None = None) -> list[Record]:
        """What stands on the topics (of events, if none is named), partition by partition."""
        found: list[Record] = []
        for topic in topics or (CONVERSATIONS, DOMAINS):
            for partition, end in sorted(self.log.ends(topic).items()):
                found.extend(self.log.read(topic, partition, (since or {}).get((topic, partition), 0), end))
        return found

    def follow(self) -> int:
        """Apply what is new; how many records that was."""
        fresh = self.records(since=self.store.positions())
        return self.store.apply(fresh).records if fresh else 0

    def settle(self, now: datetime = AT) -> None:
        """Follow and relay until both have nothing left to do."""
        while self.follow() + self.relay.step(now).rows:
            pass

    def orders(self) -> list[Order]:
        return [decode_order(record.value) for record in self.records(ORDERS)]

    def quarantined(self) -> list[Record]:
        return self.records(QUARANTINE)

    def work(self, at: datetime = AT, done: frozenset[UUID] = frozenset()) -> frozenset[UUID]:
        """Answer every order as the workers would, until there is none; the orders answered so far."""
        while fresh := [order for order in self.orders() if order.order_id not in done]:
            for order in fresh:
                self.log.append([answer(order, name, event, at) for name, event in results(order)], 10)
                done |= {order.order_id}
            self.settle(at)
        return done


def answer(order: Order, name: str, event: Event, at: datetime) -> Message:
    return message(event, id=uuid5(order.order_id, name), at=at, cause=order.order_id)


def results(order: Order) -> Iterable[tuple[str, Event]]:
    """The facts that come of an order when all goes well."""
    domain, order_id, round_id = order.domain, order.order_id, order.round_id or ""
    match order:
        case SelectSnapshot():
            kept = tuple(f"{order.round_id}-{n}" for n in range(3))
            yield (
                "snapshot_selected",
                SnapshotSelected(
                    domain=domain,
                    round_id=round_id,
                    order_id=order_id,
                    snapshot="sha256:" + "3" * 64,
                    kept=kept,
                    earlier=0,
                    wordings=3,
                    dropped={"twice": 1},
                ),
            )
        case TrainCandidate():
            yield (
                "candidate_trained",
                CandidateTrained(
                    domain=domain,
                    round_id=round_id,
                    order_id=order_id,
                    model=CANDIDATE,
                    adapter="sha256:" + "4" * 64,
                    golden="sha256:" + "5" * 64,
                    loss=0.125,
                    steps=12,
                    duration_s=3.5,
                    export_difference=0.0001,
                ),
            )
        case RebuildCandidate():
            yield (
                "candidate_rebuilt",
                CandidateRebuilt(
                    domain=domain,
                    round_id=round_id,
                    order_id=order_id,
                    equal=True,
                    model=order.model,
                    adapter=order.adapter,
                    erased=0,
                    duration_s=3.5,
                ),
            )
        case EvaluateCandidate():
            yield (
                "candidate_evaluated",
                CandidateEvaluated(
                    domain=domain,
                    round_id=round_id,
                    order_id=order_id,
                    rows="sha256:" + "6" * 64,
                    paired={FIXES: Paired(10, 0, 0, 10, 0)},
                    duration_s=1.5,
                ),
            )
        case CompareReleases():
            yield (
                "comparison_made",
                ComparisonMade(
                    domain=domain,
                    order_id=order_id,
                    release=order.release,
                    sets={FIXES: {"base": Answers(4, 1, 20.0, 5.0, 0.25), "trained": Answers(4, 3, 20.0, 6.0, 0.25)}},
                    duration_s=2.5,
                ),
            )
        case BuildMaterial():
            made = MaterialBuilt(domain=domain, order_id=order_id, proposed=0, known=0, dropped={}, duration_s=2.5)
            yield "material_built", made
        case CompareBases():
            yield (
                "base_comparison_made",
                BaseComparisonMade(domain=domain, order_id=order_id, bases={}, duration_s=2.5),
            )
        case SwapRelease(rollback=True):
            yield (
                "release_rolled_back",
                ReleaseRolledBack(
                    domain=domain,
                    release=order.current or 0,
                    to=order.release,
                    order_id=order_id,
                    flip_ms=1.0,
                    ready_s=0.1,
                ),
            )
        case SwapRelease():
            yield (
                "release_started",
                ReleaseStarted(domain=domain, release=order.release, order_id=order_id, model=order.model),
            )
            yield (
                "release_finished",
                ReleaseFinished(
                    domain=domain,
                    release=order.release,
                    order_id=order_id,
                    model=order.model,
                    golden_difference=0.001,
                    ready_s=0.5,
                    flip_ms=2.0,
                ),
            )
        case PurgePlaces():
            yield (
                "places_purged",
                PlacesPurged(domain=domain, person=order.person, order_id=order_id, places={"training": 1}),
            )


def live_domain(world: ByHand, domain: str, **thresholds: object) -> None:
    """A domain whose release 0 answers."""
    world.say(created(domain), policy(domain, **thresholds))
    world.settle()
    world.work()


def story(world: ByHand, domain: str, people: Sequence[str], talks: int) -> None:
    """A domain, conversations of some people, and the rounds that come of them, each answered to its end."""
    live_domain(world, domain, corrections=talks // 2)
    done = frozenset(order.order_id for order in world.orders())
    for number in range(talks):
        at = AT + timedelta(minutes=number)
        world.say(*talk(domain, people[number % len(people)]), at=at)
        if number % 8 == 7:
            world.settle(at)
            done = world.work(at, done)
    world.settle(AT + timedelta(hours=2))
    world.work(AT + timedelta(hours=2), done)
