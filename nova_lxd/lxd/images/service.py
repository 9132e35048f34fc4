# SPDX-License-Identifier: Apache-2.0
"""The images of this server: what the API and the instances ask for, and who does it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from nova_lxd.lxd.db import images as db_images
from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import BadRequest, NotFound
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.images.acquire import Acquirer
from nova_lxd.lxd.images.aliases import Aliases
from nova_lxd.lxd.images.download import Settings
from nova_lxd.lxd.images.importer import Importer, Wanted, check_properties, image_url
from nova_lxd.lxd.images.publish import InstanceExporter, Publisher
from nova_lxd.lxd.images.push import Pusher
from nova_lxd.lxd.images.remotes import Source
from nova_lxd.lxd.images.secrets import Secrets
from nova_lxd.lxd.images.store import Store
from nova_lxd.lxd.images.upkeep import Upkeep
from nova_lxd.lxd.images.volumes import ImageVolumes, Pools, Unpack
from nova_lxd.lxd.locks import KeyedLocks
from nova_lxd.lxd.operations import Operation, Operations
from nova_lxd.lxd.paths import DEFAULT_PROJECT, Paths
from nova_lxd.lxd.storage.drivers.interface import Filler
from nova_lxd.lxd.storage.unpack import unpack_image
from nova_lxd.lxd.storage.volume import Volume

LOG = logging.getLogger(__name__)
_PREFIX = re.compile(r"[0-9a-f]{1,64}")
Requestor = Mapping[str, Any] | None


class Images:
    """The image store of one daemon.

    ``project`` is everywhere the project that keeps the images: :meth:`project_for` tells it.
    """

    def __init__(
        self,
        paths: Paths,
        db: Database,
        events: Events,
        operations: Operations,
        pools: Pools,
        settings: Settings,
        unpack: Unpack = unpack_image,
    ) -> None:
        self._db = db
        self._events = events
        self._locks = KeyedLocks()
        self.settings = settings
        self.store = Store(paths.images)
        self.aliases = Aliases(db, events)
        self.secrets = Secrets(operations, events)
        self.importer = Importer(db, self.store, events, self._locks)
        self.volumes = ImageVolumes(self.store, pools, unpack)
        self.acquirer = Acquirer(db, self.store, self.importer, settings)
        self.publisher = Publisher(self.store, self.importer, settings)
        self.pusher = Pusher(self.store, self.acquirer.fetcher)
        self.upkeep = Upkeep(self)

    def bind_exporter(self, exporter: InstanceExporter) -> None:
        """Say who gives out instances for publishing; before the daemon serves."""
        self.publisher.exporter = exporter

    def start(self) -> None:
        """Make the store, remove what a killed daemon left, and begin the upkeep.

        The pools are mounted already.
        """
        known = db_images.fingerprints(self._db)
        self.store.sweep(known)
        self.volumes.sweep(known)
        for fingerprint in known:
            if not self.store.has(fingerprint):
                LOG.warning("The file of image %s is gone; delete the image", fingerprint)
        self.upkeep.start()

    def close(self) -> None:
        """End the upkeep."""
        self.upkeep.stop()

    def project_for(self, project: str) -> str:
        """The project that keeps the images which ``project`` uses (features.images)."""
        found = db_projects.get(self._db, project)
        return project if found is None or found.feature("images") else DEFAULT_PROJECT

    # -- looking up ---------------------------------------------------------------------------

    def all(self, project: str | None, *, public_only: bool = False) -> list[Image]:
        """The project's images (every project's when None), by fingerprint."""
        images = db_images.get_all(self._db, project)
        return [image for image in images if image.public or not public_only]

    def get(self, project: str, fingerprint: str, *, public_only: bool = False) -> Image:
        """The image whose fingerprint is, or begins uniquely with, ``fingerprint``.

        :raises NotFound: there is none.
        :raises BadRequest: there are several.
        """
        found = []
        if _PREFIX.fullmatch(fingerprint):
            found = db_images.find(self._db, project, fingerprint)
        found = [image for image in found if image.public or not public_only]
        if not found:
            raise NotFound("Image not found")
        if len(found) > 1:
            raise BadRequest(
                f"More than one image matches the fingerprint prefix {fingerprint!r}; "
                "give more of it"
            )
        return found[0]

    def find(self, project: str, name: str) -> Image:
        """The image of an alias or of a fingerprint.

        :raises NotFound: there is neither.
        """
        alias = db_images.get_alias(self._db, project, name)
        return self.get(project, alias.fingerprint if alias else name)

    def find_by_properties(self, project: str, properties: Mapping[str, str]) -> Image:
        """The newest image that has all of these properties.

        :raises NotFound: there is none.
        """
        matching = [
            image
            for image in db_images.get_all(self._db, project)
            if properties.items() <= image.properties.items()
        ]
        if not properties or not matching:
            raise NotFound("No matching image could be found")
        return max(matching, key=lambda image: image.created_at)

    def resolve(
        self,
        project: str,
        source: Source,
        op: Operation | None = None,
        requestor: Requestor = None,
    ) -> Image:
        """The image for a new instance: of this server, or copied from another one and cached.

        :raises NotFound: there is none.
        :raises LXDError: the other server cannot be reached or refuses.
        """
        if not source.server:
            return self.find(project, source.name)
        cached = self.acquirer.cached(source, project)
        if cached is not None:
            return cached
        update = self.settings.get("images.auto_update_cached").lower() in ("true", "1", "yes")
        wanted = Wanted(project, cached=True, auto_update=update)
        found = self._present(project, source)
        if found is not None:
            return found
        return self.acquirer.download(source, wanted, op, requestor)

    def _present(self, project: str, source: Source) -> Image | None:
        """The image that the source names by its whole fingerprint, if the project has it."""
        return db_images.get(self._db, project, source.name)

    # -- for instances ------------------------------------------------------------------------

    def ensure_volume(self, pool: str, fingerprint: str) -> Volume:
        """Unpack the image on the pool unless it is there: see :meth:`ImageVolumes.hold`."""
        with self.volumes.hold(pool, fingerprint) as volume:
            return volume

    def hold_volume(self, pool: str, fingerprint: str) -> AbstractContextManager[Volume]:
        """:meth:`ensure_volume` for a block in which the image may be deleted only afterwards."""
        return self.volumes.hold(pool, fingerprint)

    def filler(self, fingerprint: str) -> Filler:
        """What unpacks the image into a new volume, for pools without ``optimized_images``."""
        return self.volumes.filler(fingerprint)

    def mark_used(self, project: str, fingerprint: str) -> None:
        """An instance was made from the image: cached images expire after the last such use."""
        db_images.touch(self._db, project, fingerprint, time.time())

    # -- changing -----------------------------------------------------------------------------

    def update(self, old: Image, new: Image, profiles_project: str, requestor: Requestor) -> None:
        """Store the changeable part of an image: flags, properties, profiles and expiry.

        :raises BadRequest: a profile does not exist, or a property is not a text.
        """
        check_properties(new.properties)
        self.check_profiles(profiles_project, new.profiles)
        with self._db.write():
            current = self.get(old.project, old.fingerprint)
            db_images.update(
                self._db,
                replace(
                    current,
                    public=new.public,
                    auto_update=new.auto_update,
                    properties=new.properties,
                    profiles=new.profiles,
                    expires_at=new.expires_at,
                ),
            )
        self._events.lifecycle("image-updated", image_url(old), old.project, requestor=requestor)

    def check_profiles(self, project: str, names: list[str]) -> None:
        """:raises BadRequest: one of the profiles does not exist in ``project``."""
        for name, known in db_images.profiles_known(self._db, project, names).items():
            if not known:
                raise BadRequest(f"Profile '{name}' doesn't exist")

    def delete(self, image: Image, requestor: Requestor = None) -> None:
        """Remove an image with its aliases, and its files and volumes if it was the last one.

        :raises NotFound: it is gone already.
        """
        with self._locks.hold(image.fingerprint):
            self.get(image.project, image.fingerprint)
            # The row goes first: what a kill leaves behind is then swept at the next start.
            db_images.delete(self._db, image.project, image.fingerprint)
            if not db_images.of_fingerprint(self._db, image.fingerprint):
                with self.volumes.removing(image.fingerprint):
                    self.store.remove(image.fingerprint)
                    self.volumes.remove(image.fingerprint)
        self._events.lifecycle(
            "image-deleted", image_url(image), image.project, requestor=requestor
        )

    def refresh(
        self, image: Image, op: Operation | None = None, requestor: Requestor = None
    ) -> Image | None:
        """Replace the image by the newer version of its source; None when there is none.

        :raises BadRequest: the image has no source.
        :raises LXDError: the source cannot be reached or refuses.
        """
        new = self.acquirer.refresh(image, op, requestor)
        if new is not None:
            self.delete(image, requestor)
            self._events.lifecycle(
                "image-refreshed", image_url(new), new.project, requestor=requestor
            )
        return new

    def retrieved(self, image: Image, target: str, requestor: Requestor) -> None:
        """Tell that the image was sent out, to the server ``target`` if that was pushed."""
        self._events.lifecycle(
            "image-retrieved",
            image_url(image),
            image.project,
            context={"target": target} if target else None,
            requestor=requestor,
        )
