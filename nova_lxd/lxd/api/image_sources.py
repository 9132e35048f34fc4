# SPDX-License-Identifier: Apache-2.0
"""POST /1.0/images with a JSON body: from a URL, another server, or an instance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.architectures import runnable
from nova_lxd.lxd.images.importer import DEFAULT_PROFILES, NewAlias, Wanted
from nova_lxd.lxd.images.remotes import Source
from nova_lxd.lxd.images.remotes.direct import locate
from nova_lxd.lxd.images.service import Images
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.schema.images import ImagesPost, ImagesPostSource, unix_time

DOWNLOADING = "Downloading image"
_INSTANCES = ("instance", "container", "virtual-machine", "snapshot")
_Import = Callable[[Operation], Image]


def start_import(request: Request, project: str, body: ImagesPost) -> Operation:
    """Begin the operation that imports what the body names.

    :raises BadRequest: the body names nothing that can be imported.
    """
    images, requestor = request.services.images, request.requestor
    if body.source is None or not body.source.type:
        raise BadRequest("Invalid images JSON")
    wanted = _wanted(project, body)
    images.check_profiles(request.project_for("profiles"), list(wanted.profiles))
    work: _Import
    if body.source.type in _INSTANCES:
        work = _publish(request, body, body.source, wanted)
    elif body.source.type == "image":
        work = _copy(request, body.source, wanted)
    elif body.source.type == "url":
        work = _from_url(images, body.source.url, wanted, requestor)
    else:
        raise BadRequest("Invalid images JSON")

    def run(op: Operation) -> Mapping[str, Any]:
        image = work(op)
        return {"fingerprint": image.fingerprint, "size": str(image.size)}

    return request.services.operations.task(
        request.project_name, DOWNLOADING, run, requestor=requestor
    )


def _wanted(project: str, body: ImagesPost) -> Wanted:
    return Wanted(
        project,
        public=body.public,
        auto_update=body.auto_update,
        filename=body.filename,
        properties=body.properties or {},
        profiles=DEFAULT_PROFILES if body.profiles is None else body.profiles,
        expires_at=unix_time(body.expires_at) or None,
        aliases=tuple(NewAlias(a.name, a.description) for a in body.aliases or ()),
    )


def image_source(source: ImagesPostSource) -> Source:
    """The remote image that a body names, for :meth:`Images.resolve` and downloads."""
    return Source(
        source.server,
        source.protocol or "lxd",
        source.fingerprint or source.alias,
        source.certificate,
        source.secret,
        source.image_type,
        source.project,
    )


def _copy(request: Request, told: ImagesPostSource, wanted: Wanted) -> _Import:
    images, requestor = request.services.images, request.requestor
    source = image_source(told)
    if not source.name:
        raise BadRequest("must specify one of alias or fingerprint for init from image")
    owner = "" if source.server else request.project_for("images", source.project or "default")

    def work(op: Operation) -> Image:
        if source.server:
            return images.acquirer.download(source, wanted, op, requestor)
        found = images.find(owner, source.name)
        return images.importer.adopt(found, wanted, op, requestor)

    return work


def _from_url(images: Images, url: str, wanted: Wanted, requestor: Mapping[str, Any]) -> _Import:
    def work(op: Operation) -> Image:
        source = locate(url, images.acquirer.fetcher, runnable(), op)
        return images.acquirer.download(source, wanted, op, requestor)

    return work


def _publish(
    request: Request, body: ImagesPost, source: ImagesPostSource, wanted: Wanted
) -> _Import:
    images, project, requestor = request.services.images, request.project_name, request.requestor
    name, compression = source.name, body.compression_algorithm
    if not name:
        raise BadRequest("No source provided")
    if (source.type == "snapshot") != ("/" in name):
        raise BadRequest("Not a snapshot" if source.type == "snapshot" else "Not a container")
    request.services.instances.get(project, name.partition("/")[0])
    images.publisher.algorithm(compression)

    def work(op: Operation) -> Image:
        return images.publisher.publish(project, name, compression, wanted, op, requestor)

    return work
