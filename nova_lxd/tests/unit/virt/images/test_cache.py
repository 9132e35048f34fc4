# SPDX-License-Identifier: Apache-2.0
"""The image store as Nova's image cache: what is asked of Glance and of LXD."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import nova.conf
import pytest
from nova import exception as nova_exception

from nova_lxd.virt import exception
from nova_lxd.virt.images import cache

ID = "11111111-2222-3333-4444-555555555555"


class Server:
    """LXD's image store, with the calls that the cache makes."""

    project = "nova-x"

    def __init__(self) -> None:
        self.images: dict[str, list[str]] = {}
        self.aliases: dict[str, dict[str, str]] = {}

    def get(self, *path: str, **params: str) -> Any:
        found: Any = None
        if path[:2] == ("images", "aliases"):
            found = self.aliases.get(path[2])
        elif path[1] in self.images:
            names = [name for name, a in self.aliases.items() if a["target"] == path[1]]
            found = {"aliases": [{"name": name} for name in names]}
        if found is None:
            raise exception.LXDNotFound(404, action="get", reason="not found")
        return found

    def exists(self, *path: str) -> bool:
        try:
            self.get(*path)
        except exception.LXDNotFound:
            return False
        return True

    def post(self, *path: str, json: Any = None, **kwargs: Any) -> None:
        if path == ("images", "aliases"):
            self.aliases[json["name"]] = json

    def delete(self, *path: str, missing_ok: bool = False) -> None:
        if path[:2] == ("images", "aliases"):
            del self.aliases[path[2]]
        else:
            self.images.pop(path[1])


@pytest.fixture
def subject(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[cache.ImageCache]:
    nova.conf.CONF.set_override("image_work_dir", str(tmp_path), "lxd")
    nova.conf.CONF.set_override("lock_path", str(tmp_path), "oslo_concurrency")
    found = cache.ImageCache(Server())  # type: ignore[arg-type]
    found._glance = mock.Mock()
    found._glance.get.return_value = {"id": ID, "os_hash_value": "new"}
    monkeypatch.setattr(found, "_upload", lambda image_id, upload: None)
    yield found
    nova.conf.CONF.clear_override("image_work_dir", "lxd")
    nova.conf.CONF.clear_override("lock_path", "oslo_concurrency")


def held(subject: cache.ImageCache, checksum: str, *others: str) -> Server:
    server: Any = subject._client
    server.images["old"] = []
    for name in (cache.ALIAS_PREFIX + ID, *others):
        server.aliases[name] = {"target": "old", "description": checksum}
    return server


def test_certificates_of_the_owner_go_along(subject: cache.ImageCache) -> None:
    """Nova checks the signature while it downloads, against the certificates it was given."""
    refused = nova_exception.CertificateValidationFailed(cert_uuid="c", reason="not trusted")
    subject._glance.download.side_effect = refused
    with pytest.raises(nova_exception.CertificateValidationFailed):
        subject.ensure(None, ID, trusted_certs="the certificates")
    assert subject._glance.download.call_args.kwargs["trusted_certs"] == "the certificates"
    assert not list(subject._work.iterdir()), "what was loaded is gone"


def test_same_data_is_not_loaded_again(subject: cache.ImageCache) -> None:
    held(subject, "new")
    assert subject.ensure(None, ID) == "old"
    subject._glance.download.assert_not_called()


def test_changed_data_replaces_the_import(subject: cache.ImageCache) -> None:
    server = held(subject, "an older hash")
    assert subject._lookup(ID, "new") is None
    assert server.images == {} and server.aliases == {}


def test_import_that_another_image_shares_stays(subject: cache.ImageCache) -> None:
    server = held(subject, "an older hash", cache.ALIAS_PREFIX + "another")
    assert subject._lookup(ID, "new") is None
    assert list(server.images) == ["old"]
