# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from nova_lxd.lxd.db import images as db_images
from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.errors import BadRequest, Conflict, NoSpace, NotFound
from nova_lxd.lxd.images.importer import NewAlias, Wanted
from nova_lxd.lxd.images.receive import receiver
from nova_lxd.lxd.images.store import StagedFile
from nova_lxd.tests.unit.images.conftest import Daemon
from nova_lxd.tests.unit.images.samples import sha256, split, unified


async def test_import_keeps_what_the_image_says_and_what_is_asked(daemon: Daemon) -> None:
    data = unified()
    image = daemon.add(
        data, public=True, properties={"foo": "bar", "os": "x"}, aliases=[NewAlias("u", "d")]
    )
    assert image.fingerprint == sha256(data)
    assert image.size == len(data)
    assert image.architecture == "x86_64"
    assert image.properties == {"foo": "bar", "os": "x", "release": "1.10"}
    assert (image.created_at, image.expires_at) == (1600000000, 1900000000)
    assert image.public and not image.cached and image.profiles == ["default"]
    assert [(alias.name, alias.description) for alias in image.aliases] == [("u", "d")]
    assert daemon.files() == [image.fingerprint]
    assert [event["action"] for event in daemon.lifecycle] == ["image-created"]
    assert daemon.lifecycle[0]["source"] == f"/1.0/images/{image.fingerprint}"


async def test_a_split_image_has_two_files(daemon: Daemon) -> None:
    meta, root = split()
    with daemon.images.store.staging() as staged:
        staged.open_image().write(meta)
        staged.open_rootfs().write(root)
        image = daemon.images.importer.admit(staged, Wanted("default"))
    assert image.fingerprint == sha256(meta, root)
    assert daemon.files() == [image.fingerprint, f"{image.fingerprint}.rootfs"]
    assert (daemon.paths.images / daemon.files()[1]).read_bytes() == root


async def test_the_same_image_again_is_a_conflict(daemon: Daemon) -> None:
    daemon.add(unified())
    with pytest.raises(Conflict, match=r"^Image with same fingerprint already exists$"):
        daemon.add(unified())
    assert len(daemon.files()) == 1


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"fingerprint": "0" * 64}, BadRequest),
        ({"aliases": [NewAlias("")]}, BadRequest),
        ({"properties": {"a": "nul\0"}}, BadRequest),
        ({"properties": {"line\nend": "a"}}, BadRequest),
        ({"aliases": [NewAlias("a"), NewAlias("a")]}, BadRequest),
        ({"aliases": [NewAlias("taken")]}, Conflict),
    ],
)
async def test_a_refused_import_leaves_nothing(
    daemon: Daemon, wanted: dict[str, object], error: type[Exception]
) -> None:
    kept = daemon.add(unified(), aliases=[NewAlias("taken")])
    with pytest.raises(error):
        daemon.add(unified(more=b"2"), **wanted)
    assert daemon.files() == [kept.fingerprint]
    assert len(daemon.images.all("default")) == 1


async def test_a_full_disk_is_told_and_leaves_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(NoSpace):
        daemon.add(unified())
    assert daemon.files() == []
    assert daemon.images.all("default") == []


def test_a_full_device_is_told() -> None:
    full = Path("/dev/full").open("wb")  # noqa: SIM115 - closed by close()
    file = StagedFile(Path("/dev/full"), full, hashlib.sha256())
    with pytest.raises(NoSpace):
        file.write(b"x" * 100_000)
    file.close()


async def test_lookup_by_prefix(daemon: Daemon) -> None:
    image = daemon.add(unified())
    images = daemon.images
    assert images.get("default", image.fingerprint[:12]) == image
    full = image.fingerprint
    for wrong in ("", "zz", "0" * 64, full + "0", "%", "_", full.upper()):
        with pytest.raises(NotFound, match=r"^Image not found$"):
            images.get("default", wrong)
    with pytest.raises(NotFound):
        images.get("default", image.fingerprint, public_only=True)


