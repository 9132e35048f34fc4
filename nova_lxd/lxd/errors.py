# SPDX-License-Identifier: Apache-2.0
"""The daemon's errors: each carries the HTTP status that the API edge puts into LXD's envelope.

A message is one sentence that says what was attempted on what, why it failed and, where the reader
can act, what to do.  Code decides by class or status, never by a message's text.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager


class LXDError(Exception):
    """Base of every error that a client may see; ``status`` is the HTTP status of the answer."""

    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(LXDError):
    """The request is malformed or asks for something that can never be valid."""

    status = 400


class Forbidden(LXDError):
    """The client is not allowed to do this."""

    status = 403


class NotFound(LXDError):
    """The named object does not exist."""

    status = 404


class Conflict(LXDError):
    """The object exists already, or its state forbids the action now."""

    status = 409


class PreconditionFailed(LXDError):
    """If-Match named another version of the object than the stored one."""

    status = 412


class TooLarge(LXDError):
    """The body, image or volume is larger than allowed."""

    status = 413


class NotImplementedHere(LXDError):
    """LXD knows a word for this, but the request asks for a form that no server offers."""

    status = 501


class Unavailable(LXDError):
    """The host lacks something for the moment; the same request may work later."""

    status = 503


class NotReady(LXDError):
    """The daemon is starting or shutting down."""

    status = 503


class NoSpace(LXDError):
    """The disk or pool is full."""

    status = 507


class InternalError(LXDError):
    """The host refused something that should have worked; the message carries the cause."""

    status = 500


#: What "the disk is full" is to the kernel: the file system, a quota, a limit on the file's size.
NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS))


def refused_by_host(attempt: str, exc: OSError) -> LXDError:
    """The error for an attempt, "Creating pool 'p'", that the host's kernel refused."""
    why = exc.strerror or str(exc)
    if isinstance(exc.filename, str | bytes):
        why += f" ({os.fsdecode(exc.filename)})"
    if exc.errno in NO_SPACE:
        return NoSpace(f"{attempt} failed: {why}; free some space and try again")
    if exc.errno in _SCARCE:
        return Unavailable(
            f"{attempt} failed: {why}; the host is short of it now, try again later"
        )
    return InternalError(f"{attempt} failed: {why}")


@contextmanager
def attempting(attempt: str) -> Iterator[None]:
    """Tell what the host refuses within the block as an error about ``attempt``."""
    try:
        yield
    except OSError as exc:
        raise refused_by_host(attempt, exc) from exc
