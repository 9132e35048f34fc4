# SPDX-License-Identifier: Apache-2.0
"""``metadata.yaml`` of an image: reading it out of the file and believing nothing in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.architectures import normalise
from nova_lxd.lxd.images.decompress import decompressed, program_output
from nova_lxd.lxd.images.formats import Format, detect
from nova_lxd.lxd.images.tarstream import TarStream

#: The longest metadata.yaml, in bytes.
MAX_SIZE = 1024 * 1024
#: How deep its maps and lists may nest; LXD's format needs four levels.
MAX_DEPTH = 16
#: How many decompressed bytes are passed over in search of it.
MAX_SCANNED = 64 * 1024**3
#: Seconds since 1970 that a date may say: up to the year 9999.
MAX_DATE = 253402300799
_NULL = ("", "~", "null", "Null", "NULL")

CONTAINER = "container"
VIRTUAL_MACHINE = "virtual-machine"


@dataclass(frozen=True)
class ImageMetadata:
    """What metadata.yaml says of the image itself; templates are the instance's business.

    Dates are UNIX times, 0 when they are not given.
    """

    architecture: str
    creation_date: int
    expiry_date: int
    properties: dict[str, str] = field(default_factory=dict)


def _refuse(why: str) -> BadRequest:
    return BadRequest(f"Reading the image's metadata.yaml failed: {why}")


def load_yaml(data: bytes) -> Any:
    """YAML as maps, lists and strings (the text of each scalar), without anchors.

    :raises BadRequest: it is too long or too deep, uses aliases, or is no YAML.
    """
    if len(data) > MAX_SIZE:
        raise _refuse(f"it is longer than {MAX_SIZE} bytes")
    depth = 0
    try:
        for event in yaml.parse(data, Loader=yaml.CBaseLoader):
            if isinstance(event, yaml.AliasEvent):
                raise _refuse("it uses YAML aliases, which are not allowed here")
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                depth += 1
                if depth > MAX_DEPTH:
                    raise _refuse(f"it nests more than {MAX_DEPTH} levels")
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                depth -= 1
        return yaml.load(data, Loader=yaml.CBaseLoader)  # strings only, no objects
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise _refuse(" ".join(str(exc).split())[:200]) from exc


def _date(fields: Mapping[str, Any], name: str) -> int:
    text = fields.get(name, "")
    if text in _NULL:
        return 0
    if not isinstance(text, str) or not re.fullmatch(r"-?[0-9]{1,12}", text):
        raise _refuse(f"{name} is not a number of seconds since 1970")
    return min(max(int(text), 0), MAX_DATE)


def _properties(fields: Mapping[str, Any]) -> dict[str, str]:
    found = fields.get("properties", {})
    if isinstance(found, str) and found in _NULL:
        return {}
    if not isinstance(found, dict):
        raise _refuse("properties is not a map")
    result = {}
    for key, value in found.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise _refuse(f"property {str(key)[:64]!r} is not a text")
        result[key] = "" if value in _NULL else value
    return result


def parse(data: bytes) -> ImageMetadata:
    """Check and read the content of a metadata.yaml.

    :raises BadRequest: it is not what an image needs.
    """
    fields = load_yaml(data)
    if not isinstance(fields, dict):
        raise _refuse("it is not a map")
    architecture = fields.get("architecture", "")
    if not isinstance(architecture, str) or architecture in _NULL:
        raise _refuse("it names no architecture")
    known = normalise(architecture)
    created = _date(fields, "creation_date")
    if not created:  # LXD refuses that as well
        raise _refuse("it has no creation_date")
    return ImageMetadata(
        known,
        created,
        _date(fields, "expiry_date"),
        _properties(fields),
    )


def _plain(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def _from_tar(path: Path, kind: Format, want_root: bool) -> tuple[bytes | None, str | None]:
    """(metadata.yaml, type of the root) as far as they are there; stops when it has both."""
    content: bytes | None = None
    root: str | None = None
    with decompressed(path, kind) as stream:
        archive = TarStream(stream, MAX_SCANNED, seekable=kind is Format.TAR)
        for member in archive:
            name = _plain(member.name)
            if name == "metadata.yaml" and content is None:
                if not member.regular:
                    raise _refuse("it is not a regular file")
                content = archive.read(member, MAX_SIZE)
            elif name == "rootfs" or name.startswith("rootfs/"):
                root = root or CONTAINER
            elif name == "rootfs.img":
                root = root or VIRTUAL_MACHINE
            if content is not None and (root is not None or not want_root):
                break
    return content, root


def _from_squashfs(path: Path) -> bytes | None:
    with program_output(["unsquashfs", "-cat", str(path), "metadata.yaml"]) as stream:
        content = stream.read(MAX_SIZE + 1)
    return content or None


def read(path: Path, *, unified: bool) -> tuple[ImageMetadata, str]:
    """The metadata of an image file, and whether it is a container's or a virtual machine's.

    :param unified: the file is the whole image, so it must have a root as well; the type that is
        returned for the metadata file of a split image is always container's.
    :raises BadRequest: it is no image.
    """
    kind = detect(path)
    if kind is Format.SQUASHFS:
        content, root = _from_squashfs(path), CONTAINER
    else:
        found, type_ = _from_tar(path, kind, unified)
        if unified and found is not None and type_ is None:
            raise BadRequest("Reading the image failed: it has no rootfs")
        content, root = found, type_ or CONTAINER
    if content is None:
        raise BadRequest("Metadata tarball is missing metadata.yaml")
    return parse(content), root
