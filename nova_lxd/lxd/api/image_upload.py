# SPDX-License-Identifier: Apache-2.0
"""The body of POST /1.0/images from the socket to the disk, at constant memory."""

from __future__ import annotations

import asyncio

from nova_lxd.lxd.api.request import BODY_ERRORS, CHUNK, Request
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.receive import Receiver, receiver
from nova_lxd.lxd.images.store import Staging


async def starts_as_json(request: Request) -> bool:
    """Whether the body is a JSON object rather than an image; nothing of it is consumed.

    LXD takes a body for JSON when it says so or can be decoded; no image begins with a brace.
    """
    if request.http.content_type == "application/json":
        return True
    content = request.http.content
    if request.http.content_type == "multipart/form-data":
        return False
    try:
        head: bytes = await content.readany()
    except BODY_ERRORS as exc:
        raise _truncated(exc) from exc
    content.unread_data(head)
    return head.lstrip()[:1] == b"{"


def _truncated(exc: Exception) -> BadRequest:
    return BadRequest(f"Receiving the image failed: the body ended too early ({exc})")


async def receive_body(request: Request, filename: str) -> Staging:
    """The body as staged files; the caller commits or discards them.

    :raises BadRequest: it ended too early or is a damaged multipart form.
    :raises NoSpace: the disk is full.
    """
    staged = await request.run(request.services.images.store.stage)
    try:
        sink = receiver(staged, request.http.headers.get("Content-Type", ""), filename)
        await _pump(request, sink)
        await request.run(sink.finish)
    except BaseException:
        # Even a cancelled request leaves nothing: the executor finishes what it was given.
        await asyncio.shield(request.run(staged.discard))
        raise
    return staged


async def _pump(request: Request, sink: Receiver) -> None:
    """Write one chunk in a worker thread while the next one is gathered."""
    content = request.http.content
    writing: asyncio.Future[None] | None = None
    try:
        while True:
            chunk = bytearray()
            while len(chunk) < CHUNK and not content.at_eof():
                chunk += await content.readany()
            if writing is not None:
                await writing
                writing = None
            if not chunk:
                return
            writing = asyncio.ensure_future(request.run(sink.feed, chunk))
    except BODY_ERRORS as exc:
        raise _truncated(exc) from exc
    finally:
        if writing is not None:
            await asyncio.wait([writing])
            if not writing.cancelled():
                writing.exception()
