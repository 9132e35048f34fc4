# SPDX-License-Identifier: Apache-2.0
"""Starting, entering and ending real containers through the helper process."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nova_lxd.lxd.errors import BadRequest, InternalError
from nova_lxd.lxd.host import cgroups, terminal
from nova_lxd.lxd.host.liblxc import client, hooks
from nova_lxd.lxd.host.liblxc.client import Exec, LiblxcError
from nova_lxd.lxd.host.liblxc.running import Running, kill_leftovers, wait_end
from nova_lxd.tests.functional.host.conftest import PATH, Lab


def wait_for_init(lab: Lab, name: str) -> None:
    """Wait until busybox's init has started what it respawns, and so handles its signals."""
    deadline = time.monotonic() + 10
    while "sleep" not in lab.exec(name, "ps")[1]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def sleeper(lab: Lab, name: str) -> Exec:
    """A program that runs on in a container."""
    with open("/dev/null", "r+b") as null:
        fd = null.fileno()
        return lab.zygote.exec(
            name, lab.lxcpath, ["sleep", "1000"], stdin=fd, stdout=fd, stderr=fd, env=PATH
        )


def drain(master: int) -> str:
    """All that a terminal printed; its last program has ended."""
    out = b""
    try:
        while data := os.read(master, 65536):
            out += data
    except OSError as exc:
        assert exc.errno == errno.EIO
    os.close(master)
    return out.decode()


def zombies(parent: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] == "Z" and int(fields[1]) == parent:
            found.append(stat.parent.name)
    return found


def test_start_gives_the_pids_of_init_and_monitor(lab: Lab) -> None:
    running = lab.start("c1")
    assert running.alive
    monitor = Path(f"/proc/{running.monitor}/cmdline").read_text()
    assert monitor.startswith(f"[lxc monitor] {lab.lxcpath} c1")
    code, out = lab.exec("c1", "cat", "/proc/1/comm")
    assert (code, out) == (0, "init\n")


@pytest.mark.parametrize("pid", ["1", "self"])
def test_programs_start_with_default_signals_and_no_open_files(lab: Lab, pid: str) -> None:
    lab.start("c1", ("lxc.init.cmd", "/bin/sleep 1000"))
    status = lab.exec("c1", "cat", f"/proc/{pid}/status")[1]
    for kind in ("SigIgn", "SigBlk"):
        assert f"{kind}:\t0000000000000000\n" in status
    listing = lab.exec("c1", "ls", f"/proc/{pid}/fd")[1].split()
    assert set(listing) <= {"0", "1", "2", "3"}, "3 is the listing's own"
    assert ("3" in listing) == (pid == "self")


def test_what_the_daemons_caller_ignores_is_not_ignored_inside(lab: Lab) -> None:
    """Whoever starts the daemon with nohup ignores SIGHUP, and every child of it would, too."""
    lab.zygote.close()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        lab.start("c1", ("lxc.init.cmd", "/bin/sleep 1000"))
        assert "SigIgn:\t0000000000000000\n" in lab.exec("c1", "cat", "/proc/1/status")[1]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_root_file_system_is_mapped(lab: Lab) -> None:
    tree = lab.tree("c1")
    os.chown(tree / "etc" / "inittab", 33, 44)
    lab.start("c1")
    assert lab.exec("c1", "stat", "-c", "%u %g", "/etc/inittab")[1] == "33 44\n"
    assert lab.exec("c1", "sh", "-c", "echo x > /root/new && stat -c %u /root/new")[1] == "0\n"
    assert (tree / "root" / "new").stat().st_uid == 0
    assert Path(f"/proc/{lab.running['c1'].init}").stat().st_uid == lab.root_ids[0]


def test_privileged_container_runs(privileged_lab: Lab) -> None:
    running = privileged_lab.start("c1")
    assert Path(f"/proc/{running.init}").stat().st_uid == 0
    assert privileged_lab.exec("c1", "id")[1].startswith("uid=0")


def test_refused_configuration_tells_why_and_leaves_nothing(lab: Lab) -> None:
    with pytest.raises(LiblxcError, match=r"lxc\.nonsense"):
        lab.start("c1", ("lxc.nonsense", "1"))
    with pytest.raises(LiblxcError, match="/no/such/init"):
        lab.start("c1", ("lxc.init.cmd", "/no/such/init"))
    assert cgroups.layout().processes(lab.group) == set()
    assert lab.start("c1").alive


