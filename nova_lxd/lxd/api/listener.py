# SPDX-License-Identifier: Apache-2.0
"""An HTTPS listener whose address is a configuration key and can be moved while it serves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web

from nova_lxd.lxd.addresses import split_address
from nova_lxd.lxd.errors import BadRequest


class HttpsListener:
    """Serves one application on one address, or on none.

    :param context: makes the TLS context; called for each opening, so that a new certificate
        counts from then on.
    """

    def __init__(
        self, runner: web.AppRunner, context: Callable[[], ssl.SSLContext], default_port: int
    ) -> None:
        self._runner = runner
        self._context = context
        self._default_port = default_port
        self._site: web.BaseSite | None = None
        self._address = ""
        self._moving = asyncio.Lock()

    async def move(self, address: str) -> None:
        """Listen on ``address`` instead; the empty string closes the listener.

        :raises BadRequest: the address cannot be bound; the old listener stays.
        """
        async with self._moving:
            if address == self._address:
                return
            if address:  # a malformed one must not cost the old listener
                split_address(address, self._default_port)
            old, self._site = self._site, None
            try:
                # An address that overlaps the old one (:8443 after 127.0.0.1:8443) needs its port.
                if old is not None:
                    await old.stop()
                self._site = await self._open(address)
            except OSError as exc:
                self._site = await self._open(self._address)
                raise BadRequest(f"Listening on {address!r} failed: {exc.strerror}") from exc
            self._address = address

    async def _open(self, address: str) -> web.BaseSite | None:
        if not address:
            return None
        host, port = split_address(address, self._default_port)
        # asyncio binds "::" for IPv6 alone; LXD's "all addresses" means both families.
        everywhere = None if host == "::" else host
        site = web.TCPSite(
            self._runner, everywhere, port, ssl_context=self._context(), backlog=512
        )
        await site.start()
        return site
