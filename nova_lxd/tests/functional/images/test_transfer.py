# SPDX-License-Identifier: Apache-2.0
"""Images on their way in and out: between projects and servers, cut short, killed half-way."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nova_lxd.tests.functional.conftest import build_image
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for
from nova_lxd.tests.unit.images.samples import sha256, split, unified

ADDRESS = "127.0.0.1:8443"
PORT = 8098
_SERVER = """
import functools, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
handler = functools.partial(Handler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), handler)
print("up", flush=True)
server.serve_forever()
"""


@contextmanager
def serving(daemon: Daemon, directory: Path) -> Iterator[str]:
    """A plain web server beside the daemon."""
    argv = ["python3", "-c", _SERVER, str(directory), str(PORT)]
    server = daemon.sandbox.popen(argv, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        yield f"http://127.0.0.1:{PORT}"
    finally:
        # The process that is known here only entered the sandbox; the server is its child.
        daemon.inside("pkill", "-f", str(directory))
        server.wait(timeout=10)


def write_stream(top: Path, serial: str, metadata: bytes, rootfs: bytes) -> str:
    """A simplestreams tree with one image; its fingerprint."""
    (top / "streams/v1").mkdir(parents=True, exist_ok=True)
    (top / "images" / serial).mkdir(parents=True)
    (top / "images" / serial / "lxd.tar.xz").write_bytes(metadata)
    (top / "images" / serial / "rootfs.squashfs").write_bytes(rootfs)
    index = {"images": {"datatype": "image-downloads", "path": "streams/v1/images.json"}}
    for stream in index.values():
        stream.update(format="products:1.0", products=["busybox:1:amd64"])  # type: ignore[arg-type]
    items = {
        "lxd.tar.xz": {
            "ftype": "lxd.tar.xz",
            "path": f"images/{serial}/lxd.tar.xz",
            "sha256": sha256(metadata),
            "size": len(metadata),
            "combined_squashfs_sha256": sha256(metadata, rootfs),
        },
        "root.squashfs": {
            "ftype": "squashfs",
            "path": f"images/{serial}/rootfs.squashfs",
            "sha256": sha256(rootfs),
            "size": len(rootfs),
        },
    }
    product = {
        "aliases": "busybox,busybox/1",
        "arch": "amd64",
        "os": "Busybox",
        "release": "1",
        "release_title": "one",
        "versions": {serial: {"items": items}},
    }
    stream = {
        "format": "products:1.0",
        "datatype": "image-downloads",
        "content_id": "images",
        "products": {"busybox:1:amd64": product},
    }
    (top / "streams/v1/index.json").write_text(json.dumps({"format": "index:1.0", "index": index}))
    (top / "streams/v1/images.json").write_text(json.dumps(stream))
    return sha256(metadata, rootfs)


def files(daemon: Daemon) -> list[str]:
    return sorted(path.name for path in (daemon.lxd_dir / "images").iterdir())


def comparable(image: dict[str, Any]) -> dict[str, Any]:
    """An image without what differs from server to server."""
    return {key: image[key] for key in ("fingerprint", "properties", "architecture", "size")}


def test_copies_between_projects_go_over_https(own: Daemon) -> None:
    own.lxc("config", "set", "core.https_address", ADDRESS)
    own.lxc("project", "create", "p1", "-c", "features.profiles=false")
    own.lxc("image", "copy", "busybox", "local:", "--target-project", "p1", "--copy-aliases")
    target = own.get("/1.0/images/aliases/busybox?project=p1")["target"]
    copied = own.get(f"/1.0/images/{target}?project=p1")
    assert comparable(copied) == comparable(own.get(f"/1.0/images/{target}"))
    assert copied["update_source"]["protocol"] == "lxd"
    own.lxc("image", "delete", "busybox")
    assert own.api("GET", f"/1.0/images/{target}").status == 404
    assert target in files(own)
    own.lxc("image", "delete", "busybox", "--project", "p1")
    assert files(own) == []


def test_push_by_token(own: Daemon) -> None:
    own.lxc("config", "set", "core.https_address", ADDRESS)
    own.lxc("project", "create", "p1", "-c", "features.profiles=false")
    target = own.get("/1.0/images/aliases/busybox")["target"]
    offer = {
        "source": {"type": "image", "mode": "push", "fingerprint": target},
        "aliases": [{"name": "pushed", "description": "d"}],
        "properties": {"colour": "blue"},
        "public": True,
    }
    token = own.api("POST", "/1.0/images?project=p1", offer)
    assert token.metadata["class"] == "token" and token.metadata["may_cancel"] is True
    order = {
        "target": f"https://{ADDRESS}",
        "secret": token.metadata["metadata"]["secret"],
        "certificate": own.get("/1.0")["environment"]["certificate"],
        "project": "p1",
    }
    own.operate("POST", f"/1.0/images/{target}/export", order)
    image = own.get(f"/1.0/images/{target}?project=p1")
    assert image["properties"] == {"colour": "blue"} and image["public"] is True
    assert image["aliases"] == [{"name": "pushed", "description": "d"}]


def test_simplestreams_copy_and_refresh(own: Daemon, tmp_path: Path) -> None:
    metadata, rootfs = (
        path.read_bytes() for path in build_image("busybox", "metadata.tar.xz", "rootfs.squashfs")
    )
    own.lxc("image", "delete", "busybox")
    first = write_stream(tmp_path, "20240101_0500", metadata, rootfs)
    with serving(own, tmp_path) as url:
        source = {
            "type": "image",
            "mode": "pull",
            "server": url,
            "protocol": "simplestreams",
            "alias": "busybox/1",
        }
        body = {"source": source, "aliases": [{"name": "mine"}], "auto_update": True}
        done = own.operate("POST", "/1.0/images", body)
        assert done["metadata"]["fingerprint"] == first
        image = own.get(f"/1.0/images/{first}")
        assert image["properties"]["description"] == "Busybox one amd64 (20240101_0500)"
        assert image["update_source"]["alias"] == "busybox/1"
        assert image["created_at"].startswith("2024-01-01T")
        refresh = f"/1.0/images/{first}/refresh"
        assert own.operate("POST", refresh)["metadata"]["refreshed"] is False
        if own.backend != "bundled":
            return  # real LXD keeps a server's index for an hour before it looks again
        second = write_stream(tmp_path, "20240102_0500", *split())
        assert own.operate("POST", refresh)["metadata"]["refreshed"] is True
    assert own.get("/1.0/images/aliases/mine")["target"] == second
    assert own.api("GET", f"/1.0/images/{first}").status == 404


def test_an_instance_from_a_remote_image_caches_it(own: Daemon, tmp_path: Path) -> None:
    metadata, rootfs = (
        path.read_bytes() for path in build_image("busybox", "metadata.tar.xz", "rootfs.squashfs")
    )
    own.lxc("image", "delete", "busybox")
    fingerprint = write_stream(tmp_path, "20240101_0500", metadata, rootfs)
    source = {"type": "image", "mode": "pull", "protocol": "simplestreams", "alias": "busybox"}
    with serving(own, tmp_path) as url:
        own.operate("POST", "/1.0/instances", {"name": "c1", "source": {**source, "server": url}})
        image = own.get(f"/1.0/images/{fingerprint}")
        assert image["cached"] is True and image["auto_update"] is True
        own.operate("POST", "/1.0/instances", {"name": "c2", "source": {**source, "server": url}})
    assert own.instance("c2")["config"]["volatile.base_image"] == fingerprint


def test_strangers_get_a_private_image_only_by_its_secret(own: Daemon, tmp_path: Path) -> None:
    own.lxc("config", "set", "core.https_address", ADDRESS)
    target = own.get("/1.0/images/aliases/busybox")["target"]

    def fetch(path: str, *options: str) -> str:
        argv = ["curl", "-sk", "-o", str(tmp_path / "out"), "-w", "%{http_code}", *options]
        return own.inside(*argv, f"https://{ADDRESS}/1.0/images{path}").stdout

    for path in (f"/{target}", f"/{target}/export", "/aliases/busybox", f"/{target}?secret=x"):
        assert fetch(path) == "404"
    for path, method in (("/aliases", "GET"), ("", "POST"), (f"/{target}", "DELETE")):
        assert fetch(path, "-X", method) == "403"
    made = own.api("POST", f"/1.0/images/{target}/secret").metadata
    secret = made["metadata"]["secret"]
    assert fetch(f"/{target}?secret={secret}") == "200"
    assert fetch(f"/{target}/export?secret={secret}") == "200"
    assert own.get(f"/1.0/images/{target}")["size"] < (tmp_path / "out").stat().st_size
    own.lxc("image", "show", "busybox")
    answer = own.api("PATCH", f"/1.0/images/{target}", {"public": True})
    assert answer.status == 200
    assert fetch(f"/{target}/export") == "200"


def begin_upload(daemon: Daemon, announced: int, sent: bytes) -> socket.socket:
    """A raw upload of which only the beginning is sent."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(daemon.socket))
    head = (
        "POST /1.0/images HTTP/1.1\r\nHost: lxd\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {announced}\r\n\r\n"
    )
    client.sendall(head.encode() + sent)
    return client


