"""What people and workers read: the rows that each event of a domain writes, by the room that it stands in. Pure; the store
carries them out."""

from typing import assert_never

from streams.domain import Domain
from streams.envelope import Recorded
from streams.events import DomainEvent
from streams.facts import (
    bases,
    comparisons,
    documents,
    domains,
    exam,
    examples,
    judgements,
    material,
    orders,
    people,
    releases,
    rounds,
)
from streams.writes import Write


def of_domain(before: Domain, after: Domain, recorded: Recorded, event: DomainEvent) -> list[Write]:
    """The rows of one domain event, and what the step from `before` to `after` shows of the domain and its round."""
    writes = [*_of_event(before, after, recorded, event), *rounds.course(event.domain, before, after, recorded)]
    if after.base_model and (after is not before or isinstance(event, domains.ClockTicked)):
        writes.append(domains.standing(event.domain, after, domains.now_of(recorded, event)))
    return writes


def _of_event(before: Domain, after: Domain, recorded: Recorded, event: DomainEvent) -> list[Write]:
    if isinstance(event, examples.ExampleEvent):
        return examples.rows(before, after, recorded, event)
    if isinstance(event, judgements.JudgementEvent):
        return judgements.rows(before, after, recorded, event)
    if isinstance(event, domains.DomainsEvent):
        return domains.rows(before, after, recorded, event)
    if isinstance(event, comparisons.ComparisonEvent):
        return comparisons.rows(before, after, recorded, event)
    if isinstance(event, bases.BaseEvent):
        return bases.rows(recorded, event)
    if isinstance(event, documents.DocumentEvent):
        return documents.rows(recorded, event)
    if isinstance(event, exam.ExamEvent):
        return exam.rows(recorded, event)
    if isinstance(event, material.MaterialEvent):
        return material.rows(before, after, recorded, event)
    if isinstance(event, orders.OrderEvent):
        return orders.rows(before, after, recorded, event)
    if isinstance(event, people.PeopleEvent):
        return people.rows(before, after, recorded, event)
    if isinstance(event, releases.ReleaseEvent):
        return releases.rows(before, after, recorded, event)
    if isinstance(event, rounds.RoundEvent):
        return rounds.rows(before, after, event)
    assert_never(event)
