"""What steps have freed goes back to the machine, where ever more of it is kept."""

import platform

import psutil
import pytest

from workers.trainer.freed import Freed


def test_it_is_given_back_when_a_tenth_more_is_held_than_after_the_first_step_and_then_anew() -> None:
    coming, seen, given = [100, 109, 105, 111, 50, 54, 56], list[int](), list[int]()

    def held() -> int:
        seen.append(coming[len(seen)])
        return seen[-1]

    freed = Freed(held, lambda: given.append(seen[-1]))
    for _ in coming:
        freed.look()
    assert given == [111, 56], "of the 100 after the first step, and of the 50 that were held by then"
    freed.all()
    assert given == [111, 56, 56]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep less, and cannot be asked")
def test_what_lies_between_that_which_is_still_used_goes_back_too() -> None:
    process = psutil.Process()
    pieces = [bytearray(b"x" * 60_000) for _ in range(2000)]
    kept = pieces[::40]
    held = process.memory_info().rss
    del pieces
    Freed().all()
    assert process.memory_info().rss < held - 80_000_000 and len(kept) == 50
