"""The child process: llama.cpp's own HTTP server, in this process, for one model file.

Prints one line of JSON, {"address": "http://127.0.0.1:port"}, once it answers. Ends on SIGTERM, or when its standard input closes.
"""

import argparse
import json
import os
import signal
import sys
import threading

KEY_VARIABLE = "NORIA_ENGINE_KEY"
BATCH_TOKENS = 64
"""Tokens of prompts that are read at a time. Until they are read nobody gets their next token, and a caller who has left is not
noticed. As measured (one thread of two busy cores): for a prompt of 771 tokens 64 at a time took 8.2 s of processor and 2048, the
server's own number, 8.4 s; another's stream stood still for 1.7 s and 12.8 s. 32 at a time took 10.6 s and 0.7 s."""
ERRORS_ONLY = 1  # llama.cpp's verbosity; from 3 on it may print parts of a request


def main() -> int:
    """Serve one GGUF on loopback until told to stop."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context-tokens", type=int, required=True, help="for each slot")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()

    threading.Thread(target=end_with_parent, daemon=True).start()
    told = threading.Event()
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # the server installs none, and dies in mid-answer without one
        signal.signal(number, lambda *_: told.set())

    # Its output can quote what people wrote (a template error prints its input), so none of it is kept once it serves.
    stdout = os.fdopen(os.dup(1), "w")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.model_alias = {given.name}
    params.api_keys = [os.environ.pop(KEY_VARIABLE)]
    params.hostnames = ["127.0.0.1"]
    params.port = given.port
    params.n_parallel = given.slots
    params.n_ctx = given.slots * given.context_tokens  # llama.cpp's number is the total over the slots
    params.cpuparams.n_threads = given.threads
    params.cpuparams_batch.n_threads = given.threads
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_threads_http = given.slots + 4
    params.cache_ram_mib = 0  # no copies of old conversations in memory
    params.endpoint_slots = False  # it would show the prompts in work
    params.ui = False
    params.offline = True
    params.verbosity = ERRORS_ONLY
    # An answer that looks like a thought or a tool call stays text. (With `force_pure_content_parser` it would too, but then a
    # response_format is passed over without a word.)
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    server = xllamacpp.Server(params)  # returns when the model is loaded
    silence()
    stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    stdout.flush()
    while not told.wait(1.0):
        pass
    del server  # closes the port and joins its threads
    return 0


def silence() -> None:
    """Keep nothing of what is printed from here on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def end_with_parent() -> None:
    """Return never: end this process when its standard input closes."""
    while os.read(0, 1):
        pass
    os._exit(0)  # nobody is left to drain for, and a tidy stop can hang on a request in flight


if __name__ == "__main__":
    sys.exit(main())
