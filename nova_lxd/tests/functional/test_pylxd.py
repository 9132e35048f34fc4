# SPDX-License-Identifier: Apache-2.0
"""pylxd 2.4, as the Nova driver and others use it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from nova_lxd.tests.functional.conftest import BRIDGE, build_image, remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for

pylxd = pytest.importorskip("pylxd")


@pytest.fixture
def client(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client on the daemon's unix socket; a field that pylxd does not know is an error."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LXD_DIR", str(daemon.lxd_dir))
    return pylxd.Client(f"http+unix://{str(daemon.socket).replace('/', '%2F')}")


@pytest.fixture
def instance(client: Any, daemon: Daemon) -> Iterator[Any]:
    """A running instance made by pylxd."""
    made = client.instances.create(
        {"name": "py", "source": {"type": "image", "alias": "busybox"}, "config": {"user.a": "1"}},
        wait=True,
    )
    made.start(wait=True)
    yield made
    remove(daemon, "py")
    remove(daemon, "py2")


def test_no_unknown_attributes(client: Any, instance: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in client.instances.all():
            each.sync()
            each.state()
        for collection in ("profiles", "networks", "storage_pools", "images", "projects"):
            for each in getattr(client, collection).all():
                each.sync()


def test_life(client: Any, instance: Any) -> None:
    assert instance.status == "Running" and instance.type == "container"
    instance.freeze(wait=True)
    assert instance.status == "Frozen"
    instance.unfreeze(wait=True)
    instance.restart(force=True, wait=True)
    assert instance.status == "Running"
    instance.stop(force=True, wait=True)
    assert instance.status == "Stopped"
    instance.rename("py2", wait=True)
    assert client.instances.exists("py2") and not client.instances.exists("py")
    client.instances.get("py2").delete(wait=True)
    assert not client.instances.exists("py2")
    with pytest.raises(pylxd.exceptions.NotFound):
        client.instances.get("py2")


def test_execute(instance: Any) -> None:
    result = instance.execute(
        ["sh", "-c", "echo $A; cat; echo err >&2; exit 4"], {"A": "b"}, stdin_payload="in\n"
    )
    assert tuple(result) == (4, "b\nin\n", "err\n")
    lines: list[str] = []
    instance.execute(["sh", "-c", "echo 1; echo 2"], stdout_handler=lines.append)
    assert "".join(lines).split() == ["1", "2"]
    assert instance.execute(["id", "-u"], user=1000, group=1000).stdout == "1000\n"
    assert instance.execute(["pwd"], cwd="/var").stdout == "/var\n"
    big = "x" * 100_000
    assert len(instance.execute(["cat"], stdin_payload=big).stdout) == len(big)


def test_raw_interactive(instance: Any) -> None:
    raw = instance.raw_interactive_execute(["sh"])
    assert raw["ws"].startswith("/1.0/operations/") and raw["control"]


def test_files(instance: Any) -> None:
    instance.files.put("/root/f", b"data\0", mode=0o640, uid=1000, gid=1000)
    assert instance.files.get("/root/f") == b"data\0"
    instance.files.mk_dir("/root/d", mode=0o700)
    assert instance.execute(["stat", "-c", "%a", "/root/d"]).stdout == "700\n"
    assert instance.execute(["stat", "-c", "%a %u", "/root/f"]).stdout == "640 1000\n"
    assert instance.files.delete_available()
    instance.files.delete("/root/f")
    with pytest.raises(pylxd.exceptions.NotFound):
        instance.files.get("/root/f")


def test_configuration(client: Any, instance: Any) -> None:
    instance.config["user.b"] = "2"
    instance.description = "D"
    instance.save(wait=True)
    again = client.instances.get("py")
    assert again.config["user.b"] == "2" and again.description == "D"
    again.config["nonsense"] = "1"
    with pytest.raises(pylxd.exceptions.LXDAPIException):
        again.save(wait=True)


def test_snapshots(instance: Any) -> None:
    instance.files.put("/root/f", b"1")
    snapshot = instance.snapshots.create("s0", wait=True)
    assert snapshot.name == "s0"
    instance.files.put("/root/f", b"2")
    instance.restore_snapshot("s0", wait=True)
    assert instance.files.get("/root/f") == b"1"
    snapshot.rename("s1", wait=True)
    assert [each.name for each in instance.snapshots.all()] == ["s1"]
    image = instance.snapshots.get("s1").publish(wait=True)
    assert len(image.fingerprint) == 64
    image.delete(wait=True)
    instance.snapshots.get("s1").delete(wait=True)
    assert instance.snapshots.all() == []


def test_state(instance: Any) -> None:
    wait_for(
        lambda: [
            each
            for each in instance.state().network["eth0"]["addresses"]
            if each["family"] == "inet"
        ],
        "an address",
    )
    state = instance.state()
    assert state.status_code == 103 and state.pid > 0 and state.memory["usage"] > 0


def test_images(client: Any) -> None:
    (unified,) = build_image("busybox", "unified.tar.xz")
    image = client.images.create(unified.read_bytes(), wait=True)
    try:
        image.add_alias("py-alias", "an alias")
        assert client.images.get_by_alias("py-alias").fingerprint == image.fingerprint
        image.properties["colour"] = "blue"
        image.save(wait=True)
        assert client.images.get(image.fingerprint).properties["colour"] == "blue"
        assert image.export().read() == unified.read_bytes()
        image.delete_alias("py-alias")
    finally:
        image.delete(wait=True)
    assert not client.images.exists(image.fingerprint)


def test_profiles_networks_storage_projects(client: Any) -> None:
    profile = client.profiles.create("pyp", config={"user.x": "1"}, devices={})
    profile.rename("pyq")
    client.profiles.get("pyq").delete()
    network = client.networks.create(
        "pybr", type="bridge", config={"ipv4.address": "10.66.0.1/24", "ipv6.address": "none"}
    )
    assert network.managed and network.state().state == "up"
    network.delete()
    pool = client.storage_pools.create({"name": "pypool", "driver": "dir", "config": {}})
    volume = pool.volumes.create({"name": "v", "type": "custom", "config": {}})
    assert volume.name == "v" and pool.resources.get().space["total"] > 0
    volume.delete()
    pool.delete()
    project = client.projects.create("pyproj", description="D")
    assert project.description == "D"
    project.delete()
    assert client.networks.get(BRIDGE).type == "bridge"


def test_events(client: Any, daemon: Daemon) -> None:
    events = client.events(event_types={pylxd.EventType.Lifecycle})
    seen: list[str] = []
    events.received_message = lambda message: seen.append(str(message))
    events.connect()
    threading.Thread(target=events.run, daemon=True).start()

    def heard() -> bool:
        # The first changes may come before the daemon counts us among its listeners.
        client.profiles.create("pyev", config={}, devices={})
        client.profiles.get("pyev").delete()
        return any("profile-deleted" in each for each in seen)

    wait_for(heard, "the event", interval=0.3)
    events.close()


def test_host_info(client: Any) -> None:
    assert client.has_api_extension("instances")
    assert client.host_info["environment"]["server"] == "lxd"
    assert client.trusted
    assert client.resources["cpu"]["total"] >= 1
