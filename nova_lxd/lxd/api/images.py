# SPDX-License-Identifier: Apache-2.0
"""/1.0/images: the list, import, and each image."""

from __future__ import annotations

import re
import secrets
import urllib.parse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.filters import apply_filter
from nova_lxd.lxd.api.image_sources import DOWNLOADING, start_import
from nova_lxd.lxd.api.image_upload import receive_body, starts_as_json
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import BadRequest, Forbidden, NotFound
from nova_lxd.lxd.images.importer import DEFAULT_PROFILES, NewAlias, Wanted
from nova_lxd.lxd.images.store import Staging
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.paths import DEFAULT_PROJECT
from nova_lxd.lxd.schema.images import ImagePut, ImagesPost, unix_time

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def image_to_api(image: Image) -> dict[str, Any]:
    """LXD's Image object."""
    shown: dict[str, Any] = {
        "auto_update": image.auto_update,
        "properties": image.properties,
        "public": image.public,
        "expires_at": envelope.timestamp(image.expires_at),
        "profiles": image.profiles,
        "aliases": [{"name": a.name, "description": a.description} for a in image.aliases],
        "architecture": image.architecture,
        "cached": image.cached,
        "filename": image.filename,
        "fingerprint": image.fingerprint,
        "size": image.size,
    }
    source = image.update_source
    if source is not None:
        shown["update_source"] = {
            "alias": source.alias,
            "certificate": source.certificate,
            "protocol": source.protocol,
            "server": source.server,
            "image_type": source.image_type,
        }
    return shown | {
        "type": image.type,
        "created_at": envelope.timestamp(image.created_at),
        "last_used_at": envelope.timestamp(image.last_used_at),
        "uploaded_at": envelope.timestamp(image.uploaded_at),
    }


def _etag(image: Image) -> list[Any]:
    return [image.public, image.auto_update, image.properties]


def may_see_private(request: Request) -> bool:
    """Whether the client is trusted with the project that it names."""
    return request.trusted and request.identity.may_use(request.project_name)


def images_project(request: Request) -> str:
    """The project whose images are meant; an untrusted client may name any.

    :raises NotFound: there is no such project.
    """
    if request.trusted:
        return request.project_for("images")
    if db_projects.get(request.services.db, request.project_name) is None:
        raise NotFound("Project not found")
    return request.services.images.project_for(request.project_name)


@route("GET", "/1.0/images", public=True)
async def get_images(request: Request) -> web.StreamResponse:
    """List the images; an untrusted client gets the public ones."""
    project = images_project(request)
    images = request.services.images.all(project, public_only=not may_see_private(request))
    items = apply_filter([image_to_api(image) for image in images], request.query("filter"))
    if request.recursion:
        return envelope.sync(items)
    return envelope.sync([f"/1.0/images/{item['fingerprint']}" for item in items])


@route("POST", "/1.0/images", public=True, body=ImagesPost)
async def post_images(request: Request) -> web.StreamResponse:
    """Import an image from the body, a URL, another server or an instance."""
    images, headers = request.services.images, request.http.headers
    project = images_project(request)
    fingerprint = headers.get("X-LXD-fingerprint", "")
    terms = images.secrets.redeem(project, fingerprint, headers.get("X-LXD-secret", ""))
    if not may_see_private(request) and terms is None:
        raise Forbidden("not authorized")
    if await starts_as_json(request):
        if not may_see_private(request):
            raise Forbidden("not authorized")
        return await _post_json(request, project)
    wanted = wanted_from_headers(headers, project, terms or {})
    images.check_profiles(request_profiles_project(request), list(wanted.profiles))
    staged = await receive_body(request, headers.get("X-LXD-filename", ""))
    # With it, the untrusted server that pushes may wait for the operation.
    secret = {"secret": secrets.token_hex(32)} if terms is not None else None
    return envelope.operation(_admit(request, staged, wanted, secret))


def request_profiles_project(request: Request) -> str:
    """The project whose profiles the request means, whoever sends it."""
    if request.trusted:
        return request.project_for("profiles")
    project = db_projects.get(request.services.db, request.project_name)
    return project.name if project and project.feature("profiles") else DEFAULT_PROJECT


def _admit(
    request: Request, staged: Staging, wanted: Wanted, metadata: Mapping[str, str] | None
) -> Operation:
    requestor = request.requestor
    images = request.services.images

    def work(op: Operation) -> None:
        try:
            images.importer.admit(staged, wanted, op, requestor)
        finally:
            staged.discard()

    return request.services.operations.task(
        request.project_name, DOWNLOADING, work, metadata=metadata, requestor=requestor
    )


def wanted_from_headers(
    headers: Mapping[str, str], project: str, terms: Mapping[str, Any]
) -> Wanted:
    """What the headers of an upload ask for, under the terms of a push token."""
    asked = urllib.parse.parse_qs(headers.get("X-LXD-properties", ""), keep_blank_values=True)
    properties = {key: values[0] for key, values in asked.items()}
    profiles = urllib.parse.parse_qs(headers.get("X-LXD-profiles", "")).get("profile")
    told = terms.get("properties")
    return Wanted(
        project=project,
        public=bool(terms.get("public"))
        or headers.get("X-LXD-public", "").lower() in ("1", "true", "yes", "on"),
        fingerprint=headers.get("X-LXD-fingerprint", ""),
        properties={**(told or {}), **properties},
        only_properties=bool(told),
        profiles=profiles or DEFAULT_PROFILES,
        expires_at=terms.get("expires_at"),
        aliases=tuple(NewAlias(**alias) for alias in terms.get("aliases", ())),
    )


