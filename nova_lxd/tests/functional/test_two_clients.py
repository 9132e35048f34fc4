# SPDX-License-Identifier: Apache-2.0
"""Two clients that change one object at once: nothing is lost, and If-Match lets one through.

For the bundled daemon only: real LXD loses some of such changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from nova_lxd.tests.functional.conftest import BRIDGE, remove
from nova_lxd.tests.functional.daemon import Daemon

CLIENTS = 8
POOL = "/1.0/storage-pools/default"
PATHS = [
    "/1.0",
    "/1.0/instances/shared",
    "/1.0/profiles/shared",
    "/1.0/projects/shared",
    f"/1.0/networks/{BRIDGE}",
    POOL,
    f"{POOL}/volumes/custom/shared",
]


@pytest.fixture(scope="module")
def shared(daemon: Daemon, backend: str) -> Iterator[Daemon]:
    """The module's daemon with an object of each kind."""
    if backend != "bundled":
        pytest.skip("real LXD loses changes made at once")
    daemon.lxc("launch", "busybox", "shared")
    daemon.lxc("profile", "create", "shared")
    daemon.lxc("project", "create", "shared")
    daemon.lxc("storage", "volume", "create", "default", "shared")
    yield daemon
    remove(daemon, "shared")


@pytest.mark.parametrize("path", PATHS)
def test_what_each_merges_is_kept(shared: Daemon, path: str) -> None:
    def merge(number: int) -> int:
        return shared.api("PATCH", path, {"config": {f"user.k{number}": "v"}}).status

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert set(clients.map(merge, range(3 * CLIENTS))) == {200}
    kept = shared.get(path)["config"]
    assert [n for n in range(3 * CLIENTS) if f"user.k{n}" not in kept] == []


@pytest.mark.parametrize("path", PATHS)
def test_one_of_those_who_saw_the_same_changes_it(shared: Daemon, path: str) -> None:
    seen = {"If-Match": shared.api("GET", path).headers["etag"]}

    def change(number: int) -> int:
        body = {"config": {f"user.e{number}": "v"}}
        return shared.api("PATCH", path, body, headers=seen).status

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert sorted(clients.map(change, range(CLIENTS))) == [200] + [412] * (CLIENTS - 1)


def test_replacing_an_instance_in_the_background_heeds_what_was_seen(shared: Daemon) -> None:
    path = "/1.0/instances/shared"
    answer = shared.api("GET", path)
    seen = {"If-Match": answer.headers["etag"]}

    def replace(number: int) -> bool:
        now = {**answer.metadata, "config": {**answer.metadata["config"], "user.put": str(number)}}
        put = shared.api("PUT", path, now, headers=seen)
        if put.status != 202:
            assert put.status == 412, put
            return False
        done = shared.get(f"{put.body['operation']}/wait?timeout=20")
        assert done["status"] == "Success" or "ETag" in done["err"], done
        return bool(done["status"] == "Success")

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert sum(clients.map(replace, range(CLIENTS))) == 1
