# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nova_lxd.lxd.db import projects as db_projects
from nova_lxd.lxd.errors import BadRequest, InternalError, LXDError, NotFound
from nova_lxd.lxd.images.download import bypasses_proxy, show_size
from nova_lxd.lxd.images.importer import NewAlias, Wanted
from nova_lxd.lxd.images.remotes import Source
from nova_lxd.lxd.images.remotes.direct import locate
from nova_lxd.lxd.operations import CANCELLED, FAILURE, SUCCESS, Operation
from nova_lxd.tests.unit.images.conftest import Daemon
from nova_lxd.tests.unit.images.samples import sha256, split, unified
from nova_lxd.tests.unit.images.server import Server, certificate, serving
from nova_lxd.tests.unit.images.test_receive import form

FORM = "multipart/form-data; boundary=BoUnD"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as (made, _pem):
        yield made


def envelope(metadata: Any) -> bytes:
    return json.dumps({"type": "sync", "metadata": metadata}).encode()


def put_lxd(server: Server, image: bytes, alias: str = "a", **more: Any) -> str:
    """Let the server be an LXD that has this image."""
    fingerprint = more.pop("fingerprint", sha256(image))
    info = {
        "fingerprint": fingerprint,
        "type": "container",
        "filename": "x.tar.gz",
        "properties": {"os": "remote"},
        "created_at": "2020-01-01T00:00:00Z",
        "expires_at": "0001-01-01T00:00:00Z",
        **more,
    }
    server.put(f"/1.0/images/aliases/{alias}", envelope({"name": alias, "target": fingerprint}))
    server.put(f"/1.0/images/{fingerprint}", envelope(info))
    server.put(f"/1.0/images/{fingerprint}/export", image)
    return str(fingerprint)


def put_stream(server: Server, versions: Mapping[str, Any], **product: Any) -> None:
    """Let the server be a simplestreams one with one product."""
    index = {
        "index": {
            "other": {"datatype": "image-ids", "path": "nowhere.json"},
            "images": {"datatype": "image-downloads", "path": "streams/v1/images.json"},
        }
    }
    full = {
        "aliases": "deb/12,deb/12/default,deb",
        "arch": "amd64",
        "os": "Debian",
        "release": "bookworm",
        "release_title": "12",
        "variant": "default",
        "versions": versions,
        **product,
    }
    server.put("/streams/v1/index.json", json.dumps(index).encode())
    server.put("/streams/v1/images.json", json.dumps({"products": {"p": full}}).encode())


def stream_items(server: Server, serial: str, meta: bytes, root: bytes) -> dict[str, Any]:
    server.put(f"/images/{serial}/lxd.tar.xz", meta)
    server.put(f"/images/{serial}/rootfs.squashfs", root)
    return {
        "items": {
            "lxd.tar.xz": {
                "ftype": "lxd.tar.xz",
                "path": f"images/{serial}/lxd.tar.xz",
                "sha256": sha256(meta),
                "size": len(meta),
                "combined_squashfs_sha256": sha256(meta, root),
                "combined_disk-kvm-img_sha256": "0" * 64,
            },
            "root.squashfs": {
                "ftype": "squashfs",
                "path": f"images/{serial}/rootfs.squashfs",
                "sha256": sha256(root),
                "size": len(root),
            },
        }
    }


async def in_operation(daemon: Daemon, work: Callable[[Operation], Any]) -> tuple[Operation, Any]:
    results: list[Any] = []

    def run(op: Operation) -> None:
        results.append(work(op))

    op = daemon.operations.task("default", "Downloading image", run)
    assert await daemon.operations.wait(op, 20)
    return op, results[0] if results else None


def source(server: Server, name: str, protocol: str = "lxd", **more: str) -> Source:
    return Source(server.url, protocol, name, **more)


def download(daemon: Daemon, told: Source, **wanted: Any) -> Any:
    return daemon.images.acquirer.download(told, Wanted("default", **wanted))


