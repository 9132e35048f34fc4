# SPDX-License-Identifier: Apache-2.0
"""What the coverage-guided fuzzer calls: one function per reader of untrusted bytes.

A target takes any bytes.  The errors that its reader documents are its answers; any other
exception, an assertion, a hang or too much memory is a find.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.devices import proxy_address
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.host.idmap import Idmap, parse_raw_idmap, parse_subid
from nova_lxd.lxd.images import metadata
from nova_lxd.lxd.images.remotes import Source
from nova_lxd.lxd.images.remotes.simplestreams import SimpleStreams
from nova_lxd.lxd.images.tarstream import TarStream
from nova_lxd.lxd.instances import backupindex, pongo, templates
from nova_lxd.lxd.instances import metadata as instance_metadata
from nova_lxd.lxd.instances.migration.records import check_names, idmap_of
from nova_lxd.lxd.instances.migration.wire import Control, Header
from nova_lxd.lxd.schema import cron, instancekeys, instancevalues
from nova_lxd.lxd.schema.sizes import parse_size
from nova_lxd.lxd.storage import custombackup, unpack_child
from nova_lxd.lxd.storage.archive_rules import Limits, Refused, Rules
from nova_lxd.tests.fuzz import archives
from nova_lxd.virt.images.extract import archive, blocks

Target = Callable[[bytes], None]
_LIMIT = 1 << 20


def _file(data: bytes) -> tempfile._TemporaryFileWrapper[bytes]:
    file = tempfile.NamedTemporaryFile(dir="/dev/shm")  # noqa: SIM115 - the caller closes it
    file.write(data)
    file.flush()
    return file


def image(data: bytes) -> None:
    """The importer's look into an image file: formats, decompression, tar, metadata.yaml."""
    with _file(data) as file, contextlib.suppress(LXDError):
        found, _kind = metadata.read(Path(file.name), unified=True)
        assert found.architecture


def tar(data: bytes) -> None:
    """The reader of tar headers."""
    with contextlib.suppress(LXDError):
        stream = TarStream(io.BytesIO(data), _LIMIT)
        for count, member in enumerate(stream):
            assert count <= len(data) // 512
            if member.regular and member.size < 1024:
                assert len(stream.read(member, 1024)) == member.size


def unpacking(data: bytes) -> None:
    """The checks of an archive before GNU tar sees it, and what GNU tar makes of what passes."""
    archives.unpack(data)


def squashfs(data: bytes) -> None:
    """The listing of a squashfs file."""
    rules = Rules(Limits(), image=bool(data[:1] < b"\x80"))
    with contextlib.suppress(Refused):
        for line in data.splitlines():
            found = unpack_child._LISTED.match(line)
            if found is not None:
                rules.check(unpack_child._listed_entry(found))


def yaml(data: bytes) -> None:
    """metadata.yaml: for the image, for the API, for templates."""
    for read in (metadata.parse, _api_metadata, templates._parse):
        with contextlib.suppress(LXDError):
            read(data)


def _api_metadata(data: bytes) -> None:
    loaded = metadata.load_yaml(data)
    if isinstance(loaded, dict):
        shown = instance_metadata.to_api(loaded)
        assert isinstance(shown["creation_date"], int)


_SUBJECT = templates.Subject("c1", "x86_64", False, False, {"user.a": "b"}, {"eth0": {}})
_TEMPLATE = templates.Template("/etc/hostname", "hostname.tpl", ("create",), False, {"a": "b"})


def template(data: bytes) -> None:
    """A template of an image."""
    with contextlib.suppress(pongo.TemplateError):
        text = data.decode("utf-8", "replace")
        rendered = pongo.render(text, _SUBJECT.variables(_TEMPLATE, "create"))
        assert len(rendered) <= pongo.MAX_OUTPUT


