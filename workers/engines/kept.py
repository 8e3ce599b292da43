"""Runs a program of many processes, as the leader of their group, and leaves nothing of it behind.

`python kept.py PROGRAM ARGUMENTS…`. SIGTERM is passed on to the program; when the program has ended, or the standard input closes
(whoever started this is gone), the whole group is killed.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1
LOOK_S = 0.1


def main() -> int:
    """Keep one program. Must be the leader of its own process group."""
    if os.getpgrp() != os.getpid():
        print("kept.py must lead its own process group", file=sys.stderr)
        return 2
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        if program.poll() is None:
            program.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    while program.poll() is None:
        readable, _, _ = select.select([0], [], [], LOOK_S)
        if readable and not os.read(0, 1):
            break
    print(f"the kept program ended: {program.poll()}", file=sys.stderr, flush=True)
    os.killpg(0, signal.SIGKILL)  # this process too: nothing is left to do
    return 0


def _die_with_parent() -> None:
    # For the case that this keeper itself is killed; it has one thread only, so the signal means the process.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
