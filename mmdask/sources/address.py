"""Addresses of files as they may be shown and kept: without passwords, and without what a query may hold. Pure."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import xxhash

from mmdask.errors import OptionError

__all__ = ["check_address", "public_address", "scrubbed"]

#: one may stand within another, as in zip://a.root::https://server/a.zip
_AUTHORITY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?=([^/?#\s]*)(\S*))")
#: github://org:repository@commit/path: no name and password, unless it is one of its tokens
_REPOSITORY = re.compile(r"[^:]+:(?!gh[a-z]_|github_pat_)[^:]+")
_QUERY = re.compile(r"(://[^\s?'\")]*)\?[^\s'\")]*")
#: parts of queries that let one in for some time, and say nothing of which file it is
_PASSES = re.compile(
    r"(?i)x-(amz|goog|oss|cos|ms)-.*|awsaccesskeyid|googleaccessid|key-pair-id|policy|signature|expires|expiry"
    r"|s[evrpit]|spr|sig|sk[a-z]+|authz|auth|authorization|(.*[_-])?(token|key|secret|password|jwt)"
)


def check_address(text: str) -> None:
    """Refuse an address that holds a password, or a token in its place.

    Raises
    ------
    OptionError
        Which does not repeat it.

    Examples
    --------
    >>> check_address("https://server:8080/a@b.root:nominal")
    >>> check_address("github://org:repository@main/a.root")
    >>> check_address("https://me:secret@server/a.root")
    Traceback (most recent call last):
    mmdask.errors.OptionError: a source has a password in its address, https://...@server/a.root, which ...
    """
    for scheme, authority, rest in _AUTHORITY.findall(text):
        user, at, host = authority.rpartition("@")
        if scheme.lower() == "github" and _REPOSITORY.fullmatch(user):
            continue
        port = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else ""
        # a slash in a password ends what is before the @, and what follows the colon is no port
        broken = not at and port.strip("0123456789") and "@" in rest
        if (at and (":" in user or scheme.lower() in ("http", "https"))) or broken:
            where = f"{authority}{rest}".rpartition("@")[2].partition("?")[0]  # a password may hold an @, too
            raise OptionError(
                f"a source has a password in its address, {scheme}://...@{where}, which the store "
                "would keep for everyone to read. Leave it out, and give it as fsspec is told of such things: in a "
                f"file ~/.config/fsspec/conf.json, by fsspec.config.conf[{scheme.lower()!r}] = {{...}}, or in the "
                "environment, as in FSSPEC_S3_SECRET"
            )


def public_address(url: str) -> str:
    """An address without its query, which may hold a token or a signature; a hash stands for what tells files apart.

    What only lets one in is no part of the hash, so that a file is the same when it is signed anew.

    Examples
    --------
    >>> public_address("https://server/a.root?X-Amz-Expires=60&X-Amz-Signature=5f")
    'https://server/a.root'
    >>> public_address("https://server/get?file=7&sig=5f") == public_address("https://server/get?sig=60&file=7")
    True
    >>> public_address("s3://bucket/a.root"), public_address("/data/what?.root")
    ('s3://bucket/a.root', '/data/what?.root')
    """
    bare, _, query = url.partition("?")
    if "://" not in bare or not (url.lower().startswith("http") or "=" in query):
        return url  # a wildcard, or a name
    query, mark, fragment = query.partition("#")
    kept = sorted(pair for pair in parse_qsl(query, keep_blank_values=True) if not _PASSES.fullmatch(pair[0]))
    if not kept:
        return bare + mark + fragment
    return f"{bare}?{xxhash.xxh3_64_hexdigest(repr(kept).encode())}{mark}{fragment}"


def scrubbed(text: str) -> str:
    """A message of another program without the queries of addresses in it."""
    return _QUERY.sub(r"\1", text)