def test_an_upload_that_is_cut_short_leaves_nothing(bare: Daemon) -> None:
    client = begin_upload(bare, 50_000_000, unified() + bytes(5_000_000))
    wait_for(lambda: files(bare), "the upload on disk")
    client.close()
    wait_for(lambda: not files(bare), "the end of what was uploaded")
    assert bare.get("/1.0/images") == []


def test_a_killed_daemon_leaves_no_half_image(bare: Daemon) -> None:
    if bare.backend != "bundled":
        pytest.skip("real LXD keeps what was half uploaded until its next clean-up")
    bare.api("POST", "/1.0/images", unified())
    wait_for(lambda: bare.get("/1.0/images"), "the image")
    kept = files(bare)
    with begin_upload(bare, 50_000_000, unified(more=b"2") + bytes(5_000_000)):
        wait_for(lambda: len(files(bare)) > len(kept), "the upload on disk")
        bare.restart(signal.SIGKILL)
    assert files(bare) == kept
    assert [url.rpartition("/")[2] for url in bare.get("/1.0/images")] == kept


def test_a_large_image_takes_no_memory(bare: Daemon, tmp_path: Path) -> None:
    """2 GB, most of them a hole in the file here and zeros on the wire."""
    path = tmp_path / "large.tar"
    metadata = b"architecture: x86_64\ncreation_date: 1\n"
    with path.open("wb") as out:
        for name, content, size in (
            ("rootfs/large", b"", 2 * 1024**3),
            ("metadata.yaml", metadata, len(metadata)),
        ):
            member = tarfile.TarInfo(name)
            member.size = size
            out.write(member.tobuf(tarfile.GNU_FORMAT) + content)
            out.seek(size - len(content) + -size % 512, 1)
        out.write(bytes(1024))
    before = peak_memory(bare.pid)
    bare.lxc("image", "import", str(path), timeout=110)
    assert bare.get("/1.0/images?recursion=1")[0]["size"] == path.stat().st_size
    assert peak_memory(bare.pid) - before < 32


def peak_memory(pid: int) -> int:
    """VmHWM of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError(f"process {pid} tells no VmHWM")


def test_a_full_disk_is_told_and_leaves_nothing(bare: Daemon) -> None:
    if bare.backend != "bundled":
        pytest.skip("real LXD answers 500 and leaves its build directory")
    top = str(bare.lxd_dir / "images")
    bare.inside("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", top)
    try:
        answer = bare.api("POST", "/1.0/images", unified() + bytes(8_000_000))
        assert answer.status == 507
        assert "No space left" in answer.body["error"]
        assert bare.inside("ls", "-A", top).stdout == ""
        assert bare.inside("sh", "-c", f"df --output=used {top} | tail -1").stdout.strip() == "0"
    finally:
        bare.inside("umount", top)
