"""Two rounds at once on one machine: the second waits, and says for what."""

import threading
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from streams.codec import decode
from streams.events import DOMAINS
from streams.facts.orders import OrderProgressed
from streams.log import MemoryLog
from streams.orders import TrainCandidate
from streams.recipes import LoraRecipe
from streams.sealing import Keyring
from streams.snapshots import FORMAT, Snapshot, save
from tests.door_world import make_settings, wait_until
from tests.waiting import PATIENCE_S
from workers.context import Context
from workers.trainer import step as training


def test_of_two_rounds_at_once_on_one_machine_the_second_waits_says_so_and_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = list[str](), threading.Event()

    def learns(order: TrainCandidate, *_: Any) -> str:
        began.append(order.domain)
        assert may_end.wait(PATIENCE_S)
        return order.domain

    monkeypatch.setattr(training, "_train", learns)
    log, settings = MemoryLog(), make_settings(tmp_path, "", "")
    contexts = [Context(settings, cast(Engine, None), log, cast(Keyring, None), name) for name in ("one", "other")]
    base = contexts[0].artifacts.put_bytes(b"base")

    def train(domain: str, context: Context) -> threading.Thread:
        snapshot = save(Snapshot(FORMAT, domain, f"round of {domain}", 9, (), ()), context.artifacts)
        order = TrainCandidate(
            order_id=uuid4(),
            domain=domain,
            round_id=f"round of {domain}",
            snapshot=snapshot,
            base_model=base,
            reference_model=base,
            recipe=LoraRecipe(),
            replay_prompts=(),
        )
        thread = threading.Thread(target=training.train, args=(order, context), daemon=True)
        thread.start()
        return thread

    first = train("roads", contexts[0])
    wait_until(lambda: began == ["roads"])
    second = train("wards", contexts[1])
    wait_until(lambda: any(log.ends(DOMAINS).values()))
    said = [decode(r.value).event for p, end in log.ends(DOMAINS).items() for r in log.read(DOMAINS, p, 0, end)]
    assert [(type(one), one.domain, one.waits_for) for one in said if isinstance(one, OrderProgressed)] == [
        (OrderProgressed, "wards", "another_training")
    ]
    assert began == ["roads"]
    may_end.set()
    first.join()
    second.join()
    assert began == ["roads", "wards"] and not second.is_alive()


def test_workers_that_see_cards_of_their_own_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(make_settings(tmp_path, "", ""), training_device="cuda")
    turns = []
    for cards in ("0", "1", "1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
        turns.append(training.turn_of(settings))
    assert [turn.has_come() for turn in turns] == [True, True, False]
    turns[1].close()
    assert turns[2].has_come()
    for turn in turns:
        turn.close()
