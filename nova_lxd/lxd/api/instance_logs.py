# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances/NAME/logs: liblxc's log and configuration, and recorded output of exec."""

from __future__ import annotations

import re
from pathlib import Path

from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.errors import BadRequest, NotFound, attempting
from nova_lxd.lxd.host.liblxc.client import Zygote

# Nothing but what is made there may be asked for: no console log, no path.
_NAME = re.compile(
    r"(lxc\.log|lxc\.conf|exec_[0-9a-f-]{36}\.std(out|err)|"
    r"(start|stop|hook|migration|snapshot)[A-Za-z0-9_.-]*\.log)\Z"
)


# liblxc's configuration of the last start; it is kept beside the running container's other files.
_CONFIG = "lxc.conf"


def _files(request: Request) -> dict[str, Path]:
    """The files that may be asked for, by name."""
    instance = request.services.instances.get(request.project().name, request.path("name"))
    paths = request.services.paths
    found = {}
    config = Zygote.config_path(instance.stored_name, paths.run)
    directory = paths.log(instance.project, instance.name)
    with attempting(f"Listing the logs of {instance}"):
        if config.is_file():
            found[_CONFIG] = config
        if directory.is_dir():
            found |= {each.name: each for each in directory.iterdir() if _NAME.match(each.name)}
    return found


@route("GET", "/1.0/instances/{name}/logs")
@route("GET", "/1.0/containers/{name}/logs")
async def get_logs(request: Request) -> web.StreamResponse:
    """List the log files."""
    names = sorted(await request.run(_files, request))
    return envelope.sync([f"{request.api_url()}/{name}" for name in names])


async def _path(request: Request) -> Path:
    name = request.path("file")
    if not _NAME.match(name):
        raise BadRequest(f"log file name {name[:64]!r} not valid")
    path = (await request.run(_files, request)).get(name)
    if path is None:
        raise NotFound("Not Found")
    return path


@route("GET", "/1.0/instances/{name}/logs/{file}")
@route("GET", "/1.0/containers/{name}/logs/{file}")
async def get_log(request: Request) -> web.StreamResponse:
    """Read a log file."""
    path = await _path(request)
    headers = {"Content-Disposition": f"inline;filename={path.name}"}
    response = web.FileResponse(path, headers=headers)
    response.content_type = "application/octet-stream"
    return response


@route("DELETE", "/1.0/instances/{name}/logs/{file}")
@route("DELETE", "/1.0/containers/{name}/logs/{file}")
async def delete_log(request: Request) -> web.StreamResponse:
    """Delete recorded output of exec."""
    if not request.path("file").startswith("exec_"):
        raise BadRequest("Only recorded output of exec may be deleted, not the instance's logs")
    path = await _path(request)

    def remove() -> None:
        with attempting(f"Deleting log file {path.name}"):
            path.unlink(missing_ok=True)  # another client may have been faster

    await request.run(remove)
    return envelope.sync()
