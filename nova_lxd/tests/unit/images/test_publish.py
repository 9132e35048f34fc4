# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from nova_lxd.lxd.errors import BadRequest, Conflict, NotFound
from nova_lxd.lxd.images.importer import NewAlias, Wanted
from nova_lxd.lxd.images.publish import InstanceTree
from nova_lxd.tests.unit.images.conftest import Daemon
from nova_lxd.tests.unit.images.samples import METADATA


class Exporter:
    """One instance, c1, with one snapshot, s0."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "rootfs" / "bin").mkdir(parents=True)
        (path / "rootfs" / "bin" / "sh").write_bytes(b"#!")
        (path / "templates").mkdir()
        (path / "backup.yaml").write_bytes(b"not for images")
        (path / "metadata.yaml").write_bytes(
            METADATA + b"  /etc/hosts:\n    create_only: false\n    when: [start]\n"
        )

    @contextmanager
    def image_tree(self, project: str, name: str, snapshot: str | None) -> Iterator[InstanceTree]:
        if (project, name, snapshot) not in (("default", "c1", None), ("default", "c1", "s0")):
            raise NotFound("Instance not found")
        yield InstanceTree(self.path, "x86_64")


@pytest.fixture
def source(daemon: Daemon, tmp_path: Path) -> Exporter:
    exporter = Exporter(tmp_path / "c1")
    daemon.images.bind_exporter(exporter)
    return exporter


def content(daemon: Daemon, fingerprint: str) -> tarfile.TarFile:
    data = daemon.images.store.path(fingerprint).read_bytes()
    return tarfile.open(fileobj=io.BytesIO(data))


@pytest.mark.parametrize(("name", "compression"), [("c1", ""), ("c1/s0", "none"), ("c1", "xz")])
async def test_publish(daemon: Daemon, source: Exporter, name: str, compression: str) -> None:
    image = daemon.images.publisher.publish(
        "default", name, compression, Wanted("default", public=True, aliases=[NewAlias("p")])
    )
    assert image.properties == {"os": "busy", "release": "1.10"}
    assert image.public and image.filename == "" and image.created_at > 1600000000
    assert image.expires_at == 0
    with content(daemon, image.fingerprint) as archive:
        names = {member.name.removeprefix("./") for member in archive}
        assert names == {"metadata.yaml", "templates", "rootfs", "rootfs/bin", "rootfs/bin/sh"}
        file = archive.extractfile("metadata.yaml")
        assert file is not None
        told = yaml.safe_load(file)
    assert told["templates"]["/etc/hosts"] == {"create_only": False, "when": ["start"]}
    assert told["templates"]["/etc/hostname"]["template"] == "hostname.tpl"
    assert daemon.files() == [image.fingerprint]


async def test_properties_that_are_asked_for_replace_those_of_the_instance(
    daemon: Daemon, source: Exporter
) -> None:
    image = daemon.images.publisher.publish(
        "default", "c1", "", Wanted("default", properties={"a": "b"}, expires_at=2e9)
    )
    assert image.properties == {"a": "b"}
    assert image.expires_at == 2e9


async def test_an_instance_without_metadata(daemon: Daemon, source: Exporter) -> None:
    (source.path / "metadata.yaml").unlink()
    (source.path / "templates").rmdir()
    image = daemon.images.publisher.publish("default", "c1", "", Wanted("default"))
    assert image.architecture == "x86_64" and image.properties == {}


async def test_a_refused_publish_leaves_nothing(daemon: Daemon, source: Exporter) -> None:
    publish = daemon.images.publisher.publish
    with pytest.raises(BadRequest, match="compression"):
        publish("default", "c1", "rar", Wanted("default"))
    with pytest.raises(NotFound):
        publish("default", "c2", "", Wanted("default"))
    with pytest.raises(NotFound):
        publish("default", "c1/s1", "", Wanted("default"))
    (source.path / "metadata.yaml").write_bytes(b"- no map\n")
    with pytest.raises(BadRequest, match="not a map"):
        publish("default", "c1", "", Wanted("default"))
    (source.path / "metadata.yaml").unlink()
    kept = publish("default", "c1", "", Wanted("default", aliases=[NewAlias("taken")]))
    with pytest.raises(Conflict):
        publish("default", "c1", "", Wanted("default", aliases=[NewAlias("taken")]))
    assert daemon.files() == [kept.fingerprint]


async def test_the_metadata_may_not_be_a_link(
    daemon: Daemon, source: Exporter, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"properties: {stolen: yes}\n")
    (source.path / "metadata.yaml").unlink()
    (source.path / "metadata.yaml").symlink_to(secret)
    image = daemon.images.publisher.publish("default", "c1", "", Wanted("default"))
    assert image.properties == {}