def test_start_that_hangs_is_broken_off(lab: Lab) -> None:
    items = [*lab.items("c1"), ("lxc.hook.pre-start", "/bin/sleep 9999")]
    started = time.monotonic()
    with pytest.raises(LiblxcError, match="did not come up"):
        lab.zygote.start("c1", lab.lxcpath, items, log=lab.top / "log", timeout=0.5)
    assert time.monotonic() - started < 5
    assert cgroups.layout().processes(lab.group) == set()
    kill_leftovers(lab.group, "c1")
    assert lab.start("c1").alive


def test_line_breaks_cannot_smuggle_configuration(lab: Lab) -> None:
    with pytest.raises(BadRequest):
        lab.start("c1", ("lxc.environment", "A=1\nlxc.hook.pre-start = /bin/true"))


def test_second_start_of_a_running_container_is_refused(lab: Lab) -> None:
    first = lab.start("c1")
    with pytest.raises(LiblxcError, match="already running"):
        lab.zygote.start("c1", lab.lxcpath, lab.items("c1"), log=lab.top / "log")
    assert first.alive


def test_kill_waits_for_the_clean_up(lab: Lab) -> None:
    running = lab.start("c1")
    running.kill()
    assert cgroups.layout().directories(f"{lab.group}/lxc.payload.c1") == []
    assert hooks.take_target(lab.lxcpath / "c1") == "stop"


def test_kill_of_a_frozen_container(lab: Lab) -> None:
    running = lab.start("c1")
    cgroups.Cgroup.of(running.init, "c1").freeze()
    running.kill(timeout=5)
    assert not running.alive


@pytest.mark.parametrize(("command", "target"), [("reboot", "reboot"), ("poweroff", "stop")])
def test_ending_from_inside_is_noted(lab: Lab, command: str, target: str) -> None:
    running = lab.start("c1")
    lab.exec("c1", "busybox", command, "-f")
    assert running.wait(10)
    assert hooks.take_target(lab.lxcpath / "c1") == target
    assert hooks.take_target(lab.lxcpath / "c1") == "stop", "it is forgotten once taken"


def test_shutdown_asks_init(lab: Lab) -> None:
    # busybox's init powers off on SIGUSR2 and knows no SIGPWR.
    running = lab.start("c1")
    wait_for_init(lab, "c1")
    assert running.halt_signal() == signal.SIGPWR
    running.shutdown(signal.SIGUSR2)
    assert running.wait(10)
    assert hooks.take_target(lab.lxcpath / "c1") == "stop"


def test_systemd_is_told_by_the_signal_it_blocks(lab: Lab) -> None:
    running = lab.start("c1", ("lxc.init.cmd", "/bin/sleep 1000"))
    assert running.halt_signal() == signal.SIGPWR
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN + 3});"
            "print(flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as fake:
        assert fake.stdout is not None
        fake.stdout.readline()
        systemd = Running.of_init(fake.pid)
        assert systemd.halt_signal() == signal.SIGRTMIN + 3
        systemd.close()


def test_exit_codes(lab: Lab) -> None:
    lab.start("c1")
    assert lab.exec("c1", "sh", "-c", "exit 7")[0] == 7
    assert lab.exec("c1", "sh", "-c", "kill -TERM $$")[0] == 128 + signal.SIGTERM
    assert lab.exec("c1", "nonesuch")[0] == 127
    assert lab.exec("c1", "/etc/inittab")[0] == 126


def test_signals_to_its_own_group_do_not_reach_the_helper(privileged_lab: Lab) -> None:
    privileged_lab.start("c1")
    code, _ = privileged_lab.exec("c1", "sh", "-c", "sleep 0.2; kill -KILL 0")
    assert code == 128 + signal.SIGKILL
    assert privileged_lab.exec("c1", "true")[0] == 0


