# SPDX-License-Identifier: Apache-2.0
"""The extra specs of this driver: checked by the API, bounded by the operator, kept by LXD."""

from __future__ import annotations

import testtools
from tempest import config
from tempest.lib import decorators
from tempest.lib import exceptions as lib_exc

from nova_lxd.tests.tempest import base

CONF = config.CONF

# An unmasked /proc, by which the kernel lets nested containers mount theirs.
UNMASKED = "/dev/.lxc/proc"
NESTED = "sudo unshare --mount --pid --fork mount -t proc proc /mnt"


class ExtraSpecsAPITest(base.LXDTest):
    """What Nova's API takes and refuses."""

    @decorators.idempotent_id("6f2a8f0e-f1b6-4b55-a8c0-1f0a0a3b4a61")
    def test_known_ones_are_taken(self) -> None:
        """Each with a value of its type."""
        flavor = self.flavor(lxd__nesting="true", lxd__processes="500", lxd__privileged="false")
        specs = self.admin_flavors_client.list_flavor_extra_specs(flavor)["extra_specs"]
        self.assertEqual(
            {"lxd:nesting": "true", "lxd:processes": "500", "lxd:privileged": "false"}, specs
        )

    @decorators.idempotent_id("a41f70c4-cf1e-44c5-b5b6-0f7a4a4e6f72")
    def test_unknown_or_wrong_ones_are_refused(self) -> None:
        """A misspelt name, a word for a boolean, no number, a number out of range."""
        for wrong in (
            {"lxd__nestling": "true"},
            {"lxd__nesting": "perhaps"},
            {"lxd__processes": "many"},
            {"lxd__processes": "0"},
        ):
            self.assertRaises(lib_exc.BadRequest, self.flavor, **wrong)


class ExtraSpecsTest(base.LXDTest):
    """What becomes of a server with such a flavor."""

    @decorators.idempotent_id("0b6c9f57-4c5d-4f7e-8a55-2f4b6a7d8e83")
    @testtools.skipIf(CONF.lxd.allow_privileged, "The operator allows privileged guests.")
    def test_privileged_is_refused(self) -> None:
        """The fault names what forbids it."""
        fault = self.fault_of(flavor=self.flavor(lxd__privileged="true"))
        self.assertIn("lxd:privileged", fault)
        self.assertIn("allow_privileged", fault)

    @decorators.idempotent_id("7c6f6f8e-6f0a-4a5d-9d0a-3a1c2b9e0f94")
    @testtools.skipIf(CONF.lxd.interceptors, "This LXD intercepts system calls.")
    def test_interceptor_is_refused(self) -> None:
        """An LXD that cannot intercept builds no server that relies on it."""
        fault = self.fault_of(flavor=self.flavor(lxd__intercept_mknod="true"))
        self.assertIn("security.syscalls.intercept.mknod", fault)

    @decorators.idempotent_id("c2f8f3a5-1a0f-4b4e-b0f9-4e7a5d3c1ba5")
    @testtools.skipUnless(CONF.lxd.allow_nesting, "The operator forbids nesting.")
    def test_nesting(self) -> None:
        """A nested container's own /proc can be mounted."""
        inside = self.boot_own_guest(flavor=self.flavor(lxd__nesting="true"))
        self.assertFalse(inside.refused(f"mountpoint -q {UNMASKED}"))
        self.assertFalse(inside.refused(NESTED))

    @decorators.idempotent_id("d4a1b7c0-93f2-4d6b-8a2f-6c5e4f3d2cb6")
    def test_without_nesting(self) -> None:
        """Nothing of the kernel is shown unmasked."""
        inside = self.boot_own_guest(flavor=self.flavor())
        self.assertTrue(inside.refused(f"test -e {UNMASKED}"))

    @decorators.idempotent_id("f5d8e1b3-7b0c-4e57-9b7a-8d7f6e5c4dc7")
    def test_processes(self) -> None:
        """More processes than allowed cannot be started; the guest lives on."""
        inside = self.boot_own_guest(flavor=self.flavor(lxd__processes="60"))
        many = "import subprocess as s; p = [s.Popen(['sleep', '9']) for _ in range(60)]"
        self.assertTrue(inside.refused(f'python3 -c "{many}"'))
        self.assertFalse(inside.refused("true"))
