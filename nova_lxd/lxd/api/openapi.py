# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of this server, made from the route table and the bodies' types.

``python -m nova_lxd.lxd.api.openapi`` prints it; the API coverage page and the fuzzer use it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from nova_lxd.lxd import api
from nova_lxd.lxd.api.routes import ROUTES, Route
from nova_lxd.lxd.environment import SERVER_VERSION

_PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")
_QUERY = {
    "project": "The project that is meant; default when missing.",
    "recursion": "0: URLs; 1: objects; 2: instances with state and snapshots.",
    "filter": "LXD's filter expression over the objects.",
}


def _path(route: Route) -> str:
    """The route's path without the router's patterns."""
    return _PARAMETER.sub(r"{\1}", route.path)


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.method == "GET":
        found += [
            {"name": name, "in": "query", "description": doc, "schema": {"type": "string"}}
            for name, doc in _QUERY.items()
        ]
    else:
        project = {"name": "project", "in": "query", "schema": {"type": "string"}}
        found.append({**project, "description": _QUERY["project"]})
    return found


def _operation_id(route: Route) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", _path(route)).strip("_")
    return f"{route.method.lower()}_{words}"


def document(routes: Sequence[Route] | None = None) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all routes."""
    api.load_resources()
    routes = ROUTES if routes is None else routes
    bodies = list({route.body for route in routes if route.body is not None})
    bodies.sort(key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(
        bodies, ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(bodies, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda route: route.path):
        entry: dict[str, Any] = {
            "operationId": _operation_id(route),
            "summary": route.summary,
            "parameters": _parameters(route),
            "responses": {
                "200": {"description": "LXD's sync envelope"},
                "202": {"description": "LXD's async envelope: a started operation"},
                "default": {"description": "LXD's error envelope"},
            },
        }
        if route.body is not None:
            content = {"application/json": {"schema": by_type[route.body]}}
            entry["requestBody"] = {"content": content}
        paths.setdefault(_path(route), {})[route.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "LXD REST API of nova-lxd's daemon", "version": SERVER_VERSION},
        "paths": paths,
        "components": {"schemas": components},
    }


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
