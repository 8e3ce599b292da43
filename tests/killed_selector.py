"""A worker that chooses a training set and may be killed as one of the steps begins. It loads no torch: a fork of it is cheap."""

import itertools
import os
import signal
from typing import Any

from streams.log import KafkaLog
from streams.orders import SelectSnapshot
from streams.sealing import Keyring, MasterKey
from streams.settings import Settings
from streams.store import open_database
from tests.memories import Bags
from workers.context import Context
from workers.recall import encoder
from workers.selector import judge_of, opened, pipeline
from workers.selector import step as selector


def context_of(settings: Settings, worker: str) -> Context:
    database = open_database(settings.database_url)
    keyring = Keyring(database, MasterKey.made(settings.master_key))
    return Context(settings, database, KafkaLog(settings.kafka, f"test-{worker}"), keyring, worker)


def run(settings: Settings, order: SelectSnapshot, dies_at: int | None) -> None:
    """`dies_at`: which step, from 0; None: it lives."""
    begun = itertools.count()

    def judge(step: Any) -> Any:
        if next(begun) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return judge_of(step)

    pipeline.judge_of = judge
    bags = Bags()
    encoder.sentence_encoder = opened.sentence_encoder = lambda: bags  # type: ignore[assignment,return-value]
    selector.run(order, context_of(settings, "worker-1"))
