# SPDX-License-Identifier: Apache-2.0
"""The API services, each under its own uwsgi."""

from __future__ import annotations

from cloud.context import Cloud
from cloud.services import Probe, Service

# How long an upload may stand still; uwsgi's own 4 seconds are less than compressing one chunk
# of an image takes on a busy machine.
UPLOAD_PAUSE_SECONDS = 120
# The largest chunk of an upload; uwsgi's own limit of 1 MiB refuses what nova sends of a snapshot.
UPLOAD_CHUNK_BYTES = 64 << 20


def api(
    cloud: Cloud, name: str, module: str, *, port: str, path: str = "/", threads: int = 4,
    env: dict[str, str] | None = None, watch: tuple[str, ...] = (), arguments: str = "",
    extra: tuple[str, ...] = (),
) -> Service:
    """A uwsgi service that serves ``module:application`` on the port named ``port``.

    ``Connection: close`` instead of keep-alive: with --http-socket a second request over one
    connection is reset.  --lazy-apps: threads and connections must be made after the fork.
    """
    argv = [
        cloud.bin("uwsgi"), "--http-socket", cloud.address(port),
        "--module", f"{module}:application", "--virtualenv", str(cloud.venv),
        "--master", "--processes", "1", "--threads", str(threads), "--enable-threads",
        "--lazy-apps", "--die-on-term", "--need-app", "--thunder-lock", "--buffer-size", "65535",
        "--add-header", "Connection: close", "--http-chunked-input",
        "--chunked-input-timeout", str(UPLOAD_PAUSE_SECONDS),
        "--chunked-input-limit", str(UPLOAD_CHUNK_BYTES),
        "--hook-master-start", "unix_signal:15 gracefully_kill_them_all",
        "--worker-reload-mercy", "10", "--procname-prefix-spaced", name, *extra,
    ]
    if arguments:
        argv += ["--pyargv", arguments]
    return Service(
        name=name, argv=tuple(argv), log=str(cloud.log(name)), env=env or {}, watch=watch,
        probe=Probe("http", cloud.url(port, path)),
    )
