"""A local server that speaks S3, for the tests of object storage."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of the server, which runs in threads of this process. Without moto the test is skipped."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server,s3]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def use_new_bucket(server: str, name: str, patch: pytest.MonkeyPatch) -> None:
    """Makes a bucket on the server, and sets in the environment how to reach it."""
    about = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "HPAL_REMOTE_PATIENCE": "20",
    }
    for variable, value in about.items():
        patch.setenv(variable, value)
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
