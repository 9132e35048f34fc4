# SPDX-License-Identifier: Apache-2.0
"""The supervisor with real processes, in a state directory of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cloud.controller import (
    SupervisorController,
    SystemdController,
    bring_up,
    render_boot_unit,
    render_unit,
)
from cloud.errors import CloudError
from cloud.host import processes_of
from cloud.layout import Layout
from cloud.services import Probe, Service


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "s")
    layout.make()
    return layout


@pytest.fixture
def controller(layout: Layout) -> Iterator[SupervisorController]:
    controller = SupervisorController(layout)
    controller.prepare()
    yield controller
    controller.finish()
    assert processes_of(layout.state) == []


def service(layout: Layout, name: str, program: str, **fields: object) -> Service:
    values: dict[str, object] = {
        "probe": Probe("alive", "0.2"), "stop_seconds": 5.0, "start_seconds": 20.0, **fields}
    return Service(name=name, argv=(sys.executable, "-c", program),
                   log=str(layout.log / f"{name}.log"), **values)  # type: ignore[arg-type]


def wait_for(what: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_starts_once_and_stops(layout: Layout, controller: SupervisorController) -> None:
    sleeper = service(layout, "sleeper", "import time; time.sleep(600)")
    assert bring_up(controller, sleeper) is True
    pid = controller.conditions()["sleeper"].pid
    assert bring_up(controller, sleeper) is False
    assert controller.conditions()["sleeper"].pid == pid
    controller.stop("sleeper")
    assert controller.conditions()["sleeper"].state == "stopped"
    assert not Path(f"/proc/{pid}").exists()


def test_restarts_after_a_change_of_a_watched_file(
    layout: Layout, controller: SupervisorController
) -> None:
    conf = layout.state / "conf"
    conf.write_text("one")
    sleeper = service(layout, "sleeper", "import time; time.sleep(600)", watch=(str(conf),))
    bring_up(controller, sleeper)
    pid = controller.conditions()["sleeper"].pid
    conf.write_text("two")
    assert bring_up(controller, sleeper) is True
    assert controller.conditions()["sleeper"].pid != pid


def test_a_killed_service_comes_back(layout: Layout, controller: SupervisorController) -> None:
    bring_up(controller, service(layout, "sleeper", "import time; time.sleep(600)"))
    before = controller.conditions()["sleeper"]
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: controller.conditions()["sleeper"].restarts == 1
             and controller.conditions()["sleeper"].state == "running")
    assert controller.conditions()["sleeper"].pid != before.pid


def test_a_service_that_dies_is_reported_with_its_log(
    layout: Layout, controller: SupervisorController
) -> None:
    broken = service(layout, "broken", "import sys; sys.exit('the disk is full')",
                     probe=Probe("tcp", "127.0.0.1:1"))
    with pytest.raises(CloudError, match="does not stay up: ended with status 1") as caught:
        bring_up(controller, broken)
    assert "the disk is full" in caught.value.report()


def test_one_that_ignores_sigterm_is_killed(
    layout: Layout, controller: SupervisorController
) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    bring_up(controller, service(layout, "stubborn", program, stop_seconds=1.0))
    started = time.monotonic()
    controller.stop("stubborn")
    assert 0.9 < time.monotonic() - started < 10
    assert controller.conditions()["stubborn"].state == "stopped"


def test_finish_ends_processes_that_left_their_group(layout: Layout) -> None:
    """As haproxy and epmd do: they fork twice and start sessions of their own."""
    controller = SupervisorController(layout)
    controller.prepare()
    program = ("import os, time\n"
               "if os.fork() == 0:\n"
               "    os.setsid()\n"
               "    if os.fork(): os._exit(0)\n"
               "time.sleep(600)\n")
    bring_up(controller, service(layout, "forker", program))
    controller.stop("forker")
    assert len(processes_of(layout.state)) == 1, "the stray outlives its service"
    assert len(controller.finish()) == 1
    assert processes_of(layout.state) == []


def test_orphans_of_a_killed_supervisor_are_ended(layout: Layout) -> None:
    controller = SupervisorController(layout)
    controller.prepare()
    bring_up(controller, service(layout, "sleeper", "import time; time.sleep(600)"))
    os.kill(controller.supervisor_pid(), signal.SIGKILL)
    assert len(processes_of(layout.state)) == 1
    controller.prepare()
    assert processes_of(layout.state) == []
    assert controller.conditions() == {}
    controller.finish()


def test_services_are_the_same_after_writing_and_reading(layout: Layout) -> None:
    written = service(layout, "x", "pass", before=(("true",), ("echo", "a b")), env={"A": "1"})
    assert Service.from_json(written.to_json()) == written


def test_unit_file_quotes_for_systemd(layout: Layout) -> None:
    unit = render_unit(Service(
        name="x", argv=("/bin/echo", "a b", "50%", "$HOME", 'say "hi"'), log="/var/log/x",
        probe=Probe("alive", "1"), env={"LIST": "{1, $2}"}, kill="process"), layout)
    assert 'ExecStart=/bin/echo "a b" 50%% "$$HOME" "say \\"hi\\""\n' in unit
    assert 'Environment="LIST={1, $2}"\n' in unit
    assert "KillMode=process\n" in unit


def test_boot_unit_brings_up_this_cloud(layout: Layout) -> None:
    unit = render_boot_unit(layout)
    assert f"/quickstart --state {layout.state} up --no-server\n" in unit
    assert "WantedBy=multi-user.target\n" in unit


def test_finish_leaves_the_units_of_other_clouds(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default cloud's prefix begins the names of all others' units."""
    units = tmp_path / "units"
    units.mkdir()
    controller = SystemdController(layout, units)
    asked: list[tuple[str, ...]] = []
    # One that has failed is remembered by systemd beyond its file, until it is told otherwise.
    monkeypatch.setattr(controller, "_systemctl", lambda *words: asked.append(words) or (
        "failed" if words[0] == "show" else ""))
    controller.prepare()
    controller.start(service(layout, "mine", "pass"))
    other = units / controller.unit_name("abcdef-other")
    other.write_text("[Service]")
    controller.finish()
    assert list(units.iterdir()) == [other]
    assert ("enable", "--quiet", controller.unit_name("boot")) in asked
    assert ("reset-failed", controller.unit_name("mine")) in asked
    assert not any(other.name in words for words in asked)
