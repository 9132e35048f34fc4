# SPDX-License-Identifier: Apache-2.0
"""What Nova's periodic tasks cost LXD: requests are counted, on a real server.

``NOVA_LXD_TEST_MANY`` is the larger number of instances; with 1000 it measures what the
documentation tells.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from nova import exception as nova_exception
from nova.compute import power_state, provider_tree

from nova_lxd.tests.functional.virt import guests, world
from nova_lxd.virt import events, guest

FEW, MANY = 3, int(os.environ.get("NOVA_LXD_TEST_MANY", "25"))
NODE_UUID = "4c8bd2a6-6f3e-4b5e-9d1c-3b6d2f0b6a11"

pytestmark = pytest.mark.timeout(240 + MANY * 3)


class Counter:
    """Counts every request that any thread of this process sends."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.urls: list[str] = []
        original = requests.Session.send

        def send(session: Any, request: Any, **kwargs: Any) -> Any:
            self.urls.append(f"{request.method} {request.url}")
            return original(session, request, **kwargs)

        patch.setattr(requests.Session, "send", send)

    def of(self, call: Callable[[], object]) -> tuple[int, float]:
        """Return how many requests a call makes, and its seconds."""
        before, started = len(self.urls), time.monotonic()
        call()
        return len(self.urls) - before, time.monotonic() - started


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


@pytest.fixture(scope="module")
def instances(driver: Any) -> Iterator[list[Any]]:
    """Nova's view of instances that :func:`populate` makes; none at first."""
    found: list[Any] = []
    yield found
    for instance in found:
        driver.instances.delete(guest.name(instance))


def populate(driver: Any, instances: list[Any], count: int) -> None:
    """Bring the number of empty, stopped containers to ``count``."""
    for number in range(len(instances), count):
        instance = world.instance("image", 1000 + number)
        driver.client.post(
            "instances",
            json={
                "name": guest.name(instance),
                "type": "container",
                "profiles": [],
                "config": {events.UUID_KEY: instance.uuid, "security.privileged": "true"},
                "devices": {guest.ROOT: guest.root_disk("default")},
                "source": {"type": "none"},
            },
        )
        instances.append(instance)
    guests.wait_for(lambda: driver.get_num_instances() == count, "all are known")


def tasks(driver: Any, instances: list[Any], context: Any) -> dict[str, Callable[[], object]]:
    """Return what each of nova-compute's periodic tasks asks of its driver."""
    tree = provider_tree.ProviderTree()
    node = driver.get_available_nodes()[0]
    tree.new_root(node, NODE_UUID)

    def states() -> None:
        for instance in instances:
            assert driver.get_info(instance, use_cache=False).state == power_state.SHUTDOWN
        for number in range(len(instances)):  # Nova has them, this host does not
            with pytest.raises(nova_exception.InstanceNotFound):
                driver.get_info(world.instance("image", 9000 + number), use_cache=False)

    def deleted() -> None:
        uuids = driver.list_instance_uuids()
        assert set(uuids) == {instance.uuid for instance in instances}
        assert len(driver.list_instances()) == len(instances)

    return {
        "_sync_power_states": states,
        "_cleanup_running_deleted_instances": deleted,
        "update_available_resource": lambda: (
            driver.get_available_nodes(refresh=True),
            driver.get_available_resource(node),
            driver.update_provider_tree(tree, node),
            driver.get_num_instances(),
        ),
        "_run_image_cache_manager_pass": lambda: driver.manage_image_cache(context, instances),
        "_poll_rebooting_instances": lambda: driver.poll_rebooting_instances(60, instances),
        "host monitors and API": lambda: (
            driver.get_host_cpu_stats(),
            driver.get_host_uptime(),
            driver.get_host_ip_addr(),
            driver.get_nodenames_by_uuid(),
        ),
        "resync after a break": driver.watcher._read_all,
    }


def test_periodic_tasks_ask_the_same_of_few_and_many(
    driver: Any, context: Any, instances: list[Any], counter: Counter
) -> None:
    seen: dict[int, dict[str, tuple[int, float]]] = {}
    for count in (FEW, MANY):
        populate(driver, instances, count)
        seen[count] = {
            name: counter.of(task) for name, task in tasks(driver, instances, context).items()
        }
        for name, (number, seconds) in seen[count].items():
            sys.stdout.write(f"{count} instances, {name}: {number} requests, {seconds:.3f} s\n")
    few, many = ({name: n for name, (n, _) in seen[count].items()} for count in (FEW, MANY))
    assert few == many
    assert many["_sync_power_states"] == many["_cleanup_running_deleted_instances"] == 0
    assert max(many.values()) <= 6


def test_start_of_nova_compute_asks_the_same(
    driver: Any, instances: list[Any], counter: Counter
) -> None:
    from nova_lxd.virt.driver import LXDDriver

    populate(driver, instances, max(FEW, len(instances)))

    def start() -> None:
        again = LXDDriver(world.VirtAPI())
        again.init_host(driver.host.name)
        again.cleanup_host(driver.host.name)

    few, _ = counter.of(start)
    populate(driver, instances, len(instances) + 10)
    more, _ = counter.of(start)
    assert few == more


def test_counter_counts(driver: Any, counter: Counter) -> None:
    """The other tests would pass with a counter that sees nothing."""
    number, _ = counter.of(lambda: driver.client.exists("instances", "nobody"))
    assert number == 1
