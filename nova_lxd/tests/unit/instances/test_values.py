# SPDX-License-Identifier: Apache-2.0
"""Names, configuration values, schedules, time spans, limits and id maps of instances."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nova_lxd.lxd.db.instances import InstanceRecord
from nova_lxd.lxd.db.profiles import Profile
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.idmap import Range
from nova_lxd.lxd.instances import idmaps, instancetypes, limits, naming, timespan
from nova_lxd.lxd.instances.expand import expand, root_disk
from nova_lxd.lxd.schema import cron, instancekeys
from nova_lxd.lxd.schema.instancevalues import parse_cpu_set


@pytest.mark.parametrize("name", ["c1", "a", "A-b", "x" * 63, "web-01"])
def test_instance_names(name: str) -> None:
    naming.check_instance_name(name)


@pytest.mark.parametrize("name", ["", "1a", "-a", "a-", "a_b", "a.b", "x" * 64, "ä", "a/b", "a\n"])
def test_bad_instance_names(name: str) -> None:
    with pytest.raises(BadRequest, match="Invalid instance name"):
        naming.check_instance_name(name)


def test_made_up_names_are_valid() -> None:
    for _ in range(50):
        naming.check_instance_name(naming.random_name())


@pytest.mark.parametrize("name", ["", "a b", "a/b", ".", "..", ".x", "a\0", "x" * 256])
def test_bad_snapshot_names(name: str) -> None:
    with pytest.raises(BadRequest, match="Invalid snapshot name"):
        naming.check_snapshot_name(name)


def test_snapshot_pattern() -> None:
    now = datetime(2026, 1, 2, 3, 4).timestamp()
    assert naming.render_pattern("snap%d", now) == "snap%d"
    assert naming.render_pattern("{{ creation_date }}", now).startswith("2026-01-02")
    with pytest.raises(BadRequest):
        naming.render_pattern("{{ x", now)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limits.cpu", "2"),
        ("limits.cpu", "0-3,7"),
        ("limits.cpu.allowance", "25ms/100ms"),
        ("limits.cpu.allowance", "50%"),
        ("limits.memory", "50%"),
        ("limits.memory", "512MiB"),
        ("limits.kernel.nofile", "1024:unlimited"),
        ("security.privileged", "True"),
        ("snapshots.schedule", "@daily, @hourly"),
        ("snapshots.schedule", "*/5 8-18 * * mon-fri"),
        ("snapshots.expiry", "1M 2H 3d"),
        ("raw.idmap", "both 1000 1000"),
        ("raw.lxc", "lxc.signal.halt = SIGUSR1\n# comment\n"),
        ("boot.autostart.priority", "-5"),
        ("volatile.eth0.hwaddr", "00:16:3e:00:00:01"),
        ("user.anything", "ü"),
    ],
)
def test_valid_configuration(key: str, value: str) -> None:
    instancekeys.validate({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nonsense", "1"),
        ("limits.cpu", "-1"),
        ("limits.cpu", "3-1"),
        ("limits.cpu", "0-99999999"),
        ("limits.cpu", "0,0"),
        ("limits.cpu", "0-2,1"),
        ("limits.cpu.allowance", "0%"),
        ("limits.memory", "lots"),
        ("limits.memory", "101%"),
        ("limits.cpu.priority", "11"),
        ("limits.kernel.nofile", "x"),
        ("security.privileged", "maybe"),
        ("snapshots.schedule", "* * * *"),
        ("snapshots.schedule", "61 * * * *"),
        ("snapshots.schedule", "@sometimes"),
        ("raw.idmap", "moon 1 2"),
        ("raw.lxc", "nonsense"),
        ("raw.lxc", "lxc.rootfs.path = /"),
        ("raw.lxc", "lxc.hook.post-stop = /bin/true"),
        ("raw.lxc", "lxc.net.0.type = phys"),
        ("raw.lxc", "lxc.include = /etc/x"),
        ("boot.autostart.priority", "high"),
        ("volatile.magic", "1"),
        ("volatile.eth0.hwaddr", "garbage"),
        ("volatile.eth0.host_name", "../x"),
        ("volatile.idmap.base", "-1"),
        ("volatile.idmap.next", "[{}]"),
        ("user.nul", "a\0b"),
        ("u" * 300, "1"),
    ],
)
def test_invalid_configuration(key: str, value: str) -> None:
    with pytest.raises(BadRequest):
        instancekeys.validate({key: value})


def test_keys_that_exclude_each_other() -> None:
    with pytest.raises(BadRequest, match="mutually exclusive"):
        instancekeys.validate({"raw.seccomp": "2", "security.syscalls.deny": "mount"})


@pytest.mark.parametrize("key", ["volatile.uuid", "image.os"])
def test_keys_of_instances_are_refused_in_profiles(key: str) -> None:
    with pytest.raises(BadRequest, match="can only be set on instances"):
        instancekeys.validate({key: "x"}, profile=True)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpu_lists_survive_formatting(cpus: set[int]) -> None:
    assert parse_cpu_set(limits.format_cpus(sorted(cpus))) == sorted(cpus)


def test_schedule_matches() -> None:
    schedule = cron.parse("30 3 * * *")
    assert schedule.matches(datetime(2026, 1, 1, 3, 30))
    assert not schedule.matches(datetime(2026, 1, 1, 3, 31))
    # Two restricted day fields are alternatives: the 13th, and every Friday.
    either = cron.parse("0 0 13 * fri")
    assert either.matches(datetime(2026, 1, 13))
    assert either.matches(datetime(2026, 1, 16))
    assert not either.matches(datetime(2026, 1, 14))
    assert cron.parse("0 0 * * 7").matches(datetime(2026, 1, 18))
    assert cron.parse("@startup").at_startup
    assert not cron.parse("@never").specs


def test_time_spans() -> None:
    start = datetime(2026, 1, 31, tzinfo=UTC).timestamp()
    assert timespan.after("1d 2H 3M", start) - start == 86400 + 7200 + 180
    assert timespan.after("1m", start) == datetime(2026, 2, 28, tzinfo=UTC).timestamp()
    assert timespan.after("1y", start) == datetime(2027, 1, 31, tzinfo=UTC).timestamp()


def test_profiles_apply_in_order_and_devices_replace_whole() -> None:
    nic = {"type": "nic", "mtu": "9"}
    one = Profile("default", "one", "", {"a": "1", "b": "1"}, {"eth0": nic})
    two = Profile("default", "two", "", {"b": "2"}, {"eth0": {"type": "nic"}})
    result = expand([one, two], {"c": "3"}, {"root": {"type": "disk"}})
    assert result.config == {"a": "1", "b": "2", "c": "3"}
    assert result.devices == {"eth0": {"type": "nic"}, "root": {"type": "disk"}}


def test_root_disk_is_found_and_unique() -> None:
    root = {"type": "disk", "path": "/", "pool": "p"}
    other = {"type": "disk", "path": "/mnt", "source": "/srv"}
    assert root_disk({"r": root, "o": other}) == ("r", root)
    assert root_disk({"o": other}) is None
    with pytest.raises(BadRequest):
        root_disk({"r": root, "s": root})


def test_memory_limits() -> None:
    def names(config: dict[str, str]) -> list[str]:
        return [name for s in limits.at_start(config) for name, _ in s.v2]

    assert limits.at_start({}) == []
    assert names({"limits.memory": "64MiB"}) == ["memory.max", "memory.swap.max"]
    soft = limits.at_start({"limits.memory": "64MiB", "limits.memory.enforce": "soft"})
    assert [s.v2 for s in soft] == [(("memory.high", str(64 << 20)),)]


def test_cpu_shares_and_quota() -> None:
    quota = limits.cpu_time({"limits.cpu.allowance": "25ms/100ms"})[1]
    assert quota.v2 == (("cpu.max", "25000 100000"),)
    half = limits.cpu_time({"limits.cpu.allowance": "50%"})
    assert half[0].v1 == (("cpu.shares", "512"),)
    assert half[1].v1[1] == ("cpu.cfs_quota_us", "-1")


def test_processors_are_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "host_cpus", lambda: (0, 1, 2, 3))
    wishes = {1: {"limits.cpu": "2"}, 2: {"limits.cpu": "2"}, 3: {"limits.cpu": "3"}, 4: {}}
    result = limits.spread(wishes)
    assert result.keys() == {1, 2, 3}
    used = [cpu for text in result.values() for cpu in parse_cpu_set(text)]
    assert len(used) == 7
    assert max(used.count(cpu) for cpu in range(4)) - min(used.count(c) for c in range(4)) <= 1
    assert limits.spread({1: {"limits.cpu": "0-1"}}) == {1: "0-1"}
    # A set of processors that this host does not have leaves it all of them.
    assert limits.spread({1: {"limits.cpu": "8-9"}}) == {1: "0-3"}


def test_isolated_ranges_do_not_overlap() -> None:
    ids = Range(1_000_000, 1_000_000)
    wants = {"security.idmap.isolated": "true"}
    first, base = idmaps.choose(ids, wants, [])
    assert base == 1_000_000 + 65536 and first.host_uid(0) == base
    _, other = idmaps.choose(ids, wants, [Range(base, 65536)])
    assert other == base + 65536
    # What it had before is kept while it fits.
    kept = {**wants, "volatile.idmap.base": str(other)}
    assert idmaps.choose(ids, kept, [Range(base, 65536)])[1] == other
    assert idmaps.choose(ids, kept, [Range(other, 65536)])[1] == base


def test_shared_and_privileged_maps() -> None:
    ids = Range(1_000_000, 65536)
    shared, base = idmaps.choose(ids, {"raw.idmap": "uid 1000 1000"}, [])
    assert base == 0
    assert (shared.host_uid(1000), shared.host_uid(1001)) == (1000, 1_001_001)
    assert not idmaps.choose(ids, {"security.privileged": "true"}, [])[0]


def test_taken_ranges_are_those_of_other_isolated_instances() -> None:
    def record(number: int, base: str) -> InstanceRecord:
        config = {"volatile.idmap.base": base}
        return InstanceRecord("default", f"c{number}", "x86_64", "p", 0.0, number, config=config)

    isolated = {"security.idmap.isolated": "true"}
    others = [(record(1, "100"), isolated), (record(2, "0"), {}), (record(3, "300"), isolated)]
    assert idmaps.taken(others, 3) == [Range(100, 65536)]


def test_instance_types() -> None:
    assert instancetypes.limits("c2-m4") == {"limits.cpu": "2", "limits.memory": "4096MiB"}
    assert instancetypes.limits("c0.5")["limits.cpu.allowance"] == "50%"
    for name in ("", "t2.micro", "c", "x1"):
        with pytest.raises(BadRequest):
            instancetypes.limits(name)
