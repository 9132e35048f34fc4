# SPDX-License-Identifier: Apache-2.0
"""Sending an image to another server, which made a secret for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from nova_lxd.lxd.db.images import Image
from nova_lxd.lxd.errors import InternalError, NotFound
from nova_lxd.lxd.images.download import Fetcher, Progress
from nova_lxd.lxd.images.form import SplitForm, file_chunks
from nova_lxd.lxd.images.store import Store
from nova_lxd.lxd.operations import SUCCESS, Operation


@dataclass(frozen=True)
class Target:
    """Where to send an image, in the terms of LXD's ImageExportPost."""

    server: str
    secret: str
    certificate: str = ""
    project: str = ""
    profiles: tuple[str, ...] | None = None


class Pusher:
    """Uploads images to other servers."""

    def __init__(self, store: Store, fetcher: Fetcher) -> None:
        self._store = store
        self._fetcher = fetcher

    def push(self, image: Image, target: Target, op: Operation) -> None:
        """Send the image and wait until the other server has taken it.

        :raises LXDError: it cannot be reached or refuses.
        """
        url = f"{target.server.rstrip('/')}/1.0/images"
        if target.project:
            url += f"?{urlencode({'project': target.project})}"
        headers = {
            "X-LXD-secret": target.secret,
            "X-LXD-fingerprint": image.fingerprint,
            "X-LXD-filename": image.filename,
        }
        if target.profiles is not None:
            headers["X-LXD-profiles"] = urlencode([("profile", name) for name in target.profiles])
        content, headers["Content-Type"], length = self._content(image)
        headers["Content-Length"] = str(length)
        progress = Progress(op, "", length, "upload_progress")

        def told() -> Iterator[bytes]:
            for data in content:
                yield data
                progress.add(len(data))

        answer = self._ask(url, target, op, method="POST", headers=headers, body=told())
        self._wait(answer, target, op)

    def _content(self, image: Image) -> tuple[Iterator[bytes], str, int]:
        path, rootfs = self._store.path(image.fingerprint), self._store.rootfs(image.fingerprint)
        if not path.exists():
            raise NotFound(f"Pushing image {image.fingerprint} failed: its file is gone")
        if rootfs is None:
            return file_chunks(path), "application/octet-stream", image.size
        form = SplitForm(image, path, rootfs)
        return form.chunks(), form.content_type, form.length

    def _ask(self, url: str, target: Target, op: Operation, **how: Any) -> dict[str, Any]:
        with self._fetcher.open(url, certificate=target.certificate, op=op, **how) as answer:
            data = b"".join(answer.chunks())
        try:
            envelope = json.loads(data)
            metadata: dict[str, Any] = envelope["metadata"]
            assert isinstance(metadata["id"], str)
        except (ValueError, KeyError, TypeError, AssertionError) as exc:
            raise InternalError(f"Pushing to {url} failed: the answer is not LXD's") from exc
        return metadata

    def _wait(self, operation: dict[str, Any], target: Target, op: Operation) -> None:
        """Wait for the other server's operation, which an untrusted client may with its secret."""
        url = f"{target.server.rstrip('/')}/1.0/operations/{operation['id']}/wait"
        secret = (operation.get("metadata") or {}).get("secret", "")
        query = urlencode({"timeout": "30", **({"secret": secret} if secret else {})})
        while operation.get("status_code", 0) < SUCCESS:
            op.check_cancelled()
            operation = self._ask(f"{url}?{query}", target, op)
        if operation["status_code"] != SUCCESS:
            raise InternalError(
                f"Pushing to {target.server} failed: {operation.get('err') or 'it was cancelled'}"
            )
