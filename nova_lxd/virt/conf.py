# SPDX-License-Identifier: Apache-2.0
"""Every option of the ``[lxd]`` section of nova.conf.

``nova.conf`` is imported only by :func:`register`, so that oslo-config-generator can read the
options on a machine without Nova.
"""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup(
    "lxd",
    title="LXD driver options",
    help="Options of the driver lxd.LXDDriver, which runs instances as LXD system containers.",
)

CONNECTION_OPTS = [
    cfg.StrOpt(
        "endpoint",
        help="""
Where the LXD server (or the bundled nova-lxd daemon) answers.

Possible values:

* The absolute path of its unix socket, for example ``/var/lib/lxd/unix.socket`` (Debian),
  ``/var/snap/lxd/common/lxd/unix.socket`` (snap) or ``/var/lib/nova-lxd/unix.socket``.
* An ``https://host:port`` URL; ``client_cert``, ``client_key`` and ``server_cert`` must be set
  then. The server must run on this very host: the driver makes the instances' network devices.
* Unset: ``unix.socket`` in the directory named by the environment variable LXD_DIR, or else the
  first of the well-known sockets that exists.
""",
    ),
    cfg.StrOpt("client_cert", help="Path of the PEM client certificate, for an https endpoint."),
    cfg.StrOpt("client_key", help="Path of the client certificate's PEM key."),
    cfg.StrOpt(
        "server_cert",
        help="Path of the PEM certificate of the server, which is pinned, for an https endpoint.",
    ),
    cfg.IntOpt(
        "request_timeout",
        default=60,
        min=1,
        help="Seconds to wait for LXD's answer to one request. Long work runs as LXD operations"
        " in the background and is not limited by this.",
    ),
    cfg.IntOpt(
        "operation_timeout",
        default=1800,
        min=1,
        help="Seconds after which a background operation (image import, creation, snapshot) is"
        " given up.",
    ),
    cfg.StrOpt(
        "var_dir",
        help="LXD's state directory on this host, where its storage pools are mounted; needed by"
        " rescue. Unset: the directory of the unix socket.",
    ),
]

HOST_OPTS = [
    cfg.StrOpt(
        "project",
        default="nova-{host}",
        help="""
The LXD project that holds this host's instances and cached images; made when missing.
``{host}`` stands for nova-compute's host name. Everything outside the project is never touched.
""",
    ),
    cfg.StrOpt("pool", default="default", help="The LXD storage pool of the instances."),
    cfg.BoolOpt(
        "allow_privileged",
        default=False,
        help="Whether the flavor extra spec ``lxd:privileged=true`` is honoured. Root in a"
        " privileged container is root on the host for every flaw of the isolation: leave it off"
        " where tenants are not trusted.",
    ),
    cfg.BoolOpt(
        "allow_nesting",
        default=True,
        help="Whether the flavor extra spec ``lxd:nesting=true`` (containers inside the"
        " container) is honoured.",
    ),
    cfg.BoolOpt(
        "isolated_idmap",
        default=True,
        help="Give every instance its own range of host user ids. Switch it off only on hosts"
        " whose subordinate id range is too small for 65536 ids per instance.",
    ),
    cfg.IntOpt(
        "shutdown_grace",
        default=10,
        min=1,
        help="Seconds that a soft reboot gives the guest to stop by itself, before it is forced.",
    ),
    cfg.IntOpt(
        "event_retry",
        default=2,
        min=1,
        help="Seconds between attempts to reach LXD's event stream again after it broke.",
    ),
]

IMAGE_OPTS = [
    cfg.StrOpt(
        "image_work_dir",
        default="$state_path/lxd/images",
        help="Directory for images on their way from Glance to LXD and back.",
    ),
    cfg.IntOpt(
        "image_max_unpacked_gb",
        default=64,
        min=1,
        help="The largest root file system, in GiB, that is taken out of a disk image.",
    ),
    cfg.IntOpt(
        "image_convert_cpu_seconds",
        default=1200,
        min=1,
        help="CPU time after which reading a disk image (qcow2, raw) is given up.",
    ),
    cfg.StrOpt(
        "snapshot_compression",
        default="gzip",
        choices=["none", "gzip", "bzip2", "lzma", "xz", "zstd"],
        help="How snapshots are compressed on their way to Glance.",
    ),
]

METADATA_OPTS = [
    cfg.StrOpt(
        "config_drive_dir",
        default="$state_path/lxd/config-drives",
        help="Directory of the instances' config drive trees; each is bound read-only into its"
        " container at /config-drive.",
    ),
]

ALL_OPTS = CONNECTION_OPTS + HOST_OPTS + IMAGE_OPTS + METADATA_OPTS


def list_opts() -> list[tuple[cfg.OptGroup, list[Any]]]:
    """Entry point ``oslo.config.opts``: what the sample file is made from."""
    return [(GROUP, ALL_OPTS)]


def register(conf: cfg.ConfigOpts) -> None:
    """Register the section on a configuration; a second call changes nothing."""
    conf.register_group(GROUP)
    conf.register_opts(ALL_OPTS, group=GROUP)
