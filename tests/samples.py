"""One event and one order of every kind, and a domain's log that is folded as it grows: what tests of the core share."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID, uuid5

from streams import orders, rounds
from streams.codec import envelope_for
from streams.domain import Domain, pack, unpack
from streams.endpoints import Teacher
from streams.envelope import Consequence, Envelope, Recorded
from streams.events import DOMAINS, DomainEvent, Event
from streams.facts.bases import BASES, BaseAdded
from streams.facts.comparisons import (
    Answers,
    BaseComparisonAsked,
    BaseComparisonMade,
    BaseFigures,
    BaseTraining,
    ComparisonAsked,
    ComparisonMade,
)
from streams.facts.conversations import (
    DraftPicked,
    DraftsRanked,
    PromptAsked,
    RecallRejected,
    ReplyCommented,
    ReplyCorrected,
    ReplyDrafted,
    ReplyRated,
)
from streams.facts.documents import DocumentAdded, DocumentRemoved, PassageAdded
from streams.facts.domains import ClockTicked, DomainCreated, DomainRetired, PolicySet
from streams.facts.exam import ExamItemAdded, ExamItemRetired
from streams.facts.examples import ExampleAccepted, ExampleRetired, PreferenceAccepted, RankingAccepted, RankingRetired
from streams.facts.judgements import ConcernRaised, ExampleKept, ProposalJudged, VerdictTakenBack
from streams.facts.material import (
    BuildAsked,
    ExampleProposed,
    ExampleRejected,
    MaterialBuilt,
    ProposalReopened,
    SeedAdded,
    SeedRetired,
    Source,
    TripleAdded,
    TripleRetired,
)
from streams.facts.orders import OrderFailed, OrderProgressed, Step
from streams.facts.people import PersonErased, PlacesPurged
from streams.facts.releases import (
    CandidateRebuilt,
    CandidateRetired,
    RebuildAsked,
    ReleaseFinished,
    ReleaseRolledBack,
    ReleaseStarted,
    RollbackAsked,
)
from streams.facts.rounds import (
    Calibrated,
    CandidateEvaluated,
    CandidateTrained,
    ExamplesSelected,
    GatePassed,
    GateRefused,
    RewardModelTrained,
    RoundAsked,
    RoundCancelled,
    RoundRequested,
    SnapshotSelected,
    StageFinished,
)
from streams.fresh import Fresh
from streams.gate import GateMargins, Means, Paired, judge
from streams.made_with import MadeWith
from streams.orders import Order
from streams.policy import Policy, QuietHours, Schedule, Thresholds
from streams.projections import of_domain
from streams.reasons import reason
from streams.recalled import Recall, Recalled
from streams.recipes import BroughtRecipe, LoraRecipe, PpoRecipe, RewardRecipe, SftDpoRecipe
from streams.sealed import Sealed
from streams.selection import Agreement, Budget, Dedupe, KCenter, Leakage, Length
from streams.style import StyleRule
from streams.writes import Change, Delete, Insert, Row, Update, Write

START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
NAMES = UUID("5b0c7d3e-3f7c-4a39-8a5e-0f2f6d1f9a11")
DOMAIN = "allotments"


def id_of(name: str) -> UUID:
    return uuid5(NAMES, name)


def sealed(name: str = "words", kid: str = "key-of-ana") -> Sealed:
    """Something of the form of a sealed text; nothing in the core opens it."""
    return Sealed(kid=kid, ref=f"{id_of(name)}#text", jwe=f"e30..bm9uY2U.{name.encode().hex()}.dGFn")


MADE_WITH = MadeWith(
    noria="0.1.0",
    python="3.12.4",
    libraries={"torch": "2.13.0", "transformers": "5.17.0"},
    system="Linux x86_64",
    processor="Allotment 9000",
    abilities=("avx2", "fma"),
    threads=2,
    precision="float32",
    device="cpu",
)
SHIPS = {
    "fixes": Paired(n=12, both=0, only_before=0, only_after=12, neither=0),
    "earlier": Paired(n=60, both=60, only_before=0, only_after=0, neither=0),
    "general": Paired(n=200, both=120, only_before=1, only_after=2, neither=77),
}
REFUSED = SHIPS | {"general": Paired(n=200, both=80, only_before=60, only_after=0, neither=60)}
SELECTION = (
    Leakage(overlap=0.75),
    Agreement(),
    Length(),
    Dedupe(cosine=0.875),
    KCenter(k=400, radius=0.125, least={"annotation": 20}, most={"generated": 200}),
    Budget(tokens=60_000),
)
GUIDE = (StyleRule(rule="at_most_words", value=30, weight=2.0), StyleRule(rule="address", value="formal"))
POLICY = Policy(
    thresholds=Thresholds(corrections=3, preferences=5, people=2, days=7.5, settle_s=30.0),
    schedule=Schedule("30 2 * * 1-5", "Europe/Madrid"),
    quiet_hours=QuietHours("22:00", "06:30", "Asia/Shanghai"),
    rounds_per_day=2,
    budget_timezone="America/Bogota",
    recipe=PpoRecipe(rank=8, steps=6, rules=GUIDE[:1]),
    gate=GateMargins(earlier_margin=0.2, least_pairs=12),
    recall=Recall(of="both", most=2, least=0.25, tokens=256),
    from_base_every=7,
    selection=SELECTION,
    style=GUIDE,
)
_SAID: dict[str, Any] = {
    "domain": DOMAIN,
    "conversation_id": "cnv_1",
    "prompt_id": "prm_1",
    "reply_id": "rpl_1",
    "person": "ana",
}
_ASKED: dict[str, Any] = {"domain": DOMAIN, "round_id": "round-1", "order_id": id_of("order")}
_FEEDBACK: dict[str, Any] = {**_SAID, "request_digest": "9f" * 32}

EVENTS: tuple[Event, ...] = (
    PromptAsked(**{k: v for k, v in _SAID.items() if k != "reply_id"}, messages=sealed("asked"), release=3, drafts=2),
    ReplyDrafted(
        **_SAID,
        index=1,
        release=3,
        text=sealed("drafted"),
        finish_reason="stop",
        prompt_tokens=41,
        completion_tokens=17,
        duration_s=0.75,
        recall="recalled",
        recalled=(Recalled("correction", "example-1", 0.875), Recalled("passage", "passage-3", 0.5)),
    ),
    DraftPicked(**_FEEDBACK),
    ReplyRated(**_FEEDBACK, rating=4, scale="stars"),
    ReplyCorrected(**_FEEDBACK, text=sealed("corrected")),
    ReplyCommented(**_FEEDBACK, text=sealed("commented")),
    RecallRejected(**_FEEDBACK, memory_id="example-1"),
    DraftsRanked(**_FEEDBACK, ranking=(("rpl_1",), ("rpl_3", "rpl_2"))),
    DomainCreated(
        domain=DOMAIN,
        title="Allotment gardens 园圃",
        languages=("en", "zh"),
        system_prompt="You answer questions about allotments.",
        base_model="sha256:" + "a0" * 32,
        engine="llamacpp",
        replay_prompts=("What is a river?",),
        opening=True,
    ),
    DomainRetired(domain=DOMAIN, by="ops"),
    PolicySet(domain=DOMAIN, policy=POLICY, by="ops"),
    ClockTicked(domain=DOMAIN, at=START),
    BaseAdded(
        domain=BASES,
        base="heron-2b",
        model="sha256:" + "a5" * 32,
        family="Qwen3",
        parameters=2_031_739_904,
        context_tokens=32_768,
        vocabulary=151_936,
        licence="apache-2.0",
        engines=("llamacpp", "transformers"),
        by="ops",
    ),
    PassageAdded(
        domain=DOMAIN,
        document_id="document-1",
        passage_id="passage-3",
        number=3,
        passage=sealed("passage", "key-of-domain"),
    ),
    DocumentAdded(
        domain=DOMAIN,
        document_id="document-1",
        title=sealed("title", "key-of-domain"),
        name_digest="4a" * 32,
        content_digest="4b" * 32,
        passages=4,
        by="ops",
    ),
    DocumentRemoved(domain=DOMAIN, document_id="document-1", reason="out of date", by="ops"),
    ExamItemAdded(domain=DOMAIN, item_id="item-1", kind="held_out", item=sealed("item", "key-of-domain"), by="ops"),
    ExamItemRetired(domain=DOMAIN, item_id="item-1", reason="asked twice", by="ops"),
    ExampleAccepted(
        domain=DOMAIN,
        example_id="example-1",
        kind="correction",
        person="ana",
        prompt=sealed("asked"),
        answer=sealed("corrected"),
        said_at=START,
        prompt_id="prm_1",
    ),
    PreferenceAccepted(
        domain=DOMAIN,
        preference_id="preference-1",
        person="ben",
        prompt=sealed("asked", "key-of-ben"),
        chosen=sealed("first", "key-of-ben"),
        rejected=(sealed("second", "key-of-ben"), sealed("third", "key-of-ben")),
        said_at=START,
        prompt_id="prm_2",
    ),
    ExampleRetired(domain=DOMAIN, example_id="example-1", reason="out of date", by="ops"),
    RankingAccepted(
        domain=DOMAIN,
        ranking_id="ranking-1",
        person="ana",
        prompt=sealed("asked"),
        answers=(sealed("first"), sealed("second"), sealed("third")),
        tiers=((2,), (0, 1)),
        said_at=START,
    ),
    RankingRetired(domain=DOMAIN, ranking_id="ranking-1", reason="out of date", by="ops"),
    PersonErased(domain=DOMAIN, person="ana", kids=("key-of-ana",), by="ops"),
    PlacesPurged(domain=DOMAIN, person="ana", order_id=id_of("purge"), places={"snapshot": 2, "rows": 1}),
    RoundAsked(domain=DOMAIN, by="ops", opening=True, recipe=BroughtRecipe(adapter="sha256:" + "c4" * 32)),
    RoundRequested(
        domain=DOMAIN,
        round_id="round-1",
        number=1,
        reasons=(reason("corrections_enough", have=3, need=3),),
        pin=9,
        base_release=0,
        policy=POLICY,
    ),
    OrderProgressed(**_ASKED, step="train", done=3, total=40, seconds_left=88.5, values={"loss": 1.25}, stage="sft"),
    ExamplesSelected(**_ASKED, snapshot="sha256:" + "5e" * 32, kept=("example-0",)),
    SnapshotSelected(
        **_ASKED,
        snapshot="sha256:" + "5e" * 32,
        kept=("example-1",),
        earlier=0,
        wordings=6,
        dropped={"repeated": 2},
        named=1,
        pairs=3,
        labels=5,
        pairs_held_out=2,
        held={"both sides are the same": 1},
        masked={"phone": 1},
        read={"0": 7, "2": 19},
        said_by={"ana": 3, "ben": 6},
    ),
    CandidateTrained(
        **_ASKED,
        model="sha256:" + "b1" * 32,
        adapter="sha256:" + "c2" * 32,
        golden="sha256:" + "d3" * 32,
        loss=0.125,
        steps=40,
        duration_s=61.5,
        export_difference=0.0625,
        cpu_s=101.5,
        losses=(2.5, 0.75, 0.125),
        rows=20,
        tokens=4096,
        made_with=MADE_WITH,
    ),
    StageFinished(
        **_ASKED,
        stage="sft",
        number=1,
        stages=2,
        artifact="sha256:" + "c3" * 32,
        loss=0.75,
        duration_s=21.5,
        metrics={"planned_steps": 12.0},
    ),
    RewardModelTrained(
        **_ASKED,
        snapshot="sha256:" + "5e" * 32,
        base_model="sha256:" + "a0" * 32,
        model="sha256:" + "b4" * 32,
        adapter="sha256:" + "c4" * 32,
        loss=0.25,
        steps=9,
        duration_s=36.5,
        cpu_s=70.0,
        losses=(0.5, 0.25),
        tokens=5000,
        made_with=MADE_WITH,
        metrics={"accuracy": 0.875, "accuracy_low": 0.5, "accuracy_high": 0.9375, "held_out_pairs": 24.0},
        calibrated=(Calibrated(pairs=24, predicted=0.75, won=0.875),),
    ),
    CandidateEvaluated(
        **_ASKED,
        rows="sha256:" + "e4" * 32,
        paired=SHIPS,
        duration_s=33.0,
        means={"answer_length": Means(60, 41.5, 40.25)},
        absent={"reward_model": "removed"},
    ),
    GatePassed(
        domain=DOMAIN,
        round_id="round-1",
        release=1,
        verdict=judge(
            SHIPS,
            GateMargins(),
            means={"answer_length": Means(60, 41.5, 40.25)},
            absent={"reward_model": "its score is no number"},
        ),
    ),
    GateRefused(domain=DOMAIN, round_id="round-1", verdict=judge(REFUSED, GateMargins())),
    CandidateRetired(
        domain=DOMAIN,
        round_id="round-1",
        release=None,
        model="sha256:" + "b1" * 32,
        adapter="sha256:" + "c2" * 32,
        reason="more than 2 refused (keep.refused)",
    ),
    RebuildAsked(
        domain=DOMAIN,
        round_id="round-1",
        pin=9,
        snapshot="sha256:" + "5e" * 32,
        base_release=0,
        recipe=LoraRecipe(rank=8, epochs=4),
        release=1,
        model="sha256:" + "b1" * 32,
        adapter="sha256:" + "c2" * 32,
        by="ops",
        recall=Recall(of="both"),
        opening=True,
        reward_model="sha256:" + "7c" * 32,
        selection=SELECTION,
        mask=("phone", "plate"),
    ),
    CandidateRebuilt(
        **_ASKED,
        equal=False,
        model="sha256:" + "b7" * 32,
        adapter="sha256:" + "c7" * 32,
        erased=2,
        duration_s=60.5,
        made_with=MADE_WITH,
    ),
    ComparisonAsked(domain=DOMAIN, by="ops"),
    ComparisonMade(
        domain=DOMAIN,
        order_id=id_of("compare"),
        release=1,
        sets={
            "fixes": {
                "base": Answers(12, 1, 24.5, 7.25, 0.375),
                "base_recalled": Answers(12, 4, 96.0, 6.5, 0.5),
                "trained": Answers(12, 10, 24.5, 8.0, 0.375),
                "trained_recalled": Answers(12, 12, 96.0, 8.0, 0.5),
            },
            "general": {"base": Answers(200, 120), "trained": Answers(200, 121)},
        },
        duration_s=61.5,
    ),
    TripleAdded(domain=DOMAIN, triple_id="triple-1", triple=sealed(), by="ops"),
    TripleRetired(domain=DOMAIN, triple_id="triple-1", reason="wrong", by="ops"),
    SeedAdded(domain=DOMAIN, seed_id="seed-1", kind="syllogism", seed=sealed(), by="ops"),
    SeedRetired(domain=DOMAIN, seed_id="seed-1", reason="wrong", by="ops"),
    BuildAsked(domain=DOMAIN, builder="self-kg", most=12, by="ops"),
    ExampleProposed(
        domain=DOMAIN,
        proposal_id="proposal-1",
        build_id=id_of("build"),
        builder="self-kg",
        kind="two_hops",
        sources=(Source("triple", "triple-1"), Source("triple", "triple-2")),
        proposal=sealed(),
    ),
    ExampleProposed(
        domain=DOMAIN,
        proposal_id="proposal-2",
        build_id=id_of("build"),
        builder="rewordings",
        kind="unsure_rewording",
        sources=(Source("example", "example-1"), Source("prompt", "prompt-1")),
        proposal=sealed(),
        answer=sealed(),
    ),
    ExampleRejected(domain=DOMAIN, proposal_id="proposal-1", reason="wrong", by="ops"),
    ProposalReopened(domain=DOMAIN, proposal_id="proposal-1", by="ops"),
    ConcernRaised(domain=DOMAIN, proposal_id="proposal-1", concern="uncertain", reason="few of its words are known"),
    ProposalJudged(
        domain=DOMAIN,
        proposal_id="proposal-1",
        person="ida",
        verdict="edit",
        example_id=id_of("judged").hex,
        prompt=sealed(),
        answer=sealed(),
        author="ben",
        stands="example-1",
        replaces=("example-2",),
        follows=12,
        service="key-1",
    ),
    ExampleKept(domain=DOMAIN, proposal_id="proposal-1", by="ida"),
    VerdictTakenBack(domain=DOMAIN, proposal_id="proposal-1", judgement_id=str(id_of("judged")), person="ida"),
    MaterialBuilt(
        domain=DOMAIN,
        order_id=id_of("build"),
        proposed=2,
        known=1,
        dropped={"its question stands in the exam": 1},
        duration_s=0.5,
        calls=4,
        cached=1,
        tokens=900,
    ),
    BaseComparisonAsked(
        domain=DOMAIN, bases={"heron-2b": "sha256:" + "a0" * 32, "ibis-1b": "sha256:" + "a1" * 32}, by="ops"
    ),
    BaseComparisonMade(
        domain=DOMAIN,
        order_id=id_of("compare bases"),
        bases={
            "heron-2b": BaseFigures(
                family="Qwen3",
                parameters=2_031_739_904,
                context_tokens=32_768,
                licence="apache-2.0",
                engine="llamacpp",
                sets={
                    "untaught": Answers(12, 1, 24.5, 7.25, 0.375),
                    "held_out": Answers(8, 3),
                    "general": Answers(200, 120),
                },
                tokens_per_character=0.25,
                tokens_per_s=41.5,
                memory_gb=2.125,
                training=BaseTraining(9.5, 600.0, True),
            ),
            "ibis-1b": BaseFigures(
                family="Llama",
                parameters=1_100_048_384,
                context_tokens=2_048,
                licence=None,
                engine="transformers",
                sets={"general": Answers(200, 110)},
                tokens_per_character=0.75,
                tokens_per_s=3.5,
                memory_gb=4.5,
                training=None,
            ),
        },
        duration_s=90.5,
    ),
    ReleaseStarted(domain=DOMAIN, release=1, order_id=id_of("swap"), model="sha256:" + "b1" * 32),
    ReleaseFinished(
        domain=DOMAIN,
        release=1,
        order_id=id_of("swap"),
        model="sha256:" + "b1" * 32,
        golden_difference=0.03125,
        ready_s=2.5,
        flip_ms=1.5,
    ),
    RollbackAsked(domain=DOMAIN, to=0, by="ops"),
    ReleaseRolledBack(domain=DOMAIN, release=1, to=0, order_id=id_of("rollback"), flip_ms=1.25, ready_s=0.0),
    RoundCancelled(domain=DOMAIN, round_id="round-1", by="ops"),
    OrderFailed(
        domain=DOMAIN,
        round_id=None,
        order_id=id_of("purge"),
        step="purge",
        reason="the disk is full",
        will_retry=True,
        attempt=1,
    ),
)
ORDERS: tuple[Order, ...] = (
    orders.SelectSnapshot(
        order_id=id_of("select"),
        domain=DOMAIN,
        round_id="round-1",
        pin=9,
        base_model="sha256:" + "a0" * 32,
        recipe=RewardRecipe(rank=8),
        recall=Recall(of="corrections"),
        opening=True,
        selection=SELECTION,
        mask=("e-mail",),
        reference_model="sha256:" + "00" * 32,
        replay_prompts=("What is a spade?",),
    ),
    orders.TrainCandidate(
        order_id=id_of("train"),
        domain=DOMAIN,
        round_id="round-1",
        snapshot="sha256:" + "5e" * 32,
        base_model="sha256:" + "a0" * 32,
        reference_model="sha256:" + "a0" * 32,
        recipe=SftDpoRecipe(rank=8, epochs=4),
        replay_prompts=("What is a river?",),
        reward_model="sha256:" + "7c" * 32,
    ),
    orders.RebuildCandidate(
        order_id=id_of("rebuild"),
        domain=DOMAIN,
        round_id="round-1",
        pin=9,
        snapshot="sha256:" + "5e" * 32,
        base_model="sha256:" + "a0" * 32,
        reference_model="sha256:" + "a0" * 32,
        recipe=LoraRecipe(rank=8),
        replay_prompts=("What is a river?",),
        model="sha256:" + "b1" * 32,
        adapter="sha256:" + "c2" * 32,
        recall=Recall(of="both"),
        opening=True,
        reward_model="sha256:" + "7c" * 32,
        selection=SELECTION,
    ),
    orders.EvaluateCandidate(
        order_id=id_of("evaluate"),
        domain=DOMAIN,
        round_id="round-1",
        snapshot="sha256:" + "5e" * 32,
        base_model="sha256:" + "a0" * 32,
        candidate_model="sha256:" + "b1" * 32,
        pin=9,
        engine="llamacpp",
        recall=Recall(of="documents"),
        first_model="sha256:" + "00" * 32,
        pleases=True,
        reward_model="sha256:" + "7c" * 32,
        reward_round="round-0",
        style=GUIDE,
    ),
    orders.CompareReleases(
        order_id=id_of("compare"),
        domain=DOMAIN,
        release=1,
        base_model="sha256:" + "a0" * 32,
        model="sha256:" + "b1" * 32,
        pin=9,
        engine="llamacpp",
        recall=Recall(of="both"),
    ),
    orders.CompareBases(
        order_id=id_of("compare bases"),
        domain=DOMAIN,
        bases={"heron-2b": "sha256:" + "a0" * 32, "ibis-1b": "sha256:" + "a1" * 32},
        pin=9,
        engine="llamacpp",
        recipe=LoraRecipe(),
    ),
    orders.BuildMaterial(
        order_id=id_of("build"),
        domain=DOMAIN,
        builder="self-qa",
        most=12,
        pin=9,
        teacher=Teacher(base_url="https://teacher.test/v1", model="heron-70b"),
    ),
    orders.SwapRelease(
        order_id=id_of("swap"),
        domain=DOMAIN,
        release=1,
        model="sha256:" + "b1" * 32,
        engine="llamacpp",
        current=0,
        round_id="round-1",
    ),
    orders.PurgePlaces(order_id=id_of("purge"), domain=DOMAIN, person="ana", kids=("key-of-ana",)),
)
assert {type(event) for event in EVENTS} == set(get_args(Event)), "one sample of every event"
assert {type(order) for order in ORDERS} == set(get_args(Order)), "one sample of every order"


def enveloped(event: Event, name: str = "event", at: datetime = START, cause: UUID | None = None) -> Envelope:
    return envelope_for(
        event, id=id_of(name), source="/noria/api", time=at, correlation_id="correlation", causation_id=cause
    )


Decision = RoundRequested | GatePassed | GateRefused


class DomainLog:
    """The log of one domain. What is told takes effect as in the store: folded, reacted to, and kept as bytes. What is decided
    stands on it at once, unless `decides` is False."""

    decides = True

    def __init__(self) -> None:
        self.state = Domain()
        self.told: list[Recorded] = []
        self.said: list[Consequence | Order] = []
        self.fresh: dict[tuple[str, ...], tuple[str, str | None, int, bool]] = {}  # the rows of the table

    def tell(
        self, event: DomainEvent, *, at: datetime = START, id: UUID | None = None, cause: UUID | None = None
    ) -> tuple[Consequence | Order, ...]:
        """Fold one event; return what it makes us say and ask, and what follows from what is decided."""
        envelope = envelope_for(
            event,
            id=id or id_of(f"told {len(self.told)}"),
            source="/test",
            time=at,
            correlation_id=event.domain,
            causation_id=cause,
        )
        recorded = Recorded(envelope, DOMAINS, 0, len(self.told))
        after = rounds.fold(self.state, recorded, event)
        said = rounds.react(self.state, after, recorded, event)
        self.told.append(recorded)
        self.said.extend(said)
        for write in of_domain(self.state, after, recorded, event):
            self._keep(write)
        fresh = Fresh.of((kind, id_, *by) for (_, kind, id_), by in self.fresh.items())
        self.state = unpack(pack(after), fresh)
        assert self.state == after, "a state must survive being kept"
        for one in said if self.decides else ():
            if isinstance(one, Consequence) and isinstance(one.event, Decision):
                now = event.at if isinstance(event, ClockTicked) else at
                said += self.tell(one.event, at=now, id=one.id, cause=envelope.id)
        return said

    def _keep(self, write: Write) -> None:
        match write:
            case Insert("fresh", {"domain": domain, "kind": kind, "given_id": id_, **by}):
                self.fresh.setdefault((domain, kind, id_), _giver(by))
            case Update("fresh", {"domain": domain, "kind": kind, "given_id": id_}, by):
                assert (domain, kind, id_) in self.fresh
                self.fresh[domain, kind, id_] = _giver(by)
            case Delete("fresh", where, before_offset):
                for key in self._named(where, before_offset):
                    del self.fresh[key]
            case Change("fresh", where, row):
                for key in self._named(where, None):
                    self.fresh[key] = (row["person"], *self.fresh[key][1:])

    def _named(self, where: Row, before_offset: int | None) -> list[tuple[str, ...]]:
        found = []
        for key, (person, service, offset, own) in self.fresh.items():
            names = ("domain", "kind", "given_id", "person", "service", "own_words")
            row = dict(zip(names, (*key, person, service, own), strict=True))
            if where.items() <= row.items() and (before_offset is None or offset < before_offset):
                found.append(key)
        return found


def _giver(row: Row) -> tuple[str, str | None, int, bool]:
    return row["person"], row["service"], row["offset"], row["own_words"]


def created(**policy: Any) -> DomainLog:
    """A domain whose first model answers already; `policy` as in `Policy`, by default a round every two corrections."""
    log = DomainLog()
    founding = DomainCreated(
        domain=DOMAIN,
        title="Allotments",
        languages=("en",),
        system_prompt="",
        base_model="model-0",
        engine="llamacpp",
        replay_prompts=("What is a river?",),
    )
    (swap,) = log.tell(founding, at=START - timedelta(hours=1))
    assert isinstance(swap, orders.SwapRelease)
    in_force = Policy(**{"thresholds": Thresholds(corrections=2)} | policy)
    log.tell(PolicySet(domain=DOMAIN, policy=in_force, by="ops"), at=START - timedelta(hours=1))
    log.tell(finished(swap), at=START - timedelta(hours=1))
    return log


def correction(
    example_id: str, person: str = "ana", kid: str | None = None, service: str | None = None
) -> ExampleAccepted:
    kid = kid or f"key-of-{person}"
    return ExampleAccepted(
        domain=DOMAIN,
        example_id=example_id,
        kind="correction",
        person=person,
        prompt=sealed(f"asked {example_id}", kid),
        answer=sealed(f"answered {example_id}", kid),
        said_at=START,
        service=service,
    )


def preference(preference_id: str, person: str = "ana") -> PreferenceAccepted:
    kid = f"key-of-{person}"
    return PreferenceAccepted(
        domain=DOMAIN,
        preference_id=preference_id,
        person=person,
        prompt=sealed(f"asked {preference_id}", kid),
        chosen=sealed(f"chosen {preference_id}", kid),
        rejected=(sealed(f"rejected {preference_id}", kid),),
        said_at=START,
        prompt_id=f"prompt of {preference_id}",
    )


def selected(order: orders.SelectSnapshot, kept: tuple[str, ...] = ("one", "two")) -> SnapshotSelected:
    return SnapshotSelected(
        domain=DOMAIN,
        round_id=order.round_id,
        order_id=order.order_id,
        snapshot=f"snapshot of {order.round_id}",
        kept=kept,
        earlier=0,
        wordings=len(kept),
        dropped={},
    )


def trained(order: orders.TrainCandidate) -> CandidateTrained:
    return CandidateTrained(
        domain=DOMAIN,
        round_id=order.round_id,
        order_id=order.order_id,
        model=f"model of {order.round_id}",
        adapter="adapter",
        golden="golden",
        loss=0.5,
        steps=10,
        duration_s=1.0,
        export_difference=0.0,
    )


def scored(order: orders.TrainCandidate) -> RewardModelTrained:
    return RewardModelTrained(
        domain=DOMAIN,
        round_id=order.round_id,
        order_id=order.order_id,
        snapshot=order.snapshot,
        base_model=order.base_model,
        model="scores",
        adapter="learned",
        loss=0.5,
        steps=3,
        duration_s=1.0,
    )


def rebuild_asked(round_id: str, release: int | None, base_release: int = 0) -> RebuildAsked:
    return RebuildAsked(
        domain=DOMAIN,
        round_id=round_id,
        pin=3,
        snapshot=f"snapshot of {round_id}",
        base_release=base_release,
        recipe=LoraRecipe(rank=8),
        release=release,
        model=f"model of {round_id}",
        adapter="adapter",
        by="ops",
    )


def rebuilt(order: orders.RebuildCandidate, equal: bool = True) -> CandidateRebuilt:
    return CandidateRebuilt(
        domain=DOMAIN,
        round_id=order.round_id,
        order_id=order.order_id,
        equal=equal,
        model=order.model if equal else "another model",
        adapter=order.adapter,
        erased=0,
        duration_s=1.0,
    )


def compared(order: orders.CompareReleases) -> ComparisonMade:
    return ComparisonMade(
        domain=order.domain,
        order_id=order.order_id,
        release=order.release,
        sets={"fixes": {"base": Answers(4, 1), "trained": Answers(4, 3)}},
        duration_s=1.0,
    )


def bases_compared(order: orders.CompareBases) -> BaseComparisonMade:
    figures = BaseFigures(
        family="Llama",
        parameters=1000,
        context_tokens=2048,
        licence=None,
        engine="llamacpp",
        sets={"untaught": Answers(4, 1)},
        tokens_per_character=0.25,
        tokens_per_s=40.0,
        memory_gb=0.5,
        training=None,
    )
    bases = dict.fromkeys(order.bases, figures)
    return BaseComparisonMade(domain=order.domain, order_id=order.order_id, bases=bases, duration_s=1.0)


def built(order: orders.BuildMaterial) -> MaterialBuilt:
    return MaterialBuilt(domain=order.domain, order_id=order.order_id, proposed=2, known=0, dropped={}, duration_s=1.0)


def evaluated(order: orders.EvaluateCandidate, paired: dict[str, Paired] | None = None) -> CandidateEvaluated:
    return CandidateEvaluated(
        domain=DOMAIN,
        round_id=order.round_id,
        order_id=order.order_id,
        rows="rows",
        paired=SHIPS if paired is None else paired,
        duration_s=1.0,
    )


def finished(order: orders.SwapRelease) -> ReleaseFinished:
    return ReleaseFinished(
        domain=order.domain,
        release=order.release,
        order_id=order.order_id,
        model=order.model,
        golden_difference=0.0,
        ready_s=1.0,
        flip_ms=1.0,
    )


def rolled_back(order: orders.SwapRelease) -> ReleaseRolledBack:
    return ReleaseRolledBack(
        domain=order.domain,
        release=order.current or 0,
        to=order.release,
        order_id=order.order_id,
        flip_ms=1.0,
        ready_s=0.0,
    )


def failed(order: Order, *, will_retry: bool = False, reason: str = "out of memory") -> OrderFailed:
    steps: dict[type[Order], Step] = {
        orders.SelectSnapshot: "select",
        orders.TrainCandidate: "train",
        orders.RebuildCandidate: "train",
        orders.EvaluateCandidate: "evaluate",
        orders.CompareReleases: "evaluate",
        orders.CompareBases: "evaluate",
        orders.BuildMaterial: "build",
        orders.SwapRelease: "swap",
        orders.PurgePlaces: "purge",
    }
    return OrderFailed(
        domain=order.domain,
        round_id=order.round_id,
        order_id=order.order_id,
        step=steps[type(order)],
        reason=reason,
        will_retry=will_retry,
        attempt=1,
    )
