"""A domain moves to another base and back: what its tables show, what of its models is kept, and what a replay says of it."""

from sqlalchemy import Engine

from streams.facts.comparisons import ComparisonAsked
from streams.facts.releases import RollbackAsked
from streams.facts.rounds import RoundAsked
from streams.log import MemoryLog
from streams.orders import CompareReleases, TrainCandidate
from streams.reading.rounds import models_needed
from streams.replay import verify
from tests.integration.by_hand import MODEL, empty, rows, talk
from tests.replay.record import Told, begun

HERON = "sha256:" + "a5" * 32


def base_of(world: Told) -> object:
    ((base,),) = rows(world.database, "SELECT base_model FROM noria.domains WHERE domain = 'roads'")
    return base


def test_the_base_follows_what_answers_and_a_replay_says_the_same(database: Engine) -> None:
    empty(database)
    world = Told(database, MemoryLog())
    begun(world)
    world.tell(*talk("roads", "ann"), *talk("roads", "ben"))
    world.carry_out()
    world.tell(RoundAsked(domain="roads", by="ops", base="heron", base_model=HERON))
    world.carry_out(until=TrainCandidate)
    train = world.one(TrainCandidate)
    assert (train.base_model, train.reference_model) == (HERON, HERON)
    with database.connect() as connection:
        assert {HERON, MODEL} <= models_needed(connection), "it is being trained from, whatever its name stands for now"
    assert base_of(world) == MODEL
    world.carry_out()
    assert base_of(world) == HERON
    for release, base in ((1, MODEL), (2, HERON), (0, MODEL)):
        world.tell(RollbackAsked(domain="roads", to=release, by="ops"))
        world.carry_out()
        assert base_of(world) == base
        world.tell(ComparisonAsked(domain="roads", by="ops"))
        assert world.one(CompareReleases).base_model == base
        world.carry_out()
    with database.connect() as connection:
        assert {HERON, MODEL} <= models_needed(connection), "it can be gone back to, and made again"
    told = "SELECT number, step, base_model FROM noria.rounds ORDER BY number"
    assert rows(database, told) == [(1, "released", MODEL), (2, "released", HERON)]
    report = verify(database, world.log)
    assert report.equal and report.otherwise == ()
