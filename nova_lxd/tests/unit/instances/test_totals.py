# SPDX-License-Identifier: Apache-2.0
"""The totals of a project's instances."""

from __future__ import annotations

from nova_lxd.lxd.instances import limits
from nova_lxd.lxd.instances.expand import Expanded
from nova_lxd.lxd.instances.totals import Totals, add_up


def _instance(size: str = "", **config: str) -> Expanded:
    named = {f"limits.{key}": value for key, value in config.items()}
    root = {"type": "disk", "path": "/", "pool": "p"} | ({"size": size} if size else {})
    return Expanded(named, {"root": root})


def test_nothing_adds_up_to_nothing() -> None:
    assert add_up([]) == Totals(0, 0, 0, 0, 0)
    assert add_up([_instance()]) == Totals(1, 0, 0, 0, 0)


def test_sets_count_their_processors_and_percent_is_of_the_host() -> None:
    totals = add_up(
        [_instance("1GB", cpu="2", memory="50%"), _instance("2GB", cpu="0-2,4", processes="7")]
    )
    assert totals == Totals(2, 6, limits.host_memory() * 50 // 100, 7, 3_000_000_000)
