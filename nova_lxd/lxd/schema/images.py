# SPDX-License-Identifier: Apache-2.0
"""Bodies of the image endpoints, with Go's defaults: null and absent fields are empty ones."""

from __future__ import annotations

from datetime import datetime

import msgspec


class ImageAliasSpec(msgspec.Struct):
    """An alias to give to a new image."""

    name: str = ""
    description: str = ""


class ImagesPostSource(msgspec.Struct):
    """Where a new image comes from (LXD: ImagesPostSource)."""

    type: str = ""
    mode: str = ""
    server: str = ""
    protocol: str = ""
    certificate: str = ""
    secret: str = ""
    alias: str = ""
    fingerprint: str = ""
    image_type: str = ""
    name: str = ""
    url: str = ""
    project: str = ""
    allow_inconsistent: bool = False


class ImagePut(msgspec.Struct):
    """The changeable part of an image (LXD: ImagePut)."""

    auto_update: bool = False
    public: bool = False
    properties: dict[str, str] | None = None
    profiles: list[str] | None = None
    expires_at: datetime | None = None


class ImagesPost(ImagePut):
    """The JSON body of POST /1.0/images (LXD: ImagesPost)."""

    source: ImagesPostSource | None = None
    filename: str = ""
    compression_algorithm: str = ""
    aliases: list[ImageAliasSpec] | None = None


class ImageExportPost(msgspec.Struct):
    """Where to push an image (LXD: ImageExportPost)."""

    target: str = ""
    secret: str = ""
    certificate: str = ""
    aliases: list[ImageAliasSpec] | None = None
    project: str = ""
    profiles: list[str] | None = None


class ImageAliasesPost(msgspec.Struct):
    """A new alias (LXD: ImageAliasesPost)."""

    name: str = ""
    target: str = ""
    description: str = ""
    type: str = ""


class ImageAliasPut(msgspec.Struct):
    """The changeable part of an alias (LXD: ImageAliasesEntryPut)."""

    target: str = ""
    description: str = ""


class ImageAliasPatch(msgspec.Struct):
    """Fields of an alias to change; absent ones stay."""

    target: str | None = None
    description: str | None = None


class ImageAliasPost(msgspec.Struct):
    """A new name for an alias (LXD: ImageAliasesEntryPost)."""

    name: str = ""


def unix_time(moment: datetime | None) -> float:
    """UNIX time of an API time stamp; 0 for none and for Go's zero time."""
    if moment is None or moment.year <= 1:
        return 0.0
    return moment.timestamp()
