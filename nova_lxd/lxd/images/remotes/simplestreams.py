# SPDX-License-Identifier: Apache-2.0
"""Images of a simplestreams server: an index, product lists, and files beside them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from nova_lxd.lxd.errors import BadRequest, InternalError, NotFound
from nova_lxd.lxd.images import architectures
from nova_lxd.lxd.images.download import Fetcher
from nova_lxd.lxd.images.metadata import CONTAINER, VIRTUAL_MACHINE
from nova_lxd.lxd.images.remotes import RemoteFile, RemoteImage, Source
from nova_lxd.lxd.images.store import Staging
from nova_lxd.lxd.operations import Operation

#: Root file types, best first, with the field of the metadata item that has the fingerprint.
_ROOTS = {
    "squashfs": ("combined_squashfs_sha256",),
    "root.tar.xz": ("combined_rootxz_sha256", "combined_sha256"),
    "disk-kvm.img": ("combined_disk_kvm_img_sha256",),
    "uefi1.img": ("combined_uefi1_img_sha256",),
    "disk1.img": ("combined_disk1_img_sha256",),
}
_VM_ROOTS = ("disk-kvm.img", "uefi1.img", "disk1.img")
_UNIFIED = "lxd_combined.tar.gz"
_SPLIT = "lxd.tar.xz"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class _IndexEntry(msgspec.Struct):
    path: str = ""
    datatype: str = ""


class _Index(msgspec.Struct):
    index: dict[str, _IndexEntry] = {}


class _Item(
    msgspec.Struct,
    rename={
        "combined_disk_kvm_img_sha256": "combined_disk-kvm-img_sha256",
        "combined_uefi1_img_sha256": "combined_uefi1-img_sha256",
        "combined_disk1_img_sha256": "combined_disk1-img_sha256",
    },
):
    ftype: str = ""
    path: str = ""
    sha256: str = ""
    size: int = 0
    combined_sha256: str = ""
    combined_rootxz_sha256: str = ""
    combined_squashfs_sha256: str = ""
    combined_disk_kvm_img_sha256: str = ""
    combined_uefi1_img_sha256: str = ""
    combined_disk1_img_sha256: str = ""


class _Version(msgspec.Struct):
    items: dict[str, _Item] = {}
    label: str = ""


class _Product(msgspec.Struct):
    aliases: str = ""
    arch: str = ""
    os: str = ""
    release: str = ""
    release_title: str = ""
    version: str = ""
    variant: str = ""
    support_eol: str | None = None
    requirements: dict[str, str] | None = None
    lxd_requirements: dict[str, str] | None = None
    versions: dict[str, _Version] = {}


class _Products(msgspec.Struct):
    products: dict[str, _Product] = {}


class _Entry(msgspec.Struct, frozen=True):
    """One image of the server with what it is chosen by."""

    architecture: str
    names: tuple[str, ...]
    serial: str
    rank: int
    image: RemoteImage


def _date(text: str, form: str) -> float:
    """UNIX time of a date in UTC; 0 when it is none."""
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _serial_date(serial: str) -> float:
    return _date(serial, "%Y%m%d_%H%M") or _date(serial[:8], "%Y%m%d")


class SimpleStreams:
    """Protocol ``simplestreams``; every file and the whole image are checked by their hashes."""

    def __init__(self, source: Source, fetcher: Fetcher, runnable: list[str]) -> None:
        self._source = source
        self._fetcher = fetcher
        self._native = runnable[0]

    def _url(self, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/") or "://" in path:
            raise InternalError(f"Reading the image server failed: it names file {path[:200]!r}")
        return f"{self._source.server.rstrip('/')}/{path}"

    def _document(self, kind: type[msgspec.Struct], path: str, op: Operation | None) -> object:
        url = self._url(path)
        data = self._fetcher.document(url, certificate=self._source.certificate, op=op)
        try:
            return msgspec.convert(data, kind, strict=False)
        except msgspec.ValidationError as exc:
            raise InternalError(f"Reading {url} failed: it is no stream of images: {exc}") from exc

    def _entries(self, op: Operation | None) -> Iterator[_Entry]:
        index = self._document(_Index, "streams/v1/index.json", op)
        assert isinstance(index, _Index)
        for stream in index.index.values():
            if stream.datatype != "image-downloads" or not stream.path:
                continue
            products = self._document(_Products, stream.path, op)
            assert isinstance(products, _Products)
            for product in products.products.values():
                yield from self._of_product(product)

    def _of_product(self, product: _Product) -> Iterator[_Entry]:
        try:
            architecture = architectures.normalise(product.arch)
        except BadRequest:
            return  # LXD skips architectures that it does not know
        names = tuple(name for name in product.aliases.split(",") if name)
        for serial, version in product.versions.items():
            if not _serial_date(serial):
                continue
            for rank, image in self._of_version(product, serial, version):
                yield _Entry(architecture, names, serial, rank, image)

    def _of_version(
        self, product: _Product, serial: str, version: _Version
    ) -> Iterator[tuple[int, RemoteImage]]:
        by_type = {item.ftype: item for item in version.items.values()}
        unified, meta = by_type.get(_UNIFIED), by_type.get(_SPLIT)
        if unified is not None and _FINGERPRINT.fullmatch(unified.sha256):
            yield len(_ROOTS), self._image(product, serial, version, unified.sha256, (unified,))
        if meta is None:
            return
        for rank, (ftype, fields) in enumerate(_ROOTS.items()):
            root = by_type.get(ftype)
            found = [value for name in fields if (value := getattr(meta, name))]
            if root is not None and found and _FINGERPRINT.fullmatch(found[0]):
                yield rank, self._image(product, serial, version, found[0], (meta, root))

    def _image(
        self,
        product: _Product,
        serial: str,
        version: _Version,
        fingerprint: str,
        items: tuple[_Item, ...],
    ) -> RemoteImage:
        kind = items[-1].ftype if len(items) == 2 else "tar.gz"
        label = f" ({version.label})" if version.label else ""
        title = f"{product.os} {product.release_title} {product.arch}"
        needs = product.lxd_requirements or product.requirements or {}
        properties = {
            "os": product.os,
            "release": product.release,
            "version": product.version,
            "architecture": product.arch,
            "label": version.label,
            "serial": serial,
            "description": f"{title}{label} ({serial})",
            "variant": product.variant,
            "type": kind,
            **{f"requirements.{key}": value for key, value in needs.items()},
        }
        whats = ("metadata", "rootfs") if len(items) == 2 else ("image",)
        return RemoteImage(
            fingerprint,
            VIRTUAL_MACHINE if kind in _VM_ROOTS else CONTAINER,
            items[0].path.rpartition("/")[2],
            {key: value for key, value in properties.items() if value},
            _serial_date(serial),
            _date(product.support_eol or "", "%Y-%m-%d"),
            tuple(
                RemoteFile(self._url(item.path), what, item.sha256, item.size)
                for item, what in zip(items, whats, strict=True)
            ),
        )

    def _matches(self, entry: _Entry) -> bool:
        wanted = self._source.name
        if entry.image.type != (self._source.image_type or CONTAINER):
            return False
        if entry.architecture == self._native and wanted in entry.names:
            return True
        assert entry.image.properties is not None
        suffixes = {entry.architecture, entry.image.properties.get("architecture", "")}
        return any(wanted == f"{name}/{suffix}" for name in entry.names for suffix in suffixes)

    def resolve(self, op: Operation | None) -> RemoteImage:
        entries = list(self._entries(op))
        matching = [entry for entry in entries if self._matches(entry)]
        if not matching and re.fullmatch(r"[0-9a-f]{6,64}", self._source.name):
            matching = [e for e in entries if e.image.fingerprint.startswith(self._source.name)]
            if len({entry.image.fingerprint for entry in matching}) > 1:
                raise BadRequest("Multiple images match the provided fingerprint")
        if not matching:
            raise NotFound("The requested image couldn't be found")
        newest = max(entry.serial for entry in matching)
        return min((e for e in matching if e.serial == newest), key=lambda e: e.rank).image

    def fetch(self, image: RemoteImage, staged: Staging, op: Operation | None) -> None:
        staged.type = image.type
        staged.filename = image.filename
        for number, file in enumerate(image.files):
            target = staged.open_image() if number == 0 else staged.open_rootfs()
            digest = hashlib.sha256()

            def write(data: bytes, target=target, digest=digest) -> None:  # type: ignore[no-untyped-def]
                target.write(data)
                digest.update(data)

            with self._fetcher.open(
                file.url, certificate=self._source.certificate, op=op
            ) as answer:
                self._fetcher.save(answer, write, op, file.what)
            if file.sha256 and digest.hexdigest() != file.sha256.lower():
                raise InternalError(
                    f"Downloading {file.url} failed: its hash is {digest.hexdigest()}, the "
                    f"server's list says {file.sha256}"
                )
