# SPDX-License-Identifier: Apache-2.0
"""The helper process that alone calls liblxc: single-threaded, one forked worker per request.

Started by :mod:`.client` without site packages; imports as little as can be, because every
container's monitor is a fork of it and shares its pages.  A request is one datagram on the control
socket: a marshalled tuple ``(patience, operation, arguments…)`` with descriptors, the first of
which is the socket for the worker's answers.  The worker of the next request waits for it: what a
fork costs, and the first touch of its pages, is paid before.  One that is not done after
``patience`` seconds ends: a monitor that is stuck would keep it for ever.  The helper ends when
the daemon's end of the control socket closes; the monitors go on.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself loads enum and more
import _socket
import errno
import gc
import marshal
import os

from nova_lxd.lxd.host import syscalls
from nova_lxd.lxd.host.liblxc import binding

TYPE_CHECKING = False  # typing itself is too large for this process
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MSG_CMSG_CLOEXEC = 0x40000000
MAX_REQUEST = 1 << 20
MAX_FDS = 8
_FD_SIZE = 4
# Python itself ignores the last two.
_IGNORED = (_signal.SIGCHLD, _signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ)


class Worker:
    """One request in its own process."""

    def __init__(self, liblxc: binding.Liblxc, reply: int, fds: list[int]) -> None:
        self.liblxc = liblxc
        self.reply = _socket.socket(fileno=reply)
        self.fds = fds
        self.log = -1

    def answer(self, *values: Any, fds: tuple[int, ...] = ()) -> None:
        """Send one answer to the daemon."""
        ancillary = []
        if fds:
            packed = b"".join(fd.to_bytes(_FD_SIZE, "little") for fd in fds)
            ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        self.reply.sendmsg([marshal.dumps(values)], ancillary)

    def open_log(self) -> str:
        """A file in memory for liblxc's messages of this process, which go with the answer."""
        self.log = os.memfd_create("liblxc.log")
        return f"/proc/self/fd/{self.log}"

    def container(self, name: str, lxcpath: str, config: str = "") -> binding.Container:
        """A handle, with liblxc's messages kept for the answer."""
        self.liblxc.log_to(self.open_log(), "ERROR", name, lxcpath)
        container = self.liblxc.container(name, lxcpath)
        if config:
            container.load_config(config)
        return container

    def logged(self) -> str:
        """What liblxc wrote in this process."""
        if self.log < 0:
            return ""
        return os.pread(self.log, 1 << 16, 0).decode("utf-8", "replace")

    def start(
        self, name: str, lxcpath: str, config: str, log: str, level: str, env: dict[str, str]
    ) -> None:
        """Start a container: ("ok", our pid), then ("ok", pids of init and monitor), pidfds."""
        os.environ.update(env)
        if not env.get("PATH"):
            # Without a path liblxc finds no newuidmap and writes the id maps itself, as root may:
            # two shells and two programs less.  Shells that run hooks have a path of their own.
            os.environ.pop("PATH", None)
        self.liblxc.log_to(log, level, name, lxcpath)
        container = self.liblxc.container(name, lxcpath)
        container.load_config(config)
        syscalls.become_subreaper()
        self.answer("ok", os.getpid())
        try:
            container.start()
            init = container.init_pid()
            pidfd = os.pidfd_open(init)
            monitor = _parent(init)
            monitor_pidfd = os.pidfd_open(monitor)
        except (binding.LxcError, OSError):
            # Its init ended at once, or was never there.  The monitor, now our child, is still
            # cleaning up and running hooks.
            _wait_for_children()
            raise binding.LxcError("its init ended at once")
        self.answer("ok", init, monitor, fds=(pidfd, monitor_pidfd))

    def check(self, text: str) -> None:
        """("ok") when liblxc reads this configuration text."""
        config = os.memfd_create("lxc.conf")
        os.write(config, text.encode("utf-8", "surrogateescape"))
        self.container("check", "/nonexistent", f"/proc/self/fd/{config}")
        self.answer("ok")

    def init_pids(self, lxcpath: str, names: list[str]) -> None:
        """("ok", pids of the containers' init, -1 for those that do not run)."""
        pids = [self.liblxc.container(name, lxcpath).init_pid() for name in names]
        self.answer("ok", pids)

    def set_cgroup_item(self, name: str, lxcpath: str, key: str, value: str) -> None:
        """Set a control group item of a running container through its monitor."""
        self.container(name, lxcpath).set_cgroup_item(key, value)
        self.answer("ok")

    def console(self, name: str, lxcpath: str) -> None:
        """("ok") with the console's pty master and the descriptor that claims it."""
        self.answer("ok", fds=self.container(name, lxcpath).console())

    def console_log(self, name: str, lxcpath: str, clear: bool) -> None:
        """("ok", content of the console's ring buffer)."""
        self.answer("ok", self.container(name, lxcpath).console_log(clear=clear))

    def exec(
        self,
        name: str,
        lxcpath: str,
        argv: list[str],
        env: dict[str, str],
        ids: tuple[int, int],
        cwd: str,
        leaf: tuple[str, int, int] | None,
    ) -> None:
        """Run a program: ("ok", host pid) and its pidfd, at its end ("exit", wait status).

        ``leaf`` is the control group that liblxc puts it into, with the ids of its owner.
        """
        container = self.liblxc.container(name, lxcpath)
        log = self.open_log()
        if leaf:
            _make_leaf(*leaf)
        stdin, stdout, stderr = self.fds
        # It stays in this group, which we leave: its signals to its group are not for us.
        before = os.getpgrp()
        os.setpgid(0, 0)
        try:
            pid = container.attach(argv, env, ids, cwd, (stdin, stdout, stderr), log)
        finally:
            _rejoin(before)
        _signal.alarm(0)
        for fd in self.fds:
            os.close(fd)
        # Opened while the process is not waited for: the pid cannot be somebody else's.
        self.answer("ok", pid, fds=(os.pidfd_open(pid),))
        self.answer("exit", os.waitpid(pid, 0)[1])

    def mount(self, pid: int, target: str, kind: str, ids: tuple[int, int], mode: int) -> None:
        """Attach the detached mount ``fds[0]`` at ``target`` inside the container of init ``pid``.

        ``kind`` is "dir" or "file": what is made at the target when nothing is there.
        """
        _enter_mounts(pid)
        _make_target(target, kind, ids, mode)
        syscalls.move_mount(self.fds[0], syscalls.AT_FDCWD, target)
        self.answer("ok")

    def unmount(self, pid: int, target: str, remove: bool, ids: tuple[int, int]) -> None:
        """Detach what is mounted at ``target``; with ``remove`` delete what was below it.

        A directory that is not empty stays.
        """
        _enter_mounts(pid)
        syscalls.umount2(target, syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)
        if remove:
            os.setegid(ids[1])
            os.seteuid(ids[0])
            _remove(target)
        self.answer("ok")


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as stream:
        return int(stream.read().rpartition(b")")[2].split()[1])


