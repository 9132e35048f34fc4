# SPDX-License-Identifier: Apache-2.0
"""The host's service, inventory and checks, with a scripted server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import nova.conf
import pytest
from nova import exception as nova_exception
from nova import objects

from nova_lxd.virt import exception, host

RESOURCES = {
    "cpu": {
        "architecture": "x86_64",
        "sockets": [
            {
                "socket": 0, "name": "CPU", "vendor": "V",
                "cores": [
                    {"core": c, "die": 0, "threads": [
                        {"id": 2 * c + t, "online": (c, t) != (1, 1), "numa_node": c}
                        for t in (0, 1)
                    ]}
                    for c in (0, 1)
                ],
            }
        ],
    },
    "memory": {"total": 4 << 30, "nodes": [{"numa_node": n, "total": 2 << 30} for n in (0, 1)]},
}  # fmt: skip


@pytest.fixture
def subject() -> host.Host:
    client = mock.Mock(project="nova-h")
    client.get.return_value = {"space": {"total": 100 << 30, "used": 3 << 29}}
    found = host.Host(client, "h")
    found._resources = RESOURCES
    return found


@pytest.fixture
def compute_flags() -> Any:
    """Set options of [compute] for one test."""
    names = []

    def flag(name: str, value: str) -> None:
        nova.conf.CONF.set_override(name, value, "compute")
        names.append(name)

    yield flag
    for name in names:
        nova.conf.CONF.clear_override(name, "compute")


def test_offline_cpus_do_not_count(subject: host.Host) -> None:
    assert set(subject.cpus()) == {0, 1, 2}
    assert subject.shared_cpus() == {0, 1, 2} and subject.dedicated_cpus() == set()


def test_shared_and_dedicated(subject: host.Host, compute_flags: Any) -> None:
    compute_flags("cpu_dedicated_set", "2-9")
    assert subject.dedicated_cpus() == {2} and subject.shared_cpus() == set()
    compute_flags("cpu_shared_set", "0")
    ratios = {"VCPU": 4.0, "MEMORY_MB": 1.0, "DISK_GB": 1.0}
    inventory = subject.inventory(ratios, reserved_disk_gb=1)
    assert inventory["PCPU"]["total"] == 1 and inventory["PCPU"]["allocation_ratio"] == 1.0
    assert inventory["VCPU"]["total"] == 1 and inventory["VCPU"]["allocation_ratio"] == 4.0
    assert inventory["DISK_GB"] | {"reserved": 1} == inventory["DISK_GB"]


def test_numa_cells(subject: host.Host, compute_flags: Any) -> None:
    compute_flags("cpu_dedicated_set", "2")
    compute_flags("cpu_shared_set", "0-1")
    first, second = subject.numa_topology().cells
    assert (first.cpuset, first.pcpuset, first.siblings) == ({0, 1}, set(), [{0, 1}])
    assert (second.cpuset, second.pcpuset, second.memory) == (set(), {2}, 2048)


def test_pool_is_rounded_against_us(subject: host.Host) -> None:
    assert subject.pool_gb() == (100, 2)


@pytest.mark.parametrize(
    "server,message",
    [
        ({"auth": "untrusted"}, "lxc config trust add"),
        (
            {"auth": "trusted", "api_extensions": ["projects"],
             "environment": {"server_version": "2.0"}},
            "LXD 2.0 lacks the API extension 'instances'",
        ),
    ],
)  # fmt: skip
def test_unusable_servers_say_what_to_do(
    subject: host.Host, server: dict[str, Any], message: str
) -> None:
    subject._client.server.return_value = server
    with pytest.raises(exception.HostNotUsable, match=message):
        subject.check()


@pytest.mark.parametrize(
    "disabled,reason,enable,expected",
    [
        (False, None, False, (True, "AUTO: LXD is gone")),
        (True, "AUTO: LXD is gone", True, (False, None)),
        (True, "maintenance", True, (True, "maintenance")),
        (True, "maintenance", False, (True, "maintenance")),
    ],
)
def test_service_follows_lxd_but_not_against_the_operator(
    subject: host.Host, monkeypatch: Any, disabled: bool, reason: Any, enable: bool, expected: Any
) -> None:
    service = SimpleNamespace(disabled=disabled, disabled_reason=reason, save=mock.Mock())
    monkeypatch.setattr(objects.Service, "get_by_compute_host", lambda *args: service)
    subject.set_service_enabled(enable, "LXD is gone")
    assert (service.disabled, service.disabled_reason) == expected
    assert service.save.called == (expected != (disabled, reason))


def test_service_that_is_not_registered_yet(subject: host.Host, monkeypatch: Any) -> None:
    def missing(*args: Any) -> None:
        raise nova_exception.ComputeHostNotFound(host="h")

    monkeypatch.setattr(objects.Service, "get_by_compute_host", missing)
    subject.set_service_enabled(True, "")


def test_server_without_ids_says_what_to_do(subject: host.Host) -> None:
    subject._client.get.return_value = []
    subject._client.post.side_effect = exception.LXDError(
        400, action="create", reason="Not enough uid/gid available for the container"
    )
    with pytest.raises(exception.HostNotUsable, match=r"Not enough uid/gid .*/etc/subuid"):
        subject._check_ids()


def test_host_with_instances_is_not_tried_again(subject: host.Host) -> None:
    """They may have taken the last range: nova-compute must come back all the same."""
    subject._client.get.return_value = ["/1.0/instances/instance-00000001"]
    subject._check_ids()
    subject._client.post.assert_not_called()
