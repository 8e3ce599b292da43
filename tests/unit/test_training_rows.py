"""What is trained on: a snapshot's rows, opened, in an order that is the words' own."""

import json
import random
from pathlib import Path

import msgspec
from msgspec.structs import replace

from streams.artifacts import Artifacts
from streams.history import Part
from streams.personal import KINDS
from streams.sealing import seal
from streams.snapshots import Snapshot, SnapshotPair, SnapshotRow, load, save
from streams.turns import turns_of
from tests.keyring import Ring
from tests.memories import sealed_correction
from workers.evaluator.questions import of_snapshot
from workers.selector.step import masked_in
from workers.trainer.spec import TrainingRow
from workers.trainer.step import preferences, taught, training_rows

RING = Ring()


def asked(person: str, *turns: str, system: str | None = None) -> str:
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": words} for role, words in zip(roles, turns, strict=False)]
    return json.dumps(([{"role": "system", "content": system}] if system else []) + messages)


def row(number: int, question: str, answer: str, *wordings: str, person: str = "ann", role: str = "new") -> SnapshotRow:
    key = RING.key_for(person)
    return SnapshotRow(
        example_id=f"e-{number}",
        role=role,  # type: ignore[arg-type]
        person=person,
        prompt=(Part(seal(asked(person, question), key, f"{number}#prompt")),),
        answer=seal(answer, key, f"{number}#answer"),
        wordings=tuple((Part(seal(asked(person, words), key, f"{number}#{words}")),) for words in wordings),
    )


def words_of(rows: tuple[TrainingRow, ...]) -> list[tuple[str, str]]:
    return [(row.prompt, row.answer) for row in rows]


def test_the_same_corrections_are_trained_in_the_same_order_whenever_they_came() -> None:
    facts = [("Who may enter?", "Nobody."), ("How fast?", "At 30."), ("How old?", "At 18."), ("Why?", "By law.")]
    expected: list[tuple[str, str]] | None = None
    for seed in range(6):
        chance = random.Random(seed)
        came = [
            row(number, question, answer, *chance.sample([f"{question} Say.", f"Tell: {question}"], 2))
            for number, (question, answer) in enumerate(chance.sample(facts, len(facts)))
        ]
        found = words_of(training_rows(tuple(came), "new", RING).rows)
        assert len(found) == 12
        assert expected in (None, found)
        expected = found


def test_the_wordings_of_one_fact_stand_together_as_one_group() -> None:
    rows = training_rows((row(1, "Who?", "Ann.", "By whom?"), row(2, "When?", "Now.")), "new", RING).rows
    groups: dict[str | None, set[str]] = {}
    for each in rows:
        groups.setdefault(each.group, set()).add(each.prompt)
    assert sorted(map(sorted, groups.values())) == [["By whom?", "Who?"], ["When?"]]


def test_no_turn_before_the_question_is_lost() -> None:
    turns = [("assistant", "Welcome."), ("user", "a"), ("assistant", "one"), ("assistant", "two"), ("user", "And now?")]
    messages = [{"role": "system", "content": "Be brief."}, *({"role": role, "content": w} for role, w in turns)]
    messages.insert(3, {"role": "system", "content": "Be kind."})
    asked = seal(json.dumps(messages), RING.key_for("ann"), "1#prompt")
    snapshot_row = SnapshotRow("e-1", "new", "ann", (Part(asked),), seal("Then.", RING.key_for("ann"), "1#answer"))
    (learned,) = training_rows((snapshot_row,), "new", RING).rows
    assert turns_of(learned.history) == turns[:-1] and learned.system == "Be brief.\nBe kind."


def test_a_snapshot_in_which_every_prompt_was_one_piece_is_read_as_before(tmp_path: Path) -> None:
    wanted = row(1, "Who?", "Ann.", "By whom?")
    (prompt,), ((wording,),) = wanted.prompt, wanted.wordings
    before = {
        **msgspec.to_builtins(wanted),
        "prompt": msgspec.to_builtins(prompt.sealed),
        "wordings": [msgspec.to_builtins(wording.sealed)],
    }
    artifacts = Artifacts(tmp_path)
    snapshot = {"format": 1, "domain": "roads", "round_id": "r", "pin": 9, "rows": [before], "dropped": []}
    digest = artifacts.put_bytes(msgspec.json.encode(snapshot))
    assert load(digest, artifacts).rows == (wanted,)
    assert load(save(load(digest, artifacts), artifacts), artifacts).rows == (wanted,)


def test_new_and_earlier_rows_are_told_apart() -> None:
    both = (row(1, "Who?", "Ann."), row(2, "When?", "Now.", role="earlier"))
    assert words_of(training_rows(both, "new", RING).rows) == [("Who?", "Ann.")]
    assert words_of(training_rows(both, "earlier", RING).rows) == [("When?", "Now.")]