def backup(data: bytes) -> None:
    """backup/index.yaml of an instance and of a volume."""
    with contextlib.suppress(LXDError):
        found = backupindex.parse(data)
        assert len(found.snapshots) <= len(data)
        for record in (found.instance, *found.snapshots):
            datetime.fromtimestamp(record.created_at, UTC)  # it will be told as a date
        Idmap.from_json(found.instance.config.get("volatile.last_state.idmap", "[]"))
    with contextlib.suppress(LXDError):
        custombackup._parse(metadata.load_yaml(data))


class _Fetcher:
    """Answers every request for a document with the same one."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def document(self, _url: str, **_kwargs: Any) -> Any:
        return self._found


def simplestreams(data: bytes) -> None:
    """The index and product list of an image server."""
    import json

    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # Fetcher.document refuses these
        return
    source = Source("https://images", "simplestreams", "busybox")
    remote = SimpleStreams(source, _Fetcher(found), ["x86_64"])  # type: ignore[arg-type]
    with contextlib.suppress(LXDError):
        image_found = remote.resolve(None)
        assert re.fullmatch(r"[0-9a-f]{64}", image_found.fingerprint)
        for file in image_found.files:
            assert file.url.startswith("https://images/") and "/../" not in file.url


_TABLE = instancekeys.INSTANCE_KEYS
_KEYS = sorted([*_TABLE.keys, *(family.name for family in _TABLE.families)])


def _id_map(text: str) -> None:
    for entry in Idmap.from_json(text).entries:
        assert 0 <= entry.host < 1 << 32 and 0 <= entry.ns < 1 << 32 and entry.size > 0


_PARSERS: Mapping[str, Callable[[str], object]] = {
    "size": parse_size,
    "cpus": instancevalues.parse_cpu_set,
    "cpu check": instancevalues.cpu_set,
    "raw.idmap": parse_raw_idmap,
    "idmap": _id_map,
    "subid": parse_subid,
    "cron": cron.parse,
    "raw.lxc": instancevalues.raw_lxc_lines,
    "raw.lxc check": instancevalues.raw_lxc,
    "proxy": proxy_address.parse,
    "memory": instancevalues.memory,
}


def values(data: bytes) -> None:
    """Sizes, processor sets, id maps, schedules, addresses, and the checks of every key."""
    text = data.decode("utf-8", "replace")
    for parse in _PARSERS.values():
        with contextlib.suppress(LXDError, ValueError):
            parse(text)
    which, _, value = text.partition("\n")
    key = _KEYS[sum(which.encode()) % len(_KEYS)].replace("*", "x")
    with contextlib.suppress(LXDError):
        instancekeys.validate({key: value})


_ITEMS = [
    {"name": "c1", "status": "Running", "config": {"limits.cpu": "2"}, "ephemeral": False},
    {"name": "a" * 40, "status": "Stopped", "config": {}, "devices": {"eth0": {"type": "nic"}}},
]


def filters(data: bytes) -> None:
    """The filter language of lists."""
    with contextlib.suppress(LXDError):
        found = apply_filter(_ITEMS, data.decode("utf-8", "replace"))
        assert all(item in _ITEMS for item in found)


def migration(data: bytes) -> None:
    """Messages of another server in a migration."""
    with contextlib.suppress(LXDError):
        header = Header.decode(data)
        check_names(header.snapshots)
        idmap_of(header.idmap)
    with contextlib.suppress(LXDError):
        Control.decode(data)


class _Small(io.BytesIO):
    """Takes as much as a fuzzed disk may unpack to."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 64 << 20:
            raise MemoryError("as the process's limits do")
        return super().write(data)


def disk(data: bytes) -> None:
    """The driver's reader of disk images: qcow2, partition tables, ext4."""
    with contextlib.suppress(ValueError, MemoryError, RecursionError):  # __main__ reports these
        system = archive.find_root(blocks.open_disk(io.BytesIO(data)))
        archive.Writer(system, _Small(), 32 << 20).write()


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        image, tar, unpacking, squashfs, yaml, template, backup, simplestreams, values, filters,
        migration, disk,
    )
}  # fmt: skip
