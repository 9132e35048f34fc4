# SPDX-License-Identifier: Apache-2.0
"""Directories of a tree that somebody else made: never reached through a link."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import syscalls

_NONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


def need_directory(top: Path, inner: str, doing: str) -> Path:
    """The path of a directory below ``top``, no part of which is a link.

    It stays true as long as nobody but the daemon writes to the tree.

    :param doing: begins the sentence of the error, for example ``Importing the backup``.
    :raises BadRequest: there is none, or a link leads to it.
    """
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        os.close(syscalls.openat2(fd, inner, os.O_PATH | os.O_DIRECTORY, resolve=resolve))
    except OSError as exc:
        if exc.errno not in _NONE:
            raise
        raise BadRequest(f"{doing} failed: it has no directory {inner}, or only a link") from exc
    finally:
        os.close(fd)
    return top / inner


def check_root(tree: Path, name: str, doing: str) -> None:
    """Refuse a volume whose root tree is a link; it may be missing.

    :raises BadRequest: what is called ``name`` in ``tree`` is no directory.
    """
    if os.path.lexists(tree / name):
        need_directory(tree, name, doing)
