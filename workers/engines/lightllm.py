"""LightLLM as an engine for GPUs: one launcher a version, kept as a process group. See deploy/lightllm.md.

Written against its source: v1.2.0 (August 2026) and, where they differ, v1.0.1 of July 2025. It has no keys and says nothing of the
port it got, so ports are chosen here, it listens on loopback only, and being ready includes being asked for its name.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from streams.errors import Invalid, Unavailable
from workers.engines import kept
from workers.engines.process import get, start_child, stop_child, wait_until
from workers.engines.protocol import EngineSpec, ServesAsItIs

# Of a request's length LightLLM keeps 36 tokens for itself, and its prefill batch must be smaller than the whole cache.
SPARE_TOKENS = 64
PREFILL_TOKENS = 4096


class LightLLMEngine(ServesAsItIs):
    """See `workers.engines.protocol.Engine`. bf16 was 0.13 off fp32 at most on the 135M model (H100); 0.3 is asked of larger ones.

    The same model took 106 s until it was ready: a dozen processes import torch one after another, kernels are tried and compiled.
    """

    package = "lightllm"
    golden_tolerance = 0.3
    exam_engines = 1
    start_deadline_s = 600.0

    def __init__(self, spec: EngineSpec, key: str, command: Sequence[str] = ()) -> None:
        """`command`: what is started in place of LightLLM's api_server. `key` is sent and not looked at: LightLLM checks none."""
        self.spec = spec
        self.key = key
        self.model_name = spec.model_name
        self._command = tuple(command)
        self._child: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def base_url(self) -> str:
        if not self._port:
            raise Unavailable(f"the engine {self.model_name} is not ready")
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def start(self) -> None:
        if not (self.spec.model_dir / "model.safetensors").is_file():
            raise Invalid(f"{self.spec.model_dir.name} has no model.safetensors")
        python = Path(sys.executable) if self.spec.lightllm is None else self.spec.lightllm / "bin" / "python"
        if not self._command:
            _require_lightllm(python)
        self._port, nccl_port = _free_ports(self.spec.port)
        self._child = start_child(
            Path(kept.__file__),
            [
                *(self._command or (str(python), "-m", "lightllm.server.api_server")),
                *flags(self.spec, self._port, nccl_port),
            ],
            environment={
                # It starts its web server by name.
                "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
                # On one card the processes have nothing to say to other machines.
                "NCCL_SOCKET_IFNAME": "lo",
                "GLOO_SOCKET_IFNAME": "lo",
            },
            stdout=None,
            niceness=self.spec.niceness,
        )

    def ready(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        wait_until(self._answers, self.alive, deadline, f"waiting for {self.model_name}")
        # Its /health only says that nothing has failed yet (v1.2.0), and a first request compiles kernels: make one.
        body = {"inputs": "1 2 3", "parameters": {"max_new_tokens": 2, "do_sample": False}}
        try:
            answer = httpx.post(
                f"{self.base_url}/generate",
                json=body,
                timeout=max(1.0, deadline - time.monotonic()),
                trust_env=False,
                verify=False,
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.model_name} does not generate: {type(error).__name__}") from error
        if answer.status_code != httpx.codes.OK:
            # What it says is of our own prompt: nobody's words.
            raise Unavailable(f"{self.model_name} does not generate: {answer.status_code} {answer.text[:300]}")

    def _answers(self) -> bool:
        health = get(f"{self.base_url}/health", self.key)
        if health is None or health.status_code != httpx.codes.OK:
            return False
        name = get(f"{self.base_url}/get_model_name", self.key)
        if name is None or name.status_code != httpx.codes.OK:
            return False
        found = name.json()["model_name"]
        if found != self.model_name:
            raise Unavailable(f"port {self._port} answers as {found!r}, not as {self.model_name!r}")
        return True

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def stop(self, deadline_s: float = 10.0) -> None:
        if self._child is not None:
            stop_child(self._child, deadline_s)


ENGINE = LightLLMEngine


def _require_lightllm(python: Path) -> None:
    """Raises Invalid where the environment of `python` does not hold LightLLM."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('lightllm') is None)"
    try:
        found = subprocess.run([python, "-c", look], stdin=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        found = False
    if not found:
        raise Invalid(f"LightLLM is not installed in {python.parents[1]} (NORIA_LIGHTLLM; see deploy/lightllm.md)")


def flags(spec: EngineSpec, port: int, nccl_port: int) -> list[str]:
    """LightLLM's command line. All of these exist in v1.0.1 and in v1.2.0.

    The cache is sized in tokens, not as a share of the card: a share is counted from the whole card, so the second of two servers,
    which a swap needs, would find nothing left.
    """
    longest = spec.context_tokens + SPARE_TOKENS
    prefill = max(PREFILL_TOKENS, longest)
    given = {
        "--model_dir": str(spec.model_dir),
        "--model_name": spec.model_name,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--nccl_port": str(nccl_port),  # up to v1.1 also the name of its shared memory: two servers must differ
        "--tp": "1",
        "--data_type": "bf16",
        "--max_req_total_len": str(longest),
        "--max_total_token_num": str(spec.slots * longest + prefill + 1),
        "--batch_max_tokens": str(prefill),
        "--chunked_prefill_size": str(prefill // 2),
        "--running_max_req_size": str(spec.slots),
        "--graph_max_batch_size": str(spec.slots),
    }
    return [text for pair in given.items() for text in pair]


def _free_ports(wanted: int) -> tuple[int, int]:
    """Two ports that nobody listens on. Whoever takes one in between is found out by name when the engine should be ready."""
    with contextlib.ExitStack() as held:
        ports = []
        for number in (wanted, 0):
            listener = held.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", number))
            except OSError as error:
                raise Unavailable(f"port {number} is taken") from error
            ports.append(int(listener.getsockname()[1]))
    return ports[0], ports[1]
