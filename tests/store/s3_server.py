"""A server of S3 on this machine, of moto, for tests that need an object store."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import urllib.request
from collections.abc import Iterator

import pytest

__all__ = ["s3_server"]


@contextlib.contextmanager
def s3_server(bucket: str = "bucket") -> Iterator[str]:
    """Run a server with one bucket, which is where s3:// leads as long as it runs; the URL of the bucket."""
    moto = pytest.importorskip("moto.server", reason="no moto: pip install 'moto[s3]' flask flask-cors s3fs")
    pytest.importorskip("s3fs", reason="no s3fs: pip install s3fs")
    import fsspec

    from mmdask.store.storage import remote

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    server._server.app = _one_by_one(server._server.app)
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "never-shown",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # nothing of the user who runs the tests: no profile, no token, no proxy on the way to this machine
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    removed = {"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"}
    before = {name: os.environ.get(name) for name in {*environment, *removed}}
    os.environ.update(environment)
    for name in removed:
        os.environ.pop(name, None)
    try:
        _forget(fsspec, remote)
        # Servers of one process have the same buckets.
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", b"").close()
        fsspec.filesystem("s3").mkdir(bucket)
        yield f"s3://{bucket}"
    finally:
        _forget(fsspec, remote)
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _one_by_one(app):
    """As S3 has it: nothing comes between looking at the condition of a put and the put. Threads of moto do."""
    lock = threading.Lock()

    def conditional(environ, start_response):
        if environ["REQUEST_METHOD"] != "PUT" or not {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & environ.keys():
            return app(environ, start_response)
        with lock:
            return app(environ, start_response)

    return conditional


def _forget(fsspec, remote) -> None:
    """Connections of another server."""
    remote._KNOWN.clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
