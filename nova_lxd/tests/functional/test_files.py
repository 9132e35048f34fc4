# SPDX-License-Identifier: Apache-2.0
"""`lxc file` and the files API, on running and on stopped instances."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from nova_lxd.tests.functional.conftest import remove
from nova_lxd.tests.functional.daemon import Answer, Daemon


@pytest.fixture(scope="module", params=["running", "stopped"])
def guest(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[str]:
    """A guest in each state."""
    name = str(request.param)
    daemon.lxc("launch" if name == "running" else "init", "busybox", name)
    yield name
    remove(daemon, name)


def get(daemon: Daemon, guest: str, path: str, method: str = "GET") -> Answer:
    return daemon.api(method, f"/1.0/instances/{guest}/files?path={path}")


def test_push_pull_round_trip(daemon: Daemon, guest: str, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(os.urandom(3 << 20))
    source.chmod(0o751)
    daemon.lxc("file", "push", str(source), f"{guest}/root/data")
    back = tmp_path / "back"
    daemon.lxc("file", "pull", f"{guest}/root/data", str(back))
    assert hashlib.sha256(back.read_bytes()).digest() == (
        hashlib.sha256(source.read_bytes()).digest()
    )
    assert back.stat().st_mode & 0o777 == 0o751
    headers = get(daemon, guest, "/root/data").headers
    assert headers["x-lxd-mode"] == "0751"
    assert headers["x-lxd-type"] == "file"


def test_push_with_owner_mode_and_parents(daemon: Daemon, guest: str, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_text("x")
    target = f"{guest}/srv/a/b/x"
    assert daemon.refused("file", "push", str(source), target) == "Error: Not Found"
    daemon.lxc(
        "file", "push", "-p", "--uid", "1000", "--gid", "1001", "--mode", "0640",
        str(source), target,
    )  # fmt: skip
    headers = get(daemon, guest, "/srv/a/b/x").headers
    assert (headers["x-lxd-uid"], headers["x-lxd-gid"], headers["x-lxd-mode"]) == (
        "1000",
        "1001",
        "0640",
    )
    assert get(daemon, guest, "/srv/a/b").headers["x-lxd-type"] == "directory"


def test_standard_input_and_output(daemon: Daemon, guest: str) -> None:
    daemon.lxc("file", "push", "-", f"{guest}/root/in", input="from stdin\n")
    assert daemon.lxc("file", "pull", f"{guest}/root/in", "-").stdout == "from stdin\n"


def test_recursive_push_and_pull(daemon: Daemon, guest: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "one").write_text("1")
    (tree / "sub" / "two").write_text("2" * 100_000)
    (tree / "sub" / "deep" / "three").write_bytes(b"")
    (tree / "link").symlink_to("sub/two")
    (tree / "sub").chmod(0o700)
    daemon.lxc("file", "push", "-r", str(tree), f"{guest}/root/")
    out = tmp_path / "out"
    out.mkdir()
    daemon.lxc("file", "pull", "-r", f"{guest}/root/tree", str(out))
    got = out / "tree"
    assert (got / "one").read_text() == "1"
    assert (got / "sub" / "two").read_text() == "2" * 100_000
    assert (got / "sub" / "deep" / "three").read_bytes() == b""
    # LXD hands links out as absolute paths within the guest.
    assert (got / "link").readlink() == Path("/root/tree/sub/two")
    assert get(daemon, guest, "/root/tree/sub").headers["x-lxd-mode"] == "0700"


def test_directory_listing_and_symlinks(daemon: Daemon, guest: str) -> None:
    listing = get(daemon, guest, "/etc")
    assert listing.headers["x-lxd-type"] == "directory"
    assert {"passwd", "group", "inittab"} <= set(listing.metadata)
    link = get(daemon, guest, "/bin/sh")
    assert link.headers["x-lxd-type"] == "symlink"
    assert link.body == b"/bin/busybox"


def test_edit(daemon: Daemon, guest: str) -> None:
    daemon.lxc("file", "push", "-", f"{guest}/root/edit", input="before\n")
    daemon.lxc("file", "edit", f"{guest}/root/edit", input="after\n")
    assert get(daemon, guest, "/root/edit").body == b"after\n"


def test_delete(daemon: Daemon, guest: str) -> None:
    daemon.lxc("file", "push", "-", f"{guest}/root/gone", input="x")
    daemon.lxc("file", "delete", f"{guest}/root/gone")
    assert get(daemon, guest, "/root/gone").status == 404
    assert get(daemon, guest, "/root/gone", "DELETE").status == 404
    assert daemon.refused("file", "delete", f"{guest}/root/gone")
    # A directory goes only when it is empty.
    daemon.lxc("file", "push", "-p", "-", f"{guest}/root/full/x", input="x")
    assert get(daemon, guest, "/root/full", "DELETE").status >= 400
    daemon.lxc("file", "delete", f"{guest}/root/full/x", f"{guest}/root/full")
    assert get(daemon, guest, "/root/full").status == 404


def post(daemon: Daemon, guest: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    fields = {f"X-LXD-{name}": value for name, value in headers.items()}
    return daemon.api("POST", f"/1.0/instances/{guest}/files?path={path}", body, headers=fields)


def test_append_and_overwrite(daemon: Daemon, guest: str) -> None:
    assert post(daemon, guest, "/root/log", b"one\n").status == 200
    assert post(daemon, guest, "/root/log", b"two\n", write="append").status == 200
    assert get(daemon, guest, "/root/log").body == b"one\ntwo\n"
    assert post(daemon, guest, "/root/log", b"3\n", write="overwrite").status == 200
    assert get(daemon, guest, "/root/log").body == b"3\n"
    assert post(daemon, guest, "/root/log", b"4\n", write="sideways").status == 400


def test_overwriting_keeps_owner_and_mode(daemon: Daemon, guest: str) -> None:
    post(daemon, guest, "/root/kept", b"1", uid="1000", gid="1000", mode="0604")
    post(daemon, guest, "/root/kept", b"22")
    answer = get(daemon, guest, "/root/kept")
    assert answer.body == b"22"
    assert answer.headers["x-lxd-uid"] == "1000" and answer.headers["x-lxd-mode"] == "0604"


def test_post_directories_and_symlinks(daemon: Daemon, guest: str) -> None:
    assert post(daemon, guest, "/root/dir", type="directory", mode="0711").status == 200
    assert get(daemon, guest, "/root/dir").headers["x-lxd-mode"] == "0711"
    assert get(daemon, guest, "/root/dir").metadata in ([], None)
    assert post(daemon, guest, "/root/ln", b"dir/target", type="symlink").status == 200
    assert get(daemon, guest, "/root/ln").body == b"/root/dir/target"
    assert post(daemon, guest, "/root/dev", type="device").status == 400
    assert post(daemon, guest, "/no/such/parent/x", b"x").status == 404


def test_head(daemon: Daemon, guest: str) -> None:
    post(daemon, guest, "/root/head", b"12345", mode="0600")
    answer = get(daemon, guest, "/root/head", "HEAD")
    assert answer.status == 200 and answer.body == b""
    assert answer.headers["x-lxd-mode"] == "0600"
    assert get(daemon, guest, "/root/nope", "HEAD").status == 404


def test_no_way_out_of_the_guest(daemon: Daemon, guest: str, tmp_path: Path) -> None:
    """Absolute links and `..` resolve inside the guest's root."""
    secret = tmp_path / "secret"
    secret.write_text("host")
    daemon.lxc("file", "push", "-", f"{guest}/root/seen", input="guest")
    post(daemon, guest, "/root/out", str(secret).encode(), type="symlink")
    assert get(daemon, guest, "/root/out").body == str(secret).encode()
    post(daemon, guest, "/root/up", b"/" + b"../" * 20 + b"tmp", type="symlink")
    assert get(daemon, guest, f"/root/up{secret.as_posix()[4:]}").status == 404
    assert get(daemon, guest, "/../../../../root/seen").body == b"guest"
    assert post(daemon, guest, f"/root/up/../../../../../..{secret}", b"owned").status in (
        200,
        404,
    )
    assert secret.read_text() == "host"


