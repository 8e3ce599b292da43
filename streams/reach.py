"""Why no client of a cluster could be opened. The library tries again until its time is up, and says no more than that: here each
step that it takes is taken once more, by itself."""

import socket
import ssl
import struct

from kafka.errors import KafkaError
from kafka.net.sasl import get_sasl_mechanism

from streams.cluster import Cluster, reason_of
from streams.errors import LoginRefused, LogUnavailable

TIMEOUT_S = 1.0
SASL_HANDSHAKE, SASL_AUTHENTICATE = 17, 36  # requests and errors, by Kafka's numbers
UNSUPPORTED_SASL_MECHANISM, SASL_AUTHENTICATION_FAILED = 33, 58


def unreachable(cluster: Cluster, error: KafkaError) -> LogUnavailable:
    """What `error` came of: nobody answers, TLS was not agreed on, the login was refused (LoginRefused), or the server waits for
    something else."""
    for server in cluster.addresses:
        host, _, port = server.rpartition(":")
        try:
            connection = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        except OSError:
            continue
        try:
            return _trouble_of(cluster, server, connection, host)
        finally:
            connection.close()
    return LogUnavailable(
        f"the log cannot be reached: Kafka at {cluster.servers} does not answer: {type(error).__name__}"
    )


def _trouble_of(cluster: Cluster, server: str, connection: socket.socket, host: str) -> LogUnavailable:
    """Of a server that takes connections."""
    what, given = f"the log cannot be reached: Kafka at {server}", cluster.client()
    how = f"{cluster.security} with {cluster.mechanism}" if cluster.asks_login else cluster.security
    silent = LogUnavailable(f"{what} takes connections and does not answer to {how} (NORIA_KAFKA_SECURITY)")
    if cluster.speaks_tls:
        try:
            connection = given["ssl_context"].wrap_socket(connection, server_hostname=host)
        except TimeoutError:
            return silent
        except OSError as error:
            return LogUnavailable(f"{what} does not agree on TLS: {reason_of(error)}")
    try:
        code = _log_in(connection, given) if cluster.asks_login else 0
        if cluster.speaks_tls and not cluster.asks_login:
            connection.recv(1)  # what a server thinks of our certificate comes after the handshake
    except ssl.SSLError as error:
        return LogUnavailable(f"{what} does not agree on TLS: {reason_of(error)}")
    except (OSError, ValueError, LookupError):
        return silent
    finally:
        connection.close()
    if code == UNSUPPORTED_SASL_MECHANISM:
        return LoginRefused(f"{what} takes no login by {cluster.mechanism} (NORIA_KAFKA_MECHANISM)")
    return LoginRefused(f"{what} refused the login of {cluster.user}") if code else silent


def _log_in(connection: socket.socket, given: dict[str, str]) -> int:
    """Kafka's code for what the server has against the login; 0: nothing. Raises OSError, ValueError or LookupError for what is no
    such server."""
    name = given["sasl_mechanism"].encode()
    answer = _ask(connection, SASL_HANDSHAKE, 1, struct.pack(">h", len(name)) + name)
    if code := _number(">h", answer[:2]):
        return code
    mechanism = get_sasl_mechanism(given["sasl_mechanism"])(**given)
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        answer = _ask(connection, SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        if code := _number(">h", answer[:2]):
            return code
        said = answer[4:]  # after the code, there is no message where there is no error
        mechanism.receive(said[4:])
    return 0 if mechanism.is_authenticated() else SASL_AUTHENTICATION_FAILED


def _ask(connection: socket.socket, request: int, version: int, body: bytes) -> bytes:
    """The answer behind its header. What was sent before the other end hung up is read; the library loses it."""
    asked = struct.pack(">hhih", request, version, 0, -1) + body
    connection.sendall(struct.pack(">i", len(asked)) + asked)
    return _taken(connection, _number(">i", _taken(connection, 4)))[4:]


def _taken(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (more := connection.recv(size - len(found))):
            raise ConnectionResetError
        found += more
    return found


def _number(form: str, raw: bytes) -> int:
    if len(raw) != struct.calcsize(form):
        raise ValueError("not a number of Kafka's")
    return int(struct.unpack(form, raw)[0])
