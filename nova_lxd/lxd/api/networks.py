# SPDX-License-Identifier: Apache-2.0
"""/1.0/networks: managed bridges, and the host's other interfaces for information."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.networks import NetworkRow
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.network import host_interfaces
from nova_lxd.lxd.network.interface import NetworkState


class NetworksPost(msgspec.Struct):
    """Body of POST /1.0/networks."""

    name: str = ""
    type: str = ""
    description: str = ""
    config: dict[str, str] | None = None


class NetworkPut(msgspec.Struct):
    """Body of PUT and PATCH /1.0/networks/NAME."""

    description: str = ""
    config: dict[str, str] | None = None


class NetworkPost(msgspec.Struct):
    """Body of POST /1.0/networks/NAME: a rename."""

    name: str = ""


def _to_api(row: NetworkRow, used_by: list[str]) -> dict[str, Any]:
    return {
        "config": row.config,
        "description": row.description,
        "name": row.name,
        "type": row.type,
        "used_by": used_by,
        "managed": True,
        "status": row.status,
        "locations": ["none"],
    }


def _unmanaged(name: str, kind: str, used_by: list[str]) -> dict[str, Any]:
    return {
        "config": {},
        "description": "",
        "name": name,
        "type": kind,
        "used_by": used_by,
        "managed": False,
        "status": "",
        "locations": None,
    }


def _put_fields(item: dict[str, Any]) -> list[Any]:
    return [item["name"], item["managed"], item["type"], item["description"], item["config"]]


def _all(request: Request, project: str) -> list[dict[str, Any]]:
    networks = request.services.networks
    used_by = {name: request.visible(urls) for name, urls in networks.used_by().items()}
    items = [_to_api(row, used_by.get(row.name, [])) for row in networks.all(project)]
    managed = {row.name for row in networks.all()}
    for link in host_interfaces.interfaces():
        if link.name not in managed:
            items.append(_unmanaged(link.name, link.kind, used_by.get(link.name, [])))
    return items


def _one(request: Request, project: str, name: str) -> dict[str, Any]:
    for item in _all(request, project):
        if item["name"] == name:
            return item
    raise NotFound("Network not found")


@route("GET", "/1.0/networks")
async def get_networks(request: Request) -> web.StreamResponse:
    """List the networks of a project and the host's unmanaged interfaces."""
    project = request.project_for("networks")
    items = apply_filter(
        await request.attempt("Listing the networks", _all, request, project),
        request.query("filter"),
    )
    if request.recursion:
        return envelope.sync(items)
    return envelope.sync([with_project(f"/1.0/networks/{i['name']}", project) for i in items])


@route("POST", "/1.0/networks", body=NetworksPost)
async def post_networks(request: Request) -> web.StreamResponse:
    """Create a managed network."""
    project = request.project_for("networks")
    body = await request.body(NetworksPost)
    await request.run(
        request.services.networks.create,
        project,
        body.name,
        body.type,
        body.description,
        body.config or {},
        request.requestor,
    )
    return envelope.sync(location=f"/1.0/networks/{body.name}")


@route("GET", "/1.0/networks/{name}")
async def get_network(request: Request) -> web.StreamResponse:
    """Show one network or interface."""
    project = request.project_for("networks")
    item = await request.attempt(
        "Reading the network", _one, request, project, request.path("name")
    )
    return envelope.sync(item, etag_fields=_put_fields(item))


@route("PUT", "/1.0/networks/{name}", body=NetworkPut)
async def put_network(request: Request) -> web.StreamResponse:
    """Replace a network's description and config, and apply it."""
    return await _change(request, merge=False)


@route("PATCH", "/1.0/networks/{name}", body=NetworkPut)
async def patch_network(request: Request) -> web.StreamResponse:
    """Change some keys of a network and apply them."""
    return await _change(request, merge=True)


async def _change(request: Request, *, merge: bool) -> web.StreamResponse:
    project = request.project_for("networks")
    services = request.services
    row = services.networks.row(project, request.path("name"))
    request.check_etag(_put_fields(_to_api(row, [])))
    body = await request.body(NetworkPut)
    config = {**row.config, **(body.config or {})} if merge else (body.config or {})
    description = body.description or (row.description if merge else "")
    await request.run(
        services.networks.update, project, row.name, description, config, request.requestor
    )
    return envelope.sync()


@route("POST", "/1.0/networks/{name}", body=NetworkPost)
async def post_network(request: Request) -> web.StreamResponse:
    """Rename a network that nothing uses."""
    project = request.project_for("networks")
    body = await request.body(NetworkPost)
    if not body.name:
        raise BadRequest("Renaming the network failed: no new name was given")
    await request.run(
        request.services.networks.rename,
        project,
        request.path("name"),
        body.name,
        request.requestor,
    )
    return envelope.sync(location=f"/1.0/networks/{body.name}")


@route("DELETE", "/1.0/networks/{name}")
async def delete_network(request: Request) -> web.StreamResponse:
    """Delete a network that nothing uses."""
    project = request.project_for("networks")
    await request.run(
        request.services.networks.delete, project, request.path("name"), request.requestor
    )
    return envelope.sync()


@route("GET", "/1.0/networks/{name}/state")
async def get_network_state(request: Request) -> web.StreamResponse:
    """Show the addresses and counters of an interface."""
    request.project_for("networks")
    state = await request.attempt(
        "Reading the network's state", host_interfaces.state, request.path("name")
    )
    return envelope.sync(_state_to_api(state))


def _state_to_api(state: NetworkState) -> dict[str, Any]:
    bridge = state.bridge
    return {
        "addresses": [
            {
                "family": address.family,
                "address": address.address,
                "netmask": address.netmask,
                "scope": address.scope,
            }
            for address in state.addresses
        ],
        "counters": {
            "bytes_received": state.counters.bytes_received,
            "bytes_sent": state.counters.bytes_sent,
            "packets_received": state.counters.packets_received,
            "packets_sent": state.counters.packets_sent,
        },
        "hwaddr": state.hwaddr,
        "mtu": state.mtu,
        "state": state.state,
        "type": state.kind,
        "bond": None,
        "bridge": None
        if bridge is None
        else {
            "id": bridge.id,
            "stp": bridge.stp,
            "forward_delay": bridge.forward_delay,
            "vlan_default": bridge.vlan_default,
            "vlan_filtering": bridge.vlan_filtering,
            "upper_devices": list(bridge.upper_devices),
        },
        "vlan": None,
        "ovn": None,
    }


@route("GET", "/1.0/networks/{name}/leases")
async def get_network_leases(request: Request) -> web.StreamResponse:
    """List the addresses that a managed network has given out."""
    project = request.project_for("networks")
    network = request.services.networks.get(request.path("name"), project)
    leases = await request.attempt("Reading the network's leases", network.leases)
    wanted = request.project_name
    return envelope.sync(
        [
            {
                "hostname": lease.hostname,
                "hwaddr": lease.hwaddr,
                "address": lease.address,
                "type": lease.kind,
                "location": "" if lease.kind == "gateway" else "none",
            }
            for lease in leases
            if not lease.project or lease.project == wanted
        ]
    )
