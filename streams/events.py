"""The vocabulary of the log: facts, in the past tense, as small frozen structs. Each stands in the room of its concept
(`streams.facts`); here they become one union, whose halves are the topics that they stand on. Pure."""

from streams.facts.bases import BaseEvent
from streams.facts.comparisons import ComparisonEvent
from streams.facts.conversations import ConversationEvent
from streams.facts.documents import DocumentEvent
from streams.facts.domains import DomainsEvent
from streams.facts.exam import ExamEvent
from streams.facts.examples import ExampleEvent
from streams.facts.judgements import JudgementEvent
from streams.facts.material import MaterialEvent
from streams.facts.orders import OrderEvent
from streams.facts.people import PeopleEvent
from streams.facts.releases import ReleaseEvent
from streams.facts.rounds import RoundEvent

CONVERSATIONS = "noria.conversations"  # keyed by conversation
DOMAINS = "noria.domains"  # keyed by domain: everything about one domain in one total order
ORDERS = "noria.orders"
QUARANTINE = "noria.quarantine"
OPERATIONS = "noria.operations"

DomainEvent = (
    BaseEvent
    | ComparisonEvent
    | DocumentEvent
    | DomainsEvent
    | ExamEvent
    | ExampleEvent
    | JudgementEvent
    | MaterialEvent
    | OrderEvent
    | PeopleEvent
    | ReleaseEvent
    | RoundEvent
)
Event = ConversationEvent | DomainEvent

__all__ = [
    "CONVERSATIONS",
    "DOMAINS",
    "OPERATIONS",
    "ORDERS",
    "QUARANTINE",
    "ConversationEvent",
    "DomainEvent",
    "Event",
]