def test_programs_group_is_the_containers(lab: Lab) -> None:
    running = lab.start("c1")
    leaf = cgroups.layout().leaf(f"{lab.group}/lxc.payload.c1")
    if leaf is None:
        pytest.skip("no control groups of version 2 here")
    with open("/dev/null", "r+b") as null:
        fd = null.fileno()
        process = lab.zygote.exec(
            "c1", lab.lxcpath, ["true"], stdin=fd, stdout=fd, stderr=fd, env=PATH,
            leaf=(leaf, *lab.root_ids),
        )  # fmt: skip
    assert process.wait(5) == 0
    for path in (leaf, leaf / "cgroup.procs"):
        assert (path.stat().st_uid, path.stat().st_gid) == lab.root_ids
    assert running.alive


def waiting_worker(helper: int) -> int:
    """A process descriptor of the helper's child that waits for the next request."""
    children = Path(f"/proc/{helper}/task/{helper}/children")
    deadline = time.monotonic() + 5
    while len(found := children.read_text().split()) != 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return os.pidfd_open(int(found[0]))


def test_waiting_worker_ends_with_the_helper(lab: Lab) -> None:
    lab.start("c1")
    helper = lab.zygote.pid
    assert helper is not None
    worker = waiting_worker(helper)
    os.kill(helper, signal.SIGKILL)
    assert wait_end(worker, 5)
    os.close(worker)
    assert lab.exec("c1", "true")[0] == 0, "another helper does it"


def test_helper_forks_another_worker_for_one_that_was_killed(lab: Lab) -> None:
    lab.start("c1")
    helper = lab.zygote.pid
    assert helper is not None
    worker = waiting_worker(helper)
    signal.pidfd_send_signal(worker, signal.SIGKILL)
    assert wait_end(worker, 5)
    os.close(worker)
    assert lab.exec("c1", "true")[0] == 0
    assert lab.zygote.pid == helper


def test_exec_runs_as_the_user_in_its_environment(lab: Lab) -> None:
    lab.start("c1")
    assert lab.exec("c1", "id", uid=1000)[1].strip() == "uid=1000 gid=1000"
    out = lab.exec("c1", "sh", "-c", "echo $PATH $container $HOME")[1]
    assert out.split() == ["/bin", "lxc"], "nothing of the daemon's environment gets in"


def test_exec_gives_the_pid_at_once_and_takes_signals(lab: Lab) -> None:
    lab.start("c1")
    process = sleeper(lab, "c1")
    with pytest.raises(TimeoutError):
        process.wait(0.05)
    assert "sleep" in Path(f"/proc/{process.pid}/cmdline").read_text()
    process.kill(signal.SIGTERM)
    assert process.wait(5) == 128 + signal.SIGTERM
    process.kill(signal.SIGTERM)  # nothing happens


def test_exec_in_a_container_that_does_not_run(lab: Lab) -> None:
    lab.start("c1").kill()
    with pytest.raises(LiblxcError, match="c1"):
        lab.exec("c1", "true")


