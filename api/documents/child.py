"""The process in which one document is read: `python -m api.documents.child`.

A parser of PDF or Word is large, and what it reads comes from anywhere. So it runs alone, without the door's keys or
environment; and once its libraries are loaded it may open nothing any more, neither a file nor a socket: what it has is its
standard input, with the document, and its standard output.
"""

import codecs
import resource
import sys

import msgspec

from api.documents import encodings, formats
from api.documents.faults import Unreadable
from api.documents.protocol import Asked, Fault, Found
from streams.passages import passages_of


def limit(asked: Asked) -> None:
    for what, most in (
        (resource.RLIMIT_CORE, 0),  # a core file would hold the document
        (resource.RLIMIT_AS, asked.memory_bytes),
        (resource.RLIMIT_CPU, asked.cpu_s),
    ):
        resource.setrlimit(what, (most, most))


def lock(kind: str) -> None:
    """From here on nothing can be opened and nothing written to a file."""
    for name in encodings.ALL:
        codecs.lookup(name)
    formats.warm_up(kind)
    for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        resource.setrlimit(what, (0, 0))


def answer(asked: Asked) -> Found | Fault:
    try:
        text = formats.text_of(asked.kind, sys.stdin.buffer.read(), asked.most_characters)
        passages = passages_of(text)
    except Unreadable as error:
        return Fault(error.code, str(error))
    except MemoryError:
        return Fault("too_hard", "reading it takes more memory than a document is given")
    except RecursionError:
        return Fault("too_hard", "it is nested too deep")
    except Exception as error:
        # Whatever a library says of a document that it cannot read; its words may be the document's.
        return Fault("broken", f"it cannot be read as what its name says ({type(error).__name__})")
    if len(passages) > asked.most_passages:
        return Fault(
            "too_large", f"it has {len(passages):,} passages; at most {asked.most_passages:,} are taken of one document"
        )
    return Found(text, [(one.place, one.start, one.end) for one in passages])


def main() -> None:
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Asked)
    limit(asked)
    lock(asked.kind)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer(asked)))


if __name__ == "__main__":
    main()
