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
from nova_lxd.lxd.images.aliases import Aliases
from nova_lxd.lxd.images.importer import Importer, image_url
from nova_lxd.lxd.images.secrets import Secrets
from nova_lxd.lxd.images.store import Store
from nova_lxd.lxd.images.volumes import ImageVolumes, Pools, Unpack
from nova_lxd.lxd.locks import KeyedLocks
from nova_lxd.lxd.operations import Operations
from nova_lxd.lxd.paths import DEFAULT_PROJECT, Paths
from nova_lxd.lxd.storage.drivers.interface import Filler
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
        unpack: Unpack,
    ) -> None:
        self._db = db
        self._events = events
        self._locks = KeyedLocks()
        self.store = Store(paths.images)
        self.aliases = Aliases(db, events)
        self.secrets = Secrets(operations, events)
        self.importer = Importer(db, self.store, events, self._locks)
        self.volumes = ImageVolumes(self.store, pools, unpack)

    def recover(self) -> None:
        """Make the store and remove what a killed daemon left; pools are mounted already."""
        known = db_images.fingerprints(self._db)
        self.store.sweep(known)
        self.volumes.sweep(known)
        for fingerprint in known:
            if not self.store.has(fingerprint):
                LOG.warning("The file of image %s is gone; delete the image", fingerprint)

    def project_for(self, project: str) -> str:
        """The project that keeps the images which ``project`` uses (features.images)."""
        found = db_projects.get(self._db, project)
        return project if found is None or found.feature("images") else DEFAULT_PROJECT

    # -- looking up ---------------------------------------------------------------------------

    def all(self, project: str | None, *, public_only: bool = False) -> list[Image]:
        """The project's images (every project's when None), in the order of their import."""
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

    # -- for instances ------------------------------------------------------------------------

    def ensure_volume(self, pool: str, fingerprint: str) -> Volume:
        """See :meth:`ImageVolumes.ensure`."""
        return self.volumes.ensure(pool, fingerprint)

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

        :raises BadRequest: a profile does not exist.
        """
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
                self.store.remove(image.fingerprint)
                self.volumes.remove(image.fingerprint)
        self._events.lifecycle(
            "image-deleted", image_url(image), image.project, requestor=requestor
        )

    def retrieved(self, image: Image, target: str, requestor: Requestor) -> None:
        """Tell that the image was sent out, to the server ``target`` if that was pushed."""
        self._events.lifecycle(
            "image-retrieved",
            image_url(image),
            image.project,
            context={"target": target} if target else None,
            requestor=requestor,
        )
