# SPDX-License-Identifier: Apache-2.0
"""Templates are read from and written to trees that nobody may trust."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest, NoSpace
from nova_lxd.lxd.instances import templates

METADATA = """
architecture: x86_64
templates:
  {path}:
    when: [create, copy]
    create_only: {create_only}
    template: hostname.tpl
    properties:
      greeting: hello
"""


def make_volume(
    top: Path,
    path: str = "/etc/hostname",
    template: str = "{{ container.name }} {{ properties.greeting }}",
    create_only: str = "false",
) -> Path:
    volume = top / "volume"
    (volume / "templates").mkdir(parents=True)
    (volume / "rootfs" / "etc").mkdir(parents=True)
    (volume / "templates" / "hostname.tpl").write_text(template)
    (volume / "metadata.yaml").write_text(METADATA.format(path=path, create_only=create_only))
    return volume


def apply(volume: Path, *triggers: str) -> None:
    subject = templates.Subject("c1", "x86_64", False, False, {}, {})
    templates.apply(volume, subject, triggers, templates.read(volume))


def test_written_at_its_trigger_only(tmp_path: Path) -> None:
    volume = make_volume(tmp_path)
    apply(volume, "start")
    assert not (volume / "rootfs/etc/hostname").exists()
    apply(volume, "create", "start")
    assert (volume / "rootfs/etc/hostname").read_text() == "c1 hello"


def test_replaces_longer_content(tmp_path: Path) -> None:
    volume = make_volume(tmp_path)
    (volume / "rootfs/etc/hostname").write_text("x" * 1000)
    apply(volume, "copy")
    assert (volume / "rootfs/etc/hostname").read_text() == "c1 hello"


def test_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    volume = make_volume(tmp_path)
    opened = templates.os.fdopen
    monkeypatch.setattr(
        templates.os, "fdopen", lambda fd, mode: (opened if mode == "rb" else Full)(fd, mode)
    )
    with pytest.raises(NoSpace, match="/etc/hostname"):
        apply(volume, "create")


def test_create_only_leaves_what_is_there(tmp_path: Path) -> None:
    volume = make_volume(tmp_path, create_only="true")
    (volume / "rootfs/etc/hostname").write_text("mine")
    apply(volume, "create")
    assert (volume / "rootfs/etc/hostname").read_text() == "mine"


def test_missing_directories_are_made(tmp_path: Path) -> None:
    volume = make_volume(tmp_path, path="/var/lib/cloud/seed/user-data")
    apply(volume, "create")
    assert (volume / "rootfs/var/lib/cloud/seed/user-data").read_text() == "c1 hello"


def test_links_of_the_guest_lead_nowhere_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    volume = make_volume(tmp_path, path="/dir/hostname")
    (volume / "rootfs/dir").symlink_to(outside)
    with pytest.raises(BadRequest):
        apply(volume, "create")
    assert list(outside.iterdir()) == []


def test_absolute_link_is_resolved_inside(tmp_path: Path) -> None:
    volume = make_volume(tmp_path)
    (volume / "rootfs/run").mkdir()
    (volume / "rootfs/etc/hostname").symlink_to("/run/hostname")
    (volume / "rootfs/run/hostname").write_text("old")
    apply(volume, "create")
    assert (volume / "rootfs/run/hostname").read_text() == "c1 hello"


@pytest.mark.parametrize("path", ["/../../etc/x", "/", ""])
def test_bad_targets_are_refused(tmp_path: Path, path: str) -> None:
    volume = make_volume(tmp_path, path=f'"{path}"')
    with pytest.raises(BadRequest):
        apply(volume, "create")


def test_fifo_is_no_target(tmp_path: Path) -> None:
    import os

    volume = make_volume(tmp_path)
    os.mkfifo(volume / "rootfs/etc/hostname")
    with pytest.raises(BadRequest):
        apply(volume, "create")


def test_template_file_behind_a_link_is_refused(tmp_path: Path) -> None:
    volume = make_volume(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (volume / "templates/hostname.tpl").unlink()
    (volume / "templates/hostname.tpl").symlink_to(secret)
    with pytest.raises(BadRequest):
        apply(volume, "create")


def test_volume_without_metadata_has_none(tmp_path: Path) -> None:
    assert templates.read(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["templates: [", "templates: {/x: [1]}", "templates: {/x: {when: start}}"]
)
def test_broken_metadata_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata.yaml").write_text(text)
    with pytest.raises(BadRequest):
        templates.read(tmp_path)