async def test_a_public_image_of_another_lxd(daemon: Daemon, server: Server) -> None:
    data = unified()
    put_lxd(server, data)
    op, image = await in_operation(
        daemon,
        lambda op: daemon.images.acquirer.download(
            source(server, "a"), Wanted("default", aliases=[NewAlias("mine")]), op
        ),
    )
    assert op.status == SUCCESS and op.metadata is not None
    assert op.metadata["fingerprint"] == image.fingerprint == sha256(data)
    assert op.metadata["download_progress"].startswith("100% (")
    assert image.properties == {"os": "remote"}
    assert (image.created_at, image.expires_at, image.filename) == (1577836800, 0, "x.tar.gz")
    assert image.update_source.alias == "a" and image.update_source.server == server.url
    assert [alias.name for alias in image.aliases] == ["mine"]


async def test_a_private_split_image_by_its_secret(daemon: Daemon, server: Server) -> None:
    meta, root = split()
    fingerprint = sha256(meta, root)
    info = {"fingerprint": fingerprint, "type": "container", "properties": {}}
    server.put(f"/1.0/images/{fingerprint}?secret=s&project=p", envelope(info))
    body = form(("metadata", "m", meta), ("rootfs", "r.squashfs", root))
    server.put(f"/1.0/images/{fingerprint}/export?secret=s&project=p", body, Content_Type=FORM)
    image = download(daemon, source(server, fingerprint, secret="s", project="p"))
    assert image.fingerprint == fingerprint
    assert image.update_source.alias == fingerprint
    assert daemon.files() == [fingerprint, f"{fingerprint}.rootfs"]


async def test_simplestreams(daemon: Daemon, server: Server) -> None:
    meta, root = split()
    old = stream_items(server, "20240101_0500", *split(b"architecture: amd64\n"))
    put_stream(
        server,
        {"20240102_0500": stream_items(server, "20240102_0500", meta, root), "20240101_0500": old},
        requirements={"nesting": "true"},
        support_eol="2028-06-30",
    )
    image = download(daemon, source(server, "deb/12", "simplestreams"))
    assert image.fingerprint == sha256(meta, root)
    assert image.properties == {
        "os": "Debian",
        "release": "bookworm",
        "architecture": "amd64",
        "serial": "20240102_0500",
        "description": "Debian 12 amd64 (20240102_0500)",
        "variant": "default",
        "type": "squashfs",
        "requirements.nesting": "true",
    }
    assert time.strftime("%F", time.gmtime(image.expires_at)) == "2028-06-30"
    assert time.strftime("%F %R", time.gmtime(image.created_at)) == "2024-01-02 05:00"
    assert image.type == "container"
    by_fingerprint = source(server, sha256(meta, root)[:12], "simplestreams")
    assert download(daemon, by_fingerprint).fingerprint == image.fingerprint
    assert download(daemon, source(server, "deb/amd64", "simplestreams")) == image
    for name in ("nothing", "deb/arm64", "ffffffff"):
        with pytest.raises(NotFound):
            download(daemon, source(server, name, "simplestreams"))


async def test_a_stream_with_a_wrong_hash(daemon: Daemon, server: Server) -> None:
    versions = {"20240102": stream_items(server, "20240102", *split())}
    put_stream(server, versions)
    server.put("/images/20240102/rootfs.squashfs", b"other bytes")
    with pytest.raises(InternalError, match="hash"):
        download(daemon, source(server, "deb", "simplestreams"))
    assert daemon.files() == []


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "http://elsewhere/x"])
async def test_a_stream_may_not_name_files_elsewhere(
    daemon: Daemon, server: Server, path: str
) -> None:
    versions = {"20240102": stream_items(server, "20240102", *split())}
    versions["20240102"]["items"]["root.squashfs"]["path"] = path
    put_stream(server, versions)
    with pytest.raises(InternalError, match="names file"):
        download(daemon, source(server, "deb", "simplestreams"))


