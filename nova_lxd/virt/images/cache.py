# SPDX-License-Identifier: Apache-2.0
"""The LXD image store of the host's project as Nova's image cache.

An image is imported once per Glance id and checksum: the alias ``glance-<id>`` names it, the
alias's description is the checksum. Data goes through a file, never through memory.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

import nova.conf
import requests_toolbelt
from nova import utils
from nova.image import glance
from oslo_log import log as logging
from oslo_utils import fileutils, timeutils

from nova_lxd.virt import exception
from nova_lxd.virt.client import LXDClient
from nova_lxd.virt.images import formats
from nova_lxd.virt.images.upload import Upload

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

ALIAS_PREFIX = "glance-"


class ImageCache:
    """Images of one host.

    :param client: LXD, in the project of the host
    """

    def __init__(self, client: LXDClient) -> None:
        self._client = client
        self._glance = glance.API()
        self._work = pathlib.Path(CONF.lxd.image_work_dir, client.project)

    def remove_leftovers(self) -> None:
        """Delete what a killed nova-compute left in the work directory."""
        shutil.rmtree(self._work, ignore_errors=True)

    def ensure(self, context: Any, image_id: str, trusted_certs: Any = None) -> str:
        """Return the fingerprint of a Glance image in LXD, importing it when it is missing.

        :raises ImageNotUsable: the image cannot be a container's root; nothing stays behind
        """
        image = self._glance.get(context, image_id)
        checksum = _checksum(image)

        @utils.synchronized(f"lxd-image-{self._client.project}-{image_id}")
        def locked() -> str:
            cached = self._lookup(image_id, checksum)
            if cached:
                return cached
            with self._downloaded(context, image_id, trusted_certs) as (path, work):
                return self._import(image_id, checksum, path, work)

        return locked()

    def is_cached(self, image_id: str) -> bool:
        """Tell whether LXD holds an import of a Glance image."""
        return self._client.exists("images", "aliases", ALIAS_PREFIX + image_id)

    def age(self, used: Iterable[str]) -> list[str]:
        """Delete the imports that no instance uses and that are old enough.

        :param used: Glance ids of the instances' images
        :returns: the Glance ids of the deleted imports
        """
        if not CONF.image_cache.remove_unused_base_images:
            return []
        gone = []
        used = set(used)
        for image in self._client.get("images", recursion="1"):
            ids = [
                alias["name"].removeprefix(ALIAS_PREFIX)
                for alias in image["aliases"]
                if alias["name"].startswith(ALIAS_PREFIX)
            ]
            if ids and not used.intersection(ids) and _old_enough(image):
                LOG.info("Deleting the unused import of image %s", ids[0])
                self._client.delete("images", image["fingerprint"], missing_ok=True)
                gone += ids
        return gone

    def remove(self, fingerprint: str) -> None:
        """Delete an image from LXD."""
        self._client.delete("images", fingerprint, missing_ok=True)

    # -- import -----------------------------------------------------------------------------

    def _lookup(self, image_id: str, checksum: str) -> str | None:
        try:
            alias = self._client.get("images", "aliases", ALIAS_PREFIX + image_id)
        except exception.LXDNotFound:
            return None
        if alias["description"] == checksum:
            return alias["target"]
        LOG.info("Image %s changed in Glance: it is imported again", image_id)
        self._client.delete("images", "aliases", ALIAS_PREFIX + image_id, missing_ok=True)
        if not self._client.get("images", alias["target"])["aliases"]:
            self.remove(alias["target"])  # nobody would: an import is known by its alias
        return None

    @contextlib.contextmanager
    def _downloaded(self, context: Any, image_id: str, trusted_certs: Any) -> Any:
        """Fetch the image into a work directory that is gone afterwards."""
        fileutils.ensure_tree(str(self._work))
        with tempfile.TemporaryDirectory(dir=self._work) as directory:
            path = pathlib.Path(directory, "image")
            self._glance.download(
                context, image_id, dest_path=str(path), trusted_certs=trusted_certs
            )
            if not path.exists() or not path.stat().st_size:
                raise exception.ImageNotUsable(image_id=image_id, reason="it has no data")
            yield path, pathlib.Path(directory)

    def _import(self, image_id: str, checksum: str, path: pathlib.Path, work: pathlib.Path) -> str:
        try:
            upload = formats.detect(path).prepare(path, work, CONF.lxd)
        except ValueError as e:
            raise exception.ImageNotUsable(image_id=image_id, reason=e)
        fingerprint = upload.fingerprint()
        fresh = not self._client.exists("images", fingerprint)
        with contextlib.ExitStack() as undo:
            if fresh:
                self._upload(image_id, upload)
                undo.callback(self.remove, fingerprint)
            self._client.post(
                "images",
                "aliases",
                json={
                    "name": ALIAS_PREFIX + image_id,
                    "description": checksum,
                    "target": fingerprint,
                },
            )
            undo.pop_all()
        LOG.info("Imported image %s into LXD as %s", image_id, fingerprint)
        return fingerprint

    def _upload(self, image_id: str, upload: Upload) -> None:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(upload.path.open("rb"))
            if upload.metadata is None:
                body: Any = source
                headers = {"Content-Type": "application/octet-stream"}
            else:
                body = requests_toolbelt.MultipartEncoder(
                    {
                        "metadata": ("metadata.tar", upload.metadata),
                        "rootfs": ("rootfs", source),
                    }
                )
                headers = {"Content-Type": body.content_type}
            headers |= {"X-LXD-public": "0", "X-LXD-filename": image_id}
            try:
                self._client.post("images", data=body, headers=headers)
            except exception.LXDError as e:
                raise exception.ImageNotUsable(image_id=image_id, reason=e)


def _checksum(image: dict[str, Any]) -> str:
    """Return what identifies an image's data: Glance's strong hash, else the old one."""
    properties = image.get("properties") or {}
    return str(
        image.get("os_hash_value")
        or properties.get("os_hash_value")
        or image.get("checksum")
        or ""
    )


def _old_enough(image: dict[str, Any]) -> bool:
    minimum = CONF.image_cache.remove_unused_original_minimum_age_seconds
    stamps = [image["uploaded_at"], image.get("last_used_at") or ""]
    latest = max(timeutils.parse_isotime(s) for s in stamps if s and not s.startswith("0001"))
    return timeutils.is_older_than(timeutils.normalize_time(latest), minimum)
