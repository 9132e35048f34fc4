# SPDX-License-Identifier: Apache-2.0
"""Network rates of a flavor: measured by what really passes, in both directions."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nova_lxd.tests.functional.virt import guests, world
from nova_lxd.virt import guest, vifs

pytestmark = pytest.mark.timeout(240)

KB = 1000
RATE = 200  # kilobytes per second
SENT = 600 * KB
# the token bucket lets its burst pass at once
SHORTEST = (SENT - 64 * 1024) / (RATE * KB)
HOST, GUEST, PORT = "10.78.0.1", "10.78.0.2", 5999


def specs(inbound: int | None, outbound: int | None) -> dict[str, str]:
    values = {"quota:vif_inbound_average": inbound, "quota:vif_outbound_average": outbound}
    return {key: str(value) for key, value in values.items() if value}


def dress(driver: Any, instance: Any) -> None:
    """Give both ends of the port an address."""
    outer = vifs.outer_name(instance.ports[0])
    subprocess.run(["ip", "addr", "replace", f"{HOST}/24", "dev", outer], check=True)
    guests.run(driver, instance, "ip", "addr", "replace", f"{GUEST}/24", "dev", "eth0")
    guests.run(driver, instance, "ip", "link", "set", "eth0", "up")


def upload_seconds(driver: Any, instance: Any) -> float:
    """Return how long the guest takes to send to the host."""
    with socket.create_server((HOST, PORT)) as listener:
        listener.settimeout(60)
        command = f"head -c {SENT} /dev/zero | nc {HOST} {PORT}"
        guests.run(driver, instance, "sh", "-c", f"({command}) >/dev/null 2>&1 &")
        visitor, _ = listener.accept()
        with visitor:
            started = time.monotonic()
            seen = 0
            while seen < SENT:
                data = visitor.recv(65536)
                assert data, f"the guest sent {seen} bytes only"
                seen += len(data)
            return time.monotonic() - started


def download_seconds(driver: Any, instance: Any) -> float:
    """Return how long the host takes to send to the guest, until the guest has counted it."""
    served = f"nc -l -p {PORT} | wc -c > /counted"
    guests.run(driver, instance, "sh", "-c", f"rm -f /counted; ({served}) >/dev/null 2>&1 &")

    def connected() -> socket.socket | None:
        try:
            return socket.create_connection((GUEST, PORT), timeout=60)
        except ConnectionRefusedError:
            return None

    with guests.wait_for(connected, "the guest listens") as sock:
        started = time.monotonic()
        sock.sendall(bytes(SENT))
        sock.shutdown(socket.SHUT_WR)
        guests.wait_for(
            lambda: guests.run(driver, instance, "cat", "/counted").strip() == str(SENT), "all"
        )
        return time.monotonic() - started


@pytest.fixture
def limited(driver: Any, context: Any, image: str) -> Iterator[Any]:
    """A running instance whose flavor limits both directions."""
    instance = world.instance(image, 31, flavor=world.flavor(extra_specs=specs(RATE, RATE)))
    instance.ports = world.network_info(1, mtu=1442)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, instance.ports)
    dress(driver, instance)
    yield instance
    driver.destroy(context, instance, instance.ports)
    left = [
        path.name
        for path in pathlib.Path("/sys/class/net").iterdir()
        if instance.ports[0]["id"][:11] in path.name
    ]
    assert not left, "links stay behind"


def test_rates_hold_in_both_directions_and_after_starts(
    driver: Any, context: Any, limited: Any
) -> None:
    assert upload_seconds(driver, limited) > SHORTEST
    assert download_seconds(driver, limited) > SHORTEST
    driver.reboot(context, limited, limited.ports, "HARD")
    dress(driver, limited)
    assert upload_seconds(driver, limited) > SHORTEST


def test_resize_to_a_flavor_without_rates_lifts_them(
    driver: Any, context: Any, limited: Any, conf: Any
) -> None:
    free = world.flavor(id=9, name="free")
    slow = limited.flavor
    driver.migrate_disk_and_power_off(context, limited, conf.my_ip, free, limited.ports)
    limited.flavor = free
    driver.finish_migration(context, None, limited, "", limited.ports, None, True, {})
    assert guest.VIF_RATES_KEY not in driver.instances.get(guest.name(limited))["config"]
    dress(driver, limited)
    assert upload_seconds(driver, limited) < SHORTEST / 2
    assert download_seconds(driver, limited) < SHORTEST / 2
    limited.flavor = slow
    driver.finish_revert_migration(context, limited, limited.ports, None)
    dress(driver, limited)
    assert upload_seconds(driver, limited) > SHORTEST


def test_one_direction_leaves_the_other(driver: Any, context: Any, image: str) -> None:
    instance = world.instance(image, 32, flavor=world.flavor(extra_specs=specs(None, RATE)))
    instance.ports = world.network_info(1, mtu=1442)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, instance.ports)
    try:
        dress(driver, instance)
        assert upload_seconds(driver, instance) > SHORTEST
        assert download_seconds(driver, instance) < SHORTEST / 2
        os.kill(driver.instances.state(guest.name(instance))["pid"], 9)
        guests.wait_for(
            lambda: driver.instances.get(guest.name(instance))["status"] == "Stopped", "its end"
        )
        driver.power_on(context, instance, instance.ports)
        dress(driver, instance)
        assert upload_seconds(driver, instance) > SHORTEST
    finally:
        driver.destroy(context, instance, instance.ports)
