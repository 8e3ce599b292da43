"""Whoever tries many wrong keys waits; who holds a right one does not wait for long."""

from api.guessing import ADDRESSES, AT_ONCE, ONE_EVERY_S, WrongKeys


def test_so_many_tries_are_free_and_one_comes_back_with_time() -> None:
    now = [0.0]
    wrong = WrongKeys(clock=lambda: now[0])
    assert [wrong.take("10.0.0.1") for _ in range(AT_ONCE)] == [0.0] * AT_ONCE
    assert 0 < wrong.take("10.0.0.1") <= ONE_EVERY_S
    now[0] += ONE_EVERY_S / 2
    assert 0 < wrong.take("10.0.0.1") <= ONE_EVERY_S / 2
    now[0] += ONE_EVERY_S / 2
    assert wrong.take("10.0.0.1") == 0.0
    assert wrong.take("10.0.0.1") > 0


def test_a_right_key_costs_no_try() -> None:
    wrong = WrongKeys(clock=lambda: 0.0)
    for _ in range(10 * AT_ONCE):
        assert wrong.take("10.0.0.1") == 0.0
        wrong.give_back("10.0.0.1")


def test_addresses_are_apart_but_one_customers_of_ipv6_are_one() -> None:
    wrong = WrongKeys(clock=lambda: 0.0)
    for number in range(AT_ONCE):
        assert wrong.take(f"2001:db8:0:1::{number:x}") == 0.0
    assert wrong.take("2001:db8:0:1:ffff::1") > 0
    assert wrong.take("2001:db8:0:2::1") == 0.0
    for _ in range(AT_ONCE):
        wrong.take("::ffff:10.0.0.1")
    assert wrong.take("10.0.0.1") > 0
    assert wrong.take("10.0.0.2") == 0.0
    assert wrong.take(None) == 0.0


def test_however_many_addresses_there_are_so_many_are_kept() -> None:
    wrong = WrongKeys(clock=lambda: 0.0)
    for number in range(ADDRESSES + 100):
        wrong.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(wrong._tries) == ADDRESSES
