"""The Kafka cluster that holds the log: where it answers, and how whoever connects proves who it is."""

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from streams.errors import Invalid, Unavailable
from streams.private import is_private

SECURITY = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LOGIN = {"NORIA_KAFKA_USER", "NORIA_KAFKA_PASSWORD_FILE", "NORIA_KAFKA_MECHANISM"}
TLS = {"NORIA_KAFKA_CA", "NORIA_KAFKA_CERTIFICATE", "NORIA_KAFKA_KEY"}

# With each connection the libraries warn that a login goes over it in the clear; who sets SASL_PLAINTEXT has said so.
for _talker in ("kafka.net.sasl.plain", "kafka.net.sasl.scram", "aiokafka.conn"):
    logging.getLogger(_talker).addFilter(lambda record: "in the clear" not in record.getMessage())


class Cluster(Struct, frozen=True, kw_only=True):
    """`security` and `mechanism` by Kafka's names. The password stands in its file and nowhere else; a client gets it when it is
    opened."""

    servers: str  # host:port, by comma
    security: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    user: str = ""
    password_file: Path | None = None
    ca: Path | None = None  # None: whom this machine trusts
    certificate: Path | None = None
    key: Path | None = None  # of the certificate

    @property
    def addresses(self) -> list[str]:
        return self.servers.split(",")

    @property
    def asks_login(self) -> bool:
        return self.security.startswith("SASL_")

    @property
    def speaks_tls(self) -> bool:
        return self.security.endswith("SSL")

    def environ(self) -> dict[str, str]:
        """The settings that say this; `named_cluster` reads them."""
        said: dict[str, object] = {"NORIA_KAFKA": self.servers, "NORIA_KAFKA_SECURITY": self.security}
        if self.asks_login:
            said |= {
                "NORIA_KAFKA_USER": self.user,
                "NORIA_KAFKA_PASSWORD_FILE": self.password_file,
                "NORIA_KAFKA_MECHANISM": self.mechanism,
            }
        if self.speaks_tls:
            said |= {
                "NORIA_KAFKA_CA": self.ca,
                "NORIA_KAFKA_CERTIFICATE": self.certificate,
                "NORIA_KAFKA_KEY": self.key,
            }
        return {name: str(value) for name, value in said.items() if value is not None}

    def client(self) -> dict[str, Any]:
        """What every client of kafka-python is given. Raises Unavailable for a file that was there at the start and is no more."""
        given: dict[str, Any] = {"bootstrap_servers": self.addresses, "security_protocol": self.security}
        try:
            if self.asks_login:
                given |= {
                    "sasl_mechanism": self.mechanism,
                    "sasl_plain_username": self.user,
                    "sasl_plain_password": self.password(),
                }
            if self.speaks_tls:
                given["ssl_context"] = self.tls_context()
        except Invalid as error:
            raise Unavailable(str(error)) from error
        return given

    def password(self) -> str:
        """Raises Invalid, naming the setting and never what the file holds."""
        assert self.password_file is not None
        raw = _read_private("NORIA_KAFKA_PASSWORD_FILE", self.password_file)
        try:
            found = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise Invalid(f"NORIA_KAFKA_PASSWORD_FILE: {self.password_file} is not UTF-8") from None
        if not found:
            raise Invalid(f"NORIA_KAFKA_PASSWORD_FILE: {self.password_file} is empty")
        return found

    def tls_context(self) -> ssl.SSLContext:
        """It wants the server's name in the certificate. Raises Invalid, naming the setting."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise Invalid(f"NORIA_KAFKA_CA: {self.ca} holds no certificates ({reason_of(error)})") from None
        if self.certificate is not None and self.key is not None:
            _read_private("NORIA_KAFKA_KEY", self.key)
            try:
                context.load_cert_chain(
                    self.certificate, self.key, password=lambda: b""
                )  # else it asks at the terminal
            except OSError as error:
                raise Invalid(
                    f"NORIA_KAFKA_CERTIFICATE and NORIA_KAFKA_KEY: {self.certificate} and {self.key} are not a certificate and"
                    f" its key without a password ({reason_of(error)})"
                ) from None
        return context


def named_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster that NORIA_KAFKA and NORIA_KAFKA_* name; None where they name none. Raises Invalid, naming the setting that is
    wrong."""
    if not environ.get("NORIA_KAFKA"):
        if given := sorted(name for name in environ if name.startswith("NORIA_KAFKA_") and environ[name]):
            raise Invalid(f"{', '.join(given)} is set, and NORIA_KAFKA, the cluster that it is for, is not")
        return None

    def file(variable: str) -> Path | None:
        return Path(environ[variable]).absolute() if environ.get(variable) else None

    found = Cluster(
        servers=environ["NORIA_KAFKA"],
        security=environ.get("NORIA_KAFKA_SECURITY") or "PLAINTEXT",
        mechanism=environ.get("NORIA_KAFKA_MECHANISM") or "PLAIN",
        user=environ.get("NORIA_KAFKA_USER", ""),
        password_file=file("NORIA_KAFKA_PASSWORD_FILE"),
        ca=file("NORIA_KAFKA_CA"),
        certificate=file("NORIA_KAFKA_CERTIFICATE"),
        key=file("NORIA_KAFKA_KEY"),
    )
    for variable, value, known in (
        ("NORIA_KAFKA_SECURITY", found.security, SECURITY),
        ("NORIA_KAFKA_MECHANISM", found.mechanism, MECHANISMS),
    ):
        if value not in known:
            raise Invalid(f"{variable} must be one of {', '.join(known)}; got {value!r}")
    for wanted, variables, what in ((found.asks_login, LOGIN, "no login"), (found.speaks_tls, TLS, "no TLS")):
        if not wanted and (given := sorted(name for name in variables if environ.get(name))):
            raise Invalid(f"{', '.join(given)} is set, and NORIA_KAFKA_SECURITY is {found.security}, which has {what}")
    if found.asks_login:
        if not found.user or found.password_file is None:
            raise Invalid(
                f"NORIA_KAFKA_SECURITY is {found.security}: set both NORIA_KAFKA_USER and NORIA_KAFKA_PASSWORD_FILE"
            )
        found.password()
    if (found.certificate is None) != (found.key is None):
        raise Invalid("set both NORIA_KAFKA_CERTIFICATE and NORIA_KAFKA_KEY, or neither")
    if found.speaks_tls:
        found.tls_context()
    return found


def _read_private(variable: str, path: Path) -> bytes:
    try:
        if not is_private(path):
            raise Invalid(f"{variable}: {path} must not be readable by others (mode 0600)")
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"{variable}: {path} cannot be read ({reason_of(error)})") from None


def reason_of(error: OSError) -> str:
    """In a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    return error.strerror or type(error).__name__
