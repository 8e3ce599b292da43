"""What each process may have of PostgreSQL: as which role, how many connections, for how long a statement of its may run or wait.

One table, so that all together fit into what a server takes. A statement that is cut by it is Unavailable, like all that goes by
itself; what may take long (a replay, a backup, a migration, a command of an operator's) is not cut.
"""

from typing import Literal

from msgspec import Struct

Name = Literal["door", "streams", "relay", "engines", "worker", "builder", "swapper", "recall", "command"]
Role = Literal["noria_door", "noria_stream", "noria_workers"]
DOOR: Role = "noria_door"
STREAM: Role = "noria_stream"
WORKERS: Role = "noria_workers"
ROLES = (DOOR, STREAM, WORKERS)  # what each may do is in migrations.roles


class Share(Struct, frozen=True, kw_only=True):
    """Of one process. 0 seconds: for ever."""

    role: Role | None = None  # None: the owner of the tables
    pool: int  # connections, and none beyond them
    listens: int = 0  # connections that hear what the others say, beside the pool
    wait_s: float = 5.0  # for a connection of the pool
    statement_s: int = 0
    lock_s: int = 0
    idle_in_transaction_s: int = 0


SHARES: dict[Name, Share] = {
    # Somebody waits for each answer. What it asks for stands behind an index.
    "door": Share(role=DOOR, pool=32, listens=1, statement_s=10, lock_s=5, idle_in_transaction_s=60),
    # One batch is many statements, each of which writes a thousand rows at most; a rebuilding holds its lock for longer.
    "streams": Share(role=STREAM, pool=4, wait_s=30, statement_s=120, lock_s=60, idle_in_transaction_s=120),
    # It holds its transaction while it sends a batch, topic by topic.
    "relay": Share(role=STREAM, pool=2, listens=1, wait_s=30, statement_s=60, lock_s=60, idle_in_transaction_s=120),
    "engines": Share(role=WORKERS, pool=8, listens=1, wait_s=30, statement_s=30, lock_s=10, idle_in_transaction_s=60),
    # A selection reads all that a domain has, and holds its transaction while it looks at it.
    "worker": Share(role=WORKERS, pool=6, wait_s=30, statement_s=600, lock_s=60, idle_in_transaction_s=900),
    # It keeps each answer of a teacher, in a transaction of its own.
    "builder": Share(role=WORKERS, pool=4, wait_s=30, statement_s=600, lock_s=60, idle_in_transaction_s=120),
    "swapper": Share(role=WORKERS, pool=6, wait_s=30, statement_s=60, lock_s=60, idle_in_transaction_s=900),
    # It follows with one connection; another hears what is erased, and another where the tables stand.
    "recall": Share(role=WORKERS, pool=4, listens=2, wait_s=30, statement_s=120, lock_s=60, idle_in_transaction_s=120),
    # Replays, backups, migrations, and each step of a start: whoever started them is there to stop them.
    "command": Share(pool=5, wait_s=30),
}
COMMANDS_AT_ONCE = 3
BY_HAND = 5  # somebody who looks at the tables, and whatever watches the server


def connections() -> int:
    """How many connections everything on one machine may have open at once."""
    serving = sum(share.pool + share.listens for name, share in SHARES.items() if name != "command")
    return serving + COMMANDS_AT_ONCE * SHARES["command"].pool + BY_HAND
