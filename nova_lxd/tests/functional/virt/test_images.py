# SPDX-License-Identifier: Apache-2.0
"""Glance images of every format boot on a live server; bad ones leave nothing behind."""

from __future__ import annotations

import gzip
import io
import lzma
import pathlib
import shutil
import subprocess
import tarfile
import threading
from typing import Any

import pytest

from nova_lxd.tests.functional.virt import busybox, guests, world
from nova_lxd.virt import exception

pytestmark = pytest.mark.timeout(240)


def qcow2(work: pathlib.Path) -> bytes:
    """Return a cloud disk image: a busybox root on ext4, compressed."""
    tree = work / "tree"
    with tarfile.open(fileobj=io.BytesIO(busybox.rootfs())) as archive:
        archive.extractall(tree, filter="fully_trusted")
    raw, image = work / "disk.raw", work / "disk.qcow2"
    subprocess.run(
        ["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, raw, "64M"], check=True
    )
    subprocess.run(
        ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, image], check=True
    )
    return image.read_bytes()


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


FORMATS = {
    "unified": lambda work: busybox.unified(),
    "unified-gz": lambda work: gzip.compress(busybox.unified(), 1),
    "tar": lambda work: busybox.rootfs(),
    "tar-gz": lambda work: gzip.compress(busybox.rootfs(), 1),
    "tar-xz": lambda work: lzma.compress(busybox.rootfs(), preset=0),
    "tar-zst": lambda work: zstd(busybox.rootfs()),
    "squashfs": busybox.squashfs,
    "qcow2": qcow2,
}


@pytest.mark.parametrize("name", FORMATS)
def test_boots(driver: Any, context: Any, glance: Any, tmp_path: pathlib.Path, name: str) -> None:
    if name == "qcow2" and not shutil.which("qemu-img"):
        pytest.skip("no qemu-img")
    image = glance.add(FORMATS[name](tmp_path))
    instance = world.instance(image)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, world.network_info(0))
    try:
        owner = guests.run(driver, instance, "stat", "-c", "%u:%g %a", "/etc/shadow")
        assert owner.split() == ["0:0", "600"]
        assert not list(driver.images._work.glob("*")), "scratch files stay behind"
    finally:
        driver.destroy(context, instance, [])


BAD = {
    "empty": b"",
    "noise": bytes(range(256)) * 300,
    "no-root": None,
    "cut-gzip": gzip.compress(busybox.rootfs(), 1)[:100_000] if busybox.available() else b"",
    "qcow2-header": b"QFI\xfb" + bytes(200),
    "partition-table": bytes(510) + b"\x55\xaa" + bytes(1 << 20),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_image_is_refused(driver: Any, context: Any, glance: Any, name: str) -> None:
    data = BAD[name]
    if data is None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("holiday.jpg"))
        data = buffer.getvalue()
    image = glance.add(data)
    instance = world.instance(image)
    before = {found["fingerprint"] for found in driver.client.get("images", recursion="1")}
    with pytest.raises(exception.ImageNotUsable):
        driver.spawn(
            context, instance, world.image_meta(image), [], None, {}, world.network_info(1)
        )
    assert not driver.instance_exists(instance)
    after = {found["fingerprint"] for found in driver.client.get("images", recursion="1")}
    assert after == before
    assert not list(driver.images._work.glob("*"))


def test_imported_once_for_many(driver: Any, context: Any, glance: Any) -> None:
    image = glance.add(gzip.compress(busybox.unified(), 3))
    found: list[str] = []

    def ensure() -> None:
        found.append(driver.images.ensure(context, image))

    threads = [threading.Thread(target=ensure) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 5 and len(set(found)) == 1
    assert glance.downloads.count(image) == 1
    assert driver.cache_image(context, image) is False, "it is there already"


def test_changed_data_is_imported_again(driver: Any, context: Any, glance: Any) -> None:
    image = glance.add(gzip.compress(busybox.unified(), 4))
    first = driver.images.ensure(context, image)
    glance.put(image, gzip.compress(busybox.unified(), 5))
    assert driver.images.ensure(context, image) != first


def test_unused_images_age_out(driver: Any, context: Any, glance: Any, conf: Any) -> None:
    used = glance.add(gzip.compress(busybox.unified(), 6))
    unused = glance.add(gzip.compress(busybox.unified(), 7))
    for image in (used, unused):
        driver.images.ensure(context, image)
    driver.manage_image_cache(context, [world.instance(used)])
    assert driver.images.is_cached(unused), "younger than the minimum age"
    conf.set_override("remove_unused_original_minimum_age_seconds", 0, "image_cache")
    try:
        driver.manage_image_cache(context, [world.instance(used)])
    finally:
        conf.clear_override("remove_unused_original_minimum_age_seconds", "image_cache")
    assert driver.images.is_cached(used)
    assert not driver.images.is_cached(unused)
