# SPDX-License-Identifier: Apache-2.0
"""metadata.yaml and the template files of an instance's volume, read and changed by clients."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nova_lxd.lxd.errors import BadRequest, NotFound, attempting
from nova_lxd.lxd.images.metadata import load_yaml
from nova_lxd.lxd.instances import volumes
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.instances.templates import (
    DIRECTORY,
    MAX_METADATA,
    MAX_TEMPLATE,
    METADATA,
    read_regular,
)

if TYPE_CHECKING:
    from nova_lxd.lxd.instances.service import Instances

# What a file system takes, in bytes.
_NAME_MAX = 255


@contextmanager
def _volume(svc: Instances, inst: Instance, attempt: str) -> Iterator[Path]:
    """The instance's volume, for an attempt on it such as "Writing metadata.yaml"."""
    record = svc.record(inst)
    with (
        attempting(f"{attempt} of {inst}"),
        svc.ctx.storage.get(record.pool).mounted(volumes.of_record(record)) as path,
    ):
        yield path


def read(svc: Instances, inst: Instance) -> dict[str, Any]:
    """The instance's metadata in the API's form; empty fields when it has no metadata.yaml.

    :raises BadRequest: the file on the volume is no proper metadata.yaml.
    """
    with _volume(svc, inst, "Reading metadata.yaml") as path:
        data = read_regular(path, METADATA, MAX_METADATA) or b"{}"
    loaded = load_yaml(data)
    if not isinstance(loaded, dict):
        raise BadRequest(f"Reading metadata.yaml of {inst} failed: it is no mapping")
    return to_api(loaded)


def to_api(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """Plain YAML (all scalars as text) as LXD's ImageMetadata."""
    templates = loaded.get("templates") or {}
    properties = loaded.get("properties") or {}
    if not isinstance(templates, dict) or not isinstance(properties, dict):
        raise BadRequest("Reading metadata failed: templates and properties must be mappings")
    return {
        "architecture": str(loaded.get("architecture") or ""),
        "creation_date": _number(loaded.get("creation_date")),
        "expiry_date": _number(loaded.get("expiry_date")),
        "properties": {str(k): str(v) for k, v in properties.items()},
        "templates": {str(k): _template(v) for k, v in templates.items()},
    }


def _number(value: Any) -> int:
    text = str(value or 0)
    return int(text) if text.isascii() and text.lstrip("-").isdigit() else 0


def _template(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest("Reading metadata failed: a template must be a mapping")
    when = value.get("when") or []
    if not isinstance(when, list):
        raise BadRequest("Reading metadata failed: a template's 'when' must be a list")
    properties = value.get("properties")
    return {
        "when": [str(word) for word in when],
        "create_only": str(value.get("create_only", "")).lower() == "true",
        "template": str(value.get("template") or ""),
        "properties": {str(k): str(v) for k, v in properties.items()}
        if isinstance(properties, dict)
        else None,
    }


def write(svc: Instances, inst: Instance, new: Mapping[str, Any]) -> None:
    """Replace metadata.yaml."""
    data = yaml.safe_dump(dict(new), sort_keys=False).encode()
    load_yaml(data)  # what was written must be readable within the same limits
    with _volume(svc, inst, "Writing metadata.yaml") as path:
        _replace_file(path, METADATA, data)


def template_names(svc: Instances, inst: Instance) -> list[str]:
    """The template files, sorted."""
    with _volume(svc, inst, "Listing the templates") as path:
        directory = path / DIRECTORY
        if not directory.is_dir() or directory.is_symlink():
            return []
        return sorted(entry.name for entry in directory.iterdir() if entry.is_file())


def check_template_name(name: str) -> str:
    """:raises BadRequest: the name is not a plain file name."""
    plain = name.isprintable() and "/" not in name and not name.startswith(".")
    if not name or not plain or len(name.encode("utf-8", "surrogateescape")) > _NAME_MAX:
        raise BadRequest(f"Invalid template filename {name[:64]!r}")
    return name


def read_template(svc: Instances, inst: Instance, name: str) -> bytes:
    """:raises NotFound: there is no such template."""
    with _volume(svc, inst, f"Reading template {name!r}") as path:
        data = read_regular(path, f"{DIRECTORY}/{check_template_name(name)}", MAX_TEMPLATE)
    if data is None:
        raise NotFound("Not Found")
    return data


def write_template(svc: Instances, inst: Instance, name: str, data: bytes) -> None:
    """Create or replace a template file."""
    check_template_name(name)
    if len(data) > MAX_TEMPLATE:
        raise BadRequest(f"Writing template {name!r} failed: it is over {MAX_TEMPLATE} bytes")
    with _volume(svc, inst, f"Writing template {name!r}") as path:
        directory = path / DIRECTORY
        if directory.is_symlink():
            raise BadRequest(f"Writing template {name!r} failed: templates is a link")
        directory.mkdir(mode=0o711, exist_ok=True)
        _replace_file(directory, name, data)


def delete_template(svc: Instances, inst: Instance, name: str) -> None:
    """:raises NotFound: there is no such template."""
    check_template_name(name)
    with _volume(svc, inst, f"Deleting template {name!r}") as path:
        directory = path / DIRECTORY
        if directory.is_symlink() or not (directory / name).is_file():
            raise NotFound("Not Found")
        (directory / name).unlink()


def _replace_file(directory: Path, name: str, data: bytes) -> None:
    """Write beside and rename, so that a reader sees the old or the new one."""
    temporary = directory / f".new-{os.getpid()}-{threading.get_ident()}"
    with ExitStack() as undo:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        undo.callback(temporary.unlink, missing_ok=True)
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
        temporary.rename(directory / name)
        undo.pop_all()
