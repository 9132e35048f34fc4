# SPDX-License-Identifier: Apache-2.0
"""Whatever an image's files hold, its readers refuse it with BadRequest or read it."""

from __future__ import annotations

import contextlib
import io
import tarfile

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images import metadata
from nova_lxd.lxd.images.tarstream import BLOCK, TarStream

_LIMIT = 1 << 20
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
_METADATA = st.fixed_dictionaries(
    {},
    optional={
        "architecture": _TREES | st.sampled_from(["x86_64", "amd64", "aarch64"]),
        "creation_date": _TREES | st.integers(0, 2**40),
        "expiry_date": _TREES,
        "properties": _TREES,
        "templates": _TREES,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400) | _METADATA.map(lambda tree: yaml.safe_dump(tree).encode()))
def test_metadata_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadRequest):
        found = metadata.parse(data)
        assert found.architecture
        assert found.creation_date > 0
        assert all(isinstance(value, str) for value in found.properties.values())


def _archive(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _read_all(data: bytes) -> list[str]:
    names = []
    stream = TarStream(io.BytesIO(data), _LIMIT)
    for member in stream:
        names.append(member.name)
        if member.regular and member.size < BLOCK:
            assert len(stream.read(member, BLOCK)) == member.size
        assert len(names) <= len(data) // BLOCK + 1
    return names


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3 * BLOCK))
def test_any_bytes_as_tar_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadRequest):
        _read_all(data)


_PLACES = st.tuples(st.integers(0, 4 * BLOCK), st.integers(0, 255))


@settings(max_examples=300, deadline=None)
@given(
    st.text(min_size=1, max_size=150).filter(lambda name: name.strip("/\0")),
    st.binary(max_size=600),
    st.lists(_PLACES, max_size=6),
)
def test_damaged_tar_is_read_or_refused(
    name: str, content: bytes, places: list[tuple[int, int]]
) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        data = bytearray(_archive(name, content))
        for offset, value in places:
            data[offset % len(data)] = value
        with contextlib.suppress(BadRequest):
            _read_all(bytes(data))
