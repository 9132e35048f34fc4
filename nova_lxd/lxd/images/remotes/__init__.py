# SPDX-License-Identifier: Apache-2.0
"""Servers that images can be copied from, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.download import Fetcher
from nova_lxd.lxd.images.store import Staging
from nova_lxd.lxd.operations import Operation


@dataclass(frozen=True)
class Source:
    """Which image of which server, in the terms of LXD's ImagesPostSource.

    ``name`` is an alias or a fingerprint (or the beginning of one); ``image_type`` may be empty.
    """

    server: str
    protocol: str
    name: str
    certificate: str = ""
    secret: str = ""
    image_type: str = ""
    project: str = ""


@dataclass(frozen=True)
class RemoteImage:
    """What a server tells of an image; None where it leaves that to the image itself."""

    fingerprint: str
    type: str
    filename: str = ""
    properties: Mapping[str, str] | None = None
    created_at: float | None = None
    expires_at: float | None = None
    #: Where its files are, for servers that name them.
    files: tuple[RemoteFile, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class RemoteFile:
    """One file of an image; its hash may be unknown, that of the whole image never is."""

    url: str
    what: str
    sha256: str = ""
    size: int = 0


class Remote(Protocol):
    """A server that has images."""

    def resolve(self, op: Operation | None) -> RemoteImage:
        """The image that the source names.

        :raises NotFound: there is none.
        :raises LXDError: the server cannot be reached or refuses.
        """

    def fetch(self, image: RemoteImage, staged: Staging, op: Operation | None) -> None:
        """Download the image's files.

        :raises LXDError: as :meth:`resolve`, or a file is not what was announced.
        """


def connect(source: Source, fetcher: Fetcher, architectures: list[str]) -> Remote:
    """The server that the source names.

    :raises BadRequest: the protocol is unknown.
    """
    from nova_lxd.lxd.images.remotes.direct import Direct
    from nova_lxd.lxd.images.remotes.lxd import LxdServer
    from nova_lxd.lxd.images.remotes.simplestreams import SimpleStreams

    kinds: dict[str, Callable[[Source, Fetcher, list[str]], Remote]] = {
        "": LxdServer,
        "lxd": LxdServer,
        "simplestreams": SimpleStreams,
        "direct": Direct,
    }
    if source.protocol not in kinds:
        raise BadRequest(f"Unsupported protocol: {source.protocol[:64]}")
    return kinds[source.protocol](source, fetcher, architectures)
