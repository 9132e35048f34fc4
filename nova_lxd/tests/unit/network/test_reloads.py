# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

from nova_lxd.lxd.network.reloads import Coalescer


def test_the_first_runs_at_once_and_many_become_one() -> None:
    runs: list[float] = []
    again = threading.Event()

    def action() -> None:
        runs.append(time.monotonic())
        if len(runs) == 2:
            again.set()

    coalescer = Coalescer(0.2)
    for _ in range(50):
        coalescer.request("bridge", action)
    assert len(runs) == 1
    assert again.wait(5)
    time.sleep(0.4)
    assert len(runs) == 2
    assert runs[1] - runs[0] >= 0.2


def test_each_key_has_its_own_quiet() -> None:
    runs: list[str] = []
    coalescer = Coalescer(60)
    for key in ("one", "two"):
        coalescer.request(key, lambda key=key: runs.append(key))  # type: ignore[misc]
    assert runs == ["one", "two"]


def test_run_now_takes_a_waiting_request_along() -> None:
    runs: list[int] = []
    coalescer = Coalescer(0.2)
    coalescer.request("bridge", lambda: runs.append(1))
    coalescer.request("bridge", lambda: runs.append(2))
    coalescer.run("bridge", lambda: runs.append(3))
    time.sleep(0.5)
    assert runs == [1, 3]
