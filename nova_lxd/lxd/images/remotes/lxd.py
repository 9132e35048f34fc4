# SPDX-License-Identifier: Apache-2.0
"""Images of another LXD server: public ones, or private ones by a one-time secret."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from nova_lxd.lxd.errors import InternalError, NotFound
from nova_lxd.lxd.images.download import Fetcher
from nova_lxd.lxd.images.receive import receiver
from nova_lxd.lxd.images.remotes import RemoteImage, Source
from nova_lxd.lxd.images.store import Staging
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.schema.images import unix_time


class _Alias(msgspec.Struct):
    target: str


class _Image(msgspec.Struct):
    fingerprint: str
    type: str = "container"
    filename: str = ""
    properties: dict[str, str] | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None


class LxdServer:
    """Talks to another server without a certificate of ours, as LXD does."""

    def __init__(self, source: Source, fetcher: Fetcher, _architectures: list[str]) -> None:
        self._source = source
        self._fetcher = fetcher

    def _url(self, path: str, **query: str) -> str:
        query = {key: value for key, value in query.items() if value}
        if self._source.project:
            query["project"] = self._source.project
        suffix = f"?{urlencode(query)}" if query else ""
        return f"{self._source.server.rstrip('/')}/1.0/images/{path}{suffix}"

    def _get(self, kind: type[Any], url: str, op: Operation | None) -> Any:
        envelope = self._fetcher.document(url, certificate=self._source.certificate, op=op)
        try:
            return msgspec.convert(envelope["metadata"], kind)
        except (KeyError, TypeError, msgspec.ValidationError) as exc:
            raise InternalError(f"Reading {url} failed: it is no answer of LXD: {exc}") from exc

    def resolve(self, op: Operation | None) -> RemoteImage:
        name = self._source.name
        try:
            url = self._url(f"aliases/{quote(name, safe='')}")
            fingerprint = self._get(_Alias, url, op).target
        except NotFound:
            fingerprint = name
        url = self._url(quote(fingerprint, safe=""), secret=self._source.secret)
        image: _Image = self._get(_Image, url, op)
        return RemoteImage(
            image.fingerprint,
            image.type,
            image.filename,
            image.properties or {},
            unix_time(image.created_at),
            unix_time(image.expires_at),
        )

    def fetch(self, image: RemoteImage, staged: Staging, op: Operation | None) -> None:
        url = self._url(f"{image.fingerprint}/export", secret=self._source.secret)
        with self._fetcher.open(url, certificate=self._source.certificate, op=op) as answer:
            sink = receiver(staged, answer.headers.get("content-type", ""), image.filename)
            self._fetcher.save(answer, sink.feed, op)
            sink.finish()
