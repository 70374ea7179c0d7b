"""A server of S3 on this machine, of moto, for tests that need an object store."""

from __future__ import annotations

import contextlib
import logging
import os
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
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "never-shown",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        _forget(fsspec, remote)
        fsspec.filesystem("s3").mkdir(bucket)
        yield f"s3://{bucket}"
    finally:
        _forget(fsspec, remote)
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _forget(fsspec, remote) -> None:
    """Connections of another server."""
    remote._KNOWN.clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
