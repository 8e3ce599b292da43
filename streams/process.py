"""What every process does around its work: it reads its settings, stops when it is told to, and says why it cannot go on."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from streams.errors import Invalid, Unavailable
from streams.log import LostHistory
from streams.settings import Settings, from_env

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
logger = logging.getLogger("noria.process")


def run(work: Callable[[Settings, threading.Event], None]) -> int:
    """Let `work` go on until the event is set, which SIGTERM and SIGINT do. The exit status: 2 for settings that nothing can be
    done with, 70 where the log is not the one any more that was read."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    try:
        work(from_env(os.environ), stopping)
    except Invalid as error:
        print(error, file=sys.stderr)
        return 2
    except LostHistory as error:
        logger.critical("%s; the process stops", error)
        return 70
    return 0


def keep(step: Callable[[], None], stopping: threading.Event) -> None:
    """Call `step` again and again until the event is set. What does not answer is tried again, the more seldom the longer it is
    away."""
    wait_s = FIRST_WAIT_S
    while not stopping.is_set():
        try:
            step()
            wait_s = FIRST_WAIT_S
        except Unavailable as error:
            logger.warning("%s; trying again in %.1f s", error, wait_s)
            stopping.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
