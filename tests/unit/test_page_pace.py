"""How often an open page looks for what is new."""

from api.ui.page import REFRESH_S, SLOWEST_REFRESH_S, Seen


def test_a_tab_in_which_nothing_changes_looks_more_and_more_seldom() -> None:
    seen = Seen()
    paces = [seen.pace(dict(seen.drawn)) for _ in range(6)]
    assert paces[:3] == [3.0, 4.5, 6.75] and paces[3] == SLOWEST_REFRESH_S
    assert all(isinstance(skipped, dict) for skipped in paces[4:]), "what stays as it is is not sent"
    assert seen.every_s == SLOWEST_REFRESH_S


def test_it_looks_often_again_once_something_changed_or_the_person_did_something() -> None:
    seen = Seen(every_s=SLOWEST_REFRESH_S)
    shown = dict(seen.drawn)
    seen.update("head", "live in release 2")
    assert seen.pace(shown) == REFRESH_S
    seen.every_s = None
    assert seen.pace(dict(seen.drawn)) == REFRESH_S
