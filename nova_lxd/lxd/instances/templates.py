# SPDX-License-Identifier: Apache-2.0
"""Template files of images: ``metadata.yaml``'s ``templates`` and the files below ``templates/``.

LXD renders them with pongo2; here Jinja2 does it, sandboxed, after a translation of what the two
write differently.  A template comes from whoever made the image and its target lies in a tree that
a guest controls: neither is believed.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nova_lxd.lxd.errors import NO_SPACE, BadRequest, NoSpace
from nova_lxd.lxd.host import syscalls
from nova_lxd.lxd.images.metadata import load_yaml
from nova_lxd.lxd.storage.volume import ROOTFS

LOG = logging.getLogger(__name__)

METADATA = "metadata.yaml"
DIRECTORY = "templates"
MAX_TEMPLATE = 1024 * 1024
MAX_METADATA = 1024 * 1024
MAX_TARGETS = 1000


@dataclass(frozen=True)
class Template:
    """One entry of ``templates``: what to render, where to and when."""

    path: str
    file: str
    when: tuple[str, ...] = ()
    create_only: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """The instance as its templates see it."""

    name: str
    architecture: str
    privileged: bool
    ephemeral: bool
    config: Mapping[str, str]
    devices: Mapping[str, Mapping[str, str]]

    def variables(self, template: Template, trigger: str) -> dict[str, Any]:
        """The names that a template may use, as LXD documents them."""
        instance = {
            "name": self.name,
            "type": "container",
            "architecture": self.architecture,
            "privileged": "true" if self.privileged else "false",
            "ephemeral": "true" if self.ephemeral else "false",
        }

        def config_get(key: object, default: object = "") -> object:
            value = self.config.get(str(key))
            return default if value is None else value.rstrip("\r\n")

        return {
            "trigger": trigger,
            "path": template.path,
            "container": instance,
            "instance": instance,
            "config": dict(self.config),
            "devices": {name: dict(device) for name, device in self.devices.items()},
            "properties": dict(template.properties),
            "config_get": config_get,
        }


def read(volume: Path) -> list[Template]:
    """The templates of an instance's volume; none when it has no metadata.yaml.

    :raises BadRequest: metadata.yaml is not what an image may hold.
    """
    data = read_regular(volume, METADATA, MAX_METADATA)
    if data is None:
        return []
    # Most often there are none, and YAML is slow.
    return list(_parse(data)) if b"templates" in data else []


@functools.lru_cache(maxsize=64)
def _parse(data: bytes) -> tuple[Template, ...]:
    """The templates in the text of a metadata.yaml; instances of one image share it."""
    document = load_yaml(data)
    entries = document.get("templates") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        return ()
    if len(entries) > MAX_TARGETS:
        raise BadRequest(f"Reading templates failed: there are more than {MAX_TARGETS}")
    return tuple(_template(str(path), entry) for path, entry in entries.items())


def _template(path: str, entry: Any) -> Template:
    if not isinstance(entry, dict) or not isinstance(entry.get("template", ""), str):
        raise BadRequest(f"Reading template {path[:128]!r} failed: it names no template file")
    when = entry.get("when") or []
    properties = entry.get("properties") or {}
    if not isinstance(when, list) or not isinstance(properties, dict):
        raise BadRequest(f"Reading template {path[:128]!r} failed: its fields have wrong types")
    return Template(
        path,
        str(entry.get("template", "")),
        tuple(str(word) for word in when),
        str(entry.get("create_only", "false")).lower() == "true",
        {str(key): str(value) for key, value in properties.items()},
    )


def apply(
    volume: Path, subject: Subject, triggers: Sequence[str], templates: Sequence[Template]
) -> None:
    """Render every template that one of the triggers (create, copy, rename, start) asks for.

    :raises BadRequest: a template is missing, cannot be rendered, or its target leaves the tree.
    :raises NoSpace: the disk is full.
    """
    for trigger in triggers:
        for template in templates:
            if trigger in template.when:
                _render(volume, subject, trigger, template)


def _render(volume: Path, subject: Subject, trigger: str, template: Template) -> None:
    name = template.file
    if not name or "/" in name or name.startswith("."):
        raise BadRequest(f"Applying template {name[:128]!r} failed: it is no plain file name")
    source = read_regular(volume, f"{DIRECTORY}/{name}", MAX_TEMPLATE)
    if source is None:
        raise BadRequest(f"Applying template {name[:128]!r} failed: the image has no such file")

    from nova_lxd.lxd.instances import pongo  # Jinja2 takes 7 MB: only where it is used

    def content() -> bytes:
        try:
            text = source.decode("utf-8")
            return pongo.render(text, subject.variables(template, trigger)).encode()
        except (pongo.TemplateError, UnicodeError) as exc:
            raise BadRequest(f"Applying template {name[:128]!r} failed: {exc}") from exc

    _write(volume / ROOTFS, template.path, template.create_only, content)
    LOG.debug("template %s written to %s (%s)", name, template.path, trigger)


def read_regular(top: Path, name: str, limit: int) -> bytes | None:
    """A regular file below ``top``, never through a link; None when there is none.

    :raises BadRequest: it is longer than ``limit`` bytes or no regular file.
    """
    directory = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        try:
            fd = syscalls.openat2(directory, name, flags, resolve=resolve)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            if exc.errno in (errno.ELOOP, errno.EXDEV):
                raise BadRequest(f"Reading {name[:128]!r} failed: it is a link") from exc
            raise
    finally:
        os.close(directory)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadRequest(f"Reading {name[:128]!r} failed: it is no regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BadRequest(f"Reading {name[:128]!r} failed: it is longer than {limit} bytes")
    return data


def _write(root: Path, target: str, create_only: bool, content: Callable[[], bytes]) -> None:
    """Write a file inside the tree ``root``, resolving every link as the guest would see it."""
    parts = [part for part in target.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in target:
        raise BadRequest(f"Applying a template failed: {target[:128]!r} is no path of a file")
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parent = _parent(top, parts[:-1])
        try:
            fd = _open_target(parent, top, parts, create_only)
        finally:
            os.close(parent)
    except OSError as exc:
        raise BadRequest(
            f"Applying a template to {target[:128]!r} failed: {exc.strerror}"
        ) from exc
    finally:
        os.close(top)
    if fd is None:
        return
    try:
        with os.fdopen(fd, "wb") as file:
            data = content()
            file.truncate(0)
            file.write(data)
    except OSError as exc:
        if exc.errno not in NO_SPACE:
            raise
        raise NoSpace(
            f"Applying a template to {target[:128]!r} failed: the pool or the volume's size limit"
            " is full"
        ) from exc


def _parent(top: int, parts: Sequence[str]) -> int:
    """The directory at ``parts``, made where it is missing; resolved inside ``top``."""
    flags, resolve = os.O_PATH | os.O_DIRECTORY, syscalls.RESOLVE_IN_ROOT
    current = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
    for i, part in enumerate(parts):
        path = "/".join(parts[: i + 1])
        try:
            following = syscalls.openat2(top, path, flags, resolve=resolve)
        except FileNotFoundError:
            try:
                os.mkdir(part, 0o755, dir_fd=current)
                following = syscalls.openat2(top, path, flags, resolve=resolve)
            except OSError:
                os.close(current)
                raise
        os.close(current)
        current = following
    return current


def _open_target(parent: int, top: int, parts: Sequence[str], create_only: bool) -> int | None:
    """A descriptor to write the target; None when it exists and only creation is wanted."""
    path = "/".join(parts)
    try:
        fd = syscalls.openat2(
            top, path, os.O_WRONLY | os.O_NONBLOCK, resolve=syscalls.RESOLVE_IN_ROOT
        )
    except FileNotFoundError:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(parts[-1], flags, 0o644, dir_fd=parent)
        except FileExistsError:
            # A dangling link: the guest's own target does not exist, so the link is replaced.
            os.unlink(parts[-1], dir_fd=parent)
            return os.open(parts[-1], flags, 0o644, dir_fd=parent)
    if create_only or not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        if create_only:
            return None
        raise OSError(errno.EINVAL, "it is no regular file")
    return fd
