"""What a release has learned is what stands on its own line."""

from streams.reading.learning import Lines, Made

ROUNDS = [
    Made("roads", "first", base_release=0, release=1),
    Made("roads", "second", base_release=1, release=2),
    Made("roads", "refused", base_release=2, release=None),
    Made("roads", "after the rollback", base_release=0, release=3),
    Made("fields", "theirs", base_release=0, release=1),
]
LINES = Lines(ROUNDS)


def test_a_release_has_learned_what_its_round_taught_and_what_the_release_before_it_knew() -> None:
    assert LINES.of("roads", 2) == ("second", "first")
    assert LINES.of("roads", 1) == ("first",)
    assert LINES.of("fields", 1) == ("theirs",)


def test_what_was_rolled_back_is_not_on_the_line_of_what_came_after_it() -> None:
    assert LINES.of("roads", 3) == ("after the rollback",)


def test_the_first_release_and_one_that_is_not_known_have_learned_nothing() -> None:
    assert LINES.of("roads", 0) == LINES.of("roads", None) == LINES.of("roads", 7) == LINES.of("nobody", 1) == ()


def test_a_line_that_bites_its_tail_ends() -> None:
    assert Lines([Made("roads", "a", 2, 1), Made("roads", "b", 1, 2)]).of("roads", 1) == ("a", "b")
