# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images import formats, metadata
from nova_lxd.lxd.images.tarstream import TarStream
from nova_lxd.tests.unit.images.samples import METADATA, tar, unified


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "image"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_reads_a_unified_tarball(tmp_path: Path, mode: str) -> None:
    told, kind = metadata.read(write(tmp_path, unified(mode=mode)), unified=True)
    assert kind == metadata.CONTAINER
    assert told.architecture == "x86_64"
    assert (told.creation_date, told.expiry_date) == (1600000000, 1900000000)
    # Numbers keep their text, as in LXD: 1.10 is no 1.1.
    assert told.properties == {"os": "busy", "release": "1.10"}


@pytest.mark.parametrize(
    "program", [["zstd", "-qc"], ["xz", "--format=lzma", "-c"], ["xz", "-9", "-c"]]
)
def test_reads_what_python_cannot_write(tmp_path: Path, program: list[str]) -> None:
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    data = subprocess.run(program, input=unified(mode="w"), stdout=-1, check=True).stdout
    told, _kind = metadata.read(write(tmp_path, data), unified=True)
    assert told.properties["os"] == "busy"


def test_reads_metadata_out_of_a_squashfs(tmp_path: Path) -> None:
    if shutil.which("mksquashfs") is None:
        pytest.skip("squashfs-tools is not installed")
    tree = tmp_path / "tree"
    (tree / "rootfs").mkdir(parents=True)
    (tree / "metadata.yaml").write_bytes(METADATA)
    image = tmp_path / "image"
    subprocess.run(["mksquashfs", tree, image, "-quiet", "-no-progress"], check=True)
    assert metadata.read(image, unified=True)[0].architecture == "x86_64"


def test_a_root_of_a_virtual_machine_is_told(tmp_path: Path) -> None:
    image = tar({"metadata.yaml": METADATA, "rootfs.img": b"disk"})
    assert metadata.read(write(tmp_path, image), unified=True)[1] == metadata.VIRTUAL_MACHINE


def test_stops_reading_when_it_has_what_it_wants(tmp_path: Path) -> None:
    whole = unified(mode="w")
    cut = whole[:2048]  # metadata.yaml and the header of rootfs/init, and no end of archive
    assert metadata.read(write(tmp_path, cut), unified=True)[0].architecture == "x86_64"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"garbage", "Unsupported compression"),
        (b"", "Unsupported compression"),
        (tar({"other": b""}), "missing metadata.yaml"),
        (tar({"metadata.yaml": METADATA}), "no rootfs"),
        (unified()[:60], "damaged"),
        (b"\x1f\x8b" + b"x" * 600, "damaged"),
        (b"\xfd7zXZ\x00" + b"x" * 600, "damaged"),
        (b"BZh" + b"x" * 600, "damaged"),
        (b"hsqs" + b"x" * 600, "metadata.yaml|unsquashfs"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 600, "damaged|zstd"),
        (b"QFI\xfb" + b"x" * 600, "no tar file"),
        (unified(b"a: &a [x]\nb: [*a, *a]\n"), "aliases"),
        (unified(b"a: " + b"[" * 50 + b"]" * 50), "nests"),
        (unified(b"architecture: pdp11\n"), "isn't supported"),
        (unified(b"properties: {}\n"), "no architecture"),
        (unified(b"[1, 2]\n"), "not a map"),
        (unified(b"a: [\n"), "metadata.yaml failed"),
        (unified(b"\xff\xfe\xff"), "metadata.yaml failed"),
        (unified(b"architecture: amd64\ncreation_date: soon\n"), "creation_date"),
        (unified(b"architecture: amd64\n"), "no creation_date"),
        (unified(b"architecture: amd64\ncreation_date: 1\nproperties: [1]\n"), "not a map"),
        (unified(METADATA.replace(b"busy", b"{a: b}")), "not a text"),
        (unified(b"#" * (metadata.MAX_SIZE + 1)), "more than"),
    ],
)
def test_refuses_what_is_no_image(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        metadata.read(write(tmp_path, content), unified=True)


def test_metadata_must_be_a_file(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("metadata.yaml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(link)
    with pytest.raises(BadRequest, match="regular file"):
        metadata.read(write(tmp_path, out.getvalue()), unified=True)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path, tar({"zeros": bytes(64 * 2**20)}, "w:xz"))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="missing"):
            metadata.read(path, unified=True)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_huge_extended_header_is_refused() -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**40
    with pytest.raises(BadRequest, match="too long"):
        list(TarStream(io.BytesIO(header.tobuf(tarfile.GNU_FORMAT)), 2**50))


def test_the_scan_has_an_end() -> None:
    with pytest.raises(BadRequest, match="too large"):
        list(TarStream(io.BytesIO(tar({"a": bytes(4096)})), 2048))


names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=300)


@given(st.lists(st.tuples(names, st.binary(max_size=2000)), max_size=6))
def test_members_are_those_of_tarfile(files: list[tuple[str, bytes]]) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name, content in files:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        for seekable in (False, True):
            stream = TarStream(io.BytesIO(out.getvalue()), 2**30, seekable=seekable)
            assert [(m.name, stream.read(m, 4096)) for m in stream] == files
            stream = TarStream(io.BytesIO(out.getvalue()), 2**30, seekable=seekable)
            assert [m.name for m in stream] == [name for name, _content in files]


@given(st.binary(max_size=3000))
def test_any_bytes_are_members_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(BadRequest):
        list(TarStream(io.BytesIO(data), 2**30))


@given(st.binary(max_size=300))
def test_any_bytes_have_a_format_or_none(data: bytes) -> None:
    assert formats.identify(data) in (None, *formats.Format)
