"""Several processes that train one job together. The first is the worker's child: it starts the others, hands each the spec through
its pipe, as it was handed it, and ends when one of them does.

    python -m workers.trainer.child PROCESS PORT < spec

They find each other on the loopback alone, at the port of a store that the first one holds; `accelerate` takes the group from
there as it would from its own launcher (which gives its processes no pipe: words would have to lie in a file). On CPUs they speak
by gloo, on cards by NCCL.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import msgspec

from streams.errors import Invalid
from workers.trainer.spec import Failure, TrainSpec

HOST = "127.0.0.1"
LOOPBACK = "lo"
ALL_THERE_S = 3600.0  # the longest that one waits for another: it may be answering the general prompts
TOLD_WITHIN_S = 5.0  # of the end of another that makes this one fail, until why it ended is known


class AnotherEnded(Exception):
    """One of the others ended, and so this one cannot go on. `failure` says which and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class TakenTogether(Exception):
    """The steps are taken, and this is not the first process: it has nothing to write."""


class Others:
    """The processes beside the first. `failed`: why the first of them ended that failed."""

    def __init__(self, spec: TrainSpec, port: int, tell: Callable[[Failure], None]) -> None:
        self.failed: Failure | None = None
        self._tell, self._count = tell, spec.processes
        self._ended, self._over = threading.Event(), threading.Event()
        command = [sys.executable, "-m", "workers.trainer.child"]
        self._others = [
            subprocess.Popen([*command, str(number), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for number in range(1, spec.processes)
        ]
        said = msgspec.json.encode(spec)
        for number, other in enumerate(self._others, 1):
            threading.Thread(target=self._follow, args=(number, other, said), daemon=True).start()

    def _follow(self, number: int, other: subprocess.Popen[bytes], said: bytes) -> None:
        """Where one ends in trouble while the first waits for it, the first is ended too, after it was told why."""
        last = b""
        assert other.stdin is not None and other.stdout is not None
        try:
            with other.stdin as pipe:
                pipe.write(said)
        except BrokenPipeError:
            pass  # its exit code says so
        for line in other.stdout:
            last = line
        code = other.wait()
        if code == 0 or self._over.is_set():
            return
        named = f"process {number + 1} of the {self._count} that trained together"
        try:
            failure = msgspec.json.decode(last, type=Failure)
            failure = Failure(reason=failure.reason, message=f"{named}: {failure.message}")
        except msgspec.MsgspecError:
            failure = Failure(reason="unavailable", message=f"{named} ended with code {code}")
        self.failed = self.failed or failure
        self._ended.set()
        if not self._over.wait(2 * TOLD_WITHIN_S):  # the first hangs on what never comes
            self._tell(self.failed)
            os._exit(1)

    def explain(self, error: Exception) -> Exception:
        """What made the first one fail: another's end, where there is one."""
        if isinstance(error, Invalid) or not self._ended.wait(TOLD_WITHIN_S):
            return error
        assert self.failed is not None
        return AnotherEnded(self.failed)

    def close(self) -> None:
        """End them, if they have not ended."""
        self._over.set()
        for other in self._others:
            if other.poll() is None:
                other.kill()
                other.wait()


@contextmanager
def first_of_all(spec: TrainSpec, tell: Callable[[Failure], None]) -> Iterator[None]:
    """This is the first process of a spec that several train: the others are there within."""
    store = _store(0, spec.processes, is_master=True, wait_for_workers=False)
    others = Others(spec, store.port, tell)
    try:
        _join(store, spec, 0)
        yield
    except Exception as error:
        raise others.explain(error) from error
    finally:
        others.close()


def join(spec: TrainSpec, process: int, port: int) -> None:
    """This is one of the others."""
    _join(_store(port, spec.processes, is_master=False), spec, process)


def _store(port: int, processes: int, **more: bool) -> Any:
    import torch.distributed

    distributed: Any = torch.distributed  # its stubs do not name it
    return distributed.TCPStore(HOST, port, processes, **more)


def _join(store: Any, spec: TrainSpec, process: int) -> None:
    import torch.distributed

    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = LOOPBACK
    # As accelerate's own launcher sets them.
    os.environ |= {"RANK": str(process), "LOCAL_RANK": str(process)}
    os.environ |= {"WORLD_SIZE": str(spec.processes), "LOCAL_WORLD_SIZE": str(spec.processes)}
    os.environ |= {"MASTER_ADDR": HOST, "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": str(spec.threads)}
    torch.distributed.init_process_group(
        "gloo" if spec.device == "cpu" else "nccl",
        store=store,
        rank=process,
        world_size=spec.processes,
        timeout=timedelta(seconds=ALL_THERE_S),
    )
