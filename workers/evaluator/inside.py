"""The part of the evaluator that runs in OpenCompass's own environment: `python inside.py CONFIG -w FOLDER --debug`.

It is copied, with `scoring.py`, into the exam's folder and run there by path, so that no module of the workers can shadow one of
OpenCompass's. It adds two things to OpenCompass:

- the engine's class, which asks several engines of one model side by side, leaves a byte in a file for every answer (the parent
  shows progress by the size of that file), and in another what the answer cost;
- the scorer, which says of every question whether its answer is right.

For every line on its standard input (the engines' keys, as a JSON object) it forks a child, which hands over to OpenCompass's
command line: what takes a quarter of a minute to import is imported once. The child's process id and its exit code are lines on
the standard output. It ends when its standard input closes.
"""

import copy
import gc
import hashlib
import json
import os
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

ANSWERED_VARIABLE = "NORIA_EXAM_ANSWERED"
NICENESS = 10


def end_with_parent() -> None:
    """End this process when the standard input closes, which the kernel does when the parent dies in whatever way."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def read_line() -> bytes:
    """The first line of the standard input, and no byte of what follows; empty when it closes before."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line if byte else b""


def digest_of(question: str) -> str:
    """By which a question is known among the costs: these hold no words."""
    return hashlib.sha256(question.encode()).hexdigest()


def counting(create: Callable[..., Any], costs: int, longer: Mapping[str, int]) -> Callable[..., Any]:
    """`create` of an OpenAI client, which leaves a line in the file `costs` for every answer whose tokens the engine tells.
    `longer`: by digest of the question how many tokens its answer may have, where these are more than the others' may."""

    def counted(**asked: Any) -> Any:
        digest = digest_of(str(asked["messages"][-1]["content"]))
        if digest in longer:
            asked["max_tokens"] = longer[digest]
        began = time.monotonic()
        answer = create(**asked)
        seconds = time.monotonic() - began
        usage = getattr(answer, "usage", None)
        if usage is not None:
            line = {
                "asked": digest,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "seconds": round(seconds, 4),
            }
            os.write(costs, json.dumps(line).encode() + b"\n")
        return answer

    return counted


def register(keys: Mapping[str, str]) -> None:
    """`keys` may be filled later, but before an engine is asked."""
    from opencompass.models import OpenAISDK
    from opencompass.openicl.icl_evaluator import BaseEvaluator
    from opencompass.registry import ICL_EVALUATORS, MODELS
    from scoring import is_right  # type: ignore[import-not-found]  # a neighbour in the exam's folder

    answered = os.open(os.environ[ANSWERED_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @MODELS.register_module()
    class ExamEngine(OpenAISDK):  # type: ignore[misc]
        """OpenCompass's client for OpenAI's protocol: several engines, each with `at_once` questions; answers are counted."""

        def __init__(
            self,
            *arguments: Any,
            key: str,
            status_code_mappings: Mapping[str, str],
            addresses: Sequence[str],
            at_once: int,
            costs: str,
            longer: Mapping[str, int],
            **more: Any,
        ) -> None:
            by_number = {int(code): answer for code, answer in status_code_mappings.items()}  # JSON knows no other keys
            workers = at_once * len(addresses)
            super().__init__(*arguments, key=keys[key], status_code_mappings=by_number, max_workers=workers, **more)
            self.free: queue.SimpleQueue[Any] = queue.SimpleQueue()
            counted = os.open(costs, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            clients = []
            for address in addresses:
                client = copy.copy(self)
                client.openai_client = self.openai_client.with_options(base_url=address)
                completions = client.openai_client.chat.completions
                completions.create = counting(completions.create, counted, longer)
                clients.append(client)
            for client in clients * at_once:
                self.free.put(client)

        def _generate(self, *arguments: Any, **more: Any) -> Any:
            client = self.free.get()
            try:
                answer = super(ExamEngine, client)._generate(*arguments, **more)
            finally:
                self.free.put(client)
            os.write(answered, b".")
            return answer

    @ICL_EVALUATORS.register_module()
    class ExamScorer(BaseEvaluator):  # type: ignore[misc]
        """Each reference is a JSON array [answer, key, key, …]."""

        def score(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
            details = []
            for prediction, reference in zip(predictions, references, strict=True):
                answer, *keys = json.loads(reference)
                right = is_right(prediction, answer, keys)
                details.append({"pred": prediction, "answer": answer, "correct": right})
            share = sum(detail["correct"] for detail in details) / len(details)
            return {"accuracy": 100 * share, "details": details}


def examine(opencompass: Callable[[], None]) -> NoReturn:
    """Run OpenCompass's command line to its end, and this process's."""
    code: object = 1
    try:
        end_with_parent()
        sys.argv[0] = "opencompass"
        opencompass()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def main() -> None:
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold people's words
    told = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not stand between the exit codes
    keys: dict[str, str] = {}
    gc.disable()  # nothing of what is loaded can be thrown away: to look for it takes a sixth of the time (measured)
    register(keys)
    from opencompass.cli.main import main as opencompass

    gc.freeze()  # and in a child it would copy every page
    gc.enable()
    while line := read_line():
        child = os.fork()
        if child == 0:
            os.close(told)
            keys.update(json.loads(line))
            examine(opencompass)
        os.write(told, b"%d\n" % child)
        _, status = os.waitpid(child, 0)
        os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
