# SPDX-License-Identifier: Apache-2.0
"""The files of an instance, running or stopped (LXD: ``/1.0/instances/NAME/files``)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nova_lxd.lxd.errors import (
    NO_SPACE,
    BadRequest,
    Conflict,
    Forbidden,
    LXDError,
    NoSpace,
    NotFound,
    Unavailable,
)
from nova_lxd.lxd.host.files import Rootfs
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.paths import storage_name
from nova_lxd.lxd.storage.service import Storage
from nova_lxd.lxd.storage.volume import ROOTFS, Volume, VolumeType

_PATH_MAX = 4096
_ERRORS: dict[int, tuple[type[LXDError], str]] = {
    errno.ENOENT: (NotFound, "Not Found"),
    errno.ENOTDIR: (BadRequest, "a part of the path is no directory"),
    errno.EISDIR: (BadRequest, "it is a directory"),
    errno.EEXIST: (Conflict, "it exists"),
    errno.ENOTEMPTY: (BadRequest, "the directory is not empty"),
    errno.EACCES: (Forbidden, "it is no regular file or may not be read"),
    errno.EPERM: (Forbidden, "the file system does not allow it"),
    errno.ELOOP: (BadRequest, "too many symbolic links"),
    errno.EXDEV: (BadRequest, "the path leads out of the instance"),
    errno.EROFS: (Forbidden, "the file system is read-only"),
    errno.EOVERFLOW: (BadRequest, "the owner is outside of the instance's id map"),
    errno.EINVAL: (BadRequest, "the value is not valid there"),
    errno.ENAMETOOLONG: (BadRequest, "the name is too long"),
    errno.EMFILE: (Unavailable, "the daemon may not open more files now"),
    errno.ENFILE: (Unavailable, "the host may not open more files now"),
    errno.ENOMEM: (Unavailable, "the host is out of memory"),
    **{number: (NoSpace, "the instance's disk is full") for number in NO_SPACE},
}


def check_path(path: str) -> str:
    """The absolute form of a path inside.

    :raises BadRequest: it is empty, too long or holds a NUL byte.
    """
    if not path:
        raise BadRequest("Missing path argument")
    if "\0" in path or len(os.fsencode(path)) > _PATH_MAX:
        raise BadRequest("Invalid path: it holds a NUL byte or is too long")
    return "/" + path.lstrip("/")


@contextmanager
def told(action: str, path: str) -> Iterator[None]:
    """Turn an OSError about a path inside into the API's error."""
    try:
        yield
    except OSError as exc:
        kind, why = _ERRORS.get(exc.errno or 0, (BadRequest, exc.strerror or str(exc)))
        if kind is NotFound:
            raise NotFound(why) from exc
        raise kind(f"{action} {path!r} failed: {why}") from exc


def open_rootfs(instance: Instance, storage: Storage, pool: str) -> Rootfs:
    """The instance's files: what its processes see while it runs, else its volume.

    The caller closes it.
    """
    running = instance.running
    if running is not None:
        with suppress(ProcessLookupError):  # when it ended just now, its volume is there
            return Rootfs.of_running(running, instance.idmap)
    volume = Volume(VolumeType.CONTAINER, storage_name(instance.project, instance.name))
    return Rootfs.of_directory(storage.driver(pool).mount_volume(volume) / ROOTFS)