async def test_an_image_at_a_url(daemon: Daemon, server: Server) -> None:
    data = unified()
    server.put("/where", b"", LXD_Image_Hash=sha256(data), LXD_Image_URL=f"{server.url}/f.tgz")
    server.put("/f.tgz", data)
    told = locate(f"{server.url}/where", daemon.images.acquirer.fetcher, ["x86_64"], None)
    image = download(daemon, told)
    assert image.properties == {"os": "busy", "release": "1.10"}
    assert (image.filename, image.update_source) == ("f.tgz", None)
    assert server.seen[0][0] == "HEAD"
    sent = {key.lower(): value for key, value in server.seen[0][2].items()}
    assert sent["lxd-server-architectures"] == "x86_64"
    for url, why in (
        ("", "Missing URL"),
        ("file:///etc/passwd", "no http"),
        ("http://[::1", "Invalid IPv6"),
        ("http://host:port/", "Port could not"),
        (f"{server.url}/f.tgz", "Missing LXD-Image-Hash header"),
    ):
        with pytest.raises(BadRequest, match=why):
            locate(url, daemon.images.acquirer.fetcher, ["x86_64"], None)


async def test_what_comes_must_be_what_was_announced(daemon: Daemon, server: Server) -> None:
    fingerprint = put_lxd(server, unified(), fingerprint="a" * 64)
    with pytest.raises(BadRequest, match="fingerprints don't match"):
        download(daemon, source(server, fingerprint))
    assert daemon.files() == []


async def test_a_transfer_that_ends_early(daemon: Daemon, server: Server) -> None:
    data = unified()
    fingerprint = put_lxd(server, data)
    server.put(f"/1.0/images/{fingerprint}/export", data[:-10], Content_Length=str(len(data)))
    with pytest.raises(InternalError, match=r"ended after|IncompleteRead"):
        download(daemon, source(server, fingerprint))
    assert daemon.files() == []


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"metadata": 1}', b"[" * 100_000])
async def test_a_server_that_is_no_lxd(daemon: Daemon, server: Server, body: bytes) -> None:
    server.put("/1.0/images/aliases/a", body)
    with pytest.raises(InternalError):
        download(daemon, source(server, "a"))


async def test_a_server_that_is_not_there(daemon: Daemon) -> None:
    with serving() as (gone, _pem):
        url = gone.url
    with pytest.raises(InternalError, match="Requesting"):
        download(daemon, Source(url, "lxd", "a"))
    with pytest.raises(BadRequest, match="protocol"):
        download(daemon, Source(url, "gopher", "a"))


async def test_the_certificate_is_the_one_that_was_given(daemon: Daemon, tmp_path: Path) -> None:
    with serving(tmp_path) as (server, pem):
        put_lxd(server, unified())
        with pytest.raises(InternalError, match=r"(?i)certificate"):
            download(daemon, source(server, "a"))
        with pytest.raises(InternalError, match="another certificate"):
            download(daemon, source(server, "a", certificate=certificate()[0]))
        with pytest.raises(BadRequest, match="certificate"):
            download(daemon, source(server, "a", certificate="no certificate"))
        assert download(daemon, source(server, "a", certificate=pem)).fingerprint


async def test_a_redirect_to_plain_http_is_not_followed(daemon: Daemon, tmp_path: Path) -> None:
    with serving() as (plain, _), serving(tmp_path) as (server, pem):
        put_lxd(plain, unified())

        def redirect(handler: Any) -> None:
            handler.send_response(302)
            handler.send_header("Location", f"{plain.url}/1.0/images/aliases/a")
            handler.end_headers()

        server.pages["/1.0/images/aliases/a"] = redirect
        with pytest.raises(InternalError, match="insecure"):
            download(daemon, source(server, "a", certificate=pem))
        assert plain.seen == []


