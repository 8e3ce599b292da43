"""What the reconciler changes: whatever stands there, it ends with what the log says, and then has nothing left to change."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from workers.reconciler import (
    DRAIN_DEADLINE_S,
    Amend,
    Close,
    Door,
    Engine,
    Point,
    Release,
    Standing,
    Swap,
    Unwant,
    Want,
    amends,
)
from workers.routes import Route, engine_id

DOMAIN = "roads"
RELEASES = [Release(number, f"model {number}") for number in range(4)]
numbers = st.integers(0, 3)
offsets = st.integers(0, 20)
releases = st.sampled_from(RELEASES)
engines = st.dictionaries(numbers, st.sampled_from(["asked", "starting", "ready", "asleep", "failed"])).map(
    lambda states: tuple(Engine(engine_id(DOMAIN, number), number, state) for number, state in states.items())
)
routes = st.builds(
    lambda number, generation, decided, age: Route(number, engine_id(DOMAIN, number), generation, decided, age),
    numbers,
    st.integers(1, 9),
    offsets,
    st.sampled_from([0.0, DRAIN_DEADLINE_S + 1]),
)
doors = st.lists(
    st.builds(
        Door,
        st.dictionaries(st.just(DOMAIN), st.integers(1, 9)),
        st.dictionaries(numbers.map(lambda number: engine_id(DOMAIN, number)), st.integers(0, 2)),
    ),
    max_size=2,
)
standings = st.builds(
    Standing,
    domain=st.just(DOMAIN),
    kind=st.just("llamacpp"),
    retired=st.booleans(),
    live=st.none() | releases,
    before=st.none() | releases,
    decided_offset=st.none() | offsets,
    swaps=st.lists(st.builds(Swap, numbers, st.none() | offsets), max_size=2).map(tuple),
    route=st.none() | routes,
    engines=engines,
)


def carried_out(standing: Standing, found: tuple[Amend, ...]) -> Standing:
    """What stands there then, once hosts have started what was asked for."""
    there = {engine.engine_id: engine for engine in standing.engines}
    route = standing.route
    for amend in found:
        match amend:
            case Want():
                name = engine_id(amend.domain, amend.release)
                there[name] = Engine(name, amend.release, "ready")
            case Unwant():
                del there[amend.engine_id]
            case Close():
                route = None
            case Point():
                generation = 1 if route is None else route.generation + 1
                name = engine_id(amend.domain, amend.release)
                route = Route(amend.release, name, generation, amend.decided_offset)
    started = tuple(replace(engine, state="ready") for engine in there.values())
    return replace(standing, route=route, engines=started)


def told(standing: Standing) -> list[Door]:
    """Doors that know the route, with nothing in flight."""
    route = standing.route
    return [Door({} if route is None else {DOMAIN: route.generation}, {})]


@given(standings, doors)
def test_it_comes_to_rest_with_what_the_log_says(standing: Standing, first: list[Door]) -> None:
    seen = first
    for _ in range(4):
        standing = carried_out(standing, amends(standing, seen))
        seen = told(standing)
    assert amends(standing, seen) == ()
    there = {engine.release for engine in standing.engines}
    if standing.retired:
        assert standing.route is None and not there
    elif standing.live is not None:
        assert standing.route is not None and standing.live.number in there
        ahead = {(swap.release, swap.decided_offset) for swap in standing.swaps}
        moved = (standing.route.release, standing.route.decided_offset)
        assert standing.route.release == standing.live.number or moved in ahead
        assert standing.before is None or standing.before.number in there


@given(standings, doors)
def test_no_engine_ends_that_may_be_asked(standing: Standing, seen: list[Door]) -> None:
    ended = {amend.engine_id for amend in amends(standing, seen) if isinstance(amend, Unwant)}
    needed = {engine_id(DOMAIN, release.number) for release in (standing.live, standing.before) if release is not None}
    if not standing.retired:
        assert not ended & needed
    assert standing.route is None or standing.route.engine_id not in ended
    if standing.route is None or standing.route.age_s < DRAIN_DEADLINE_S:
        assert not any(door.in_flight.get(name) for door in seen for name in ended)


@given(standings, doors)
def test_the_route_never_goes_where_nothing_answers(standing: Standing, seen: list[Door]) -> None:
    there = {engine.engine_id: engine.state for engine in standing.engines}
    for amend in amends(standing, seen):
        if isinstance(amend, Point):
            assert there[engine_id(DOMAIN, amend.release)] in ("ready", "asleep")
            assert standing.live is not None and amend.release == standing.live.number


def test_an_order_that_is_ahead_of_the_log_keeps_its_route_while_it_is_open() -> None:
    there = tuple(Engine(engine_id(DOMAIN, number), number, "ready") for number in (0, 1))
    ahead = Standing(
        domain=DOMAIN,
        kind="llamacpp",
        live=RELEASES[0],
        decided_offset=3,
        swaps=(Swap(1, 7),),
        route=Route(1, engine_id(DOMAIN, 1), 2, 7),
        engines=there,
    )
    assert amends(ahead, []) == ()
    (back,) = (amend for amend in amends(replace(ahead, swaps=()), []) if isinstance(amend, Point))
    assert (back.release, back.decided_offset) == (0, 3)