def _wait_for_children() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _remove(target: str) -> None:
    """Delete a file, or a directory that nothing is in."""
    try:
        os.unlink(target)
    except IsADirectoryError:
        try:
            os.rmdir(target)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                raise


def _enter_mounts(pid: int) -> None:
    """Enter the mount namespace of ``pid``: from here on every path is the container's."""
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    syscalls.setns(namespace, syscalls.CLONE_NEWNS)
    os.close(namespace)


def _make_target(target: str, kind: str, ids: tuple[int, int], mode: int) -> None:
    """Make the missing parts of a mount's target as the container's root (else EOVERFLOW)."""
    os.setegid(ids[1])
    os.seteuid(ids[0])
    try:
        parts = [part for part in target.split("/") if part]
        for i in range(1, len(parts) + 1):
            path, last = "/" + "/".join(parts[:i]), i == len(parts)
            try:
                if last and kind == "file":
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
                else:
                    os.mkdir(path, mode if last else 0o755)
            except FileExistsError:
                continue
    finally:
        os.seteuid(0)
        os.setegid(0)


def _rejoin(group: int) -> None:
    """Become a member of a process group, unless none is left of it: the helper has died."""
    try:
        os.setpgid(0, group)
    except PermissionError:
        return


def _make_leaf(path: str, uid: int, gid: int) -> None:
    """Make a control group as the container's root, whose it then is; else liblxc makes it."""
    if os.path.isdir(path):
        return
    os.setegid(gid)
    os.seteuid(uid)
    try:
        os.mkdir(path, 0o755)
    except (FileExistsError, FileNotFoundError, PermissionError):
        return
    finally:
        os.seteuid(0)
        os.setegid(0)


