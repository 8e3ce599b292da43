"""Waiting for what a test is about, as long as a machine under any load may need: in vain only where something is broken."""

import time
from collections.abc import Callable
from typing import Any

import psycopg2
from kafka.errors import KafkaError

PATIENCE_S = 240.0
TRAINING_S = 900.0  # for what takes a minute or more where nothing else is done
PAUSE_S = 0.03
NOT_YET = (KafkaError, psycopg2.OperationalError, FileNotFoundError)


def wait_until(holds: Callable[[], Any], what: str = "the condition", *, patience_s: float = PATIENCE_S) -> Any:
    """What `holds` gives, once it gives something true; whatever cannot be asked yet does not hold."""
    deadline, hindrance = time.monotonic() + patience_s, None
    while True:
        try:
            if found := holds():
                return found
            hindrance = None
        except NOT_YET as error:
            hindrance = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {patience_s:.0f} s") from hindrance
        time.sleep(PAUSE_S)
