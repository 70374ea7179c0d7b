"""Calls of fsspec, whose errors are those of the system and hold no credentials."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mmdask.errors import ConflictError, MissingDependencyError, OptionError
from mmdask.store.storage.conditional import LostError

__all__ = ["TRIES", "again", "called", "file_system", "missing_package", "without_secrets"]

T = TypeVar("T")
#: calls that others may keep from succeeding at the same time
TRIES = 5
#: seconds before what could not be done is tried again
_PAUSES = (0.05, 0.2)
#: extras of mmdask that bring the package of a scheme
_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
_WHENCE = "in the environment or in fsspec's configuration"
_SECRETS = (
    (re.compile(r"//[^/\s@]*@"), "//...@"),
    (re.compile(r"\?[^\s'\"]*"), "?..."),
    (
        re.compile(r"(?i)((?:secret|token|signature|password|credential|access.?key)\w*['\"]?\s*[:=]\s*)\S+"),
        r"\1...",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "..."),
)


def called(where: str, function: Callable[..., T], /, *args: Any, **options: Any) -> T:
    """What a function of fsspec gives; `where` is what its errors are about."""
    try:
        return _while_it_changes(function, *args, **options)
    except FileNotFoundError as error:
        what = "bucket" if "bucket does not exist" in str(error) else "object"
        raise FileNotFoundError(errno.ENOENT, f"there is no such {what}", where) from None
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "there is such an object", where) from None
    except PermissionError as error:
        what = f"access is denied ({without_secrets(error)}): the credentials {_WHENCE} are wrong, or do not allow it"
        raise PermissionError(errno.EACCES, what, where) from None
    except (ConflictError, LostError):
        raise
    except Exception as error:
        if "Credentials" in type(error).__name__:
            what = f"{without_secrets(error)}; they are to be given {_WHENCE}"
            raise PermissionError(errno.EACCES, what, where) from None
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        raise OSError(number, without_secrets(error), where) from None


def _while_it_changes(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """A call, again where fsspec went over the objects of memory:// while another thread made one."""
    for _ in range(TRIES - 1):
        try:
            return function(*args, **options)
        except RuntimeError as error:
            if "changed size during iteration" not in str(error):
                raise
    return function(*args, **options)


def again(function: Callable[[], T]) -> T:
    """What a function gives, after a while if it cannot say at once; that a file is not there is an answer."""
    for pause in _PAUSES:
        try:
            return function()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause)
    return function()


def without_secrets(error: BaseException) -> str:
    """What an error says, without what may be a credential.

    Examples
    --------
    >>> without_secrets(OSError("cannot reach https://me:secret@host/x?X-Amz-Signature=abc"))
    'OSError: cannot reach https://...@host/x?...'
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    for pattern, by in _SECRETS:
        text = pattern.sub(by, text)
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]


def missing_package(scheme: str, error: ImportError) -> MissingDependencyError:
    """What to say where fsspec lacks the package of a scheme."""
    extra = _EXTRAS.get(scheme)
    how = f'; run: pip install "mmdask[{extra}]"' if extra else ""
    return MissingDependencyError(f"{scheme}:// needs a package: {error}{how}")


def file_system(root: str) -> tuple[Any, str]:
    """The file system behind a URL, and what it calls the place."""
    from fsspec.core import url_to_fs

    scheme = root.partition("://")[0]
    try:
        fs, path = url_to_fs(root, use_listings_cache=False)
    except ImportError as error:
        raise missing_package(scheme, error) from None
    except ValueError as error:
        raise OptionError(f"{root}: no URL of a store: {without_secrets(error)}") from None
    except Exception as error:
        raise OSError(errno.EIO, without_secrets(error), root) from None
    return fs, str(path)
