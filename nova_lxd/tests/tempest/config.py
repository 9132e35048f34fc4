# SPDX-License-Identifier: Apache-2.0
"""What the plug-in must be told of a cloud: section [lxd] of tempest.conf."""

from __future__ import annotations

from oslo_config import cfg

GROUP = cfg.OptGroup("lxd", title="Clouds with the LXD driver")

OPTIONS = [
    cfg.BoolOpt(
        "allow_privileged",
        default=False,
        help="[lxd]allow_privileged of the compute hosts: flavors may have lxd:privileged.",
    ),
    cfg.BoolOpt(
        "allow_nesting",
        default=True,
        help="[lxd]allow_nesting of the compute hosts: flavors may have lxd:nesting.",
    ),
    cfg.BoolOpt(
        "interceptors",
        default=False,
        help="The LXD of the compute hosts intercepts system calls; the bundled daemon does not.",
    ),
    cfg.StrOpt(
        "image_files",
        help="Directory of image files to upload and boot: busybox.tar.gz (a root file system),"
        " busybox.squashfs, busybox.qcow2 and busybox.img (a disk with an ext4 file system)."
        " Their console must say 'ready'. Without it the tests of image formats are skipped.",
    ),
]
