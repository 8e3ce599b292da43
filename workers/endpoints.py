"""Whether an address that a policy names may be asked from here. Who writes policies may not reach, through Noria, what stands
beside it: the metadata service of a cloud, a database, another's machine."""

import socket
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from streams.errors import Invalid, Unavailable


def check_address(base_url: str, allowed: Collection[str]) -> None:
    """Raise Invalid where any address of its host is no public one, and neither `host` nor `host:port` is `allowed`
    (NORIA_PRIVATE_ENDPOINTS); Unavailable where the host has none."""
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if host in allowed or f"{host}:{port}" in allowed:
        return
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise Unavailable(f"the host {host} of an endpoint has no address") from None
    if any(not ip_address(address.partition("%")[0]).is_global for address in found):
        raise Invalid(
            f"the endpoint {host}:{port} is at a private address: whoever runs Noria allows it with"
            f" NORIA_PRIVATE_ENDPOINTS={host}:{port}"
        )
