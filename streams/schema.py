"""Every table. Four Postgres schemas:

`noria`    projections of the log: can be dropped and rebuilt; a replay builds the same tables in `noria_shadow`. Each stands in the
           room of its concept (`streams.facts`), and here what belongs to the following itself.
`keyring`  person keys, wrapped. Never rebuilt; backed up apart.
`access`   the door's API keys and the page's sessions, hashed.
`work`     what is under way on these machines: claims, engines, routes. Lost, it costs time and no fact.
"""

import sqlalchemy as sa

from streams.facts.bases import bases
from streams.facts.comparisons import comparisons
from streams.facts.conversations import feedback, feedback_counts, prompts, replies
from streams.facts.documents import documents, passages
from streams.facts.domains import domains
from streams.facts.exam import exam_items
from streams.facts.examples import examples, fresh, preferences, rankings
from streams.facts.judgements import judgements
from streams.facts.material import builds, proposals, seeds, triples
from streams.facts.people import erasures
from streams.facts.releases import releases
from streams.facts.rounds import learned, rounds
from streams.tables import (
    bigint,
    boolean,
    bytea,
    digest,
    index,
    integer,
    jsonb,
    last_read,
    machine_table,
    machinery,
    may,
    projection,
    projections,
    text,
    text_array,
    timestamptz,
)

__all__ = [
    "MACHINE_SCHEMAS",
    "api_keys",
    "bases",
    "builds",
    "claims",
    "comparisons",
    "documents",
    "domains",
    "doors",
    "engines",
    "erasures",
    "events",
    "exam_items",
    "examined",
    "examples",
    "feedback",
    "feedback_counts",
    "fresh",
    "intake",
    "judgements",
    "learned",
    "leases",
    "machinery",
    "outbox",
    "parked",
    "passages",
    "person_keys",
    "places",
    "positions",
    "preferences",
    "projections",
    "prompts",
    "proposals",
    "rankings",
    "releases",
    "replies",
    "rounds",
    "routes",
    "seeds",
    "sessions",
    "states",
    "teacher_calls",
    "triples",
    "vectors",
]

positions = projection(
    "positions",
    text("topic", key=True),
    integer("partition", key=True),
    bigint("next_offset"),
    *last_read(),
)
states = projection(
    "states",
    text("kind", key=True),  # "exchange" (a prompt with its drafts) or "domain"
    text("key", key=True),
    bytea("body"),
    rights=may(stream="raw"),
)
events = projection(
    "events",
    text("event_id", key=True),
    text("topic"),
    integer("partition"),
    bigint("offset"),
    text("type"),
    timestamptz("time"),
    text("source"),
    text("key"),
    text("domain"),
    text("person", nullable=True),
    text("correlation_id"),
    text("causation_id", nullable=True),
    index("topic", "partition", "offset"),
    index("domain", "time"),
    index("person", "domain"),
    # What one import brought, by its id.
    index(
        "correlation_id",
        name="ix_events_imported",
        where="type IN ('exam_item_added', 'example_accepted', 'ranking_accepted', 'triple_added', 'seed_added')",
    ),
    # Since when a release answered, and until when.
    index("domain", "offset", name="ix_events_went_live", where="type IN ('release_finished', 'release_rolled_back')"),
    rights=may(door="r", stream="ra", workers="r"),
    version=2,  # an order that failed has another name
)
# Keys of states at which a bug was met, each with the place of its first event without effect: see `streams.parking`.
parked = projection(
    "parked",
    text("kind", key=True),
    text("key", key=True),
    text("domain"),
    text("topic"),
    integer("partition"),
    bigint("offset"),
    text("reason"),
    timestamptz("since", now=True),
    rights=may(door="r", stream="rawd", workers="r"),
)
# What the stream asks to be said. Rows are sent in order of `id` and marked one by one, never "greater than the last seen".
outbox = projection(
    "outbox",
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("message_id", sa.Text, nullable=False, unique=True),
    text("topic"),
    text("key"),
    bytea("value"),
    timestamptz("made_at", now=True),
    timestamptz("sent_at", nullable=True),
    index("id", name="ix_outbox_unsent", where="sent_at IS NULL"),
    index("made_at", name="ix_outbox_quarantined", where="topic = 'noria.quarantine'"),
    rights=may(stream="rawd", workers="r"),
)

# Who first names a person makes their key; the door destroys it, and the stream where a keyring is older than the log.
person_keys = machine_table(
    "keyring",
    "person_keys",
    text("kid", key=True),
    text("subject"),
    bytea("wrapped"),
    timestamptz("created_at"),
    timestamptz("destroyed_at", nullable=True),
    index("subject", name="uq_person_keys_subject", where="destroyed_at IS NULL", unique=True),
    index("subject"),
    rights=may(door="rawm", stream="rw", workers="ra"),
)

