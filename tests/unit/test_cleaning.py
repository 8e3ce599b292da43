"""Cleaning: what is mended, what is masked with its kind, and what is left out; and that sound text stays as it is."""

import pytest

from streams.cleaning import STEPS, Words, clean, repaired
from streams.personal import is_card_number, is_identity_number, masked

SOUND = (
    "机动车行经人行横道时，应当减速行驶；遇行人正在通过人行横道，应当停车让行。",
    "The limit is 30 km/h (article 42, since 2004-05-01); call 12123 or 122, or 010-66266666.",
    "“全角标点”——（第九十一条）：罚款１０００元以上２０００元以下。 &lt;br&gt;",
    "Order 4111111111111112, build 20240229123456789, version 1.3.800.1380013.",
)


@pytest.mark.parametrize("text", SOUND)
def test_sound_text_stays_as_it_is(text: str) -> None:
    found = clean(Words(("How?", text)), ["en", "zh"])
    assert found.words.answer == text and not found.mended and not found.left_out


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("13800138000", "phone"),
        ("+86 138-0013-8000", "phone"),
        ("１３８００１３８０００", "phone"),
        ("+44 20 7946 0958", "phone"),
        ("ann.lee+x@mail.example.com", "e-mail"),
        ("11010519491231002X", "identity number"),
        ("11010519491231002x", "identity number"),
        ("4111 1111 1111 1111", "bank card"),
        ("6222021234567890128", "bank card"),
        ("京A12345", "plate"),
        ("粤B·D12345", "plate"),
        ("沪AD12345", "plate"),
    ],
)
def test_personal_data_is_masked_with_its_kind(text: str, kind: str) -> None:
    for before, after in (("是", "。"), (" ", ", then")):
        assert masked(f"{before}{text}{after}") == (f"{before}[{kind}]{after}", {kind: 1})


def test_a_number_that_fails_its_check_is_none() -> None:
    assert not is_identity_number("110105194912310021") and not is_identity_number("11010519491331002X")
    assert is_card_number("4111111111111111") and not is_card_number("4111111111111112")
    assert masked("110105194912310021") == ("110105194912310021", {})


def test_text_that_was_decoded_wrongly_is_repaired() -> None:
    assert repaired("The schÃ¶n rule\r\n") == ("The schön rule\n", {"unicode": 1})


@pytest.mark.parametrize(
    ("answer", "step"),
    [
        ("……", "length"),
        ("As an AI language model, I cannot say.", "boilerplate"),
        ("作为一个人工智能语言模型，我不能回答。", "boilerplate"),
        ("Give way.\n" * 5, "repetition"),
        ("请减速慢行并注意安全驾驶" * 10, "repetition"),
        ("Уступите дорогу пешеходам на переходе.", "language"),
        ("보행자에게 길을 양보해야 합니다. 횡단보도에서는 멈추세요.", "language"),
    ],
)
def test_what_is_not_worth_learning_is_left_out_by_the_step_that_says_so(answer: str, step: str) -> None:
    assert clean(Words(("How?", answer)), ["en", "zh"]).left_out == step
    others = [other.name for other in STEPS if other.name != step]
    assert not clean(Words(("How?", answer)), ["en", "zh"], others).left_out


def test_a_language_whose_script_is_not_known_is_not_judged() -> None:
    assert not clean(Words(("How?", "Уступите дорогу пешеходам на переходе.")), ["en", "ru"]).left_out
