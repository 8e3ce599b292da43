"""Structs are learned before threads decode them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Kinds that nobody has decoded yet, again and again, and threads that do so at the same time.
RACE = """
import sys, threading
import msgspec
from streams.structs import learn_structs

sys.setswitchinterval(1e-6)
for _ in range(300):
    class Inner(msgspec.Struct):
        number: int | None = None
        words: list[str] = []
    class Outer(msgspec.Struct):
        inner: Inner
        more: list[Inner] = []
    learn_structs()
    together = threading.Barrier(4)
    def decode(kind=Outer):
        together.wait()
        assert msgspec.json.decode(b'{"inner":{"number":1}}', type=kind).inner.number == 1
    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("all")
"""


def test_threads_may_decode_what_was_learned_at_the_same_time() -> None:
    said = subprocess.run([sys.executable, "-c", RACE], cwd=ROOT, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "all\n"), said.stderr[-2000:]
