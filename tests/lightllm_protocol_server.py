"""A server that speaks LightLLM's HTTP protocol as its source says, without a model, for tests of the engine class and the client.

`python lightllm_protocol_server.py DIALECT FLAGS…`: DIALECT is 1.2.0 (August 2026) or 1.0.1 (July 2025); FLAGS are LightLLM's own,
and an unknown one ends it, as argparse does there. Like the real launcher it has a child process that ignores SIGTERM.

What it says is drawn from the prompt, and anew each time unless greedily; to a golden prompt it gives the model folder's golden
answer. Words in a prompt ask for trouble: BUSY (no room), BREAK (the connection goes in mid-stream).
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer

Json = dict[str, Any]
RESERVED_TOKENS = 36  # of max_req_total_len, kept for itself


def parse(arguments: list[str]) -> tuple[str, argparse.Namespace]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("dialect", choices=["1.2.0", "1.0.1"])
    parser.add_argument("--model_dir", type=Path, required=True)
    parser.add_argument("--model_name", default="default_model_name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--data_type", choices=["fp16", "float16", "bf16", "bfloat16", "fp32", "float32"])
    numbers = ("port", "tp", "nccl_port", "max_total_token_num", "max_req_total_len", "batch_max_tokens")
    for name in (*numbers, "chunked_prefill_size", "running_max_req_size", "graph_max_batch_size"):
        parser.add_argument(f"--{name}", type=int)
    given = parser.parse_args(arguments)
    assert given.batch_max_tokens >= given.chunked_prefill_size
    assert given.max_total_token_num > given.batch_max_tokens
    assert given.max_total_token_num >= given.max_req_total_len
    return given.dialect, given


class Refused(Exception):
    """What LightLLM raises as ValueError."""


class Model:
    """Stands where the model would."""

    def __init__(self, dialect: str, given: argparse.Namespace) -> None:
        self.new = dialect == "1.2.0"
        self.given = given
        self.tokenizer = Tokenizer.from_file(str(given.model_dir / "tokenizer.json"))
        self.template = jinja2.Template((given.model_dir / "chat_template.jinja").read_text())
        golden = (given.model_dir / "golden.jsonl").read_text().splitlines()
        self.golden = {tuple(line["prompt_ids"]): line for line in map(json.loads, golden)}
        generation = json.loads((given.model_dir / "generation_config.json").read_text())
        self.default_do_sample = bool(generation.get("do_sample", True)) if self.new else True

    def prompt_of(self, messages: list[Json]) -> str:
        text: str = self.template.render(messages=messages, add_generation_prompt=True)
        return text

    def ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, list):
            return prompt
        found: list[int] = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return found

    def answer(self, ids: list[int], parameters: Json) -> tuple[list[tuple[int, float]], str]:
        """Token ids with log-probabilities, and the finish reason."""
        most = int(parameters["max_new_tokens"])
        if not 0 < parameters.get("top_p", 1.0) <= 1:
            raise Refused("top_p must be in (0, 1]")
        room = self.given.max_req_total_len - RESERVED_TOKENS - len(ids)
        if room < (1 if self.new else most):
            raise Refused("the input prompt token len is too long")
        most = min(most, room)
        greedy = not parameters.get("do_sample", True) or parameters.get("temperature", 1.0) < 1e-5
        if greedy and tuple(ids) in self.golden:
            line = self.golden[tuple(ids)]
            said = list(zip(line["token_ids"], line["logprobs"], strict=True))
            return said[:most], "stop" if len(said) < most else "length"
        draw = random.Random(f"{ids} {'' if greedy else time.time_ns()}")
        return [(draw.randrange(300, 40000), -draw.random()) for _ in range(most)], "length"

    def text(self, tokens: list[tuple[int, float]]) -> list[str]:
        return [self.tokenizer.decode([token], skip_special_tokens=True) for token, _ in tokens]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path in ("/health", "/healthz"):
            self._json(200, {"message": "Ok"})
        elif self.path == "/get_model_name":
            self._json(200, {"model_name": self.model.given.model_name})
        else:
            self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/generate":
            self._generate(body)
        elif self.path == "/v1/chat/completions":
            self._chat(body)
        else:
            self._json(404, {"detail": "Not Found"})

    def _generate(self, body: Json) -> None:
        try:
            parameters = dict(body["parameters"])
            details = parameters.pop("return_details", False)
            tokens, finish = self.model.answer(self.model.ids(body["inputs"]), parameters)
        except Refused as error:
            self._error(400 if self.model.new else 417, str(error))
            return
        except KeyError as error:
            self._error(417, str(error))
            return
        reply: Json = {
            "generated_text": ["".join(self.model.text(tokens))],
            "count_output_tokens": len(tokens),
            "finish_reason": finish,
            "prompt_tokens": len(self.model.ids(body["inputs"])),
        }
        if details:
            reply["tokens"] = [
                {"id": token, "logprob": logprob, "special": False, "text": text}
                for (token, logprob), text in zip(tokens, self.model.text(tokens), strict=True)
            ]
        self._json(200, reply)

    def _chat(self, body: Json) -> None:
        new = self.model.new
        if "messages" not in body or (not new and "model" not in body):
            self._json(422, {"detail": [{"type": "missing", "msg": "Field required"}]})
            return
        prompt = self.model.prompt_of(body["messages"])
        if "BUSY" in prompt:
            self._error(429 if new else 503, "Server is busy, please try again later")
            return
        parameters = {
            "max_new_tokens": body.get("max_tokens", 65536 if new else 16),
            "do_sample": body.get("do_sample", self.model.default_do_sample) if new else True,
            "temperature": body.get("temperature", 1.0),
            "top_p": body.get("top_p", 1.0),
        }
        model = body.get("model", "default")  # its reply repeats the request's word, whatever serves
        try:
            ids = self.model.ids(prompt)
            tokens, finish = self.model.answer(ids, parameters)
        except Refused as error:
            if not new and not body.get("stream"):
                self._plain(500, "Internal Server Error")
            elif not body.get("stream"):
                self._error(400, str(error))
            else:  # both have answered 200 before they look at the prompt
                self._begin_stream()
                if new:
                    self._event({"error": {"message": str(error), "type": "invalid_request_error"}})
                    self._end_stream()
            return
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(tokens)}
        usage["total_tokens"] = sum(usage.values())
        texts = self.model.text(tokens)
        stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
        for count in range(1, len(texts) + 1):
            if any(stop in "".join(texts[:count]) for stop in stops):
                texts, finish = texts[:count], "stop"
                break
        base = {"id": "chatcmpl-1", "created": 1, "model": model}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(texts), "tool_calls": None}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            self._json(200, {**base, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        self._begin_stream()
        base["object"] = "chat.completion.chunk"
        for at, text in enumerate(texts):
            if "BREAK" in prompt and at == 2:
                self.close_connection = True
                return
            last = not new and at == len(texts) - 1
            delta = {"role": "assistant", "content": text}
            self._event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish if last else None}]})
        if new:
            self._event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
            self._event({**base, "choices": [], "usage": usage})
            self._chunk(b"data: [DONE]\n\n")
        self._end_stream()

    def _error(self, status: int, message: str) -> None:
        if self.model.new:
            self._json(
                status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}
            )
        else:
            self._json(status, {"message": message})

    def _json(self, status: int, content: Json) -> None:
        self._plain(status, json.dumps(content), "application/json")

    def _plain(self, status: int, text: str, kind: str = "text/plain") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _begin_stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _event(self, content: Json) -> None:
        self._chunk(f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")


def main() -> None:
    dialect, given = parse(sys.argv[1:])
    sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", sleeper])  # the router, which only its launcher or a SIGKILL ends
    Handler.model = Model(dialect, given)
    server = ThreadingHTTPServer((given.host, given.port), Handler)
    server.daemon_threads = True

    def end(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    server.serve_forever(poll_interval=0.05)
    child.kill()


if __name__ == "__main__":
    main()
