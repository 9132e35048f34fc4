# SPDX-License-Identifier: Apache-2.0
"""The route table: each resource module declares its endpoints with :func:`route`.

The table is data: the server mounts it, the OpenAPI document and the API coverage page are
generated from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from nova_lxd.lxd.api.request import Request

Handler = Callable[[Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """One endpoint: ``public`` ones answer untrusted clients too, ``local`` ones the socket only,
    ``admin`` ones no restricted certificate, ``early`` ones while the daemon still starts (the
    others wait).
    """

    method: str
    path: str
    handler: Handler
    public: bool = False
    local: bool = False
    admin: bool = False
    early: bool = False
    body: type | None = None

    @property
    def summary(self) -> str:
        """First line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().split("\n", 1)[0]


ROUTES: list[Route] = []


def route(
    method: str,
    path: str,
    *,
    public: bool = False,
    local: bool = False,
    admin: bool = False,
    early: bool = False,
    body: type | None = None,
) -> Callable[[Handler], Handler]:
    """Declare ``handler`` as the answer to ``method path``.

    :param public: untrusted clients may call it; the handler decides what they see.
    :param local: only on the unix socket.
    :param admin: not for certificates that are restricted to some projects.
    :param early: answered before the daemon is ready.
    :param body: the msgspec type of the JSON body, for the OpenAPI document.
    """

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(method, path, handler, public, local, admin, early, body))
        return handler

    return register
