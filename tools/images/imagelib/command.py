# SPDX-License-Identifier: Apache-2.0
"""The command line of tools/images/build."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from imagelib import busybox, debian, machine
from imagelib.pack import ARTIFACTS, BuildError, Recipe, pack

DEFAULT_CACHE = "/var/cache/nova-lxd/images"

EPILOG = """\
artifacts:
  metadata.tar.xz    metadata.yaml and templates/, first half of a split image
  rootfs.squashfs    the root file system, second half of a split image
  rootfs.tar.gz      the root file system alone, members at the top
  unified.tar.gz     metadata.yaml, templates/ and rootfs/ in one tar (what Glance stores)
  unified.tar.xz     the same, smaller and slower to make
  disk.ext4          the root file system as a disk, to boot a kernel with (of a machine only)

examples:
  tools/images/build busybox                          # metadata.tar.xz and rootfs.squashfs
  lxc image import $(tools/images/build busybox) --alias busybox
  tools/images/build debian --artifact unified.tar.gz --seed none   # for Glance

The paths of the artifacts are printed one a line, in the order asked for. A build is kept in the
cache under a name made from all that went into it, so that asking again costs nothing.
Needs root, squashfs-tools, xz-utils; busybox-static and a C compiler (busybox) or mmdebstrap and
a Debian mirror (debian, machine) and user-mode-linux (machine).
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/images/build",
        description="Build a system-container image for LXD and nova-lxd.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=("busybox", "debian", "machine"), help="which image")
    parser.add_argument(
        "--artifact",
        action="append",
        choices=ARTIFACTS,
        help="what to make; may be repeated (default: the split image; of a machine its disk)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("NOVA_LXD_CACHE") or DEFAULT_CACHE),
        help=f"where builds are kept (default: $NOVA_LXD_CACHE or {DEFAULT_CACHE})",
    )
    parser.add_argument(
        "--seed",
        choices=("nocloud", "none"),
        default="nocloud",
        help="debian: 'nocloud' has LXD write cloud-init's NoCloud seed from templates, as the "
        "images of LXD's image server do; 'none' leaves cloud-init to find a config drive, a "
        "metadata service or /dev/lxd/sock (default: nocloud)",
    )
    parser.add_argument("--suite", default="bookworm", help="debian, machine: the suite")
    parser.add_argument("--mirror", help="debian, machine: the mirror (default: apt's own)")
    parser.add_argument("--rebuild", action="store_true", help="throw the kept build away first")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the command line asks for and print the paths; 1 with one sentence on failure."""
    args = _parser().parse_args(argv)
    recipe: Recipe
    default = ["disk.ext4"] if args.kind == "machine" else ["metadata.tar.xz", "rootfs.squashfs"]
    artifacts = args.artifact or default
    try:
        if args.kind == "busybox":
            recipe = busybox.BusyboxRecipe()
        else:
            mirror = args.mirror or debian.host_mirror()
            if args.kind == "machine":
                recipe = machine.MachineRecipe(suite=args.suite, mirror=mirror)
            else:
                recipe = debian.DebianRecipe(suite=args.suite, mirror=mirror, seed=args.seed)
        cache = args.cache.resolve()
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f".{args.kind}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            paths = pack(recipe, cache, artifacts, rebuild=args.rebuild)
    except (BuildError, OSError) as exc:
        print(f"tools/images/build: {exc}", file=sys.stderr)
        return 1
    for path in paths:
        print(path)
    return 0
