"""The order `build_material`: a builder proposes examples, and nobody is taught anything until a person accepts them.

What is proposed is told apart by its words: the same again, of a later build or of one that was taken up, is the same event. What
asks a question of the exam is never proposed.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from sqlalchemy import Connection, text

from streams.alike import Words, words_of
from streams.builders import BUILDERS as SHARES
from streams.errors import Invalid
from streams.events import DomainEvent
from streams.facts.judgements import ConcernRaised
from streams.facts.material import ExampleProposed, MaterialBuilt
from streams.orders import BuildMaterial
from streams.reading.learning import exam_as_of
from streams.sealing import common_digest, domain_subject, seal
from streams.store import postgres_trouble
from workers.builder.answered import answered
from workers.builder.material import Dropped, Made, Material, Proposed, Step
from workers.builder.teacher import Desk
from workers.context import Context
from workers.endpoints import check_address
from workers.selector.leakage import IN_THE_EXAM
from workers.selector.opened import open_exam

# Each builder of `streams.builders`, and the module whose `build` makes its proposals.
BUILDERS = {
    "self-kg": "workers.builder.self_kg",
    "syllogism": "workers.builder.syllogism",
    "cases": "workers.builder.cases",
    "self-qa": "workers.builder.self_qa",
    "self-instruct": "workers.builder.self_instruct",
    "declining": "workers.builder.declining",
    "style": "workers.builder.style",
    "rewordings": "workers.builder.rewordings",
}
ANOTHER_ANSWER = "another_answer"  # why it is in dispute
TWICE = "another of this build asks the same"
FULL = "there are as many of them as its share of the domain's examples"
TOO_LONG = "longer than an example may be"
MOST_BYTES = 32 * 1024  # what the door takes of one item
SAID_AT_ONCE = 50
_PROPOSALS = uuid5(NAMESPACE_URL, "urn:noria:proposal")
Build = Callable[[Material, Desk], Iterator[Made]]


def run(order: BuildMaterial, context: Context) -> None:
    if order.builder not in BUILDERS:
        raise Invalid(f"there is no builder {order.builder!r}; there are {', '.join(BUILDERS)}")
    if order.teacher is not None:
        check_address(order.teacher.base_url, context.settings.private_endpoints)
    build: Build = import_module(BUILDERS[order.builder]).build
    began = time.monotonic()
    desk: Desk = Desk(
        order.teacher,
        context.settings.teacher_key,
        order.domain,
        order.order_id,
        context.database,
        context.keyring,
        lambda wait_s: _wait(context, wait_s),
    )
    try:
        counts, dropped = _propose(order, context, build, desk)
    finally:
        desk.close()
    event = MaterialBuilt(
        domain=order.domain,
        order_id=order.order_id,
        proposed=counts["proposed"],
        known=counts["known"],
        dropped=dict(sorted(dropped.items())),
        duration_s=round(time.monotonic() - began, 1),
        **msgspec.to_builtins(desk.counts),
    )
    context.publish(order, event, "material_built")


def _wait(context: Context, wait_s: float) -> None:
    """Raises Cancelled as soon as the order is not wanted any more."""
    context.cancelled.wait(wait_s)
    context.check()


def _propose(order: BuildMaterial, context: Context, build: Build, desk: Desk) -> tuple[Counter[str], Counter[str]]:
    """Make and record the proposals: how many were `proposed` and `known`, and the rest by reason."""
    counts, dropped = Counter[str](), Counter[str]()
    with postgres_trouble(), context.database.connect() as connection:
        exam = open_exam(exam_as_of(connection, order.domain, order.pin), context.keyring)
        room = _room(connection, order)
        rows = connection.execute(
            text("SELECT proposal_id, build_id FROM noria.proposals WHERE domain = :domain"), {"domain": order.domain}
        )
        there = {row.proposal_id: row.build_id for row in rows}
    material = Material(context.database, context.keyring, order.domain, order.pin, order.style, order.decline)
    before = answered(context, order.domain, order.pin)
    forbidden, asked = {words_of(question) for question in exam.values()}, set[tuple[str, ...]]()
    batch: list[tuple[UUID, DomainEvent]] = []
    for made in build(material, desk):
        context.check()
        match made:
            case Step(done, total):
                tokens = desk.counts.tokens
                context.progress(order, "build", done, total, proposed=counts["proposed"], tokens=tokens)
            case Dropped(reason):
                dropped[reason] += 1
            case Proposed():
                question = words_of(f"{made.instruction} {made.input}")
                if forbidden & {question, words_of(made.instruction), words_of(made.input)}:
                    dropped[IN_THE_EXAM] += 1
                    continue
                if question in asked:
                    dropped[TWICE] += 1
                    continue
                asked.add(question)
                words = msgspec.json.encode(
                    {"instruction": made.instruction, "input": made.input, "output": made.output, "system": ""}
                )
                if len(words) > MOST_BYTES:
                    dropped[TOO_LONG] += 1
                    continue
                id_ = _id_of(order, words, context)
                if there.get(id_.hex, str(order.order_id)) != str(order.order_id):
                    counts["known"] += 1
                    continue
                if room is not None and counts["proposed"] >= room:
                    dropped[FULL] += 1
                    continue
                if id_.hex not in there:
                    batch.append((id_, _event(order, id_, made, words, context)))
                batch += _concern(order, id_, made, before.get(question, set()))
                counts["proposed"] += 1
        if len(batch) >= SAID_AT_ONCE:
            context.say(batch, str(order.order_id), order.order_id)
            batch = []
        if order.most is not None and counts["proposed"] >= order.most:
            break
    if batch:
        context.say(batch, str(order.order_id), order.order_id)
    return counts, dropped


def _id_of(order: BuildMaterial, words: bytes, context: Context) -> UUID:
    """From its words, by keyed digest."""
    said = msgspec.json.encode([order.domain, order.builder, words.decode()])
    with postgres_trouble():
        return uuid5(_PROPOSALS, common_digest(said, context.keyring))


def _room(connection: Connection, order: BuildMaterial) -> int | None:
    """How many the builder may propose yet; None: any number. As of the pin: a build that is taken up has the same room."""
    share = SHARES[order.builder].share
    if share is None:
        return None
    others = connection.execute(
        text(
            "SELECT count(*) FROM noria.examples e WHERE domain = :domain AND retired_offset IS NULL"
            " AND accepted_offset < :pin AND NOT EXISTS (SELECT FROM noria.proposals p"
            " WHERE p.example_id = e.example_id AND p.builder = :builder)"
        ),
        {"domain": order.domain, "pin": order.pin, "builder": order.builder},
    ).scalar_one()
    there = connection.execute(
        text(
            "SELECT count(*) FROM noria.proposals WHERE domain = :domain AND builder = :builder AND state != 'rejected'"
            " AND proposed_offset < :pin"
        ),
        {"domain": order.domain, "pin": order.pin, "builder": order.builder},
    ).scalar_one()
    return max(0, int(share * others) - int(there))


def _event(order: BuildMaterial, id_: UUID, made: Proposed, words: bytes, context: Context) -> ExampleProposed:
    answer = None
    with postgres_trouble():
        if made.kids is None:
            key = context.keyring.key_for(domain_subject(order.domain))
        else:
            key, answers = (context.keyring.find(kid) for kid in made.kids)
            asked = {"instruction": made.instruction, "input": made.input, "output": "", "system": ""}
            words = msgspec.json.encode(asked)
            answer = seal(made.output, answers, f"{id_}#answer")
    return ExampleProposed(
        domain=order.domain,
        proposal_id=id_.hex,
        build_id=order.order_id,
        builder=order.builder,
        kind=made.kind,
        sources=made.sources,
        proposal=seal(words.decode(), key, f"{id_}#proposal"),
        answer=answer,
    )


def _concern(order: BuildMaterial, id_: UUID, made: Proposed, before: set[Words]) -> list[tuple[UUID, DomainEvent]]:
    """Why it is to be looked at before others. `before`: how its question was answered."""
    disputed = bool(before - {words_of(made.output)})
    reason = ANOTHER_ANSWER if disputed else made.doubt
    if reason is None:
        return []
    event = ConcernRaised(
        domain=order.domain,
        proposal_id=id_.hex,
        concern="disputed" if disputed else "uncertain",
        reason=reason,
    )
    return [(uuid5(id_, "concern"), event)]
