# SPDX-License-Identifier: Apache-2.0
"""The root file system out of a disk image, by a reader that cannot be hurt by it.

A cloud disk image is a stranger's file system. Mounting it would let its bytes reach the host
kernel's parser; the usual userspace tools keep no owners and extended attributes, or need a
mount all the same. So it is read here, in plain Python: qcow2, partition tables, ext2/3/4, xfs
and btrfs, read-only, every offset checked, in a child process that has given up root, the right
to gain any, other file descriptors, and all but a bounded share of memory, time and disk.

``python -m nova_lxd.virt.images.extract SOURCE TARGET ...`` writes a tar archive. Modules here
import nothing of Nova. Each file system has a module (:mod:`ext4`, :mod:`xfs`, :mod:`btrfs`) that
offers what :mod:`files` says; :mod:`roots` finds the root among them, :mod:`archive` writes it.
"""
