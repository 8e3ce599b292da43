"""The wire format, in one file: CloudEvents 1.0, structured JSON, and the lifts of old versions to the newest.

{"specversion": "1.0", "id": …, "source": "/noria/api", "type": "noria.reply_rated", "time": …, "subject": <key>,
 "datacontenttype": "application/json", "dataschema": "urn:noria:reply_rated:1",
 "correlationid": …, "causationid": …, "data": {…}}
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args, get_type_hints
from uuid import UUID

import msgspec
from msgspec import Raw, Struct, field
from typing_extensions import TypeIs

from streams import events, orders
from streams.envelope import Envelope
from streams.errors import Invalid
from streams.facts.conversations import PromptAsked, ReplyCommented, ReplyCorrected, ReplyDrafted
from streams.facts.documents import DocumentAdded, PassageAdded
from streams.facts.domains import PolicySet
from streams.facts.exam import ExamItemAdded
from streams.facts.examples import ExampleAccepted, PreferenceAccepted, RankingAccepted
from streams.facts.judgements import ProposalJudged
from streams.facts.material import ExampleProposed, SeedAdded, TripleAdded
from streams.facts.operations import OperationsEvent
from streams.policy import check_readable
from streams.recipes import with_method
from streams.sealed import Sealed

CONTENT_TYPE = "application/cloudevents+json"
MAX_EVENT_BYTES = 1_000_000
Data = dict[str, Any]
T = TypeVar("T")
# Where msgspec repeats what it was given: the value of an enumeration or tag, the name of an unknown field.
_GIVEN = re.compile(r"""'.*'|".*"|(?<=unknown field )`.*`(?= - at `)|(?<=unknown field )`.*`$""", re.DOTALL)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


EVENT_TYPES: dict[str, type[events.Event]] = {_snake(kind.__name__): kind for kind in get_args(events.Event)}
ORDER_TYPES: dict[str, type[orders.Order]] = {_snake(kind.__name__): kind for kind in get_args(orders.Order)}
OPERATIONS_TYPES = {_snake(kind.__name__): kind for kind in get_args(OperationsEvent)}
NAME_OF: dict[type[events.Event], str] = {kind: name for name, kind in EVENT_TYPES.items()}
_DOMAIN_EVENTS = frozenset(get_args(events.DomainEvent))

_MOMENTS: dict[str, tuple[str, ...]] = {
    name: tuple(field_name for field_name, hint in get_type_hints(kind).items() if hint is datetime)
    for name, kind in EVENT_TYPES.items()
}
# What lies beyond cannot be reckoned with: zones, schedules and tables end at the year 9999.
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _each_for_one(data: Data) -> Data:
    """A policy of a time when everybody counted, whoever named them, goes on to mean that."""
    policy = data["policy"]
    thresholds = {"named_people": "each"} | policy.get("thresholds", {})
    return data | {"policy": policy | {"thresholds": thresholds}}


def _unmasked(data: Data) -> Data:
    """A policy of a time when nothing was masked goes on to mean that."""
    return data | {"policy": {"mask": []} | data["policy"]}


def _in_codes(data: Data) -> Data:
    """Why a round began was once said in a sentence."""
    data = dict(data)
    return data | {"reasons": [{"code": "in_words", "values": {"words": data.pop("reason")}}]}


def _recipe_with_method(data: Data) -> Data:
    """A recipe that names no method is of the time when there was one."""
    return data | {"recipe": with_method(data.get("recipe"))}


def _policy_with_method(data: Data) -> Data:
    policy = data["policy"]
    return data | {"policy": _recipe_with_method(policy)} if "recipe" in policy else data


# The version each event or order is written in; 1 unless named here. A new version needs a lift from the one before it, and an
# example file of the old one stays in tests/examples/events.
VERSIONS: dict[str, int] = {
    "build_material": 2,
    "candidate_evaluated": 3,
    "candidate_rebuilt": 2,
    "candidate_trained": 2,
    "compare_bases": 3,
    "compare_releases": 2,
    "domain_created": 2,
    "evaluate_candidate": 4,
    "example_accepted": 4,
    "example_proposed": 2,
    "gate_passed": 4,
    "gate_refused": 4,
    "order_failed": 2,
    "order_progressed": 5,
    "policy_set": 10,
    "preference_accepted": 3,
    "prompt_asked": 2,
    "ranking_accepted": 2,
    "rebuild_asked": 7,
    "rebuild_candidate": 7,
    "reply_drafted": 2,
    "round_asked": 6,
    "round_requested": 11,
    "seed_added": 2,
    "select_snapshot": 8,
    "snapshot_selected": 6,
    "swap_release": 2,
    "train_candidate": 6,
}
# (name, version) -> the fields that the next version added. They have defaults: an old one is read as it is.
ADDED: dict[tuple[str, int], tuple[str, ...]] = {
    ("build_material", 1): ("style", "decline"),
    ("candidate_evaluated", 1): ("means",),
    ("candidate_evaluated", 2): ("absent",),
    ("candidate_rebuilt", 1): ("made_with",),
    ("candidate_trained", 1): ("needs", "cpu_s", "losses", "rows", "tokens", "made_with", "fallback", "metrics"),
    ("compare_bases", 1): (),  # within the recipe: `dpo` and `kto`
    ("compare_bases", 2): (),  # within the recipe: `reward`, `sft_dpo` and `ppo`
    ("compare_releases", 1): ("needs",),
    ("domain_created", 1): ("opening",),
    ("evaluate_candidate", 1): ("recall",),
    ("evaluate_candidate", 2): ("first_model", "needs", "base_needs"),
    ("evaluate_candidate", 3): ("pleases", "reward_model", "reward_round", "style"),
    ("example_accepted", 1): ("follows",),
    ("example_accepted", 2): ("service",),
    ("example_accepted", 3): ("proposal_id", "edited"),
    ("example_proposed", 1): ("answer",),  # and more kinds
    ("gate_passed", 1): (),  # within the verdict: `alpha`, in the place of `words`
    ("gate_passed", 2): (),  # within a check: `of`
    ("gate_passed", 3): (),  # within a check: `why`
    ("gate_refused", 1): (),
    ("gate_refused", 2): (),
    ("gate_refused", 3): (),
    ("order_failed", 1): (),  # one more step: `build`
    ("order_progressed", 1): ("waits_for",),
    ("order_progressed", 2): (),  # one more thing to wait for: `disk_space`
    ("order_progressed", 3): ("stage",),  # also of no round; one more step: `build`
    ("order_progressed", 4): (),  # one more thing to wait for: `another_training`
    ("policy_set", 1): (),  # within the policy: `keep`
    ("policy_set", 2): (),  # within `keep`: `days`
    ("policy_set", 3): (),  # within `thresholds`: `named_people`
    ("policy_set", 4): (),  # within the policy: `recall`, `gate.learn`, `recipe.recalled_share`
    ("policy_set", 5): (),  # within the policy: recipes of other methods
    ("policy_set", 6): (),  # within the policy: `from_base_every`, `recipe.stop_after`
    ("policy_set", 7): (),  # within the policy: `dpo` and `kto`
    ("policy_set", 8): (),  # within the policy: `gate.least_pairs`, `sft_dpo` and `ppo`, `teacher`
    ("policy_set", 9): (),  # within the policy: `annotation`, `mask`, `selection`, `style`
    ("preference_accepted", 1): ("follows",),
    ("preference_accepted", 2): ("service",),
    ("prompt_asked", 1): ("follows", "so_far"),
    ("ranking_accepted", 1): ("source",),
    ("rebuild_asked", 1): (),  # within the recipe: `recalled_share`
    ("rebuild_asked", 2): ("recall", "opening"),
    ("rebuild_asked", 3): ("from_base",),
    ("rebuild_asked", 4): ("base_model",),
    ("rebuild_asked", 5): ("reward_model",),
    ("rebuild_asked", 6): ("mask", "selection"),
    ("rebuild_candidate", 1): (),
    ("rebuild_candidate", 2): ("recall", "opening", "engine"),
    ("rebuild_candidate", 3): (),  # within the recipe: `stop_after`
    ("rebuild_candidate", 4): (),
    ("rebuild_candidate", 5): ("reward_model",),
    ("rebuild_candidate", 6): ("mask", "selection"),
    ("reply_drafted", 1): ("recall", "recalled"),
    ("round_asked", 1): ("opening",),
    ("round_asked", 2): ("recipe",),
    ("round_asked", 3): ("from_base",),
    ("round_asked", 4): ("base", "base_model"),
    ("round_asked", 5): (),
    ("round_requested", 1): (),
    ("round_requested", 2): (),
    ("round_requested", 3): (),
    ("round_requested", 4): ("reasons",),
    ("round_requested", 5): ("opening",),
    ("round_requested", 6): (),
    ("round_requested", 7): ("from_base",),
    ("round_requested", 8): ("base_model",),
    ("round_requested", 9): (),
    ("round_requested", 10): (),
    ("seed_added", 1): (),  # more kinds: `task` and `aside`
    ("select_snapshot", 1): ("base_model", "recipe"),
    ("select_snapshot", 2): ("recall", "opening"),
    ("select_snapshot", 3): (),
    ("select_snapshot", 4): (),
    ("select_snapshot", 5): (),
    ("select_snapshot", 6): (),
    ("select_snapshot", 7): ("mask", "reference_model", "replay_prompts", "selection"),
    ("snapshot_selected", 1): ("named",),
    ("snapshot_selected", 2): ("pairs", "held", "read"),
    ("snapshot_selected", 3): ("labels",),
    ("snapshot_selected", 4): ("pairs_held_out", "said_by"),
    ("snapshot_selected", 5): ("masked",),
    ("swap_release", 1): ("needs",),
    ("train_candidate", 1): (),
    ("train_candidate", 2): ("engine",),
    ("train_candidate", 3): (),
    ("train_candidate", 4): (),
    ("train_candidate", 5): ("reward_model",),
}
# (name, version) -> the fields, with their shapes, that the next version has no more.
DROPPED: dict[tuple[str, int], Data] = {("round_requested", 4): {"reason": {"type": "string"}}}
# A name that is written no more -> the one that took its place, from its first version on.
RENAMED = {"round_failed": "order_failed"}
# (name, version) -> what turns that version's data into the next version's.
LIFTS: dict[tuple[str, int], Callable[[Data], Data]] = dict.fromkeys(ADDED, lambda data: data) | {
    ("policy_set", 3): _each_for_one,
    ("policy_set", 5): _policy_with_method,
    ("policy_set", 9): _unmasked,
    ("rebuild_asked", 2): _recipe_with_method,
    ("rebuild_candidate", 2): _recipe_with_method,
    ("round_requested", 3): _each_for_one,
    ("round_requested", 4): _in_codes,
    ("round_requested", 6): _policy_with_method,
    ("round_requested", 10): _unmasked,
    ("select_snapshot", 3): _recipe_with_method,
    ("train_candidate", 2): _recipe_with_method,
}


class _Wire(Struct, omit_defaults=True):
    specversion: str
    id: UUID
    source: str
    type: str
    time: str
    subject: str
    dataschema: str
    correlationid: str
    data: Raw
    datacontenttype: str = field(default="application/json")
    causationid: UUID | None = None


# The fields of an event in which a sealed text is first said.
_FIRST_SAID: dict[type[events.Event], tuple[str, ...]] = {
    PromptAsked: ("messages",),
    ReplyDrafted: ("text",),
    ReplyCorrected: ("text",),
    ReplyCommented: ("text",),
    ExamItemAdded: ("item",),
    PassageAdded: ("passage",),
    DocumentAdded: ("title",),
    TripleAdded: ("triple",),
    SeedAdded: ("seed",),
    ExampleProposed: ("proposal",),
}
_wire_decoder = msgspec.json.Decoder(_Wire)
_encoder = msgspec.json.Encoder()
_decoders = {name: msgspec.json.Decoder(kind) for name, kind in EVENT_TYPES.items()}
_operations_decoders = {name: msgspec.json.Decoder(kind) for name, kind in OPERATIONS_TYPES.items()}
_order_decoders: dict[str, msgspec.json.Decoder[orders.Order]] = {
    name: msgspec.json.Decoder(kind) for name, kind in ORDER_TYPES.items()
}


def newest_version(name: str) -> int:
    """The version that an event or order of that name is written in."""
    return VERSIONS.get(name, 1)


def is_of_domain(event: events.Event) -> TypeIs[events.DomainEvent]:
    return type(event) in _DOMAIN_EVENTS


def topic_of(event: events.Event) -> str:
    return events.DOMAINS if is_of_domain(event) else events.CONVERSATIONS


def key_of(event: events.Event) -> str:
    return event.domain if is_of_domain(event) else event.conversation_id


def name_of(event: events.Event) -> str:
    """The event's name on the wire, without the `noria.` before it."""
    return NAME_OF[type(event)]


def envelope_for(
    event: events.Event, *, id: UUID, source: str, time: datetime, correlation_id: str, causation_id: UUID | None = None
) -> Envelope:
    return Envelope(
        id=id,
        source=source,
        time=time,
        key=key_of(event),
        event=event,
        correlation_id=correlation_id,
        causation_id=causation_id,
    )


def encode(envelope: Envelope) -> bytes:
    """Raises Invalid when it is larger than an event may be."""
    if envelope.time.tzinfo is None:
        raise ValueError("an event's time must be aware")
    name = name_of(envelope.event)
    return _bounded(
        {
            "specversion": "1.0",
            "id": str(envelope.id),
            "source": envelope.source,
            "type": f"noria.{name}",
            "time": envelope.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "subject": envelope.key,
            "datacontenttype": "application/json",
            "dataschema": f"urn:noria:{name}:{VERSIONS.get(name, 1)}",
            "correlationid": envelope.correlation_id,
            **({"causationid": str(envelope.causation_id)} if envelope.causation_id else {}),
            "data": envelope.event,
        }
    )


def decode(
    value: bytes,
    versions: Mapping[str, int] = VERSIONS,
    lifts: Mapping[tuple[str, int], Callable[[Data], Data]] = LIFTS,
) -> Envelope:
    """Read one event, lifted to its newest version. Raises Invalid saying what could not be read."""
    try:
        wire = _wire_decoder.decode(value)
        if wire.specversion != "1.0":
            raise Invalid("specversion is not 1.0")
        name, version = _name_and_version(wire, EVENT_TYPES)
        time = _moment(wire.time)
        event = _newest(name, version, wire.data, _decoders[name], versions, lifts)
        for field_name in _MOMENTS[name]:
            _within(getattr(event, field_name), field_name)
        if wire.subject != key_of(event):
            raise Invalid(f"subject is not the key of {name}")
        return Envelope(
            id=wire.id,
            source=wire.source,
            time=time,
            key=wire.subject,
            event=event,
            correlation_id=wire.correlationid,
            causation_id=wire.causationid,
        )
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Invalid(_reason(error)) from None


def read_event(topic: str, key: bytes | None, value: bytes) -> Envelope:
    """The event of one record. Raises Invalid for what cannot be read, and for what does not belong where it stands: every reader
    skips that."""
    _no_nul(value)
    envelope = decode(value)
    if topic_of(envelope.event) != topic:
        raise Invalid(f"{name_of(envelope.event)} does not belong on this topic")
    if key is None:
        raise Invalid("the record has no key, so that nothing keeps it in order")
    if key != envelope.key.encode():
        raise Invalid("the record's key is not the event's")
    _check_refs(envelope)
    if isinstance(envelope.event, PolicySet):
        check_readable(envelope.event.policy)  # one that passed the door by would stop every decision after it
    return envelope


def _check_refs(envelope: Envelope) -> None:
    """Raise Invalid for a sealed text that was moved here as a whole. `ref` says where it was first said: in this event and field
    or, of a copy, in a field of those that are copied. (That its token says the same is seen where it is opened.)"""
    event = envelope.event
    here = _FIRST_SAID.get(type(event), ())
    copies: list[tuple[str, Sealed]] = []
    match event:
        case ExampleProposed() if event.answer is not None:
            here = ("proposal", "answer")
        case _ if here:
            pass
        case ExampleAccepted(kind="annotation", proposal_id=str()) if envelope.causation_id is not None:
            copies = [("#prompt", event.prompt), ("#answer", event.answer)]
        case ExampleAccepted(kind="annotation"):
            here = ("prompt", "answer")
        case ProposalJudged(prompt=Sealed() as prompt, answer=Sealed() as answer):
            place = envelope.id if event.author is None else ""  # else another annotator said it
            copies = [(f"{place}#prompt", prompt), (f"{place}#answer", answer)]
        case ExampleAccepted():
            copies = [("#messages", event.prompt), (f"{envelope.causation_id}#text", event.answer)]
        case RankingAccepted():
            here = ("prompt",)
            copies = [(f"{envelope.id}#answers.{number}", said) for number, said in enumerate(event.answers)]
        case PreferenceAccepted():
            copies = [("#messages", event.prompt), *(("#text", said) for said in (event.chosen, *event.rejected))]
        case _:
            return
    for name in here:
        if getattr(event, name).ref != f"{envelope.id}#{name}":
            raise Invalid(f"{name_of(event)} holds a sealed text that was said elsewhere")
    for place, sealed in copies:
        if not sealed.ref.endswith(place):
            raise Invalid(f"{name_of(event)} holds a sealed text that was said elsewhere")


def encode_order(order: orders.Order, *, source: str, time: datetime, causation_id: UUID) -> bytes:
    """An order as a CloudEvent, so that any reader can follow `noria.orders` too. Raises Invalid when it is too large."""
    kind = _snake(type(order).__name__)
    return _bounded(
        {
            "specversion": "1.0",
            "id": str(order.order_id),
            "source": source,
            "type": f"noria.{kind}",
            "time": time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "subject": str(order.order_id),
            "datacontenttype": "application/json",
            "dataschema": f"urn:noria:{kind}:{newest_version(kind)}",
            "correlationid": order.round_id or order.domain,
            "causationid": str(causation_id),
            "data": order,
        }
    )


def _bounded(wire: Data) -> bytes:
    """As bytes that the log takes: what it refuses would be offered to it for ever."""
    value = _encoder.encode(wire)
    if len(value) > MAX_EVENT_BYTES:
        kind = wire["type"].removeprefix("noria.")
        raise Invalid(f"{kind} would have {len(value):,} bytes, and no event has more than {MAX_EVENT_BYTES:,}")
    return value


def read_order(value: bytes) -> orders.Order:
    """The order of one record. Raises Invalid for what cannot be read, and for what no table can hold."""
    _no_nul(value)
    return decode_order(value)


def decode_order(value: bytes) -> orders.Order:
    """Read one order, lifted to its newest version. Raises Invalid saying what could not be read."""
    try:
        wire = _wire_decoder.decode(value)
        name, version = _name_and_version(wire, ORDER_TYPES)
        return _newest(name, version, wire.data, _order_decoders[name], VERSIONS, LIFTS)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Invalid(_reason(error)) from None


class OrderOutline(Struct, frozen=True):
    """What is known of an order that cannot be read."""

    order_id: UUID
    domain: str
    round_id: str | None = None


def outline_of(value: bytes) -> OrderOutline | None:
    """Of an order that this code cannot read; None: of nothing that is told apart as an order."""
    try:
        wire = _wire_decoder.decode(value)
        outline = _outline_decoder.decode(wire.data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return outline if wire.id == outline.order_id and b"\\u0000" not in value else None


_outline_decoder = msgspec.json.Decoder(OrderOutline)


def cause_of(value: bytes) -> UUID | None:
    """The id of what an order, or an event, follows from. Raises Invalid for what cannot be read."""
    try:
        return _wire_decoder.decode(value).causationid
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Invalid(_reason(error)) from None


def encode_operation(event: OperationsEvent, *, id: UUID, source: str, time: datetime) -> bytes:
    """An event of `noria.operations`, as a CloudEvent."""
    name, key = _snake(type(event).__name__), operation_key(event)
    return _encoder.encode(
        {
            "specversion": "1.0",
            "id": str(id),
            "source": source,
            "type": f"noria.{name}",
            "time": time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "subject": key,
            "datacontenttype": "application/json",
            "dataschema": f"urn:noria:{name}:{newest_version(name)}",
            "correlationid": key,
            "data": event,
        }
    )


def operation_key(event: OperationsEvent) -> str:
    return f"{event.topic}-{event.partition}"


def read_operation(value: bytes) -> tuple[datetime, OperationsEvent]:
    """When it was said, and what. Raises Invalid for what cannot be read."""
    try:
        wire = _wire_decoder.decode(value)
        name = wire.type.removeprefix("noria.")
        if name not in _operations_decoders or wire.dataschema != f"urn:noria:{name}:1":
            raise Invalid("type and dataschema name no version of an operation")
        return _moment(wire.time), _operations_decoders[name].decode(wire.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Invalid(_reason(error)) from None


def schemas() -> dict[str, Data]:
    """A JSON Schema (2020-12) of every event and order as it stands on the wire, by `<name>.v<version>`: of every version that may
    stand there."""
    found: dict[str, Data] = {}
    kinds: dict[str, type] = {**EVENT_TYPES, **OPERATIONS_TYPES}
    kinds |= ORDER_TYPES
    for name, kind in kinds.items():
        data = msgspec.json.schema(kind, ref_template="#/$defs/{name}")
        definitions = data.pop("$defs", {})
        if "$ref" in data:
            data = definitions.pop(kind.__name__)
        for version in range(newest_version(name), 0, -1):
            later, gone = ADDED.get((name, version), ()), DROPPED.get((name, version), {})
            properties = {field: shape for field, shape in data["properties"].items() if field not in later} | gone
            required = [field for field in data.get("required", ()) if field not in later] + list(gone)
            data = data | {"properties": properties} | ({"required": required} if required else {})
            found[f"{name}.v{version}"] = _schema(name, version, kind, data, definitions)
    for older, name in RENAMED.items():
        data = found[f"{name}.v1"]["properties"]["data"]
        found[f"{older}.v1"] = _schema(older, 1, EVENT_TYPES[name], data, found[f"{name}.v1"]["$defs"])
    return found


def _schema(name: str, version: int, kind: type, data: Data, definitions: Data) -> Data:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:noria:{name}:{version}",
        "title": f"noria.{name}",
        "description": (kind.__doc__ or name.replace("_", " ")).strip(),
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "format": "uuid"},
            "source": {"type": "string", "format": "uri-reference"},
            "type": {"const": f"noria.{name}"},
            "time": {"type": "string", "format": "date-time"},
            "subject": {"type": "string"},
            "datacontenttype": {"const": "application/json"},
            "dataschema": {"const": f"urn:noria:{name}:{version}"},
            "correlationid": {"type": "string"},
            "causationid": {"type": "string", "format": "uuid"},
            "data": data,
        },
        "required": [
            "specversion",
            "id",
            "source",
            "type",
            "time",
            "subject",
            "dataschema",
            "correlationid",
            "data",
        ],
        "$defs": definitions,
    }


def _no_nul(value: bytes) -> None:
    if b"\\u0000" in value:
        raise Invalid("it holds the character NUL, which no table can hold")


def _reason(error: Exception) -> str:
    """What could not be read and where, without a word of what stood there: it may be a person's."""
    if not isinstance(error, msgspec.MsgspecError):
        return type(error).__name__
    return _GIVEN.sub("…", str(error))


def _moment(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise Invalid("time has no zone")
    except ValueError:
        raise Invalid("time is not a moment that can be read") from None
    _within(time, "time")
    return time.astimezone(UTC)


def _within(time: datetime, name: str) -> None:
    if not _EARLIEST <= time < _LATEST:
        raise Invalid(f"{name} is not from 1970 to 8999")


def _newest(
    name: str,
    version: int,
    data: Raw,
    decoder: msgspec.json.Decoder[T],
    versions: Mapping[str, int],
    lifts: Mapping[tuple[str, int], Callable[[Data], Data]],
) -> T:
    """What a version of an event or order holds, as its newest."""
    newest = versions.get(name, 1)
    if version > newest:
        raise Invalid(f"{name} has version {version}; this reader knows versions up to {newest}")
    if version == newest:
        return decoder.decode(data)
    found = msgspec.json.decode(data, type=Data)
    for step in range(version, newest):
        lift = lifts[name, step]
        try:
            found = lift(found)
        except (LookupError, TypeError, AttributeError) as error:
            raise Invalid(f"{name} of version {step} cannot be lifted: {type(error).__name__}") from None
    lifted: T = msgspec.convert(found, decoder.type)
    return lifted


def _name_and_version(wire: _Wire, kinds: Mapping[str, type]) -> tuple[str, int]:
    prefix, _, name = wire.type.partition(".")
    if prefix != "noria" or RENAMED.get(name, name) not in kinds:
        raise Invalid("type is not one of noria's")
    head, _, version = wire.dataschema.rpartition(":")
    if head != f"urn:noria:{name}" or not version.isdigit() or int(version) < 1:
        raise Invalid(f"dataschema does not name a version of {name}")
    return RENAMED.get(name, name), int(version)