async def _post_json(request: Request, project: str) -> web.StreamResponse:
    """Import from where the JSON body says, or make a token for a push."""
    body = await request.body(ImagesPost)
    source = body.source
    if source is not None and source.mode == "push":
        if not _FINGERPRINT.fullmatch(source.fingerprint):
            raise BadRequest("Offering to take an image failed: its fingerprint is missing")
        terms = {
            "aliases": [msgspec.structs.asdict(alias) for alias in body.aliases or ()],
            "expires_at": unix_time(body.expires_at) or None,
            "properties": body.properties or {},
            "public": body.public,
        }
        return envelope.operation(
            request.services.images.secrets.create(
                project, source.fingerprint, terms, request.requestor
            )
        )
    return envelope.operation(start_import(request, project, body))


@route("GET", "/1.0/images/{fingerprint}", public=True)
async def get_image(request: Request) -> web.StreamResponse:
    """Show one image."""
    image = visible_image(request)
    return envelope.sync(image_to_api(image), etag_fields=_etag(image))


def visible_image(request: Request) -> Image:
    """The image of the path, if the client may see it: trusted, public, or by ``secret=``.

    :raises NotFound: there is none, or the client may not see it.
    """
    images, project = request.services.images, images_project(request)
    fingerprint = request.path("fingerprint")
    trusted = may_see_private(request)
    secret = request.query("secret")
    if not secret:
        return images.get(project, fingerprint, public_only=not trusted)
    image = images.get(project, fingerprint)
    redeemed = images.secrets.redeem(project, image.fingerprint, secret)
    if not (trusted or redeemed is not None):
        return images.get(project, fingerprint, public_only=True)
    return image


def own_image(request: Request) -> Image:
    """The image of the path, for a trusted client to change.

    :raises NotFound: there is none.
    """
    return request.services.images.get(request.project_for("images"), request.path("fingerprint"))


@route("PUT", "/1.0/images/{fingerprint}", body=ImagePut)
async def put_image(request: Request) -> web.StreamResponse:
    """Replace an image's flags, properties, profiles and expiry."""
    image = own_image(request)
    request.check_etag(_etag(image))
    body = await request.body(ImagePut)
    new = replace(
        image,
        public=body.public,
        auto_update=body.auto_update,
        properties=body.properties or {},
        profiles=list(DEFAULT_PROFILES) if body.profiles is None else body.profiles,
        expires_at=unix_time(body.expires_at) or image.expires_at,
    )
    return await _update(request, image, new)


@route("PATCH", "/1.0/images/{fingerprint}", body=ImagePut)
async def patch_image(request: Request) -> web.StreamResponse:
    """Change some of an image's flags and properties."""
    image = own_image(request)
    request.check_etag(_etag(image))
    given = await request.json_object()
    try:
        body = msgspec.convert(given, ImagePut)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"Changing image {image.fingerprint} failed: {exc}") from exc
    new = replace(
        image,
        public=body.public if "public" in given else image.public,
        auto_update=body.auto_update if "auto_update" in given else image.auto_update,
        properties={**image.properties, **(body.properties or {})},
        profiles=image.profiles if body.profiles is None else body.profiles,
        expires_at=unix_time(body.expires_at) or image.expires_at,
    )
    return await _update(request, image, new)


async def _update(request: Request, image: Image, new: Image) -> web.StreamResponse:
    await request.run(
        request.services.images.update,
        image,
        new,
        request.project_for("profiles"),
        request.requestor,
    )
    return envelope.sync({})


@route("DELETE", "/1.0/images/{fingerprint}")
async def delete_image(request: Request) -> web.StreamResponse:
    """Delete an image."""
    image, requestor = own_image(request), request.requestor

    def work(_op: Operation) -> None:
        request.services.images.delete(image, requestor)

    return envelope.operation(
        request.services.operations.task(
            request.project_name,
            "Deleting image",
            work,
            resources={"images": [f"/1.0/images/{image.fingerprint}"]},
            requestor=requestor,
        )
    )


@route("POST", "/1.0/images/{fingerprint}/secret")
async def post_secret(request: Request) -> web.StreamResponse:
    """Make a one-time secret for an untrusted client to fetch the image with."""
    image = own_image(request)
    return envelope.operation(
        request.services.images.secrets.create(
            image.project, image.fingerprint, None, request.requestor
        )
    )


@route("POST", "/1.0/images/{fingerprint}/refresh")
async def post_refresh(request: Request) -> web.StreamResponse:
    """Replace an image by the newer version that its source has."""
    image, requestor = own_image(request), request.requestor

    def work(op: Operation) -> Mapping[str, Any]:
        new = request.services.images.refresh(image, op, requestor)
        return {"refreshed": new is not None}

    return envelope.operation(
        request.services.operations.task(
            request.project_name, "Refreshing image", work, requestor=requestor
        )
    )
