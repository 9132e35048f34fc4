# SPDX-License-Identifier: Apache-2.0
"""One-time secrets: an untrusted client may fetch a private image, or push one, with one."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Any

from nova_lxd.lxd.db.projects import with_project
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.operations import FINAL, Operation, Operations


class Secrets:
    """Secrets live in token operations (LXD: "Image download token")."""

    def __init__(self, operations: Operations, events: Events) -> None:
        self._operations = operations
        self._events = events

    def create(
        self,
        project: str,
        fingerprint: str,
        terms: Mapping[str, Any] | None,
        requestor: Mapping[str, Any] | None,
    ) -> Operation:
        """A token for the image.

        :param terms: what a pushed image shall be like (public, properties, aliases, …).
        """
        url = f"/1.0/images/{fingerprint}"
        op = self._operations.token(
            project,
            "Image download token",
            {**(terms or {}), "secret": secrets.token_hex(32)},
            {"images": [url]},
        )
        self._events.lifecycle(
            "image-secret-created", with_project(url, project), project, requestor=requestor
        )
        return op

    def redeem(self, project: str, fingerprint: str, secret: str) -> Mapping[str, Any] | None:
        """The terms of the token that has this secret for the image, None if there is none.

        It ends with that.  Like LXD's, an ended token counts as long as its operation is listed
        (some seconds): clients read the image's description and then its files.
        """
        if not secret:
            return None
        url = f"/1.0/images/{fingerprint}"
        for op in self._operations.visible(project):
            if op.kind != "token" or url not in op.resources.get("images", ()):
                continue
            terms = op.metadata or {}
            if hmac.compare_digest(str(terms.get("secret", "")).encode(), secret.encode()):
                if op.status not in FINAL:
                    self._operations.cancel(op)
                return terms
        return None
