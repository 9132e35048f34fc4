# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images.receive import receiver
from nova_lxd.lxd.images.store import Store
from nova_lxd.tests.unit.images.samples import sha256

FORM = "multipart/form-data; boundary=BoUnD"


def form(*parts: tuple[str, str, bytes], end: bytes = b"--\r\n") -> bytes:
    body = b""
    for name, filename, content in parts:
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
        body += f"--BoUnD\r\n{head}\r\nContent-Type: x/y\r\n\r\n".encode() + content + b"\r\n"
    return body + b"--BoUnD" + end


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "images")
    made.sweep(())
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    meta=st.binary(max_size=400) | st.just(b"\r\n--BoUn\r\n--Bo"),
    root=st.binary(max_size=400) | st.just(b"\r\n"),
    cuts=st.lists(st.integers(1, 64), min_size=1, max_size=20),
)
def test_a_form_in_pieces_of_any_size(
    store: Store, meta: bytes, root: bytes, cuts: list[int]
) -> None:
    if b"\r\n--BoUnD" in b"\r\n" + meta + root:
        return
    body = form(("metadata", "m.tar.xz", meta), ("rootfs", "r.squashfs", root))
    with store.staging() as staged:
        sink = receiver(staged, FORM)
        turn = 0
        while body:
            size = cuts[turn % len(cuts)]
            sink.feed(body[:size])
            body, turn = body[size:], turn + 1
        sink.finish()
        assert staged.image is not None and staged.rootfs is not None
        for file in staged.files:
            file.flush()
        assert staged.image.path.read_bytes() == meta
        assert staged.rootfs.path.read_bytes() == root
        assert staged.fingerprint == sha256(meta, root)
        assert (staged.filename, staged.type) == ("r.squashfs", "container")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        b"x" * 100_000,
        b"--BoUnDx\r\n",
        b"--BoUnD\r\n" + b"h" * 100_000,
        form(("metadata", "m", b"1")),
        form(("rootfs", "r", b"2"), ("metadata", "m", b"1")),
        form(("metadata", "m", b"1"), ("other", "r", b"2")),
        form(("metadata", "m", b"1"), ("rootfs", "r", b"2"), ("rootfs", "r", b"3")),
        form(("metadata", "m", b"1"), ("rootfs", "r", b"2"), end=b""),
        form(("metadata", "m", b"1"), ("rootfs", "r", b"2"))[:-20],
    ],
)
def test_a_wrong_form_is_refused_and_leaves_nothing(store: Store, body: bytes) -> None:
    with pytest.raises(BadRequest), store.staging() as staged:
        sink = receiver(staged, FORM)
        sink.feed(body)
        sink.finish()
    assert list(store.root.iterdir()) == []


def test_a_form_needs_a_boundary(store: Store) -> None:
    with store.staging() as staged, pytest.raises(BadRequest, match="boundary"):
        receiver(staged, "multipart/form-data")
