"""llama.cpp's own server as an engine for CPUs: one child process a version, serving the directory's F16 GGUF."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from streams.errors import Invalid, Unavailable
from workers.cores import HEAVY_THREADS
from workers.engines import llamacpp_server
from workers.engines.process import get, start_child, stop_child, wait_until
from workers.engines.protocol import EngineSpec

MODEL_FILE = "model-f16.gguf"


class LlamaCppEngine:
    """See `workers.engines.protocol.Engine`. F16 keeps within 0.02 of fp32 as measured; 0.05 is asked."""

    package = "xllamacpp"
    golden_tolerance = 0.05
    exam_engines = HEAVY_THREADS
    """Each with one thread, since two threads of one wait for each other hundreds of times a token: the same 584 questions took two
    of them 0.82 of the time on two cores, as measured with 8 at a time each."""
    start_deadline_s = 120.0

    def __init__(self, spec: EngineSpec, key: str, model_file: Path | None = None) -> None:
        """`model_file`: another GGUF than the one in the model directory, to examine it."""
        self.spec = spec
        self.model_file = model_file or spec.model_dir / MODEL_FILE
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

    def start(self) -> None:
        if not self.model_file.is_file():
            raise Invalid(f"{self.spec.model_dir.name} has no {self.model_file.name}")
        arguments = {
            "--model": str(self.model_file),
            "--name": self.model_name,
            "--slots": str(self.spec.slots),
            "--context-tokens": str(self.spec.context_tokens),
            "--threads": str(self.spec.threads),
            "--port": str(self.spec.port),
        }
        self._child = start_child(
            Path(llamacpp_server.__file__),
            [text for pair in arguments.items() for text in pair],
            environment={llamacpp_server.KEY_VARIABLE: self.key},
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


ENGINE = LlamaCppEngine
