# SPDX-License-Identifier: Apache-2.0
"""From received files to an image that the database knows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from nova_lxd.lxd.db import images as db_images
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.db.images import Image, UpdateSource
from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.errors import BadRequest, Conflict
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.images import formats, metadata
from nova_lxd.lxd.images.aliases import check_alias_name
from nova_lxd.lxd.images.store import Staging, Store
from nova_lxd.lxd.locks import KeyedLocks
from nova_lxd.lxd.operations import Operation

DEFAULT_PROFILES = ("default",)


@dataclass(frozen=True)
class NewAlias:
    """An alias that comes with a new image."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class Wanted:
    """What a client says of a new image beside its files.

    ``properties`` are laid over those of metadata.yaml, or replace them with ``only_properties``;
    ``created_at`` and ``expires_at`` replace those of metadata.yaml when they are not None.
    """

    project: str
    public: bool = False
    auto_update: bool = False
    cached: bool = False
    filename: str = ""
    fingerprint: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    only_properties: bool = False
    profiles: Sequence[str] = DEFAULT_PROFILES
    created_at: float | None = None
    expires_at: float | None = None
    aliases: Sequence[NewAlias] = ()
    update_source: UpdateSource | None = None


def image_url(image: Image) -> str:
    """The image's URL as lifecycle events tell it."""
    return with_project(f"/1.0/images/{image.fingerprint}", image.project)


def describe(image: Image, op: Operation | None) -> None:
    """Tell the operation's readers which image it is about."""
    if op is not None:
        op.update({"fingerprint": image.fingerprint, "size": str(image.size)})


def check_properties(properties: Mapping[str, str]) -> None:
    """:raises BadRequest: a property could not become a key of an instance's configuration."""
    for key, value in properties.items():
        if not key or not key.isprintable() or "\0" in value:
            raise BadRequest(f"Invalid image property {key[:64]!r}: control characters in it")


class Importer:
    """Admits staged files to the store and the database."""

    def __init__(self, db: Database, store: Store, events: Events, locks: KeyedLocks) -> None:
        self._db = db
        self._store = store
        self._events = events
        self._locks = locks

    def check_aliases(self, project: str, aliases: Sequence[NewAlias]) -> None:
        """:raises BadRequest: no name for an alias.  :raises Conflict: it exists."""
        for alias in aliases:
            check_alias_name(alias.name)
            if db_images.get_alias(self._db, project, alias.name):
                raise Conflict(f"Alias already exists: {alias.name}")
        if len({alias.name for alias in aliases}) < len(aliases):
            raise BadRequest("Importing the image failed: an alias is named twice")

    def admit(
        self,
        staged: Staging,
        wanted: Wanted,
        op: Operation | None = None,
        requestor: Mapping[str, Any] | None = None,
    ) -> Image:
        """Make the received files an image; nothing of them stays on failure.

        :raises BadRequest: they are no image.
        :raises Conflict: the project has the image, or an alias.
        :raises NoSpace: the disk is full.
        """
        image = self._examine(staged, wanted)
        describe(image, op)
        with self._locks.hold(image.fingerprint), ExitStack() as undo:
            if db_images.get(self._db, image.project, image.fingerprint):
                raise Conflict("Image with same fingerprint already exists")
            if op is not None:
                op.check_cancelled()
            if not self._store.has(image.fingerprint):
                self._store.commit(staged)
                undo.callback(self._store.remove, image.fingerprint)
            self._record(image, wanted.aliases)
            undo.pop_all()
        return self._announce(image, requestor)

    def adopt(
        self,
        found: Image,
        wanted: Wanted,
        op: Operation | None = None,
        requestor: Mapping[str, Any] | None = None,
    ) -> Image:
        """Give a project an image that another one has; the files are shared.

        :raises Conflict: the project has got the image meanwhile, or an alias.
        """
        image = self._fill(
            wanted, found.fingerprint, found.type, found.size, found.filename,
            metadata.ImageMetadata(
                found.architecture, int(found.created_at), int(found.expires_at), found.properties
            ),
        )  # fmt: skip
        describe(image, op)
        with self._locks.hold(image.fingerprint):
            if db_images.get(self._db, image.project, image.fingerprint):
                raise Conflict("Image with same fingerprint already exists")
            self._record(image, wanted.aliases)
        return self._announce(image, requestor)

    def _record(self, image: Image, aliases: Sequence[NewAlias]) -> None:
        with self._db.write():
            db_images.insert(self._db, image)
            self.add_aliases(image, aliases)

    def add_aliases(self, image: Image, aliases: Sequence[NewAlias]) -> None:
        """Give a stored image these aliases, within a transaction.

        :raises BadRequest: no name for an alias.
        :raises Conflict: one exists.
        """
        self.check_aliases(image.project, aliases)
        for alias in aliases:
            db_images.put_alias(
                self._db, image.project, alias.name, image.fingerprint, alias.description
            )

    def _announce(self, image: Image, requestor: Mapping[str, Any] | None) -> Image:
        self._events.lifecycle(
            "image-created",
            image_url(image),
            image.project,
            context={"type": image.type},
            requestor=requestor,
        )
        return db_images.get(self._db, image.project, image.fingerprint) or image

    def _examine(self, staged: Staging, wanted: Wanted) -> Image:
        """The image that the staged files are, as far as they and the client say."""
        fingerprint = staged.fingerprint
        if wanted.fingerprint and fingerprint != wanted.fingerprint:
            raise BadRequest(
                f"fingerprints don't match, got {fingerprint} expected {wanted.fingerprint}"
            )
        if staged.image is None:
            raise BadRequest("Importing the image failed: it has no file")
        for file in staged.files:
            file.flush()
        split = staged.rootfs is not None
        told, kind = metadata.read(staged.image.path, unified=not split)
        if staged.rootfs is not None and staged.type != metadata.VIRTUAL_MACHINE:
            formats.detect(staged.rootfs.path)
        return self._fill(
            wanted, fingerprint, staged.type or kind, staged.size, staged.filename, told
        )

    def _fill(
        self,
        wanted: Wanted,
        fingerprint: str,
        kind: str,
        size: int,
        filename: str,
        told: metadata.ImageMetadata,
    ) -> Image:
        properties = {
            **({} if wanted.only_properties else told.properties),
            **wanted.properties,
        }
        check_properties(properties)
        created = told.creation_date if wanted.created_at is None else wanted.created_at
        expires = told.expiry_date if wanted.expires_at is None else wanted.expires_at
        return Image(
            project=wanted.project,
            fingerprint=fingerprint,
            filename=wanted.filename or filename,
            type=kind,
            size=size,
            architecture=told.architecture,
            public=wanted.public,
            auto_update=wanted.auto_update,
            cached=wanted.cached,
            properties=properties,
            profiles=list(wanted.profiles),
            created_at=float(created),
            uploaded_at=time.time(),
            expires_at=float(expires),
            update_source=wanted.update_source,
        )
