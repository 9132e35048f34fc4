# SPDX-License-Identifier: Apache-2.0
"""/1.0/profiles."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.profiles import Profile
from nova_lxd.lxd.db.projects import with_project


class ProfilesPost(msgspec.Struct):
    """Body of POST /1.0/profiles."""

    name: str = ""
    description: str = ""
    config: dict[str, str] | None = None
    devices: dict[str, dict[str, str]] | None = None


class ProfilePut(msgspec.Struct):
    """Body of PUT and PATCH /1.0/profiles/NAME."""

    description: str = ""
    config: dict[str, str] | None = None
    devices: dict[str, dict[str, str]] | None = None


class ProfilePost(msgspec.Struct):
    """Body of POST /1.0/profiles/NAME: a rename."""

    name: str = ""


def _to_api(profile: Profile, used_by: list[str]) -> dict[str, Any]:
    return {
        "config": profile.config,
        "description": profile.description,
        "devices": profile.devices,
        "name": profile.name,
        "used_by": used_by,
    }


def _put_fields(profile: Profile) -> list[Any]:
    return [profile.config, profile.description, profile.devices]


@route("GET", "/1.0/profiles")
async def get_profiles(request: Request) -> web.StreamResponse:
    """List the profiles of a project."""
    project = request.project_for("profiles")
    used_by = request.services.profiles.used_by(None)
    items = [
        _to_api(p, request.visible(used_by.get((p.project, p.name), [])))
        for p in request.services.profiles.all(project)
    ]
    items = apply_filter(items, request.query("filter"))
    if request.recursion:
        return envelope.sync(items)
    return envelope.sync([with_project(f"/1.0/profiles/{i['name']}", project) for i in items])


@route("POST", "/1.0/profiles", body=ProfilesPost)
async def post_profiles(request: Request) -> web.StreamResponse:
    """Create a profile."""
    project = request.project_for("profiles")
    body = await request.body(ProfilesPost)
    await request.run(
        request.services.profiles.create,
        project,
        body.name,
        body.description,
        body.config or {},
        body.devices or {},
        request.requestor,
    )
    return envelope.sync(location=f"/1.0/profiles/{body.name}")


@route("GET", "/1.0/profiles/{name}")
async def get_profile(request: Request) -> web.StreamResponse:
    """Show one profile."""
    project = request.project_for("profiles")
    profile = request.services.profiles.get(project, request.path("name"))
    users = request.services.profiles.used_by(None).get((project, profile.name), [])
    item = _to_api(profile, request.visible(users))
    return envelope.sync(item, etag_fields=_put_fields(profile))


@route("PUT", "/1.0/profiles/{name}", body=ProfilePut)
async def put_profile(request: Request) -> web.StreamResponse:
    """Replace a profile and apply it to the instances that use it."""
    project = request.project_for("profiles")
    profile = request.services.profiles.get(project, request.path("name"))
    request.check_etag(_put_fields(profile))
    body = await request.body(ProfilePut)
    await request.run(
        request.services.profiles.update,
        project,
        profile.name,
        body.description,
        body.config or {},
        body.devices or {},
        request.requestor,
    )
    return envelope.sync()


@route("PATCH", "/1.0/profiles/{name}", body=ProfilePut)
async def patch_profile(request: Request) -> web.StreamResponse:
    """Change some fields of a profile; config keys and devices are merged."""
    project = request.project_for("profiles")
    profile = request.services.profiles.get(project, request.path("name"))
    request.check_etag(_put_fields(profile))
    body = await request.body(ProfilePut)
    await request.run(
        request.services.profiles.update,
        project,
        profile.name,
        body.description or profile.description,
        {**profile.config, **(body.config or {})},
        {**profile.devices, **(body.devices or {})},
        request.requestor,
    )
    return envelope.sync()


@route("POST", "/1.0/profiles/{name}", body=ProfilePost)
async def post_profile(request: Request) -> web.StreamResponse:
    """Rename a profile."""
    project = request.project_for("profiles")
    body = await request.body(ProfilePost)
    await request.run(
        request.services.profiles.rename,
        project,
        request.path("name"),
        body.name,
        request.requestor,
    )
    return envelope.sync(location=f"/1.0/profiles/{body.name}")


@route("DELETE", "/1.0/profiles/{name}")
async def delete_profile(request: Request) -> web.StreamResponse:
    """Delete a profile that nothing uses."""
    project = request.project_for("profiles")
    await request.run(
        request.services.profiles.delete, project, request.path("name"), request.requestor
    )
    return envelope.sync()
