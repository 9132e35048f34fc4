# SPDX-License-Identifier: Apache-2.0
"""Every kind of image that the driver takes boots; what is none is refused with a reason."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any, BinaryIO

import testtools
from tempest import config
from tempest.lib import decorators
from tempest.lib.common.utils import data_utils, test_utils

from nova_lxd.tests.tempest import base

CONF = config.CONF
BOOT_SECONDS = 60


class ImageFormatsTest(base.LXDTest):
    """Images are uploaded by the project itself, as any user would."""

    def upload(self, content: BinaryIO, disk_format: str = "raw") -> str:
        """The id of a new image of the project."""
        client = self.os_primary.image_client_v2
        image = client.create_image(
            name=data_utils.rand_name("lxd"), container_format="bare", disk_format=disk_format
        )
        self.addCleanup(test_utils.call_and_ignore_notfound_exc, client.delete_image, image["id"])
        client.store_image_file(image["id"], content)
        return str(image["id"])

    def assert_boots(self, name: str, disk_format: str = "raw") -> None:
        """Upload a file of [lxd]image_files, boot it, and wait for its last word."""
        with (Path(CONF.lxd.image_files) / name).open("rb") as content:
            image = self.upload(content, disk_format)
        server = self.create_test_server(image_id=image, wait_until="ACTIVE")
        deadline = time.monotonic() + BOOT_SECONDS
        while "ready" not in (said := self.console(server)):
            self.assertLess(time.monotonic(), deadline, f"the console says only: {said}")
            time.sleep(1)

    def console(self, server: dict[str, Any]) -> str:
        return str(self.servers_client.get_console_output(server["id"])["output"])

    @decorators.idempotent_id("17f3a1de-2f5c-4e0d-8b85-5a3a9c1b7ed8")
    @testtools.skipUnless(CONF.lxd.image_files, "[lxd]image_files is not set.")
    def test_root_file_system_as_tar(self) -> None:
        """A plain tar archive, as container builders write it."""
        self.assert_boots("busybox.tar.gz")

    @decorators.idempotent_id("28e4b2cf-3a6d-4f1e-9c96-6b4b0d2c8fe9")
    @testtools.skipUnless(CONF.lxd.image_files, "[lxd]image_files is not set.")
    def test_root_file_system_as_squashfs(self) -> None:
        """As on LXD's image servers, without its metadata."""
        self.assert_boots("busybox.squashfs")

    @decorators.idempotent_id("39d5c3be-4b7e-4a2f-8da7-7c5c1e3d9af0")
    @testtools.skipUnless(CONF.lxd.image_files, "[lxd]image_files is not set.")
    def test_disk_as_qcow2(self) -> None:
        """A cloud image for virtual machines: its root file system is taken out."""
        self.assert_boots("busybox.qcow2", "qcow2")

    @decorators.idempotent_id("4ac6d4ad-5c8f-4b30-9eb8-8d6d2f4eab01")
    @testtools.skipUnless(CONF.lxd.image_files, "[lxd]image_files is not set.")
    def test_disk_as_raw(self) -> None:
        """The same, not packed."""
        self.assert_boots("busybox.img")

    @decorators.idempotent_id("5bb7e59c-6d90-4c41-8fc9-9e7e305fbc12")
    def test_what_is_no_image_is_refused(self) -> None:
        """The owner is told what the driver can take."""
        fault = self.fault_of(image_id=self.upload(io.BytesIO(b"neither fish nor flesh\n" * 500)))
        self.assertIn("neither an LXD image, a root file system", fault)
