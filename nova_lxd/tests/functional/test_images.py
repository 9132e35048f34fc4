# SPDX-License-Identifier: Apache-2.0
"""Images: import in every format, properties, aliases, export, copy, publish, delete."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from nova_lxd.tests.functional.conftest import Launch, build_image, remove
from nova_lxd.tests.functional.daemon import Daemon


@pytest.fixture
def unified() -> Path:
    """The busybox image in one tar."""
    (path,) = build_image("busybox", "unified.tar.gz")
    return path


def drop(daemon: Daemon, *fingerprints: str) -> None:
    """Delete images that are there."""
    for fingerprint in fingerprints:
        if daemon.api("GET", f"/1.0/images/{fingerprint}").status == 200:
            daemon.lxc("image", "delete", fingerprint)


def sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def boots(daemon: Daemon, image: str) -> None:
    """An instance of the image comes up."""
    try:
        daemon.lxc("launch", image, "probe")
        assert daemon.exec("probe", "hostname") == "probe"
        assert daemon.exec("probe", "stat", "-c", "%u %g %a", "/etc/shadow") == "0 0 640"
    finally:
        remove(daemon, "probe")


@pytest.mark.parametrize("compression", ["none", "gz", "xz", "zst", "bz2", "lzma"])
def test_unified_image_in_every_compression(
    daemon: Daemon, unified: Path, tmp_path: Path, compression: str
) -> None:
    plain = tmp_path / "image.tar"
    with plain.open("wb") as out:
        subprocess.run(["gzip", "-dc", str(unified)], stdout=out, check=True)
    programs = {
        "gz": "gzip",
        "xz": "xz -0",
        "zst": "zstd -q",
        "bz2": "bzip2",
        "lzma": "xz -0 -F lzma",
    }
    path = plain
    if compression != "none":
        path = tmp_path / f"image.tar.{compression}"
        with path.open("wb") as out:
            argv = [*programs[compression].split(), "-c", str(plain)]
            subprocess.run(argv, stdout=out, check=True)
    fingerprint = sha256(path)
    done = daemon.lxc("image", "import", str(path))
    try:
        assert fingerprint in done.stdout
        image = daemon.get(f"/1.0/images/{fingerprint}")
        assert image["size"] == path.stat().st_size
        assert image["type"] == "container" and image["architecture"] == "x86_64"
        assert image["properties"]["os"] == "busybox"
        assert image["public"] is False and image["cached"] is False
        boots(daemon, fingerprint)
    finally:
        drop(daemon, fingerprint)


def test_split_image_squashfs(daemon: Daemon) -> None:
    metadata, rootfs = build_image("busybox", "metadata.tar.xz", "rootfs.squashfs")
    image = daemon.get("/1.0/images/aliases/busybox")["target"]
    assert image == sha256(metadata, rootfs)


def test_split_image_tar(daemon: Daemon) -> None:
    metadata, rootfs = build_image("busybox", "metadata.tar.xz", "rootfs.tar.gz")
    fingerprint = sha256(metadata, rootfs)
    daemon.lxc("image", "import", str(metadata), str(rootfs))
    try:
        boots(daemon, fingerprint)
    finally:
        drop(daemon, fingerprint)


def test_import_twice_is_refused(daemon: Daemon, unified: Path) -> None:
    daemon.lxc("image", "import", str(unified))
    try:
        assert "already exists" in daemon.refused("image", "import", str(unified))
    finally:
        drop(daemon, sha256(unified))


def test_import_with_properties_and_public(daemon: Daemon, unified: Path) -> None:
    daemon.lxc(
        "image", "import", str(unified), "colour=blue", "os=mine", "--public", "--alias", "u1"
    )
    try:
        image = daemon.get(f"/1.0/images/{sha256(unified)}")
        assert image["public"] is True
        assert image["properties"]["colour"] == "blue" and image["properties"]["os"] == "mine"
        assert [alias["name"] for alias in image["aliases"]] == ["u1"]
    finally:
        drop(daemon, sha256(unified))


def test_import_from_a_url(daemon: Daemon, unified: Path, tmp_path: Path) -> None:
    """The server that the URL names says where the image is and what its hash is."""
    fingerprint = sha256(unified)
    (tmp_path / "image.tar.gz").write_bytes(unified.read_bytes())
    port = 8099

    program = tmp_path / "serve.py"
    program.write_text(
        f"""
