# SPDX-License-Identifier: Apache-2.0
"""LXD's response envelope, ETags and timestamps: the only place that knows their form."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from nova_lxd.lxd.errors import LXDError, PreconditionFailed
from nova_lxd.lxd.jsontext import encode
from nova_lxd.lxd.operations import Operation

ZERO_TIME = "0001-01-01T00:00:00Z"
_JSON = "application/json"


def timestamp(seconds: float) -> str:
    """RFC 3339 of a UNIX time; LXD's zero time for 0."""
    if not seconds:
        return ZERO_TIME
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def etag(fields: Any) -> str:
    """The ETag of an object: a digest of the fields a PUT replaces."""
    return hashlib.sha256(encode(fields)).hexdigest()


def check_etag(request: web.Request, fields: Any) -> None:
    """Honour If-Match.

    :raises PreconditionFailed: the client saw another version.
    """
    wanted = request.headers.get("If-Match")
    if wanted and wanted.strip('"') != etag(fields):
        raise PreconditionFailed(
            f"Changing {request.path} failed: its ETag does not match If-Match; read it again"
        )


def sync(
    metadata: Any = None,
    *,
    etag_fields: Any = None,
    location: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """A finished request: LXD's ``sync`` response."""
    body = encode(
        {
            "type": "sync",
            "status": "Success",
            "status_code": 200,
            "operation": "",
            "error_code": 0,
            "error": "",
            "metadata": metadata,
        }
    )
    response = web.Response(body=body, status=status, content_type=_JSON, headers=headers)
    if etag_fields is not None:
        response.headers["ETag"] = f'"{etag(etag_fields)}"'
    if location:
        response.headers["Location"] = location
        response.set_status(201)
    return response


def operation(op: Operation) -> web.Response:
    """A started background job: LXD's ``async`` response."""
    body = encode(
        {
            "type": "async",
            "status": "Operation created",
            "status_code": 100,
            "operation": op.url,
            "error_code": 0,
            "error": "",
            "metadata": op.to_api(),
        }
    )
    return web.Response(body=body, status=202, content_type=_JSON, headers={"Location": op.url})


def error(status: int, message: str) -> web.Response:
    """LXD's ``error`` response."""
    body = encode(
        {
            "type": "error",
            "status": "",
            "status_code": 0,
            "operation": "",
            "error_code": status,
            "error": message,
            "metadata": None,
        }
    )
    return web.Response(body=body, status=status, content_type=_JSON)


def from_exception(exc: LXDError) -> web.Response:
    return error(exc.status, exc.message)