OPERATIONS: dict[str, Callable[..., None]] = {
    "start": Worker.start,
    "check": Worker.check,
    "init_pids": Worker.init_pids,
    "set_cgroup_item": Worker.set_cgroup_item,
    "console": Worker.console,
    "console_log": Worker.console_log,
    "exec": Worker.exec,
    "mount": Worker.mount,
    "unmount": Worker.unmount,
}


def serve(liblxc: binding.Liblxc, control: _socket.socket) -> None:
    """Keep a worker waiting for the next request until the daemon is gone."""
    # What is ignored here, or by whoever started the daemon (nohup), would stay ignored in the
    # container, whatever its programs are.
    changed = [n for n in _signal.valid_signals() if _signal.getsignal(n) != _signal.SIG_DFL]
    while not _hung_up(control):
        busy, waiting = os.pipe2(os.O_CLOEXEC)
        helper = os.getpid()
        if os.fork() == 0:
            os.close(busy)
            _await_request(liblxc, control, waiting, helper, changed)
        os.close(waiting)
        os.read(busy, 1)  # until the worker closes it, or ends
        os.close(busy)


def _hung_up(control: _socket.socket) -> bool:
    """Is the daemon gone?  What it has asked last is left to a worker."""
    try:
        return not control.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _await_request(
    liblxc: binding.Liblxc, control: _socket.socket, waiting: int, helper: int, changed: list[int]
) -> None:
    """In a worker: wait for a request, let the helper fork the next worker, and do it."""
    code = 1
    try:
        # A worker that outlived the helper would take a request, and those behind it be lost.
        syscalls.signal_at_parents_death(_signal.SIGKILL)
        for number in changed:
            _signal.signal(number, _signal.SIG_DFL)
        _rehearse(liblxc)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if os.getppid() != helper:
            return
        data, ancillary, _flags, _address = control.recvmsg(
            MAX_REQUEST, _socket.CMSG_SPACE(MAX_FDS * _FD_SIZE), MSG_CMSG_CLOEXEC
        )
        syscalls.signal_at_parents_death(0)
        control.close()
        if data:
            os.close(waiting)
            fds = [
                int.from_bytes(packed[i : i + _FD_SIZE], "little")
                for level, kind, packed in ancillary
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
                for i in range(0, len(packed), _FD_SIZE)
            ]
            _work(Worker(liblxc, fds[0], fds[1:]), data)
        code = 0
    finally:
        os._exit(code)


def _rehearse(liblxc: binding.Liblxc) -> None:
    """Touch what a request touches, so that it need not wait for the copies of these pages.

    A program is to be run in a container that is never there.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    worker = Worker(liblxc, theirs.detach(), [-1, -1, -1])
    _work(worker, marshal.dumps((0, "exec", "", "/", ["true"], {"PATH": "/"}, (0, 0), "/", None)))
    os.close(worker.log)
    ours.recv(MAX_REQUEST)
    ours.close()


def _work(worker: Worker, data: bytes) -> None:
    """Handle one request in its worker process."""
    try:
        patience, operation, *arguments = marshal.loads(data)
        _signal.alarm(patience)
        OPERATIONS[operation](worker, *arguments)
    except binding.LxcError as exc:
        worker.answer("lxc", str(exc), worker.logged())
    except OSError as exc:
        worker.answer("os", exc.errno, exc.strerror, exc.filename)
    except BaseException as exc:
        worker.answer("bug", f"{type(exc).__name__}: {exc}", worker.logged())
    finally:
        worker.reply.close()


def main(control: int) -> None:
    """Load liblxc, say so to the daemon, and serve."""
    socket = _socket.socket(fileno=control)
    try:
        liblxc = binding.Liblxc()
    except OSError as exc:
        socket.send(marshal.dumps(("error", str(exc))))
        return
    # SIGCHLD: no worker is waited for, the kernel reaps them.  SIGINT is the daemon's alone.
    for number in _IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    gc.collect()
    gc.freeze()
    gc.disable()
    # The worker of a request wakes us for the next one's: not on the processor that it runs on.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    socket.send(marshal.dumps(("ready", liblxc.version)))
    serve(liblxc, socket)