import functools, http.server
class Handler(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("LXD-Image-Hash", "{fingerprint}")
        self.send_header("LXD-Image-URL", "http://127.0.0.1:{port}/image.tar.gz")
        super().end_headers()
    def log_message(self, *args): pass
handler = functools.partial(Handler, directory="{tmp_path}")
server = http.server.ThreadingHTTPServer(("127.0.0.1", {port}), handler)
print("up", flush=True)
server.serve_forever()
"""
    )
    server = daemon.sandbox.popen(["python3", str(program)], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        body = {"source": {"type": "url", "mode": "pull", "url": f"http://127.0.0.1:{port}/"}}
        done = daemon.operate("POST", "/1.0/images", body)
        assert done["metadata"]["fingerprint"] == fingerprint
        boots(daemon, fingerprint)
    finally:
        daemon.inside("pkill", "-f", str(program))
        server.wait(timeout=10)
        drop(daemon, fingerprint)


def test_edit_properties_show_and_info(daemon: Daemon, unified: Path) -> None:
    fingerprint = sha256(unified)
    daemon.lxc("image", "import", str(unified), "--alias", "editme")
    try:
        daemon.lxc("image", "set-property", "editme", "colour", "red")
        assert daemon.lxc("image", "get-property", "editme", "colour").stdout == "red\n"
        daemon.lxc("image", "unset-property", "editme", "colour")
        assert "colour" not in daemon.get(f"/1.0/images/{fingerprint}")["properties"]
        shown = daemon.yaml("image", "show", "editme")
        assert shown["public"] is False and shown["auto_update"] is False
        text = daemon.lxc("image", "show", "editme").stdout.replace(
            "public: false", "public: true"
        )
        daemon.lxc("image", "edit", "editme", input=text)
        assert daemon.get(f"/1.0/images/{fingerprint}")["public"] is True
        info = daemon.yaml("image", "info", "editme")
        assert info["Fingerprint"] == fingerprint and info["Architecture"] == "x86_64"
    finally:
        drop(daemon, fingerprint)


def test_aliases(daemon: Daemon) -> None:
    target = daemon.get("/1.0/images/aliases/busybox")["target"]
    daemon.lxc("image", "alias", "create", "second", target[:12])
    assert daemon.get("/1.0/images/aliases/second")["target"] == target
    assert "already exists" in daemon.refused("image", "alias", "create", "second", target)
    daemon.lxc("image", "alias", "rename", "second", "third")
    listed = json.loads(daemon.lxc("image", "alias", "list", "-fjson").stdout)
    assert {each["name"] for each in listed} == {"busybox", "third"}
    daemon.lxc("image", "alias", "delete", "third")
    assert daemon.api("GET", "/1.0/images/aliases/third").status == 404
    assert daemon.api("DELETE", "/1.0/images/aliases/third").status == 404


def test_export_gives_back_what_was_imported(
    daemon: Daemon, unified: Path, tmp_path: Path
) -> None:
    metadata, rootfs = build_image("busybox", "metadata.tar.xz", "rootfs.squashfs")
    daemon.lxc("image", "export", "busybox", str(tmp_path / "split"))
    assert sha256(tmp_path / "split") == sha256(metadata)
    assert sha256(tmp_path / "split.root") == sha256(rootfs)
    daemon.lxc("image", "import", str(unified), "--alias", "uni")
    try:
        daemon.lxc("image", "export", "uni", str(tmp_path / "uni"))
        (exported,) = tmp_path.glob("uni*")
        assert sha256(exported) == sha256(unified)
    finally:
        drop(daemon, sha256(unified))


def test_list_filters(daemon: Daemon) -> None:
    target = daemon.get("/1.0/images/aliases/busybox")["target"]
    assert daemon.lxc("image", "list", "os=busybox", "-cF", "-fcsv").stdout.strip() == target
    assert daemon.lxc("image", "list", "os=plan9", "-fcsv").stdout == ""
    assert daemon.get("/1.0/images?filter=properties.os+eq+busybox") == [f"/1.0/images/{target}"]
    assert daemon.get("/1.0/images?filter=properties.os+eq+plan9") == []


def test_short_fingerprints(daemon: Daemon) -> None:
    target = daemon.get("/1.0/images/aliases/busybox")["target"]
    assert daemon.get(f"/1.0/images/{target[:10]}")["fingerprint"] == target
    assert daemon.api("GET", "/1.0/images/ffffffffffff").status == 404


def test_publish_an_instance(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.exec(name, "sh", "-c", "echo published > /root/mark; chmod 2755 /root/mark")
    assert "running" in daemon.refused("publish", name)
    daemon.lxc("stop", "-f", name)
    daemon.lxc("publish", name, "--alias", "pub", "os=mine", "--public")
    fingerprint = daemon.get("/1.0/images/aliases/pub")["target"]
    try:
        image = daemon.get(f"/1.0/images/{fingerprint}")
        assert image["properties"]["os"] == "mine" and image["public"] is True
        daemon.lxc("launch", "pub", "again")
        assert daemon.exec("again", "cat", "/root/mark") == "published"
        assert daemon.exec("again", "stat", "-c", "%a %u", "/root/mark") == "2755 0"
        assert daemon.exec("again", "hostname") == "again"
    finally:
        remove(daemon, "again")
        drop(daemon, fingerprint)


def test_publish_a_snapshot(daemon: Daemon, launch: Launch) -> None:
    name = launch()
    daemon.exec(name, "sh", "-c", "echo old > /root/mark")
    daemon.lxc("snapshot", name, "s")
    daemon.exec(name, "sh", "-c", "echo new > /root/mark")
    daemon.lxc("publish", f"{name}/s", "--alias", "pubsnap", "--compression", "none")
    fingerprint = daemon.get("/1.0/images/aliases/pubsnap")["target"]
    try:
        daemon.lxc("init", "pubsnap", "again")
        got = daemon.api("GET", "/1.0/instances/again/files?path=/root/mark")
        assert got.body == b"old\n"
    finally:
        remove(daemon, "again")
        drop(daemon, fingerprint)


def test_metadata_tarball_of_an_export_is_complete(daemon: Daemon, tmp_path: Path) -> None:
    daemon.lxc("image", "export", "busybox", str(tmp_path / "x"))
    with tarfile.open(tmp_path / "x") as tar:
        names = set(tar.getnames())
    assert {"metadata.yaml", "templates/hostname.tpl"} <= names


def test_delete_and_then_it_is_gone(daemon: Daemon, unified: Path) -> None:
    daemon.lxc("image", "import", str(unified), "--alias", "brief")
    daemon.lxc("image", "delete", "brief")
    assert daemon.api("GET", f"/1.0/images/{sha256(unified)}").status == 404
    assert daemon.api("GET", "/1.0/images/aliases/brief").status == 404
    assert not list((daemon.lxd_dir / "images").glob(f"{sha256(unified)}*"))


def test_instances_survive_their_image(own: Daemon) -> None:
    own.lxc("init", "busybox", "c1")
    own.lxc("image", "delete", "busybox")
    own.lxc("start", "c1")
    assert own.exec("c1", "echo", "ok") == "ok"
    assert own.refused("init", "busybox", "c2")


def _tar_with(path: Path, members: dict[str, tarfile.TarInfo], metadata: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("metadata.yaml")
        info.size = len(metadata)
        tar.addfile(info, io.BytesIO(metadata))
        for info in members.values():
            tar.addfile(info)
    return path


GOOD = b"architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: evil}\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"not an image at all", id="noise"),
        pytest.param(b"", id="empty"),
    ],
)
def test_rubbish_is_refused(daemon: Daemon, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rubbish"
    path.write_bytes(content)
    before = sorted((daemon.lxd_dir / "images").iterdir())
    assert daemon.refused("image", "import", str(path))
    assert sorted((daemon.lxd_dir / "images").iterdir()) == before
    assert len(daemon.get("/1.0/images")) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(b"properties: {os: x}\n", id="no-architecture"),
        pytest.param(b"architecture: vax\ncreation_date: 1\n", id="unknown-architecture"),
        pytest.param(b"{[", id="not-yaml"),
    ],
)
def test_bad_metadata_is_refused(daemon: Daemon, tmp_path: Path, metadata: bytes) -> None:
    rootfs = tarfile.TarInfo("rootfs")
    rootfs.type = tarfile.DIRTYPE
    rootfs.mode = 0o755
    path = _tar_with(tmp_path / "bad.tar", {"r": rootfs}, metadata)
    assert daemon.refused("image", "import", str(path))
    assert len(daemon.get("/1.0/images")) == 1


def test_public_images_through_the_secret(daemon: Daemon) -> None:
    target = daemon.get("/1.0/images/aliases/busybox")["target"]
    done = daemon.api("POST", f"/1.0/images/{target}/secret")
    assert done.status == 202
    secret = done.metadata["metadata"]["secret"]
    assert len(secret) == 64