def test_terminal_is_the_containers_own(lab: Lab) -> None:
    running = lab.start("c1")
    master, slave = terminal.open_pty(running.init, lab.root_ids)
    terminal.resize(master, 33, 99)
    process = lab.zygote.exec(
        "c1",
        lab.lxcpath,
        ["sh", "-c", "tty; stty size; stat -c %u $(tty); read x; echo got $x"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=PATH,
    )
    os.close(slave)
    os.write(master, b"hello\n")
    assert process.wait(10) == 0
    out = drain(master).replace("hello\r\n", "", 1)  # the terminal's echo, at any moment
    assert re.search(r"/dev/pts/\d+\r\n33 99\r\n0\r\n", out)
    assert out.endswith("got hello\r\n")


def test_interrupt_key_reaches_the_program_alone(lab: Lab) -> None:
    running = lab.start("c1")
    master, slave = terminal.open_pty(running.init, lab.root_ids)
    process = lab.zygote.exec(
        "c1", lab.lxcpath, ["sleep", "1000"], stdin=slave, stdout=slave, stderr=slave, env=PATH
    )
    os.close(slave)
    time.sleep(0.1)
    os.write(master, b"\x03")
    assert process.wait(5) == 128 + signal.SIGINT
    os.close(master)
    assert lab.exec("c1", "true")[0] == 0


def test_terminal_path_cannot_lead_out(lab: Lab) -> None:
    running = lab.start("c1")
    lab.exec("c1", "sh", "-c", "mount -t tmpfs none /dev/pts && ln -s /proc/1/root/dev/ptmx x")
    lab.exec("c1", "busybox", "ln", "-s", "/etc/inittab", "/dev/pts/ptmx")
    with pytest.raises(OSError, match="not a terminal"):
        terminal.open_pty(running.init, lab.root_ids)


def test_console_and_its_log(lab: Lab) -> None:
    (lab.tree("c1") / "etc" / "boot").write_text("echo booted; exec cat")
    lab.start("c1", ("lxc.init.cmd", "/bin/sh /etc/boot"))
    deadline = time.monotonic() + 5
    while b"booted" not in lab.zygote.console_log("c1", lab.lxcpath):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    master, claim = lab.zygote.console("c1", lab.lxcpath)
    with pytest.raises(LiblxcError):
        lab.zygote.console("c1", lab.lxcpath)
    os.write(master, b"typed\n")
    time.sleep(0.1)
    assert b"typed" in os.read(master, 65536)
    os.close(master)
    os.close(claim)
    lab.zygote.clear_console_log("c1", lab.lxcpath)
    assert lab.zygote.console_log("c1", lab.lxcpath) == b""


def test_many_requests_at_once(lab: Lab) -> None:
    names = [f"c{i}" for i in range(4)]
    for name in names:
        lab.mounted(name)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lab.start, names))
        outs = list(pool.map(lambda i: lab.exec(names[i % 4], "echo", str(i)), range(40)))
    assert [out for _, out in outs] == [f"{i}\n" for i in range(40)]
    pid = lab.zygote.pid
    assert pid is not None
    assert zombies(pid) == []


def test_monitors_are_small(lab: Lab) -> None:
    """What a running container costs, its monitor's share of memory, is at most 2.8 MB."""
    for i in range(6):
        lab.start(f"c{i}")
    for running in lab.running.values():
        rollup = Path(f"/proc/{running.monitor}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+) kB$", rollup, re.MULTILINE)
        assert found is not None
        assert int(found[1]) < 2800


def test_long_and_odd_words_get_through(lab: Lab) -> None:
    lab.start("c1")
    words = ["ünïcödé", "new\nline", "\udcff", "x" * 100_000]
    code, out = lab.exec("c1", "sh", "-c", 'echo ${#3} "$1"; exit $#', *words, "last")
    assert (code, out) == (4, "100000 new\nline\n")


def test_adoption_by_a_new_daemon(lab: Lab) -> None:
    running = lab.start("c1")
    lab.tree("c2")
    lab.zygote.close()
    assert running.alive, "containers outlive the helper"
    found = lab.zygote.find_running(lab.lxcpath, ["c1", "c2"])
    assert list(found) == ["c1"]
    assert (found["c1"].init, found["c1"].monitor) == (running.init, running.monitor)
    found["c1"].close()


