# SPDX-License-Identifier: Apache-2.0
"""Server configuration keys (``lxc config set KEY VALUE``; LXD doc "Server configuration")."""

from __future__ import annotations

import re

from nova_lxd.lxd.schema.configkeys import Key, KeyTable, any_text, boolean, integer, one_of

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s/:\[\]]*)(:\d{1,5})?\Z|[0-9a-fA-F:]+\Z")
_EXPIRY = re.compile(r"(\d+(M|H|d|w|m|y)\s*)+\Z")


def _address(value: str) -> str | None:
    return None if _ADDRESS.match(value) else "it is not an address with an optional port"


def expiry(value: str) -> str | None:
    """LXD's time span: ``1M 2H 3d 4w 5m 6y``."""
    return None if _EXPIRY.match(value) else "it is not a span such as 6H or 3d"


_COMPRESSION = re.compile(r"[a-z0-9]+( -[A-Za-z0-9=.-]+)*\Z")


def _compression(value: str) -> str | None:
    if not _COMPRESSION.match(value):
        return "it is not the name of a compression program with options"
    known = ("bzip2", "gzip", "lz4", "lzma", "xz", "zstd", "none", "squashfs")
    return one_of(*known)(value.split()[0])


# Those of images.architectures, which this layer cannot see; a test compares them.
ARCHITECTURES = (
    *("i686", "x86_64", "armv7l", "aarch64", "ppc", "ppc64", "ppc64le", "s390x"),
    *("mips", "mips64", "riscv32", "riscv64"),
)

SERVER_KEYS = KeyTable(
    "server",
    (
        Key("core.https_address", "string", "Address of the HTTPS API; empty: none.", _address),
        Key(
            "core.https_allowed_credentials", "bool", "Access-Control-Allow-Credentials.", boolean
        ),
        Key("core.https_allowed_headers", "string", "Access-Control-Allow-Headers."),
        Key("core.https_allowed_methods", "string", "Access-Control-Allow-Methods."),
        Key("core.https_allowed_origin", "string", "Access-Control-Allow-Origin."),
        Key("core.metrics_address", "string", "Address that serves metrics alone.", _address),
        Key(
            "core.metrics_authentication",
            "bool",
            "Whether metrics need a trusted certificate.",
            boolean,
            "true",
        ),
        Key("core.proxy_http", "string", "HTTP proxy for downloads."),
        Key("core.proxy_https", "string", "HTTPS proxy for downloads."),
        Key("core.proxy_ignore_hosts", "string", "Hosts that need no proxy."),
        Key("core.remote_token_expiry", "string", "Life of a join token.", expiry),
        Key(
            "core.shutdown_timeout",
            "integer",
            "Minutes to wait for running operations at shutdown.",
            integer(0),
            "5",
        ),
        Key("core.trust_password", "string", "Password with which clients add themselves."),
        Key("backups.compression_algorithm", "string", "Of backups.", _compression, "gzip"),
        Key("images.auto_update_cached", "bool", "Update cached images.", boolean, "true"),
        Key(
            "images.auto_update_interval",
            "integer",
            "Hours between looks for updates of images; 0: never.",
            integer(0),
            "6",
        ),
        Key("images.compression_algorithm", "string", "Of new images.", _compression, "gzip"),
        Key(
            "images.default_architecture",
            "string",
            "Architecture that a cluster of several prefers; one server has but its own.",
            one_of(*ARCHITECTURES),
        ),
        Key(
            "images.remote_cache_expiry",
            "integer",
            "Days until an unused cached image is removed.",
            integer(0),
            "10",
        ),
        Key("user.*", "string", "Free keys.", any_text),
    ),
)
SECRET_KEYS = frozenset(("core.trust_password",))