api_keys = machine_table(
    "access",
    "api_keys",
    text("key_id", key=True),
    text("name"),
    digest("hash", unique=True),
    text_array("roles"),
    timestamptz("created_at"),
    timestamptz("revoked_at", nullable=True),
    text("person", nullable=True),  # whom it speaks as; NULL: whom each request names
    text_array("domains", nullable=True),  # NULL: every domain
    timestamptz("expires_at", nullable=True),
    timestamptz("used_at", nullable=True),  # to the minute
    rights=may(door="raw"),
)
sessions = machine_table(
    "access",
    "sessions",
    digest("hash", key=True),
    sa.Column("key_id", sa.Text, sa.ForeignKey("access.api_keys.key_id"), nullable=False),
    text("kind"),  # session: a browser's, in the place of its key; once: begins one session
    timestamptz("created_at"),
    timestamptz("expires_at"),
    index("expires_at"),
    rights=may(door="rad"),
)

claims = machine_table(
    "work",
    "claims",
    text("order_id", key=True),
    text("kind"),
    text("domain"),
    bytea("body"),
    text("state"),  # open, done, failed, cancelled
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    text("worker", nullable=True),
    text("host", nullable=True),  # of the worker
    timestamptz("lease_until", nullable=True),
    timestamptz("not_before", nullable=True),
    timestamptz("received_at"),
    # Of a swap: what is to answer, and where on the domain's partition the decision stands that asks for it.
    integer("release", nullable=True),
    bigint("decided_offset", nullable=True),
    index("received_at", name="ix_claims_open", where="state = 'open'"),
    index("domain", "decided_offset", name="ix_claims_decided", where="kind = 'swap_release'"),
    rights=may(workers="rawd"),
)
intake = machine_table(
    "work",
    "intake",
    text("topic", key=True),
    integer("partition", key=True),
    bigint("next_offset"),
    *last_read(),
    rights=may(door="r", stream="r", workers="raw"),
)
engines = machine_table(
    "work",
    "engines",
    text("engine_id", key=True),  # domain@release
    text("domain"),
    integer("release"),
    text("kind"),
    text("model"),
    boolean("wanted"),
    text("state"),  # asked, starting, ready, asleep, stopped, failed
    text("base_url", nullable=True),
    integer("pid", nullable=True),
    text("error", nullable=True),
    timestamptz("changed_at"),
    # What the engine's host found out when it became ready: of the model, and of the window for prompt and answer together.
    text_array("control_tokens", nullable=True),
    integer("context_tokens", nullable=True),
    timestamptz("used_at", nullable=True),  # when a door last sent something there
    # Where it runs, and until when no other host may take it up unless this one says that it is still there.
    text("host", nullable=True),
    timestamptz("held_until", nullable=True),
    rights=may(door="rw", workers="raw"),
)
routes = machine_table(
    "work",
    "routes",
    text("domain", key=True),
    integer("release"),
    sa.Column("engine_id", sa.Text, sa.ForeignKey("work.engines.engine_id"), nullable=False),
    bigint("generation"),
    # Where on the domain's partition the decision stands that it follows from: no older one may move it.
    bigint("decided_offset"),
    timestamptz("flipped_at"),
    rights=may(door="r", workers="rawd"),
)
doors = machine_table(
    "work",
    "doors",
    text("door_id", key=True),
    jsonb("generations"),  # {domain: generation of the route that new requests take}
    jsonb("in_flight"),  # {engine_id: requests}
    timestamptz("seen_at"),
    text("host"),
    rights=may(door="rawd", workers="r"),
)
examined = machine_table(
    "work",
    "examined",
    text("evaluation", key=True),  # digest of the sealed rows
    text("domain"),
    text("model"),
    text("form"),  # digest of how it was asked and scored
    # How many of its rows are of the domain's own exam, and not of a snapshot.
    integer("exam_items"),
    timestamptz("made_at"),
    index("domain", "model"),
    rights=may(door="r", workers="ra"),
)
# What was computed from the words of a memory, so that a restart need not compute it again.
vectors = machine_table(
    "work",
    "vectors",
    text("memory_id", key=True),  # of an example, or of a passage
    text("encoder", key=True),
    text("domain"),
    text_array("kids"),  # of the keys that the words were sealed with; the first seals the vectors
    digest("words"),  # of what was embedded, keyed
    jsonb("vectors"),  # Sealed
    index("domain", "encoder"),
    index("kids", using="gin"),
    rights=may(workers="rawd"),
)
teacher_calls = machine_table(
    "work",
    "teacher_calls",
    digest("call", key=True),  # keyed, of what was asked
    text("domain"),
    text("build_id"),  # that paid for it
    jsonb("answer"),  # Sealed, with the domain's key
    timestamptz("made_at"),
    rights=may(workers="raw"),
)
# Which proposal is shown to whom at present, and until when nobody else is given it. `skipped`: they passed it on.
leases = machine_table(
    "work",
    "leases",
    text("proposal_id", key=True),
    text("person", key=True),
    text("domain"),
    boolean("skipped"),
    timestamptz("until"),
    index("domain", "until"),
    index("person"),
    rights=may(door="rawd"),
)
places = machine_table(
    "work",
    "places",
    text("host", key=True),  # on whose disk it is
    text("place", key=True),
    text("kind"),
    text("owner"),
    text_array("kids"),
    timestamptz("made_at"),
    index("kids", using="gin"),
    rights=may(door="r", workers="rawd"),
)

MACHINE_SCHEMAS = ("keyring", "access", "work")
