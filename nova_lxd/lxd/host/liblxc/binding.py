# SPDX-License-Identifier: Apache-2.0
"""liblxc through ctypes.  Only helper processes import this: many of its calls block or fork.

``struct lxc_container`` is a table of function pointers whose order is liblxc's ABI: members are
only ever appended.  The library's version is checked at load all the same.
"""

from __future__ import annotations

import ctypes
import os

LIBRARY = "liblxc.so.1"
VERSIONS = ((5, 0), (8, 0))  # first tested, first not allowed

_ATTACH_DEFAULT = 0x0000FFFF
_ATTACH_CLEAR_ENV = 1
_ATTACH_DETECT_PERSONALITY = -1

_FIELDS_BEFORE = (
    ("name", ctypes.c_char_p),
    ("configfile", ctypes.c_char_p),
    ("pidfile", ctypes.c_char_p),
    ("slock", ctypes.c_void_p),
    ("privlock", ctypes.c_void_p),
    ("numthreads", ctypes.c_int),
    ("lxc_conf", ctypes.c_void_p),
    ("error_string", ctypes.c_char_p),
    ("error_num", ctypes.c_int),
    ("daemonize", ctypes.c_bool),
    ("config_path", ctypes.c_char_p),
)
# The function pointers in the order of lxccontainer.h, up to the last one that is used.
_FUNCTIONS = [
    "is_defined",
    "state",
    "is_running",
    "freeze",
    "unfreeze",
    "init_pid",
    "load_config",
    "start",
    "startl",
    "stop",
    "want_daemonize",
    "want_close_all_fds",
    "config_file_name",
    "wait",
    "set_config_item",
    "destroy",
    "save_config",
    "create",
    "createl",
    "rename",
    "reboot",
    "shutdown",
    "clear_config",
    "clear_config_item",
    "get_config_item",
    "get_running_config_item",
    "get_keys",
    "get_interfaces",
    "get_ips",
    "get_cgroup_item",
    "set_cgroup_item",
    "get_config_path",
    "set_config_path",
    "clone",
    "console_getfd",
    "console",
    "attach",
    "attach_run_wait",
    "attach_run_waitl",
    "snapshot",
    "snapshot_list",
    "snapshot_restore",
    "snapshot_destroy",
    "may_control",
    "add_device_node",
    "remove_device_node",
    "attach_interface",
    "detach_interface",
    "checkpoint",
    "restore",
    "destroy_with_snapshots",
    "snapshot_destroy_all",
    "migrate",
    "console_log",
]


_text = ctypes.c_char_p


class _Container(ctypes.Structure):
    _fields_ = [*_FIELDS_BEFORE, *((name, ctypes.c_void_p) for name in _FUNCTIONS)]


class _Log(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("lxcpath", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("level", ctypes.c_char_p),
        ("prefix", ctypes.c_char_p),
        ("quiet", ctypes.c_bool),
    ]


class _ConsoleLog(ctypes.Structure):
    _fields_ = [
        ("clear", ctypes.c_bool),
        ("read", ctypes.c_bool),
        ("read_max", ctypes.POINTER(ctypes.c_uint64)),
        ("data", ctypes.c_void_p),
    ]


class _Groups(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("list", ctypes.c_void_p)]


class _AttachOptions(ctypes.Structure):
    """``lxc_attach_options_t``."""

    _fields_ = [
        ("attach_flags", ctypes.c_int),
        ("namespaces", ctypes.c_int),
        ("personality", ctypes.c_long),
        ("initial_cwd", ctypes.c_char_p),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("env_policy", ctypes.c_int),
        ("extra_env_vars", ctypes.POINTER(_text)),
        ("extra_keep_env", ctypes.POINTER(_text)),
        ("stdin_fd", ctypes.c_int),
        ("stdout_fd", ctypes.c_int),
        ("stderr_fd", ctypes.c_int),
        ("log_fd", ctypes.c_int),
        ("lsm_label", ctypes.c_char_p),
        ("groups", _Groups),
    ]


class _Command(ctypes.Structure):
    """``lxc_attach_command_t``."""

    _fields_ = [("program", _text), ("argv", ctypes.POINTER(_text))]


_pointer = ctypes.POINTER(_Container)
_int_pointer = ctypes.POINTER(ctypes.c_int)
# Result and arguments of the functions that are used; the first argument is always the container.
_SIGNATURES = {
    "init_pid": ctypes.CFUNCTYPE(ctypes.c_int, _pointer),
    "load_config": ctypes.CFUNCTYPE(ctypes.c_bool, _pointer, _text),
    "start": ctypes.CFUNCTYPE(ctypes.c_bool, _pointer, ctypes.c_int, ctypes.c_void_p),
    "want_daemonize": ctypes.CFUNCTYPE(ctypes.c_bool, _pointer, ctypes.c_bool),
    "want_close_all_fds": ctypes.CFUNCTYPE(ctypes.c_bool, _pointer, ctypes.c_bool),
    "set_config_item": ctypes.CFUNCTYPE(ctypes.c_bool, _pointer, _text, _text),
    "set_cgroup_item": ctypes.CFUNCTYPE(ctypes.c_bool, _pointer, _text, _text),
    "console_getfd": ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _int_pointer, _int_pointer),
    "attach": ctypes.CFUNCTYPE(
        ctypes.c_int,
        _pointer,
        ctypes.c_void_p,
        ctypes.POINTER(_Command),
        ctypes.POINTER(_AttachOptions),
        _int_pointer,
    ),
    "console_log": ctypes.CFUNCTYPE(ctypes.c_int, _pointer, ctypes.POINTER(_ConsoleLog)),
}


