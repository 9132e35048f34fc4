# SPDX-License-Identifier: Apache-2.0
"""A client that knows the guests' states by events alone, as the Nova driver does.

When its stream breaks it connects again and reads everything once; as long as a stream stands it
asks for what an event names and for nothing else.  So a lost event leaves it with a wrong state.
"""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

_PAUSE = 0.1


class Follower:
    """A context manager; ``states`` is what it believes: status by name.

    :param way: the socket that it uses, which may be cut.
    """

    def __init__(self, way: Path) -> None:
        self._way = str(way)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.states: dict[str, str] = {}
        self.streams = 0
        self.events = 0

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(10)

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._way)) as session,
                    session.ws_connect("http://lxd/1.0/events?type=lifecycle") as stream,
                ):
                    self.streams += 1
                    await self._read_all(session)
                    await self._follow(session, stream)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(_PAUSE)

    async def _follow(
        self, session: aiohttp.ClientSession, stream: aiohttp.ClientWebSocketResponse
    ) -> None:
        while not self._stop.is_set():
            try:
                message = await stream.receive(timeout=_PAUSE)
            except TimeoutError:
                continue
            if message.type is not aiohttp.WSMsgType.TEXT:
                return  # the stream ended
            self.events += 1
            source = urlsplit(json.loads(message.data)["metadata"]["source"]).path.split("/")
            if source[2:3] == ["instances"] and len(source) > 3:
                await self._read(session, source[3])

    @staticmethod
    async def _get(session: aiohttp.ClientSession, path: str) -> Any:
        async with session.get(f"http://lxd{path}") as answer:
            return (await answer.json()).get("metadata") if answer.status == 200 else None

    async def _read_all(self, session: aiohttp.ClientSession) -> None:
        found = await self._get(session, "/1.0/instances?recursion=1") or []
        self.states = {each["name"]: each["status"] for each in found}

    async def _read(self, session: aiohttp.ClientSession, name: str) -> None:
        found = await self._get(session, f"/1.0/instances/{name}")
        if found is None:
            self.states.pop(name, None)
        else:
            self.states[name] = found["status"]