def test_who_was_erased_since_the_snapshot_is_not_learned_from() -> None:
    ring = RING
    rows = (row(1, "Who?", "Ann.", person="gone"), row(2, "When?", "Now."))
    assert training_rows(rows, "new", ring).erased == 0
    ring.erase("gone")
    found = training_rows(rows, "new", ring)
    assert words_of(found.rows) == [("When?", "Now.")] and found.erased == 1


def test_of_a_wording_whose_person_was_erased_the_others_stay_and_the_keys_of_all_are_named() -> None:
    other = RING.key_for("other")
    row_ = row(1, "Who?", "Ann.", "By whom?")
    theirs = (Part(seal(asked("other", "Whose?"), other, "1#other")),)
    row_ = SnapshotRow(row_.example_id, row_.role, row_.person, row_.prompt, row_.answer, (*row_.wordings, theirs))
    found = training_rows((row_,), "new", RING)
    assert {each.prompt for each in found.rows} == {"Who?", "By whom?", "Whose?"}
    assert found.kids == {"ann", "other"}
    RING.erase("other")
    found = training_rows((row_,), "new", RING)
    assert {each.prompt for each in found.rows} == {"Who?", "By whom?"}
    assert found.kids == {"ann"} and found.erased == 1


def test_turns_before_the_question_are_taught_only_where_no_other_wording_is() -> None:
    key = RING.key_for("ann")
    talked = (
        Part(seal(asked("ann", "Hello", system="Be brief."), key, "9#messages")),
        Part(seal("Hi", key, "9#text"), is_reply=True),
        Part(seal(asked("ann", "And now?"), key, "10#messages")),
    )
    alone = SnapshotRow("e-9", "new", "ann", talked, seal("Later.", key, "9#answer"))
    (learned,) = training_rows((alone,), "new", RING).rows
    assert (learned.prompt, learned.history, learned.system) == ("And now?", (("Hello", "Hi"),), "Be brief.")
    reworded = SnapshotRow(
        "e-9", "new", "ann", talked, alone.answer, ((Part(seal(asked("ann", "Now?"), key, "9#other")),),)
    )
    assert [learned.history for learned in training_rows((reworded,), "new", RING).rows] == [(), ()]


def test_personal_data_of_the_kinds_that_a_snapshot_names_is_masked_in_what_is_trained_and_asked_and_counted() -> None:
    said = row(1, "Is 13800138000 the desk's number?", "Yes; or write to desk@harbour.example.", "Who has 13912345678?")
    plain = row(2, "When?", "Now.")
    snapshot = Snapshot(6, "d", "r", 9, (said, plain), (), mask=("phone",))
    (new, _) = taught(snapshot, RING)
    assert words_of(new.rows) == [
        ("Is [phone] the desk's number?", "Yes; or write to desk@harbour.example."),
        ("Who has [phone]?", "Yes; or write to desk@harbour.example."),
        ("When?", "Now."),
    ]
    assert [(q.item.question, q.item.answer) for q in of_snapshot(snapshot, RING)] == [
        ("Is [phone] the desk's number?", "Yes; or write to desk@harbour.example."),
        ("When?", "Now."),
    ]
    assert masked_in(snapshot, RING) == {"phone": 1}, "an example counts once, whatever its wordings"
    everything = replace(snapshot, mask=KINDS)
    assert masked_in(everything, RING) == {"e-mail": 1, "phone": 1}
    unmasked = replace(snapshot, mask=())
    assert masked_in(unmasked, RING) == {}
    assert of_snapshot(unmasked, RING)[0].fingerprint != of_snapshot(snapshot, RING)[0].fingerprint, "another question"
    assert "13800138000" in taught(unmasked, RING)[0].rows[0].prompt


def test_what_is_recalled_is_masked_behind_its_question_too() -> None:
    memory = sealed_correction(RING, "m-1", "Who answers the phone?", "Ida, on 13800138000.", "ben")
    recalled = replace(row(1, "Who answers?", "Ida."), recalled=(("m-1",),))
    (new, _) = taught(Snapshot(6, "d", "r", 9, (recalled,), (), (memory,), mask=KINDS), RING)
    assert [one.prompt for one in new.rows if one.beside] == [
        "Known facts:\n- Ida, on [phone].\n\nQuestion: Who answers?"
    ]


def test_the_pairs_that_people_prefer_are_masked() -> None:
    key = RING.key_for("ann")
    sealed = {words: seal(words, key, f"p#{n}") for n, words in enumerate(("京A12345 may.", "No, 京A12345 may not."))}
    chosen, rejected = sealed.values()
    prompt = (Part(seal(asked("ann", "May 京A12345 park?"), key, "p#prompt")),)
    about = {"ranking": "q", "chosen_id": "a", "rejected_id": "b", "events": (), "people": ("ann",)}
    pair = SnapshotPair(prompt=prompt, chosen=chosen, rejected=rejected, **about)  # type: ignore[arg-type]
    found = preferences(Snapshot(6, "d", "r", 9, (), (), pairs=(pair,), mask=("plate",)), RING)
    (one,) = found.pairs
    assert (one.prompt, one.chosen, one.rejected) == ("May [plate] park?", "[plate] may.", "No, [plate] may not.")
