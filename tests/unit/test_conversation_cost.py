"""A conversation costs what is said in it: its thousandth turn as much as its tenth."""

from tests.bench.conversation import folded, turns


def test_event_and_state_of_the_thousandth_turn_are_as_large_as_those_of_the_tenth() -> None:
    costs = {turn.number: folded(turn) for turn in turns({10, 1000})}
    assert costs[1000].log_bytes <= 2 * costs[10].log_bytes
    assert costs[1000].state_bytes <= 2 * costs[10].state_bytes
