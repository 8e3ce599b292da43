"""An engine whose server is of this house: a child process, started by the path of its script, that prints its address once it
answers, and says its name over HTTP."""

import json
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from streams.errors import Unavailable
from workers.engines.llamacpp_server import KEY_VARIABLE
from workers.engines.process import get, start_child, stop_child, wait_until
from workers.engines.protocol import EngineSpec


class OwnServer:
    """Most of `workers.engines.protocol.Engine`: what is left is how it is started."""

    def __init__(self, spec: EngineSpec, key: str) -> None:
        self.spec = spec
        self.key = key
        self.model_name = spec.model_name
        self._child: subprocess.Popen[str] | None = None
        self._address: str | None = None

    @property
    def base_url(self) -> str:
        if self._address is None:
            raise Unavailable(f"the engine {self.model_name} is not ready")
        return self._address

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def run(self, script: str | None, model: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start the server of `script` for what lies at `model`, and return at once."""
        assert script is not None
        arguments = {
            "--model": str(model),
            "--name": self.model_name,
            "--slots": str(self.spec.slots),
            "--context-tokens": str(self.spec.context_tokens),
            "--threads": str(self.spec.threads),
            "--port": str(self.spec.port),
        }
        self._child = start_child(
            Path(script),
            [text for pair in arguments.items() for text in pair],
            environment={KEY_VARIABLE: self.key, **(environment or {})},
            stdout=subprocess.PIPE,
            niceness=self.spec.niceness,
        )
        threading.Thread(target=self._read_address, args=(self._child,), daemon=True).start()

    def _read_address(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        line = child.stdout.readline()
        if line:
            self._address = json.loads(line)["address"]

    def ready(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        what = f"waiting for {self.model_name}"
        wait_until(lambda: self._address is not None, self.alive, deadline, what)
        wait_until(self._healthy, self.alive, deadline, what)
        if self.model_name not in self._names():
            raise Unavailable(f"{self.base_url} answers as {self._names()}, not as {self.model_name}")

    def _healthy(self) -> bool:
        answer = get(f"{self.base_url}/health", self.key)
        return answer is not None and answer.status_code == httpx.codes.OK

    def _names(self) -> list[str]:
        answer = get(f"{self.base_url}/v1/models", self.key)
        if answer is None or answer.status_code != httpx.codes.OK:
            return []
        models: list[dict[str, Any]] = answer.json()["data"]
        return [model["id"] for model in models]

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def stop(self, deadline_s: float = 10.0) -> None:
        if self._child is not None:
            stop_child(self._child, deadline_s)