def load() -> ctypes.CDLL:
    """Open liblxc.

    :raises OSError: it is not installed, or of a version whose ABI is not known.
    """
    library = ctypes.CDLL(LIBRARY)
    library.lxc_get_version.restype = ctypes.c_char_p
    version = library.lxc_get_version().decode()
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not VERSIONS[0] <= number < VERSIONS[1]:
        raise OSError(f"liblxc {version} is not supported; install liblxc 5 or 6")
    library.lxc_container_new.restype = _pointer
    library.lxc_container_new.argtypes = (_text, _text)
    return library


def _strings(words: list[str]) -> ctypes.Array[ctypes.c_char_p]:
    """A ``char **`` that ends with NULL."""
    return (_text * (len(words) + 1))(*map(os.fsencode, words), None)


class LxcError(Exception):
    """A call of liblxc said no; the reason is in its log."""


class Liblxc:
    """The library, with its per-process log."""

    def __init__(self) -> None:
        self._library = load()
        self._libc = ctypes.CDLL(None)
        self._libc.free.argtypes = (ctypes.c_void_p,)
        self.version: str = self._library.lxc_get_version().decode()

    def log_to(self, path: str, level: str, name: str, lxcpath: str) -> None:
        """Send what liblxc logs in this process to a file; once per process."""
        log = _Log(
            name.encode(), os.fsencode(lxcpath), os.fsencode(path), level.encode(), b"lxc", True
        )
        if self._library.lxc_log_init(ctypes.byref(log)):
            raise LxcError(f"opening the log {path}")

    def container(self, name: str, lxcpath: str) -> Container:
        """A handle of a container, whether it runs or not."""
        pointer = self._library.lxc_container_new(name.encode(), os.fsencode(lxcpath))
        if not pointer:
            raise LxcError(f"opening container {name}")
        return Container(pointer, self._library, self._libc)


class Container:
    """``struct lxc_container``; never freed, as its process ends soon."""

    def __init__(
        self, pointer: ctypes._Pointer[_Container], library: ctypes.CDLL, libc: ctypes.CDLL
    ) -> None:
        self._pointer = pointer
        self._library = library
        self._libc = libc

    def _call(self, name: str, *arguments: object) -> int:
        address = getattr(self._pointer.contents, name)
        result: int = _SIGNATURES[name](address)(self._pointer, *arguments)
        return result

    def init_pid(self) -> int:
        """Pid of init on the host, -1 when the container does not run."""
        return self._call("init_pid")

    def load_config(self, path: str) -> None:
        """Read a configuration file."""
        if not self._call("load_config", os.fsencode(path)):
            raise LxcError(f"reading the configuration {path}")

    def start(self) -> None:
        """Start in the background and return when init runs."""
        self._call("want_daemonize", True)
        self._call("want_close_all_fds", True)
        if not self._call("start", 0, None):
            raise LxcError("starting")

    def set_cgroup_item(self, key: str, value: str) -> None:
        """Set a control group file of the running container."""
        if not self._call("set_cgroup_item", key.encode(), value.encode()):
            raise LxcError(f"setting {key} to {value}")

    def console(self) -> tuple[int, int]:
        """(pty master of the console, descriptor that claims it until it is closed)."""
        number, master = ctypes.c_int(0), ctypes.c_int(-1)
        keep = self._call("console_getfd", ctypes.byref(number), ctypes.byref(master))
        if keep < 0:
            raise LxcError("opening the console")
        return master.value, keep

    def console_log(self, *, clear: bool) -> bytes:
        """What the console's ring buffer holds; with ``clear`` empty it instead.

        :raises OSError: ENODATA when it is empty, EFAULT and the like when there is none.
        """
        size = ctypes.c_uint64(0)
        log = _ConsoleLog(clear, not clear, ctypes.pointer(size), None)
        code = self._call("console_log", ctypes.byref(log))
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        if clear or not log.data:
            return b""
        data = ctypes.string_at(log.data, size.value)
        self._libc.free(log.data)
        return data

    def attach(
        self,
        argv: list[str],
        env: dict[str, str],
        ids: tuple[int, int],
        cwd: str,
        streams: tuple[int, int, int],
        log: str,
    ) -> int:
        """Run a program inside the container: its pid on the host; it is the caller's child.

        It ends with 127 when there is no such program and with 126 when it cannot be run.  A
        standard input that is a terminal becomes its controlling one.  What liblxc complains of
        goes to the file ``log`` alone; a log of the whole library would go to standard error too.
        """
        # All that attaching needs to know it asks of the monitor, the confinement too.  With the
        # id map of a whole configuration it would fork once more to enter a control group.
        self._call("set_config_item", b"lxc.log.file", os.fsencode(log))
        words = _strings(argv)
        options = _AttachOptions(
            attach_flags=_ATTACH_DEFAULT,
            namespaces=-1,
            personality=_ATTACH_DETECT_PERSONALITY,
            initial_cwd=os.fsencode(cwd),
            uid=ids[0],
            gid=ids[1],
            env_policy=_ATTACH_CLEAR_ENV,
            extra_env_vars=_strings([f"{key}={value}" for key, value in env.items()]),
            stdin_fd=streams[0],
            stdout_fd=streams[1],
            stderr_fd=streams[2],
            log_fd=-1,
        )
        pid = ctypes.c_int(-1)
        code = self._call(
            "attach",
            # Not a function of Python's: each page that it touched would be copied.
            self._library.lxc_attach_run_command,
            ctypes.byref(_Command(words[0], words)),
            ctypes.byref(options),
            ctypes.byref(pid),
        )
        if code < 0 or pid.value <= 0:
            raise LxcError("entering the container")
        return pid.value
