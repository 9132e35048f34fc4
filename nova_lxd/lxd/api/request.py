# SPDX-License-Identifier: Apache-2.0
"""What a handler gets: the decoded edge of one HTTP request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

import aiohttp
import msgspec
from aiohttp import web

from nova_lxd.lxd.api import gojson
from nova_lxd.lxd.api.envelope import check_etag
from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.projects import project_of
from nova_lxd.lxd.errors import BadRequest, Forbidden, NotFound, TooLarge, attempting
from nova_lxd.lxd.paths import DEFAULT_PROJECT

if TYPE_CHECKING:
    from nova_lxd.lxd.api.auth import Identity
    from nova_lxd.lxd.services import Services

T = TypeVar("T")
MAX_JSON = 16 * 1024 * 1024
MAX_UNTRUSTED = 1024 * 1024
#: How much of a body is gathered before a worker thread takes it to the disk, in bytes.
CHUNK = 1024 * 1024
#: What reading a body raises when the client breaks off.
BODY_ERRORS = (
    aiohttp.ClientPayloadError,
    aiohttp.http.HttpProcessingError,
    web.RequestPayloadError,
    ConnectionError,
)


def _write_all(fd: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Request:
    """One request: parameters, body, who asks, and the daemon's services."""

    def __init__(self, http: web.Request, services: Services, identity: Identity) -> None:
        self.http = http
        self.services = services
        self.identity = identity
        self._raw: bytes | None = None

    @property
    def trusted(self) -> bool:
        return self.identity.trusted

    def path(self, name: str) -> str:
        """A variable part of the path, decoded."""
        return self.http.match_info[name]

    def query(self, name: str, default: str = "") -> str:
        return self.http.query.get(name, default)

    def path_query(self) -> str:
        """The path of a file that ``?path=`` names, whatever bytes it is made of."""
        text = self.http.rel_url.raw_query_string
        found = parse_qs(text, keep_blank_values=True, errors="surrogateescape").get("path")
        return found[0] if found else ""

    def query_bool(self, name: str) -> bool:
        """LXD's truth: 1, true, yes, on."""
        return self.query(name).lower() in ("1", "true", "yes", "on")

    @property
    def recursion(self) -> int:
        """``recursion=N``; anything else that is not empty counts as 0, as in LXD."""
        text = self.query("recursion")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    @property
    def project_name(self) -> str:
        """The project named by ``?project=``; not checked for existence."""
        return self.query("project") or DEFAULT_PROJECT

    def project(self, name: str = "") -> db_projects.Project:
        """The project that the request names, or one that its body does.

        :raises NotFound: it does not exist.
        :raises Forbidden: the client's certificate is restricted to others.
        """
        name = name or self.project_name
        if not self.identity.may_use(name):
            raise Forbidden(f"Using project {name!r} failed: the certificate is restricted")
        project = db_projects.get(self.services.db, name)
        if project is None:
            raise NotFound(f"Project {name!r} not found")
        return project

    def project_for(self, feature: str, name: str = "") -> str:
        """The project whose ``feature`` (images, profiles, networks, storage.volumes) is used."""
        project = self.project(name)
        return project.name if project.feature(feature) else DEFAULT_PROJECT

    @property
    def all_projects(self) -> bool:
        return self.query_bool("all-projects")

    def visible(self, urls: Iterable[str]) -> list[str]:
        """Those of a ``used_by`` list whose project the client may use."""
        return [url for url in urls if self.identity.may_use(project_of(url))]

    async def raw_body(self) -> bytes:
        """The whole body, read once.

        :raises TooLarge: more than 16 MiB, which no JSON body of the API needs, or of a client
            who is not trusted more than what a certificate or secret takes.
        """
        most = MAX_JSON if self.trusted else MAX_UNTRUSTED
        if self._raw is not None:
            return self._raw
        chunks = bytearray()
        async for chunk in self.http.content.iter_any():
            chunks += chunk
            if len(chunks) > most:
                raise TooLarge(f"Reading the body of {self.http.path} failed: over {most} B")
        self._raw = bytes(chunks)
        return self._raw

    async def save_body(self, fd: int) -> None:
        """Write the body to a descriptor, which stays the caller's, at constant memory.

        :raises BadRequest: it ended too early.
        :raises OSError: it cannot be written.
        """
        content = self.http.content
        while True:
            chunk = bytearray()
            try:
                while len(chunk) < CHUNK and not content.at_eof():
                    chunk += await content.readany()
            except BODY_ERRORS as exc:
                raise BadRequest(
                    f"Receiving the body of {self.http.path} failed: it ended too early ({exc})"
                ) from exc
            if not chunk:
                return
            await self.run(_write_all, fd, chunk)

    async def body(self, kind: type[T]) -> T:
        """The JSON body as ``kind``.

        :raises BadRequest: it is not JSON or has a field of the wrong type.
        """
        data = await self.raw_body()
        try:
            return gojson.decode(data or b"{}", kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise BadRequest(
                f"Decoding the body of {self.http.method} {self.http.path} failed: {exc}"
            ) from exc

    async def json_object(self) -> dict[str, Any]:
        """The JSON body as a plain object."""
        return await self.body(dict[str, Any])

    def check_etag(self, fields: Any) -> None:
        """Honour If-Match against the object's current ``fields``."""
        check_etag(self.http, fields)

    async def run(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run blocking code on a worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.services.executor, partial(fn, *args, **kwargs))

    async def attempt(self, attempt: str, fn: Callable[..., T], *args: Any) -> T:
        """As :meth:`run`; what the host refuses is told as an error about ``attempt``."""
        with attempting(attempt):
            return await self.run(fn, *args)

    @property
    def requestor(self) -> Mapping[str, Any]:
        """Who asks, as lifecycle events tell it."""
        return {
            "username": self.identity.username,
            "protocol": self.identity.protocol,
            "address": self.http.remote or "@",
        }

    def api_url(self) -> str:
        """The path asked for, without query."""
        return self.http.path
