"""S3 on this machine: moto's server in a thread, and a bucket."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "noria"
LOGIN = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class S3:
    url: str
    """Of the server."""

    def place(self) -> str:
        """Where nothing lies yet."""
        return f"s3://{BUCKET}/{uuid4().hex}"

    def asks_for_a_login(self, asks: bool) -> None:
        """From the next request on it refuses whom it does not know."""
        said = httpx.post(f"{self.url}/moto-api/reset-auth", content=b"0" if asks else b"1000000000")
        assert said.status_code == 200, said.text


@contextmanager
def running() -> Iterator[S3]:
    """The environment names it meanwhile, as it would name another."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        with pytest.MonkeyPatch.context() as patched:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patched.delenv(name)
            for name, value in (LOGIN | {"AWS_ENDPOINT_URL_S3": url}).items():
                patched.setenv(name, value)
            assert httpx.put(f"{url}/{BUCKET}", headers={"Host": f"{host}:{port}"}).status_code == 200
            yield S3(url)
    finally:
        server.stop()