def test_missing_path_argument(daemon: Daemon, guest: str) -> None:
    answer = daemon.api("GET", f"/1.0/instances/{guest}/files")
    assert answer.status == 400
    assert answer.error == "Missing path argument"


def test_pushed_files_belong_to_the_guest(daemon: Daemon) -> None:
    daemon.lxc("launch", "busybox", "owner")
    try:
        daemon.lxc("file", "push", "-", "owner/root/mine", input="x")
        assert daemon.exec("owner", "stat", "-c", "%u:%g", "/root/mine") == "0:0"
        daemon.exec("owner", "chown", "1000:1000", "/root/mine")
        headers = get(daemon, "owner", "/root/mine").headers
        assert (headers["x-lxd-uid"], headers["x-lxd-gid"]) == ("1000", "1000")
        # What is mounted in the running guest is what the API sees.
        daemon.exec("owner", "sh", "-c", "mount -t tmpfs none /mnt && echo inner > /mnt/f")
        assert get(daemon, "owner", "/mnt/f").body == b"inner\n"
    finally:
        remove(daemon, "owner")


def test_names_that_are_no_text_arrive_byte_by_byte(
    daemon: Daemon, guest: str, tmp_path: Path
) -> None:
    tree = os.fsencode(tmp_path) + b"/bytes"
    os.makedirs(tree + b"/d\xfe")
    for name in (b"/\xff\xfe.txt", b"/d\xfe/in", "/\u00fc %41?#".encode()):
        Path(os.fsdecode(tree + name)).write_bytes(name)
    daemon.lxc("file", "push", "-r", os.fsdecode(tree), f"{guest}/root/")
    for name in ("%ff%fe.txt", "d%fe/in", "%c3%bc%20%2541%3f%23"):
        answer = daemon.api("GET", f"/1.0/instances/{guest}/files?path=/root/bytes/{name}")
        assert (answer.status, answer.body) == (200, b"/" + unquote_to_bytes(name)), name