def test_helper_dies_with_the_daemon_and_containers_do_not(lab: Lab) -> None:
    lab.mounted("c1")
    daemon = subprocess.run(
        [
            sys.executable,
            "-c",
            _DAEMON,
            str(lab.top),
            str(lab.lxcpath),
            *map(repr, lab.items("c1")),
        ],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert daemon.returncode == -signal.SIGKILL
    helper, init = map(int, daemon.stdout.split())
    lab.running["c1"] = Running.of_init(init)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{helper}").exists():
        state = Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert lab.running["c1"].alive
    assert lab.exec("c1", "true")[0] == 0


_DAEMON = """
import ast, os, signal, sys
from pathlib import Path
from nova_lxd.lxd.host.liblxc.client import Zygote
top, lxcpath, *items = sys.argv[1:]
zygote = Zygote()
running = zygote.start("c1", lxcpath, map(ast.literal_eval, items), log=Path(top) / "log")
print(zygote.pid, running.init, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_dead_helper_is_replaced(lab: Lab) -> None:
    running = lab.start("c1")
    first = lab.zygote.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    time.sleep(0.05)
    assert lab.exec("c1", "echo", "again") == (0, "again\n")
    assert lab.zygote.pid != first
    assert running.alive


def test_helper_killed_while_a_program_runs(lab: Lab) -> None:
    lab.start("c1")
    process = sleeper(lab, "c1")
    worker = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(InternalError, match="helper"):
        process.wait(5)
    process.kill(signal.SIGKILL)
    process.close()


def test_stuck_monitor_is_told_and_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_REQUEST_TIMEOUT", 0.3)
    running = lab.start("c1")
    os.kill(running.monitor, signal.SIGSTOP)
    with pytest.raises(InternalError, match="stuck"):
        lab.zygote.set_cgroup_item("c1", lab.lxcpath, "cpuset.cpus", "0")
    running.kill(timeout=0.3)
    assert running.wait(0)
    assert not running.alive


def test_stuck_monitor_does_not_keep_a_daemon_from_starting(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_ADOPT_TIMEOUT", 0.3)
    running, other = lab.start("c1"), lab.start("c2")
    os.kill(running.monitor, signal.SIGSTOP)
    try:
        found = lab.zygote.find_running(lab.lxcpath, ["c1", "c2"])
    finally:
        os.kill(running.monitor, signal.SIGCONT)
    assert {name: each.init for name, each in found.items()} == {
        "c1": running.init,
        "c2": other.init,
    }
    for each in found.values():
        each.close()


def test_monitor_whose_init_was_killed_in_the_middle_of_a_start_is_ended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_ADOPT_TIMEOUT", 0.3)
    with subprocess.Popen(["sleep", "infinity"]) as stuck:  # it has no child, as such a monitor
        try:
            monkeypatch.setattr(client.running, "monitors", lambda _path, _name: [stuck.pid])
            monkeypatch.setattr(lab.zygote, "_init_pids", _never_answered)
            assert lab.zygote.find_running(lab.lxcpath, ["c1"]) == {}
            assert stuck.wait(5) == -signal.SIGKILL
        finally:
            stuck.kill()


def _never_answered(_lxcpath: object, _names: object) -> list[int]:
    raise InternalError("liblxc has not answered")


def test_killed_monitor_takes_the_container_along(lab: Lab) -> None:
    running = lab.start("c1")
    os.kill(running.monitor, signal.SIGKILL)
    assert wait_end(running.pidfd, 5)
    assert lab.zygote.find_running(lab.lxcpath, ["c1"]) == {}
    assert hooks.take_target(lab.lxcpath / "c1") == "stop"
    running.close()
    kill_leftovers(lab.group, "c1")
    again = lab.start("c1")
    assert "lxc.payload.c1-1" not in Path(f"/proc/{again.init}/cgroup").read_text()


def test_container_that_outlives_its_monitor_is_ended(lab: Lab) -> None:
    running = lab.start("c1", ("lxc.monitor.signal.pdeath", "SIGCONT"))
    os.kill(running.monitor, signal.SIGKILL)
    assert running.wait(5)
    time.sleep(0.1)
    assert running.alive
    assert lab.zygote.find_running(lab.lxcpath, ["c1"]) == {}
    assert running.init in cgroups.layout().processes(f"{lab.group}/lxc.payload.c1")
    kill_leftovers(lab.group, "c1")
    assert wait_end(running.pidfd, 5)
    assert cgroups.layout().directories(f"{lab.group}/lxc.monitor.c1") == []
    running.close()


def test_starter_killed_in_the_middle(lab: Lab) -> None:
    """Whatever moment it is, the container either runs and is found or nothing is left of it."""
    for delay in (0.001, 0.004, 0.008, 0.015):
        lab.mounted("c1")
        lab.zygote.open()
        helper = lab.zygote.pid
        assert helper is not None
        failures: list[Exception] = []

        def attempt(failures: list[Exception] = failures) -> None:
            try:
                lab.start("c1").close()
            except InternalError as exc:
                failures.append(exc)

        thread = threading.Thread(target=attempt)
        thread.start()
        time.sleep(delay)
        children = Path(f"/proc/{helper}/task/{helper}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        thread.join(20)
        time.sleep(0.3)
        found = lab.zygote.find_running(lab.lxcpath, ["c1"])
        for running in found.values():
            running.kill()
            running.close()
        lab.running.pop("c1", None)
        assert cgroups.layout().processes(lab.group) == set()
