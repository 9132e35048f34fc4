# SPDX-License-Identifier: Apache-2.0
"""What happens to images by itself: cached ones expire, and those that want it are updated."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from nova_lxd.lxd.errors import LXDError

if TYPE_CHECKING:
    from nova_lxd.lxd.images.service import Images

LOG = logging.getLogger(__name__)
_LOOK = 900.0
_EXPIRE = 86400.0
_HOUR = 3600.0
_DAY = 86400.0


class Upkeep:
    """A thread that wakes up every quarter of an hour to see whether anything is due."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="image-upkeep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a download that it is in is left to end with the process."""
        self._stop.set()

    def _run(self) -> None:
        # A daemon that is restarted every day lets images expire as well.
        expired, updated = -_EXPIRE, time.monotonic()
        while not self._stop.wait(_LOOK):
            now = time.monotonic()
            try:
                if now - expired >= _EXPIRE:
                    expired = now
                    self.expire_cached(time.time())
                hours = int(self._images.settings.get("images.auto_update_interval"))
                if hours and now - updated >= hours * _HOUR:
                    updated = now
                    self.update_all()
            except Exception:  # the next round must come whatever this one met
                LOG.exception("The upkeep of images failed")

    def expire_cached(self, now: float) -> None:
        """Delete cached images unused for images.remote_cache_expiry days."""
        days = int(self._images.settings.get("images.remote_cache_expiry"))
        if not days:
            return
        for image in self._images.all(None):
            used = image.last_used_at or image.uploaded_at
            if image.cached and used < now - days * _DAY:
                LOG.info("Deleting cached image %s: unused for %d days", image.fingerprint, days)
                try:
                    self._images.delete(image)
                except LXDError as exc:  # the others are to go all the same
                    LOG.warning("Deleting cached image %s failed: %s", image.fingerprint, exc)

    def update_all(self) -> None:
        """Get newer versions of all images that have auto_update set."""
        for image in self._images.all(None):
            if self._stop.is_set():
                return
            if not image.auto_update or image.update_source is None:
                continue
            try:
                self._images.refresh(image)
            except LXDError as exc:  # a server that is down is asked again next time
                LOG.warning("Updating image %s failed: %s", image.fingerprint, exc)
