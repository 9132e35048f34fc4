# SPDX-License-Identifier: Apache-2.0
"""One server from inside: what makes it a system container, and what it keeps through changes."""

from __future__ import annotations

import testtools
from tempest import config
from tempest.common import waiters
from tempest.lib import decorators

from nova_lxd.tests.tempest import base

CONF = config.CONF

# A process that must live through what is done to the server; it prints its id and start time.
WITNESS = (
    "nohup sleep 3600 >/dev/null 2>&1 </dev/null & echo $! $(awk '{print $22}' /proc/$!/stat)"
)


class GuestTest(base.LXDTest):
    """All tests share one server and leave it as they found it."""

    @classmethod
    def resource_setup(cls) -> None:
        super().resource_setup()
        cls.resources = cls.get_class_validation_resources(cls.os_primary)
        cls.server, cls.inside = cls.boot_guest(cls.resources)

    def start_witness(self) -> str:
        """Start a process in the guest; returns what still_there() looks for."""
        return str(self.inside.exec_command(WITNESS)).strip()

    def still_there(self, witness: str) -> bool:
        """Whether the very process lives."""
        pid, start = witness.split()
        return not self.inside.refused(f"[ $(awk '{{print $22}}' /proc/{pid}/stat) = {start} ]")

    @decorators.idempotent_id("3f0c6a43-6c53-4fb1-b9a5-7f4be6b2b0a1")
    def test_first_process_is_the_systems_own(self) -> None:
        """A whole system runs, not one application."""
        self.assertEqual("systemd", self.inside.exec_command("cat /proc/1/comm").strip())
        self.assertEqual("lxc", self.inside.exec_command("systemd-detect-virt || true").strip())

    @decorators.idempotent_id("b7d9aee1-1b19-49a0-8b1b-5c0f3f4f3b52")
    def test_root_is_nobody_on_the_host(self) -> None:
        """The guest has ids of its own: its root is another user outside."""
        first, outside, count = map(
            int, self.inside.exec_command("head -1 /proc/self/uid_map").split()
        )
        self.assertEqual(0, first)
        self.assertGreater(outside, 0)
        self.assertGreaterEqual(count, 65536)

    @decorators.idempotent_id("5b1de6c8-3ac9-45c3-a9a9-f56f0c1a4c33")
    def test_no_way_to_the_hosts_devices(self) -> None:
        """Neither a block device can be made, nor can the kernel be given a module or a time."""
        for command in (
            "sudo mknod /root/disk b 8 0",
            "sudo sh -c 'echo 1 >/proc/sys/kernel/sysrq'",
            "sudo date -s @0",
            "sudo dmesg --clear",
        ):
            self.assertTrue(self.inside.refused(command), command)

    @decorators.idempotent_id("0a8e2f0a-22f6-4ac3-8c04-0ee0e1c6a7d4")
    def test_limits_are_what_the_guest_sees(self) -> None:
        """Memory and processors of the flavor, not of the host."""
        flavor = self.flavors_client.show_flavor(self.flavor_ref)["flavor"]
        self.assertEqual(flavor["ram"], self.inside.memory())
        self.assertEqual(flavor["vcpus"], int(self.inside.exec_command("nproc")))

    @decorators.idempotent_id("d6b54a0e-8d77-4e0e-86fd-5b4c47c5a0e5")
    def test_memory_limit_holds(self) -> None:
        """A process that wants more is ended; the guest lives on."""
        before = self.inside.init_start()
        flavor = self.flavors_client.show_flavor(self.flavor_ref)["flavor"]
        size = (flavor["ram"] + 256) << 20
        self.assertTrue(self.inside.refused(f"python3 -c 'len(b\"x\" * {size})'"))
        self.assertEqual(before, self.inside.init_start())

    @decorators.idempotent_id("8cc4c0a7-0b5f-4c13-94c1-2d1d9b0b4f16")
    def test_reboot_from_inside(self) -> None:
        """The server stays ACTIVE and has its network again."""
        before = self.inside.init_start()
        self.inside.exec_command("sudo systemd-run --on-active=1 systemctl reboot")
        self.inside.eventually("the reboot", lambda: self.inside.init_start() != before)
        shown = self.servers_client.show_server(self.server["id"])["server"]
        self.assertEqual("ACTIVE", shown["status"])

    @decorators.idempotent_id("e1d3b7c9-7a57-4e52-8c6a-95a1f8a0d927")
    @testtools.skipUnless(CONF.compute_feature_enabled.snapshot, "Snapshots are not available.")
    def test_snapshot_stops_nothing(self) -> None:
        """A process of the guest lives through the snapshot."""
        witness = self.start_witness()
        self.create_image_from_server(self.server["id"], wait_until="ACTIVE")
        self.assertTrue(self.still_there(witness))

    @decorators.idempotent_id("41f6a5de-58a5-4b1e-8a58-6c2c3bb8e038")
    @testtools.skipUnless(CONF.compute_feature_enabled.resize, "Resize is not available.")
    def test_resize_is_live(self) -> None:
        """The new limits are seen by a guest that never stopped, and so are the old ones again."""
        witness = self.start_witness()
        small, large = (
            self.flavors_client.show_flavor(ref)["flavor"]
            for ref in (self.flavor_ref, self.flavor_ref_alt)
        )
        self.servers_client.resize_server(self.server["id"], self.flavor_ref_alt)
        waiters.wait_for_server_status(self.servers_client, self.server["id"], "VERIFY_RESIZE")
        self.assertEqual(large["ram"], self.inside.memory())
        self.assertEqual(large["vcpus"], int(self.inside.exec_command("nproc")))
        self.servers_client.revert_resize_server(self.server["id"])
        waiters.wait_for_server_status(self.servers_client, self.server["id"], "ACTIVE")
        self.assertEqual(small["ram"], self.inside.memory())
        self.assertTrue(self.still_there(witness))
