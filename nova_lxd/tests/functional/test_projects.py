# SPDX-License-Identifier: Apache-2.0
"""Projects keep instances, images, profiles and volumes apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nova_lxd.tests.functional.conftest import build_image, remove
from nova_lxd.tests.functional.daemon import Daemon


@pytest.fixture
def project(daemon: Daemon) -> Iterator[str]:
    """A project with nothing in it but a furnished default profile; emptied at the end."""
    daemon.lxc("project", "create", "p1")
    daemon.lxc("project", "switch", "default")
    daemon.lxc(
        "profile", "device", "add", "default", "root", "disk", "path=/", "pool=default",
        "--project", "p1",
    )  # fmt: skip
    yield "p1"
    for path in daemon.get("/1.0/instances?project=p1"):
        remove(daemon, path.rpartition("/")[2].partition("?")[0], "p1")
    for path in daemon.get("/1.0/images?project=p1"):
        fingerprint = path.rpartition("/")[2].partition("?")[0]
        daemon.lxc("image", "delete", fingerprint, "--project", "p1")
    daemon.lxc("project", "delete", "p1")


def import_image(daemon: Daemon, project: str) -> None:
    split = build_image("busybox", "metadata.tar.xz", "rootfs.squashfs")
    daemon.lxc("image", "import", *map(str, split), "--alias", "busybox", "--project", project)


def test_features_default_on(daemon: Daemon, project: str) -> None:
    config = daemon.get("/1.0/projects/p1")["config"]
    for feature in ("images", "profiles", "storage.volumes"):
        assert config[f"features.{feature}"] == "true"
    assert "features.networks" not in config


def test_state_adds_up_what_instances_may_use(daemon: Daemon, project: str) -> None:
    import_image(daemon, "p1")
    limits = ("-c", "limits.memory=100MB", "-c", "limits.processes=50", "-c", "limits.cpu=1")
    for name in ("a", "b"):
        daemon.lxc("init", "busybox", name, "--project", "p1", *limits)
    resources = daemon.get("/1.0/projects/p1/state")["resources"]
    assert {name: entry["Usage"] for name, entry in resources.items()} == {
        "containers": 2,
        "cpu": 2,
        "disk": 0,
        "instances": 2,
        "memory": 200_000_000,
        "networks": 0,
        "processes": 100,
        "virtual-machines": 0,
    }
    assert {entry["Limit"] for entry in resources.values()} == {-1}


def test_move_to_an_unknown_project_is_refused(daemon: Daemon) -> None:
    daemon.lxc("init", "busybox", "stays")
    try:
        said = daemon.refused("move", "stays", "--target-project", "nowhere")
        assert "not found" in said
        assert daemon.instance("stays")["project"] == "default"
    finally:
        remove(daemon, "stays")


def test_same_name_in_two_projects(daemon: Daemon, project: str) -> None:
    import_image(daemon, "p1")
    daemon.lxc("launch", "busybox", "same")
    daemon.lxc("launch", "busybox", "same", "--project", "p1", "-c", "user.where=p1")
    try:
        assert daemon.instance("same", "p1")["project"] == "p1"
        assert daemon.instance("same")["project"] == "default"
        assert "user.where" not in daemon.instance("same")["config"]
        daemon.lxc("exec", "same", "--project", "p1", "--", "touch", "/root/p1")
        assert daemon.exec("same", "ls", "/root") == ""
        listed = daemon.lxc("list", "--all-projects", "-cen", "-fcsv").stdout
        assert sorted(listed.split()) == ["default,same", "p1,same"]
        assert daemon.get("/1.0/instances?project=p1") == ["/1.0/instances/same?project=p1"]
    finally:
        remove(daemon, "same")


def test_images_are_apart(daemon: Daemon, project: str) -> None:
    assert daemon.get("/1.0/images?project=p1") == []
    assert daemon.refused("init", "busybox", "c1", "--project", "p1")
    import_image(daemon, "p1")
    daemon.lxc("init", "busybox", "c1", "--project", "p1")
    assert len(daemon.get("/1.0/images")) == 1


def test_profiles_are_apart(daemon: Daemon, project: str) -> None:
    daemon.lxc("profile", "create", "only", "--project", "p1")
    assert daemon.api("GET", "/1.0/profiles/only").status == 404
    daemon.lxc("profile", "delete", "only", "--project", "p1")


def test_volumes_are_apart(daemon: Daemon, project: str) -> None:
    daemon.lxc("storage", "volume", "create", "default", "v", "--project", "p1")
    try:
        path = "/1.0/storage-pools/default/volumes/custom/v"
        assert daemon.api("GET", path).status == 404
        assert daemon.get(f"{path}?project=p1")["project"] == "p1"
    finally:
        daemon.lxc("storage", "volume", "delete", "default", "v", "--project", "p1")


def test_shared_images_and_profiles_when_told(daemon: Daemon) -> None:
    daemon.lxc(
        "project", "create", "sh", "-c", "features.images=false", "-c", "features.profiles=false"
    )
    try:
        daemon.lxc("launch", "busybox", "c1", "--project", "sh")
        assert daemon.instance("c1", "sh")["expanded_devices"]["eth0"]["network"] == "lxdbr0"
        used = daemon.get("/1.0/profiles/default")["used_by"]
        assert "/1.0/instances/c1?project=sh" in used
    finally:
        remove(daemon, "c1", "sh")
        daemon.lxc("project", "delete", "sh")


def test_in_use_cannot_be_deleted(daemon: Daemon, project: str) -> None:
    import_image(daemon, "p1")
    assert "empty" in daemon.refused("project", "delete", "p1")
    assert daemon.refused("project", "set", "p1", "features.images=false")


def test_default_project_stays(daemon: Daemon) -> None:
    assert "default" in daemon.refused("project", "delete", "default")
    assert daemon.refused("project", "rename", "default", "x")


def test_rename_set_and_list(daemon: Daemon) -> None:
    daemon.lxc("project", "create", "a1", "-c", "user.x=1")
    daemon.lxc("project", "rename", "a1", "a2")
    daemon.lxc("project", "set", "a2", "user.x=2")
    assert daemon.lxc("project", "get", "a2", "user.x").stdout == "2\n"
    assert "/1.0/projects/a2" in daemon.get("/1.0/projects")
    assert "a2" in daemon.lxc("project", "list", "-fcsv").stdout
    assert daemon.refused("project", "set", "a2", "nonsense=1")
    daemon.lxc("project", "delete", "a2")
    assert daemon.api("GET", "/1.0/projects/a2").status == 404


def test_switch_changes_what_the_client_sees(daemon: Daemon, project: str) -> None:
    daemon.lxc("project", "switch", "p1")
    try:
        assert daemon.lxc("image", "list", "-fcsv").stdout == ""
    finally:
        daemon.lxc("project", "switch", "default")
    assert daemon.refused("project", "switch", "nosuch")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/1.0/images?project=nosuch"),
        ("GET", "/1.0/profiles?project=nosuch"),
        ("GET", "/1.0/projects/nosuch"),
        ("GET", "/1.0/instances/c1?project=nosuch"),
    ],
)
def test_unknown_project(daemon: Daemon, method: str, path: str) -> None:
    answer = daemon.api(method, path)
    assert answer.status == 404, answer
    assert "not found" in answer.error.lower()


def test_bad_project_names(daemon: Daemon) -> None:
    for name in ("", "a/b", "a_b", "a b", "..", "*"):
        answer = daemon.api("POST", "/1.0/projects", {"name": name, "config": {}})
        assert answer.status == 400, (name, answer)
