# SPDX-License-Identifier: Apache-2.0
"""Copying images from other servers: on request, for a new instance, and to refresh them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nova_lxd.lxd.db import images as db_images
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.images import Image, UpdateSource
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.architectures import runnable
from nova_lxd.lxd.images.download import Fetcher, Settings
from nova_lxd.lxd.images.importer import Importer, Wanted, describe
from nova_lxd.lxd.images.remotes import RemoteImage, Source, connect
from nova_lxd.lxd.images.store import Store
from nova_lxd.lxd.locks import KeyedLocks
from nova_lxd.lxd.operations import Operation

LOG = logging.getLogger(__name__)
Requestor = Mapping[str, Any] | None


def _update_source(source: Source) -> UpdateSource | None:
    """Where newer versions will be; LXD notes it for a fingerprint too, and none for a URL."""
    if source.protocol == "direct":
        return None
    return UpdateSource(
        source.name, source.server, source.protocol or "lxd", source.certificate, source.image_type
    )


class Acquirer:
    """Downloads images; the same one is downloaded once at a time."""

    def __init__(
        self, db: Database, store: Store, importer: Importer, settings: Settings
    ) -> None:
        self._db = db
        self._store = store
        self._importer = importer
        self._settings = settings
        self._downloads = KeyedLocks()
        self.fetcher = Fetcher(settings)

    def download(
        self,
        source: Source,
        wanted: Wanted,
        op: Operation | None = None,
        requestor: Requestor = None,
    ) -> Image:
        """The image of another server, which the project may have already.

        :raises NotFound: the server has no such image.
        :raises BadRequest: what it sends is no image, or not the one that was asked for.
        :raises NoSpace: the disk is full.
        """
        if not source.name:
            raise BadRequest("must specify one of alias or fingerprint for init from image")
        remote = connect(source, self.fetcher, runnable())
        told = remote.resolve(op)
        if source.image_type and told.type != source.image_type:
            raise BadRequest(
                f"Copying image {told.fingerprint} failed: it is of type {told.type}, not "
                f"{source.image_type}"
            )
        wanted = self._complete(wanted, source, told)
        with self._downloads.hold((wanted.project, told.fingerprint)):
            found = db_images.get(self._db, wanted.project, told.fingerprint)
            if found is not None:
                return self._reuse(found, wanted, op)
            elsewhere = db_images.of_fingerprint(self._db, told.fingerprint)
            if elsewhere:
                return self._importer.adopt(elsewhere[0], wanted, op, requestor)
            with self._store.staging() as staged:
                remote.fetch(told, staged, op)
                staged.type = staged.type or told.type
                return self._importer.admit(staged, wanted, op, requestor)

    def _complete(self, wanted: Wanted, source: Source, told: RemoteImage) -> Wanted:
        """What the client wants, filled up with what the server tells."""
        if told.properties is not None:
            wanted = replace(
                wanted,
                properties={**told.properties, **wanted.properties},
                only_properties=True,
                created_at=told.created_at,
                expires_at=told.expires_at if wanted.expires_at is None else wanted.expires_at,
            )
        return replace(
            wanted,
            fingerprint=told.fingerprint,
            filename=wanted.filename or told.filename,
            update_source=_update_source(source),
        )

    def _reuse(self, found: Image, wanted: Wanted, op: Operation | None) -> Image:
        """An image that is there, changed to what is wanted of it now."""
        describe(found, op)
        new = replace(
            found,
            cached=found.cached and wanted.cached,
            public=found.public or wanted.public,
            auto_update=found.auto_update or wanted.auto_update,
            update_source=found.update_source or wanted.update_source,
        )
        with self._db.write():
            self._importer.add_aliases(found, wanted.aliases)
            db_images.update(self._db, new)
        return db_images.get(self._db, found.project, found.fingerprint) or new

    def cached(self, source: Source, project: str) -> Image | None:
        """A cached image of this source that auto-update keeps fresh: no need to ask again."""
        if self._settings.get("images.auto_update_interval") == "0":
            return None
        for image in db_images.get_all(self._db, project):
            origin = image.update_source
            if (
                image.cached
                and image.auto_update
                and origin is not None
                and (origin.server, origin.protocol, origin.alias)
                == (source.server, source.protocol or "lxd", source.name)
                and source.image_type in ("", image.type)
            ):
                return image
        return None

    def refresh(self, image: Image, op: Operation | None, requestor: Requestor) -> Image | None:
        """Get the image's newer version, if its source has one.

        The new image takes over the aliases; the caller deletes the old one.

        :raises BadRequest: the image has no source.
        """
        origin = image.update_source
        if origin is None:
            raise BadRequest(
                f'Failed to update image "{image.fingerprint}" in project "{image.project}": '
                "Image source not found"
            )
        source = Source(
            origin.server,
            origin.protocol,
            origin.alias,
            origin.certificate,
            image_type=origin.image_type,
        )
        told = connect(source, self.fetcher, runnable()).resolve(op)
        if told.fingerprint == image.fingerprint:
            return None
        new = self.download(
            source,
            Wanted(
                image.project,
                public=image.public,
                auto_update=image.auto_update,
                cached=image.cached,
                profiles=image.profiles,
            ),
            op,
            requestor,
        )
        with self._db.write():
            db_images.move_aliases(self._db, image.project, image.fingerprint, new.fingerprint)
            db_images.touch(self._db, image.project, new.fingerprint, image.last_used_at)
        return db_images.get(self._db, image.project, new.fingerprint) or new