async def test_an_ambiguous_prefix_is_refused(daemon: Daemon) -> None:
    firsts: dict[str, int] = {}
    number = 0
    while 2 not in firsts.values():
        image = daemon.add(unified(more=str(number).encode()))
        number += 1
        firsts[image.fingerprint[0]] = firsts.get(image.fingerprint[0], 0) + 1
    twice = next(first for first, count in firsts.items() if count == 2)
    with pytest.raises(BadRequest, match="More than one"):
        daemon.images.get("default", twice)


async def test_find_by_alias_and_properties(daemon: Daemon) -> None:
    old = daemon.add(unified(), aliases=[NewAlias("old")])
    new = daemon.add(
        unified(b"architecture: amd64\ncreation_date: 1700000000\nproperties: {os: busy}\n")
    )
    assert daemon.images.find("default", "old") == old
    assert daemon.images.find("default", new.fingerprint[:20]) == new
    assert daemon.images.find_by_properties("default", {"os": "busy"}) == new
    assert daemon.images.find_by_properties("default", {"release": "1.10"}) == old
    with pytest.raises(NotFound):
        daemon.images.find_by_properties("default", {"os": "other"})
    with pytest.raises(NotFound):
        daemon.images.find_by_properties("default", {})


async def test_delete_removes_files_volumes_and_aliases(daemon: Daemon) -> None:
    image = daemon.add(unified(), aliases=[NewAlias("u")])
    volume = daemon.images.ensure_volume("default", image.fingerprint)
    assert daemon.pools.default.has(volume)
    daemon.images.delete(image)
    assert daemon.files() == []
    assert not daemon.pools.default.has(volume)
    assert daemon.images.aliases.all("default") == []
    assert daemon.lifecycle[-1]["action"] == "image-deleted"
    with pytest.raises(NotFound):
        daemon.images.delete(image)
    with pytest.raises(NotFound):
        daemon.images.ensure_volume("default", image.fingerprint)


async def test_projects_share_the_files(daemon: Daemon) -> None:
    db_projects.create(daemon.db, "p1", "", {"features.images": "true"})
    db_projects.create(daemon.db, "p2", "", {})
    assert daemon.images.project_for("p1") == "p1"
    assert daemon.images.project_for("p2") == "default"
    first = daemon.add(unified())
    second = daemon.add(unified(), project="p1", aliases=[NewAlias("mine")])
    assert daemon.lifecycle[-1]["source"] == f"/1.0/images/{first.fingerprint}?project=p1"
    assert daemon.files() == [first.fingerprint]
    assert daemon.images.aliases.all("default") == []
    daemon.images.delete(first)
    assert daemon.files() == [first.fingerprint]
    assert daemon.images.get("p1", first.fingerprint) == second
    with pytest.raises(NotFound):
        daemon.images.get("default", first.fingerprint)
    daemon.images.delete(second)
    assert daemon.files() == []


async def test_update(daemon: Daemon) -> None:
    image = daemon.add(unified())
    new = replace(image, public=True, properties={"a": "b"}, expires_at=5.0)
    daemon.images.update(image, new, "default", {"username": "me"})
    assert daemon.images.get("default", image.fingerprint) == new
    assert daemon.lifecycle[-1]["action"] == "image-updated"
    with pytest.raises(BadRequest, match=r"^Profile 'no' doesn't exist$"):
        daemon.images.update(image, replace(new, profiles=["no"]), "default", None)


