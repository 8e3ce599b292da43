"""The tables. Four Postgres schemas:

`noria`    projections of the log: can be dropped and rebuilt; a replay builds the same tables in `noria_shadow`.
`keyring`  person keys, wrapped. Never rebuilt; backed up apart.
`access`   the door's API keys and the page's sessions, hashed.
`work`     what is under way on these machines: claims, engines, routes. Lost, it costs time and no fact.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

LIVE = "noria"
SHADOW = "noria_shadow"

NAMING = {
    "pk": "pk_%(table_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
}

# Projections stand under the schema name `noria`; `schema_translate_map` sends a replay elsewhere.
projections = MetaData(schema=LIVE, naming_convention=NAMING)
machinery = MetaData(naming_convention=NAMING)


def _time(name: str, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _text(name: str, nullable: bool = False, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable, primary_key=primary_key)


def _last_read() -> tuple[Column[Any], Column[Any]]:
    """The last record before the next offset, by which a log is known again: see `streams.continuity`."""
    return Column("last_offset", BigInteger), Column("last_digest", String(64))


positions = Table(
    "positions",
    projections,
    _text("topic", primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
    *_last_read(),
)
states = Table(
    "states",
    projections,
    _text("kind", primary_key=True),  # "exchange" (a prompt with its drafts) or "domain"
    _text("key", primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
# The part of a domain's state that grows with what people give: `streams.fresh`, a row for each.
fresh = Table(
    "fresh",
    projections,
    _text("domain", primary_key=True),
    _text("kind", primary_key=True),  # correction, preference
    _text("given_id", primary_key=True),
    _text("person"),
    _text("service", nullable=True),  # the key that named the person
    Column("offset", BigInteger, nullable=False),
)
events = Table(
    "events",
    projections,
    _text("event_id", primary_key=True),
    _text("topic"),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    _text("type"),
    _time("time"),
    _text("source"),
    _text("key"),
    _text("domain"),
    _text("person", nullable=True),
    _text("correlation_id"),
    _text("causation_id", nullable=True),
    Index(None, "topic", "partition", "offset"),
    Index(None, "domain", "time"),
    Index(None, "person", "domain"),
    # What one import brought, by its id.
    Index(
        "ix_events_imported", "correlation_id", postgresql_where=text("type IN ('exam_item_added', 'example_accepted')")
    ),
    # Since when a release answered, and until when.
    Index(
        "ix_events_went_live",
        "domain",
        "offset",
        postgresql_where=text("type IN ('release_finished', 'release_rolled_back')"),
    ),
)
prompts = Table(
    "prompts",
    projections,
    _text("prompt_id", primary_key=True),
    _text("conversation_id"),
    _text("domain"),
    _text("person"),
    Column("messages", JSONB, nullable=False),  # Sealed
    _text("follows", nullable=True),  # the reply or prompt whose whole stands before `messages`
    _text("so_far", nullable=True),
    Column("release", Integer, nullable=False),
    _time("asked_at"),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Index(None, "so_far"),
    Index(None, "conversation_id", "asked_at"),
    Index(None, "domain", "person"),
)
replies = Table(
    "replies",
    projections,
    _text("reply_id", primary_key=True),
    _text("prompt_id"),
    _text("conversation_id"),
    _text("domain"),
    _text("person"),
    Column("index", Integer, nullable=False),
    Column("release", Integer, nullable=False),
    Column("text", JSONB, nullable=False),  # Sealed
    _text("finish_reason"),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("duration_s", Float, nullable=False),
    _time("drafted_at"),
    Index(None, "prompt_id"),
)
feedback = Table(
    "feedback",
    projections,
    _text("event_id", primary_key=True),
    _text("kind"),  # pick, rating, correction, comment
    _text("reply_id"),
    _text("prompt_id"),
    _text("conversation_id"),
    _text("domain"),
    _text("person"),
    Column("rating", Integer),
    _text("scale", nullable=True),
    Column("text", JSONB),  # Sealed
    _text("request_digest"),
    _time("given_at"),
    Index(None, "reply_id"),
    Index(None, "prompt_id"),
    Index(None, "person", "kind", "given_at"),
)
# How much of each kind a domain has been given: every open page asks, again and again.
feedback_counts = Table(
    "feedback_counts",
    projections,
    _text("domain", primary_key=True),
    _text("kind", primary_key=True),
    Column("number", BigInteger, nullable=False),
)
domains = Table(
    "domains",
    projections,
    _text("domain", primary_key=True),
    _text("title"),
    Column("languages", ARRAY(Text), nullable=False),
    _text("system_prompt"),
    _text("base_model"),
    _text("engine"),
    Column("policy", JSONB, nullable=False),
    Column("live_release", Integer),
    _text("round_id", nullable=True),  # the round under way
    Column("corrections", Integer, nullable=False),  # new since a round was last asked for
    Column("preferences", Integer, nullable=False),
    Column("people", Integer, nullable=False),
    Column("due", Boolean, nullable=False),
    Column("missing", ARRAY(Text), nullable=False),
    _time("wake_at", nullable=True),
    _time("created_at"),
    _time("retired_at", nullable=True),
)
examples = Table(
    "examples",
    projections,
    _text("example_id", primary_key=True),
    _text("domain"),
    _text("kind"),
    _text("person"),
    Column("prompt", JSONB, nullable=False),  # Sealed
    Column("answer", JSONB, nullable=False),  # Sealed
    _time("said_at"),
    _text("prompt_id", nullable=True),
    _text("follows", nullable=True),
    Column("accepted_offset", BigInteger, nullable=False),  # on the domain's partition
    Column("retired_offset", BigInteger),
    _text("retired_reason", nullable=True),
    Index(None, "domain", "accepted_offset"),
    Index(None, "person", "domain"),
)
preferences = Table(
    "preferences",
    projections,
    _text("preference_id", primary_key=True),
    _text("domain"),
    _text("person"),
    Column("prompt", JSONB, nullable=False),  # Sealed
    Column("chosen", JSONB, nullable=False),  # Sealed
    Column("rejected", JSONB, nullable=False),  # list of Sealed
    _text("prompt_id"),
    _text("follows", nullable=True),
    _time("said_at"),
    Column("accepted_offset", BigInteger, nullable=False),
    Index(None, "domain", "accepted_offset"),
)
exam_items = Table(
    "exam_items",
    projections,
    _text("item_id", primary_key=True),
    _text("domain"),
    _text("kind"),
    Column("item", JSONB, nullable=False),  # Sealed
    Column("added_offset", BigInteger, nullable=False),
    Column("retired_offset", BigInteger),
    _text("retired_reason", nullable=True),
    Index(None, "domain", "added_offset"),
)
rounds = Table(
    "rounds",
    projections,
    _text("round_id", primary_key=True),
    _text("domain"),
    Column("number", Integer, nullable=False),
    _text("step"),  # select, train, evaluate, swap, released, refused, empty, failed, cancelled
    _text("reason"),
    Column("pin", BigInteger, nullable=False),
    Column("base_release", Integer, nullable=False),
    _text("snapshot", nullable=True),
    Column("kept", Integer),
    Column("earlier", Integer),
    Column("wordings", Integer),
    Column("dropped", JSONB),
    _text("model", nullable=True),
    _text("adapter", nullable=True),
    _text("golden", nullable=True),
    Column("loss", Float),
    _text("evaluation", nullable=True),
    Column("verdict", JSONB),
    Column("release", Integer),
    Column("progress", JSONB),
    _text("failure", nullable=True),
    _time("requested_at"),
    _time("ended_at", nullable=True),
    _time("removed_at", nullable=True),  # its model and adapter are kept no longer
    # Of making them again: order_id, at, outcome (under_way, equal, differs, failed, cancelled), and what came of it.
    Column("rebuild", JSONB),
    Index(None, "domain", "number"),
    Index(None, "domain", "requested_at", "number"),
    Index(None, "requested_at", "number"),
)
learned = Table(
    "learned",
    projections,
    _text("round_id", primary_key=True),
    _text("example_id", primary_key=True),
    Index(None, "example_id"),
)
releases = Table(
    "releases",
    projections,
    _text("domain", primary_key=True),
    Column("release", Integer, primary_key=True),
    _text("round_id", nullable=True),
    _text("model"),
    _text("state"),  # started, live, retired, removed
    _time("started_at"),
    _time("finished_at", nullable=True),
    Column("golden_difference", Float),
    Column("flip_ms", Float),
)
erasures = Table(
    "erasures",
    projections,
    _text("domain", primary_key=True),
    _text("person", primary_key=True),
    Column("kids", ARRAY(Text), nullable=False),
    _time("erased_at"),
    Index(None, "person"),
)
# What the stream asks to be said. Rows are sent in order of `id` and marked one by one, never "greater than the last seen".
outbox = Table(
    "outbox",
    projections,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("message_id", Text, nullable=False, unique=True),
    _text("topic"),
    _text("key"),
    Column("value", LargeBinary, nullable=False),
    Column("made_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    _time("sent_at", nullable=True),
    Index("ix_outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),
    Index("ix_outbox_quarantined", "made_at", postgresql_where=text("topic = 'noria.quarantine'")),
)

person_keys = Table(
    "person_keys",
    machinery,
    _text("kid", primary_key=True),
    _text("subject"),
    Column("wrapped", LargeBinary, nullable=False),
    _time("created_at"),
    _time("destroyed_at", nullable=True),
    Index("uq_person_keys_subject", "subject", unique=True, postgresql_where=text("destroyed_at IS NULL")),
    Index(None, "subject"),
    schema="keyring",
)

api_keys = Table(
    "api_keys",
    machinery,
    _text("key_id", primary_key=True),
    _text("name"),
    Column("hash", String(64), nullable=False, unique=True),
    Column("roles", ARRAY(Text), nullable=False),
    _time("created_at"),
    _time("revoked_at", nullable=True),
    _text("person", nullable=True),  # whom it speaks as; NULL: whom each request names
    Column("domains", ARRAY(Text)),  # NULL: every domain
    _time("expires_at", nullable=True),
    _time("used_at", nullable=True),  # to the minute
    schema="access",
)
sessions = Table(
    "sessions",
    machinery,
    Column("hash", String(64), primary_key=True),
    Column("key_id", Text, ForeignKey("access.api_keys.key_id"), nullable=False),
    _text("kind"),  # session: a browser's, in the place of its key; once: begins one session
    _time("created_at"),
    _time("expires_at"),
    Index(None, "expires_at"),
    schema="access",
)

claims = Table(
    "claims",
    machinery,
    _text("order_id", primary_key=True),
    _text("kind"),
    _text("domain"),
    Column("body", LargeBinary, nullable=False),
    _text("state"),  # open, done, failed, cancelled
    Column("attempts", Integer, nullable=False, server_default="0"),
    _text("worker", nullable=True),
    _time("lease_until", nullable=True),
    _time("not_before", nullable=True),
    _time("received_at"),
    Index("ix_claims_open", "received_at", postgresql_where=text("state = 'open'")),
    schema="work",
)
intake = Table(
    "intake",
    machinery,
    _text("topic", primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
    *_last_read(),
    schema="work",
)
engines = Table(
    "engines",
    machinery,
    _text("engine_id", primary_key=True),  # domain@release
    _text("domain"),
    Column("release", Integer, nullable=False),
    _text("kind"),
    _text("model"),
    Column("wanted", Boolean, nullable=False),
    _text("state"),  # asked, starting, ready, asleep, stopped, failed
    _text("base_url", nullable=True),
    Column("pid", Integer),
    _text("error", nullable=True),
    _time("changed_at"),
    # What the engine's host found out when it became ready: of the model, and of the window for prompt and answer together.
    Column("control_tokens", ARRAY(Text)),
    Column("context_tokens", Integer),
    _time("used_at", nullable=True),  # when a door last sent something there
    schema="work",
)
routes = Table(
    "routes",
    machinery,
    _text("domain", primary_key=True),
    Column("release", Integer, nullable=False),
    Column("engine_id", Text, ForeignKey("work.engines.engine_id"), nullable=False),
    Column("generation", BigInteger, nullable=False),
    _time("flipped_at"),
    schema="work",
)
doors = Table(
    "doors",
    machinery,
    _text("door_id", primary_key=True),
    Column("generations", JSONB, nullable=False),  # {domain: generation of the route that new requests take}
    Column("in_flight", JSONB, nullable=False),  # {engine_id: requests}
    _time("seen_at"),
    schema="work",
)
examined = Table(
    "examined",
    machinery,
    _text("evaluation", primary_key=True),  # digest of the sealed rows
    _text("domain"),
    _text("model"),
    _text("form"),  # digest of how it was asked and scored
    # How many of its rows are of the domain's own exam, and not of a snapshot.
    Column("exam_items", Integer, nullable=False),
    _time("made_at"),
    Index(None, "domain", "model"),
    schema="work",
)
places = Table(
    "places",
    machinery,
    _text("place", primary_key=True),
    _text("kind"),
    _text("owner"),
    Column("kids", ARRAY(Text), nullable=False),
    _time("made_at"),
    Index("ix_places_kids", "kids", postgresql_using="gin"),
    schema="work",
)

MACHINE_SCHEMAS = ("keyring", "access", "work")
