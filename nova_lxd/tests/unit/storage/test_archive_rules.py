# SPDX-License-Identifier: Apache-2.0
"""What an image archive may hold, entry by entry."""

from __future__ import annotations

import stat

import pytest

from nova_lxd.lxd.storage.archive_rules import Entry, Limits, Refused, Rules

REG, DIR, LNK, CHR, BLK, FIFO = (
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
)
HARD = 0


def check(*entries: Entry, image: bool = True, limits: Limits | None = None) -> None:
    rules = Rules(limits or Limits(), image)
    for entry in entries:
        rules.check(entry)


def test_ordinary_image_passes() -> None:
    check(
        Entry("./", DIR),
        Entry("./metadata.yaml", REG, 100),
        Entry("templates", DIR),
        Entry("templates/hostname.tpl", REG, 10),
        Entry("rootfs", DIR),
        Entry("rootfs/usr", DIR),
        Entry("rootfs/usr/lib", DIR),
        Entry("rootfs/lib", LNK, link="usr/lib"),
        Entry("rootfs/lib/libc.so", REG, 5),
        Entry("rootfs/etc/mtab", LNK, link="/proc/mounts"),
        Entry("rootfs/up", LNK, link="../../../etc"),
        Entry("rootfs/usr/lib/a", HARD, link="./rootfs/usr/lib/libc.so"),
        Entry("rootfs/dev/null", CHR, device=(1, 3)),
        Entry("rootfs/run/pipe", FIFO),
    )


@pytest.mark.parametrize(
    "entries",
    [
        [Entry("/etc/passwd", REG)],
        [Entry("../x", REG)],
        [Entry("rootfs/../../x", REG)],
        [Entry("rootfs/a\0b", REG)],
        [Entry("rootfs/" + "a/" * 4000, DIR)],
        [Entry(".", REG)],
        [Entry("rootfs/x", LNK, link="/etc"), Entry("rootfs/x/passwd", REG)],
        [Entry("rootfs/x", LNK, link="../.."), Entry("rootfs/x/passwd", REG)],
        [Entry("rootfs/x", LNK, link=".."), Entry("rootfs/x/metadata.yaml", REG)],
        [Entry("rootfs/x", LNK, link="x"), Entry("rootfs/x/loop", REG)],
        [
            Entry("rootfs/a", LNK, link="b"),
            Entry("rootfs/b", LNK, link="/"),
            Entry("rootfs/a/c/d", REG),
        ],
        [Entry("rootfs/h", HARD, link="/etc/shadow")],
        [Entry("rootfs/h", HARD, link="../../etc/shadow")],
        [Entry("rootfs/h", HARD, link="metadata.yaml")],
        [Entry("metadata.yaml", HARD, link="rootfs/etc/shadow")],
        [Entry("rootfs/x", LNK, link="/etc"), Entry("rootfs/h", HARD, link="rootfs/x/shadow")],
        [Entry("metadata.yaml", LNK, link="/etc/shadow")],
        [Entry("templates", LNK, link="/etc")],
        [Entry("rootfs", LNK, link="/")],
        [Entry("templates/a", FIFO)],
        [Entry("rootfs", REG)],
        [Entry("rootfs/dev/sda", BLK, device=(8, 0))],
        [Entry("rootfs/dev/mem", CHR, device=(1, 1))],
        [Entry("null", CHR, device=(1, 3))],
    ],
)
def test_refused(entries: list[Entry]) -> None:
    with pytest.raises(Refused):
        check(*entries)


def test_link_that_is_replaced_is_no_link_any_more() -> None:
    check(Entry("rootfs/x", LNK, link="/etc"), Entry("rootfs/x", DIR), Entry("rootfs/x/own", REG))


def test_devices_for_privileged_containers() -> None:
    check(Entry("rootfs/dev/sda", BLK, device=(8, 0)), limits=Limits(any_device=True))


def test_bounds() -> None:
    files = [Entry(f"rootfs/{number}", REG, 1000) for number in range(10)]
    check(*files, limits=Limits(max_bytes=10_000, max_entries=10))
    with pytest.raises(Refused, match="more than 9999 bytes"):
        check(*files, limits=Limits(max_bytes=9_999))
    with pytest.raises(Refused, match="more than 9 entries"):
        check(*files, limits=Limits(max_entries=9))


def test_bare_root_tree_may_hold_links_at_its_top() -> None:
    check(Entry("bin", LNK, link="usr/bin"), Entry("bin/sh", REG), image=False)
    with pytest.raises(Refused):
        check(Entry("bin", LNK, link="../x"), Entry("bin/sh", REG), image=False)