async def test_aliases(daemon: Daemon) -> None:
    image = daemon.add(unified())
    other = daemon.add(unified(more=b"1"), public=True)
    aliases = daemon.images.aliases
    aliases.create("default", "one", image.fingerprint, "first", None)
    with pytest.raises(Conflict, match=r'^Alias "one" already exists$'):
        aliases.create("default", "one", other.fingerprint, "", None)
    with pytest.raises(NotFound, match=r"^Image alias not found$"):
        aliases.get("default", "one", public_only=True)
    aliases.update("default", "one", other.fingerprint, "second", None)
    assert aliases.get("default", "one", public_only=True).description == "second"
    aliases.create("default", "two", other.fingerprint, "", None)
    with pytest.raises(Conflict):
        aliases.rename("default", "one", "two", None)
    aliases.rename("default", "one", "three", None)
    aliases.delete("default", "two", None)
    assert [alias.name for alias in aliases.all("default")] == ["three"]
    for call in (
        lambda: aliases.delete("default", "two", None),
        lambda: aliases.rename("default", "two", "four", None),
        lambda: aliases.update("default", "two", image.fingerprint, "", None),
    ):
        with pytest.raises(NotFound):
            call()
    actions = [event["action"] for event in daemon.lifecycle if "alias" in event["action"]]
    assert actions == [
        "image-alias-created",
        "image-alias-updated",
        "image-alias-created",
        "image-alias-renamed",
        "image-alias-deleted",
    ]


async def test_many_at_once_unpack_once(daemon: Daemon) -> None:
    image = daemon.add(unified())
    driver = daemon.pools.default
    driver.slow.clear()
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(daemon.images.ensure_volume, "default", image.fingerprint)
            for _ in range(8)
        ]
        driver.slow.set()
        volumes = {future.result(10) for future in futures}
    assert len(volumes) == 1
    assert driver.made == 1


async def test_a_failed_unpack_is_tried_again(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = daemon.add(unified())
    works = daemon.images.volumes._unpack

    def fails(*_paths: object) -> None:
        raise NoSpace("full")

    monkeypatch.setattr(daemon.images.volumes, "_unpack", fails)
    with pytest.raises(NoSpace):
        daemon.images.ensure_volume("default", image.fingerprint)
    monkeypatch.setattr(daemon.images.volumes, "_unpack", works)
    daemon.images.ensure_volume("default", image.fingerprint)
    assert daemon.pools.default.made == 1


async def test_delete_waits_for_who_clones(daemon: Daemon) -> None:
    image = daemon.add(unified())
    deleted = threading.Event()

    def delete() -> None:
        daemon.images.delete(image)
        deleted.set()

    with daemon.images.hold_volume("default", image.fingerprint) as volume:
        thread = threading.Thread(target=delete)
        thread.start()
        assert not deleted.wait(0.2)
        assert daemon.pools.default.has(volume)
    thread.join(10)
    assert deleted.is_set()
    assert not daemon.pools.default.has(volume)


async def test_a_restart_sweeps_what_a_kill_left(daemon: Daemon) -> None:
    kept = daemon.add(unified())
    killed = daemon.add(unified(more=b"1"))
    daemon.images.ensure_volume("default", kept.fingerprint)
    lost = daemon.images.ensure_volume("default", killed.fingerprint)
    db_images.delete(daemon.db, "default", killed.fingerprint)  # killed within delete()
    receiver(daemon.images.store.stage(), "").feed(b"half an image")  # killed within an upload
    orphan = daemon.paths.images / ("a" * 64 + ".rootfs")  # killed within Store.commit()
    orphan.write_bytes(b"x")
    daemon.start()
    assert daemon.files() == [kept.fingerprint]
    assert not daemon.pools.default.has(lost)
    assert daemon.pools.default.has(daemon.images.ensure_volume("default", kept.fingerprint))


async def test_secrets_work_once_and_a_moment_longer(daemon: Daemon) -> None:
    secrets = daemon.images.secrets
    op = secrets.create("default", "f" * 64, {"public": True}, None)
    assert op.metadata is not None
    secret = op.metadata["secret"]
    for wrong in ("", "x", secret[:-1], "é"):
        assert secrets.redeem("default", "f" * 64, wrong) is None
    assert secrets.redeem("default", "e" * 64, secret) is None
    assert secrets.redeem("other", "f" * 64, secret) is None
    terms = secrets.redeem("default", "f" * 64, secret)
    assert terms is not None and terms["public"] is True
    assert op.status == 401
    assert secrets.redeem("default", "f" * 64, secret) is not None
    assert daemon.lifecycle[-1]["action"] == "image-secret-created"
