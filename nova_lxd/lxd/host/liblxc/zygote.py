# SPDX-License-Identifier: Apache-2.0
"""The helper process that alone calls liblxc: single-threaded, forks one worker per request.

Started by :mod:`.client` without site packages; imports as little as can be, because every
container's monitor is a fork of it and shares its pages.  A request is one datagram on the control
socket: a marshalled tuple ``(operation, arguments…)`` with descriptors, the first of which is the
socket for the worker's answers.  It ends when the daemon's end of the control socket closes; the
monitors go on.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself loads enum and more
import _socket
import errno
import fcntl
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
EXIT_NOT_FOUND, EXIT_NOT_EXECUTABLE = 127, 126
# What LXD writes to the standard error of such an exec.
_REFUSALS = {
    EXIT_NOT_FOUND: b"Error: Command not found\n",
    EXIT_NOT_EXECUTABLE: b"Error: Command not executable\n",
}
_ENOENT, _ENOTDIR = 2, 20
_TIOCSCTTY = 0x540E
# Python itself ignores the last two.
_IGNORED = (_signal.SIGCHLD, _signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ)
_RESET = tuple(_signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP})


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

    def container(self, name: str, lxcpath: str, config: str = "") -> binding.Container:
        """A handle, with liblxc's messages of this process kept in memory for the answer."""
        self.log = os.memfd_create("liblxc.log")
        self.liblxc.log_to(f"/proc/self/fd/{self.log}", "ERROR", name, lxcpath)
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
        config: str,
        argv: list[str],
        env: dict[str, str],
        ids: tuple[int, int],
        cwd: str,
        tty: bool,
    ) -> None:
        """Run a program: ("ok", host pid) and its pidfd, at its end ("exit", wait status)."""
        container = self.container(name, lxcpath, config)
        stdin, stdout, stderr = self.fds
        options = binding.AttachOptions(
            attach_flags=binding.ATTACH_DEFAULT,
            namespaces=-1,
            personality=binding.ATTACH_DETECT_PERSONALITY,
            initial_cwd=os.fsencode(cwd),
            uid=ids[0],
            gid=ids[1],
            env_policy=binding.ATTACH_CLEAR_ENV,
            stdin_fd=stdin,
            stdout_fd=stdout,
            stderr_fd=stderr,
            log_fd=self.log,
        )

        def inside(_payload: object) -> int:
            try:
                _exec_inside(argv, env, tty)
            finally:
                os._exit(EXIT_NOT_EXECUTABLE)

        pid = container.attach(binding.AttachFunction(inside), options)
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


def _exec_inside(argv: list[str], env: dict[str, str], tty: bool) -> None:
    """In the attached process: become a session leader and run the program.

    Imports nothing: modules would come from the container's file system.
    """
    if os.getsid(0) != os.getpid():  # liblxc did it already when stdin is a terminal
        os.setsid()
    if tty:
        fcntl.ioctl(0, _TIOCSCTTY, 0)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    code = _try_exec(argv, {"container": "lxc", **env})
    os.write(2, _REFUSALS[code])
    os._exit(code)


def _try_exec(argv: list[str], env: dict[str, str]) -> int:
    """execvp(3) with this environment; the shell's exit code when no program could be run."""
    program = argv[0]
    if "/" in program:
        candidates = [program]
    else:
        candidates = [f"{d or '.'}/{program}" for d in env.get("PATH", "/bin:/usr/bin").split(":")]
    code = EXIT_NOT_FOUND
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)
        except OSError as exc:
            if exc.errno not in (_ENOENT, _ENOTDIR):
                code = EXIT_NOT_EXECUTABLE
    return code


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
    """Fork a worker for every request until the daemon is gone."""
    while True:
        data, ancillary, _flags, _address = control.recvmsg(
            MAX_REQUEST, _socket.CMSG_SPACE(MAX_FDS * _FD_SIZE), MSG_CMSG_CLOEXEC
        )
        if not data:
            return
        fds = [
            int.from_bytes(packed[i : i + _FD_SIZE], "little")
            for level, kind, packed in ancillary
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
            for i in range(0, len(packed), _FD_SIZE)
        ]
        if os.fork() == 0:
            control.close()
            _work(liblxc, data, fds)
        for fd in fds:
            os.close(fd)


def _work(liblxc: binding.Liblxc, data: bytes, fds: list[int]) -> None:
    """Handle one request in the worker process, which ends here."""
    # What is ignored here, or by whoever started the daemon (nohup), would stay ignored in the
    # container, whatever its programs are.
    for number in _RESET:
        _signal.signal(number, _signal.SIG_DFL)
    worker = Worker(liblxc, fds[0], fds[1:])
    code = 1
    try:
        operation, *arguments = marshal.loads(data)
        OPERATIONS[operation](worker, *arguments)
        code = 0
    except binding.LxcError as exc:
        worker.answer("lxc", str(exc), worker.logged())
    except OSError as exc:
        worker.answer("os", exc.errno, exc.strerror, exc.filename)
    except BaseException as exc:
        worker.answer("bug", f"{type(exc).__name__}: {exc}", worker.logged())
    finally:
        os._exit(code)


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
    socket.send(marshal.dumps(("ready", liblxc.version)))
    serve(liblxc, socket)
