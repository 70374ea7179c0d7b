"""URLs of stores: which text is one, and which may be one."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from mmdask.errors import OptionError

__all__ = ["checked_url", "is_url"]

#: of fsspec, as simplecache::s3://bucket/x
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::.*://")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: what pathlib makes of a URL
_BROKEN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")


def is_url(text: str) -> bool:
    """Whether the root of a store is a URL. A folder that is there may be called so."""
    return _URL.match(text) is not None and not os.path.lexists(text.split("/")[0])


def _has_slash_in_password(netloc: str, rest: str) -> bool:
    """Whether an authority ends within a password, as keys of S3 may have a slash: what follows a colon is no port."""
    port = netloc.rpartition(":")[2] if ":" in netloc and not netloc.endswith("]") else ""
    return "@" not in netloc and "@" in rest and not port.isdecimal() and port != ""


def checked_url(text: str) -> str | None:
    """The root that a URL of a user means; None for text that is none. One of the system's files becomes its path.

    Raises
    ------
    OptionError
        When it holds a password, or a query, which may; or is no URL of a store. No message repeats either.
    """
    if _BROKEN.match(text) and not os.path.lexists(text.split("/")[0]):
        raise OptionError(f"pathlib makes other text of a URL, got {text.split('@')[-1]!r}; give it as text")
    if _CHAIN.match(text) and not os.path.lexists(text.split("/")[0]):
        raise OptionError(
            f"a store has one URL, and this is a chain of them that begins with {text.partition('::')[0]!r}; give the "
            "last alone"
        )
    if not is_url(text):
        return None
    scheme = text.partition("://")[0].lower()
    try:
        parts = urlsplit(text)
        secret = parts.password is not None or _has_slash_in_password(parts.netloc, parts.path)
    except ValueError:
        raise OptionError(f"this is no {scheme}:// URL that can be read") from None
    if secret or (scheme in ("http", "https") and parts.username is not None):
        raise OptionError(
            f"a {scheme}:// URL with a password was given (not shown): it would be in errors, logs and pickles. "
            "Credentials come from the environment or from fsspec's configuration"
        )
    if "?" in text or "#" in text:
        raise OptionError(
            f"a {scheme}:// URL with a query or fragment was given (not shown), which may hold a key; a store has many "
            "files, and its URL is that of their folder"
        )
    if "::" in text:
        raise OptionError(f"a store has one URL, and this is a chain of them: {text!r}")
    rest = text.partition("://")[2].strip("/") if scheme != "file" else text.partition("://")[2]
    if not rest.strip("/"):
        raise OptionError(f"{text!r} names no store; a URL is like 's3://bucket/events.mm'")
    if scheme in ("file", "local"):
        return os.path.abspath("/" + rest.lstrip("/"))
    if any(part in ("", ".", "..") for part in rest.split("/")):
        raise OptionError(f"{text!r}: a URL of a store has no empty, '.' or '..' parts")
    return f"{scheme}://{rest}"