async def test_a_stalled_transfer_can_be_cancelled(daemon: Daemon, server: Server) -> None:
    fingerprint = put_lxd(server, unified())
    begun, end = threading.Event(), threading.Event()

    def stall(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(b"x" * 1000)
        begun.set()
        end.wait(20)

    server.pages[f"/1.0/images/{fingerprint}/export"] = stall
    told = source(server, "a")
    op = daemon.operations.task(
        "default",
        "Downloading image",
        lambda op: daemon.images.acquirer.download(told, Wanted("default"), op) and None,
    )
    try:
        assert await asyncio.to_thread(begun.wait, 10)
        assert op.may_cancel
        daemon.operations.cancel(op)
        assert await daemon.operations.wait(op, 5)
    finally:
        end.set()
    assert op.status == CANCELLED
    assert daemon.files() == []


async def test_many_at_once_download_once(daemon: Daemon, server: Server) -> None:
    fingerprint = put_lxd(server, unified())
    told = source(server, "a")
    images = await asyncio.gather(
        *(asyncio.to_thread(download, daemon, told, cached=True) for _ in range(4))
    )
    assert {image.fingerprint for image in images} == {fingerprint}
    assert sum(path.endswith("/export") for _method, path, _headers in server.seen) == 1


async def test_an_image_that_another_project_has_is_not_downloaded(
    daemon: Daemon, server: Server
) -> None:
    db_projects.create(daemon.db, "p1", "", {"features.images": "true"})
    fingerprint = put_lxd(server, unified())
    del server.pages[f"/1.0/images/{fingerprint}/export"]
    daemon.add(unified())
    image = daemon.images.acquirer.download(source(server, "a"), Wanted("p1"))
    assert (image.project, image.fingerprint) == ("p1", fingerprint)
    assert image.properties == {"os": "remote"}


async def test_a_new_instance_takes_the_cached_image(daemon: Daemon, server: Server) -> None:
    put_lxd(server, unified())
    told = source(server, "a")
    image = daemon.images.resolve("default", told)
    assert image.cached and image.auto_update
    asked = len(server.seen)
    assert daemon.images.resolve("default", told) == image
    assert len(server.seen) == asked
    daemon.settings["images.auto_update_interval"] = "0"
    daemon.images.resolve("default", told)
    assert len(server.seen) > asked
    assert daemon.images.resolve("default", Source("", "", image.fingerprint[:9])) == image
    # A copy that is asked for is kept from then on.
    assert not download(daemon, told).cached


async def test_refresh(daemon: Daemon, server: Server) -> None:
    put_lxd(server, unified())
    old = download(daemon, source(server, "a"), aliases=[NewAlias("mine")], auto_update=True)
    assert daemon.images.refresh(old) is None
    newer = put_lxd(server, unified(more=b"new"))
    daemon.images.upkeep.update_all()
    image = daemon.images.find("default", "mine")
    assert image.fingerprint == newer
    assert image.auto_update and image.update_source == old.update_source
    assert daemon.files() == [newer]
    assert daemon.lifecycle[-1]["action"] == "image-refreshed"
    with pytest.raises(BadRequest, match="Image source not found"):
        daemon.images.refresh(daemon.add(unified(more=b"local")))


async def test_an_update_that_fails_keeps_the_image(daemon: Daemon, server: Server) -> None:
    put_lxd(server, unified())
    image = download(daemon, source(server, "a"), auto_update=True)
    server.pages.clear()
    daemon.images.upkeep.update_all()
    assert daemon.images.all("default") == [image]


async def test_an_operation_that_fails_says_why(daemon: Daemon, server: Server) -> None:
    op, _none = await in_operation(
        daemon, lambda op: download(daemon, source(server, "nothing"))
    )
    assert op.status == FAILURE
    assert isinstance(op.failure, LXDError)


def test_proxy_exceptions() -> None:
    ignored = "localhost, .example.org,*.lan"
    for host in ("localhost", "a.example.org", "example.org", "x.y.lan"):
        assert bypasses_proxy(host, ignored)
    for host in ("localhost.com", "myexample.org", "lan2", ""):
        assert not bypasses_proxy(host, ignored)
    assert bypasses_proxy("anything", "*")
    assert not bypasses_proxy("anything", "")


async def test_the_proxy_is_used(daemon: Daemon, server: Server) -> None:
    daemon.settings["core.proxy_http"] = server.url
    server.pages["http://images.invalid/1.0/images/aliases/a"] = ({}, envelope({"target": "t"}))
    with pytest.raises(NotFound):
        download(daemon, Source("http://images.invalid", "lxd", "a"))
    assert server.seen[0][1] == "http://images.invalid/1.0/images/aliases/a"
    assert server.seen[1][1] == "http://images.invalid/1.0/images/t"


def test_sizes() -> None:
    assert [show_size(n) for n in (5, 1500, 2_345_678, 3.2e12)] == [
        "5B", "1.50kB", "2.35MB", "3.20TB",
    ]  # fmt: skip
