# SPDX-License-Identifier: Apache-2.0
"""An image at a plain URL, whose hash is known beforehand."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.download import USER_AGENT, Fetcher
from nova_lxd.lxd.images.metadata import CONTAINER
from nova_lxd.lxd.images.receive import receiver
from nova_lxd.lxd.images.remotes import RemoteImage, Source
from nova_lxd.lxd.images.store import Staging
from nova_lxd.lxd.operations import Operation


def locate(url: str, fetcher: Fetcher, architectures: list[str], op: Operation | None) -> Source:
    """Ask a URL for the image that it stands for, by LXD's headers.

    :raises BadRequest: it is no such URL.
    """
    if not url:
        raise BadRequest("Missing URL")
    headers = {
        "LXD-Server-Architectures": ", ".join(architectures),
        "LXD-Server-Version": USER_AGENT.removeprefix("LXD "),
    }
    with fetcher.open(url, method="HEAD", headers=headers, op=op) as answer:
        digest = answer.headers.get("lxd-image-hash", "")
        location = answer.headers.get("lxd-image-url", "")
    if not digest:
        raise BadRequest("Missing LXD-Image-Hash header")
    if not location:
        raise BadRequest("Missing LXD-Image-URL header")
    return Source(urljoin(url, location), "direct", digest.lower())


class Direct:
    """Protocol ``direct``: the server is the image's URL, the name its fingerprint."""

    def __init__(self, source: Source, fetcher: Fetcher, _architectures: list[str]) -> None:
        self._source = source
        self._fetcher = fetcher

    def resolve(self, op: Operation | None) -> RemoteImage:
        filename = urlsplit(self._source.server).path.rpartition("/")[2]
        return RemoteImage(self._source.name, self._source.image_type or CONTAINER, filename)

    def fetch(self, image: RemoteImage, staged: Staging, op: Operation | None) -> None:
        source = self._source
        with self._fetcher.open(source.server, certificate=source.certificate, op=op) as answer:
            sink = receiver(staged, "application/octet-stream", image.filename)
            self._fetcher.save(answer, sink.feed, op)
            sink.finish()
