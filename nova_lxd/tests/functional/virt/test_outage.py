# SPDX-License-Identifier: Apache-2.0
"""An LXD that is missing something, that dies and that comes back: a server of the test's own."""

from __future__ import annotations

import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from nova import exception as nova_exception
from nova.compute import power_state

from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.virt import conftest, guests, world
from nova_lxd.virt import exception, guest
from nova_lxd.virt.client import LXDClient
from nova_lxd.virt.host import Host

pytestmark = pytest.mark.timeout(300)

PERIOD = 10  # seconds: nova-compute's report_interval


@pytest.fixture(scope="module")
def daemon(live: None) -> Iterator[Daemon]:
    """A server that may be killed, beside the one of the other tests."""
    with Daemon(conftest.BACKEND or "", "outage") as found:
        found.lxc("storage", "create", "default", "dir")
        yield found


@pytest.fixture(scope="module")
def conf(conf: Any, daemon: Daemon) -> Iterator[Any]:
    """Nova's configuration with that server."""
    conf.set_override("endpoint", str(daemon.socket), "lxd")
    yield conf
    conf.clear_override("endpoint", "lxd")


@pytest.fixture
def lonely(driver: Any, context: Any, image: str) -> Iterator[Any]:
    """A running instance without ports: the server lives in another network namespace."""
    instance = world.instance(image, 71)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, [])
    yield instance
    driver.destroy(context, instance, [])


def wait_state(driver: Any, up: bool) -> float:
    """Wait until the compute service is told to be up or down; return the seconds it took."""
    started = time.monotonic()
    guests.wait_for(lambda: up in [found for found, _ in driver.service_states], f"service {up}")
    return time.monotonic() - started


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_dead_server_disables_the_service_until_it_is_back(
    driver: Any, context: Any, lonely: Any, daemon: Daemon, with_signal: signal.Signals
) -> None:
    pid = driver.instances.state(guest.name(lonely))["pid"]
    driver.service_states.clear()
    daemon.stop(with_signal)
    try:
        assert wait_state(driver, False) < PERIOD
        (reason,) = {text for up, text in driver.service_states if not up and text}
        assert "event stream" in reason or "does not answer" in reason
        with pytest.raises(nova_exception.HypervisorUnavailable):
            driver.get_info(lonely)
        # the one error of a deletion after which Nova keeps the ports for the next try
        with pytest.raises(nova_exception.InstancePowerOffFailure):
            driver.destroy(context, lonely, [])
        refused = world.instance(lonely.image_ref, 72)
        with pytest.raises(nova_exception.HypervisorUnavailable):
            driver.spawn(
                context, refused, world.image_meta(lonely.image_ref), [], None, {}, []
            )
    finally:
        driver.service_states.clear()
        daemon.start()
    assert wait_state(driver, True) < PERIOD
    assert driver.get_info(lonely).state == power_state.RUNNING
    assert driver.instances.state(guest.name(lonely))["pid"] == pid, "the guest ran on"
    assert not driver.instance_exists(refused)
    guests.run(driver, lonely, "true")


def test_calls_under_way_end_with_one_clear_error(
    driver: Any, context: Any, lonely: Any, daemon: Daemon
) -> None:
    caught: list[BaseException] = []

    def wait_for_exec() -> None:
        try:
            driver.consoles.run(guest.name(lonely), ["sleep", "60"], b"")
        except Exception as e:
            caught.append(e)

    driver.service_states.clear()
    thread = threading.Thread(target=wait_for_exec)
    thread.start()
    guests.wait_for(
        lambda: "sleep" in guests.run(driver, lonely, "ps"), "the command runs in the guest"
    )
    daemon.stop(signal.SIGKILL)
    try:
        thread.join(30)
        assert not thread.is_alive(), "the call hangs"
        (error,) = caught
        assert isinstance(error, nova_exception.HypervisorUnavailable), repr(error)
        assert "does not answer" in str(error)
    finally:
        daemon.start()
    wait_state(driver, True)
    assert driver.get_info(lonely).state == power_state.RUNNING


def test_what_happened_meanwhile_is_told(driver: Any, lonely: Any, daemon: Daemon) -> None:
    pid = driver.instances.state(guest.name(lonely))["pid"]
    driver.service_states.clear()
    driver.events_seen.clear()
    daemon.stop(signal.SIGKILL)
    try:
        wait_state(driver, False)
        daemon.inside("kill", "-9", str(pid))  # a number of the server's own namespace
    finally:
        driver.service_states.clear()
        daemon.start()
    wait_state(driver, True)
    guests.wait_for(
        lambda: "Stopped" in [event.get_name() for event in driver.events_seen], "told"
    )
    assert driver.get_info(lonely).state == power_state.SHUTDOWN


def test_server_without_ids_is_refused(
    conf: Any, daemon: Daemon, tmp_path: pathlib.Path
) -> None:
    small = tmp_path / "subid"
    small.write_text("root:1000000:1000\n")
    tmp_path.chmod(0o755)
    daemon.stop()
    try:
        for name in ("/etc/subuid", "/etc/subgid"):
            daemon.inside("mount", "--bind", str(small), name)
        daemon.start()
        with pytest.raises(exception.HostNotUsable, match="/etc/subuid"):
            Host(LXDClient(conf.lxd, "nova-small"), "small").check()
    finally:
        daemon.stop()
        for name in ("/etc/subuid", "/etc/subgid"):
            daemon.inside("umount", name)
        daemon.start()
    Host(LXDClient(conf.lxd, "nova-small"), "small").check()
    assert not LXDClient(conf.lxd, "nova-small").get("instances"), "the probe stays"
