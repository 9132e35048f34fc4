# SPDX-License-Identifier: Apache-2.0
"""The dnsmasq process that serves DHCP and DNS on one managed bridge.

It puts itself into the background and outlives the daemon, so guests keep their leases while the
daemon restarts.  It is found again by its pid file, and only trusted to be ours when its command
line names that very file.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import pwd
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host.run import run
from nova_lxd.lxd.network import values
from nova_lxd.lxd.network.interface import HostEntry
from nova_lxd.lxd.network.leases import HostFiles, LeaseLine, Range, read_leases
from nova_lxd.lxd.network.processes import end_process
from nova_lxd.lxd.network.reloads import Coalescer

LOG = logging.getLogger(__name__)

DEFAULT_DOMAIN = "lxd"
DEFAULT_EXPIRY = "1h"
_RELOAD_INTERVAL = 0.5  # seconds
_RELOADS = Coalescer(_RELOAD_INTERVAL)


def unprivileged_user() -> str:
    """Who dnsmasq becomes once its sockets are open."""
    for name in ("dnsmasq", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise InternalError("Starting dnsmasq needs a user named dnsmasq or nobody; add one")


class Dnsmasq:
    """dnsmasq of one network, with its files in the network's directory."""

    def __init__(self, directory: Path, interface: str) -> None:
        self.directory = directory
        self.interface = interface
        self.pid_file = directory / "dnsmasq.pid"
        self.lease_file = directory / "dnsmasq.leases"
        self.raw_file = directory / "dnsmasq.raw"
        self.hosts = HostFiles(directory / "dnsmasq.hosts")

    def pid(self) -> int | None:
        """The running process, None when there is none."""
        try:
            pid = int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if f"--pid-file={self.pid_file}" in _command_line(pid) else None

    def ensure(self, arguments: Sequence[str], raw: str, *, restart: bool) -> None:
        """Have it run with these arguments and ``raw.dnsmasq`` lines; idempotent.

        A process that runs with the same ones is kept and re-reads its host files.

        :param restart: start it anew in any case, as after the bridge was made anew.
        :raises ProgramError: dnsmasq is not installed or refuses to start.
        """
        if shutil.which("dnsmasq") is None:
            raise InternalError("dnsmasq is required for LXD managed bridges; install it")
        self.hosts.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        command = ["dnsmasq", *self._own_arguments(), *arguments]
        same = not self._write_raw(raw)
        pid = self.pid()
        if pid is not None and same and not restart and _command_line(pid) == command:
            self.reload()
            return
        self.stop()
        run(command, timeout=60)

    def _own_arguments(self) -> list[str]:
        return [
            "--strict-order",
            "--bind-interfaces",
            "--except-interface=lo",
            f"--pid-file={self.pid_file}",
            "--no-ping",
            f"--interface={self.interface}",
            f"--conf-file={self.raw_file}",
            f"--user={unprivileged_user()}",
            "--quiet-dhcp",
            "--quiet-dhcp6",
            "--quiet-ra",
            "--dhcp-rapid-commit",
            f"--dhcp-leasefile={self.lease_file}",
            f"--dhcp-hostsfile={self.hosts.directory}",
        ]

    def _write_raw(self, raw: str) -> bool:
        # Naming a file also keeps dnsmasq from reading /etc/dnsmasq.conf.
        text = f"{raw}\n"
        if self.raw_file.exists() and self.raw_file.read_text() == text:
            return False
        self.raw_file.write_text(text)
        self.raw_file.chmod(0o644)
        return True

    def write_host(self, entry: HostEntry) -> None:
        """Record a nic.

        A fixed address is in force at once.  A name alone may take :data:`_RELOAD_INTERVAL`: a
        lease that is given meanwhile gets it then.
        """
        if not self.hosts.write(entry):
            return
        if entry.ipv4 or entry.ipv6:
            self.reload()
        else:
            self.reload_soon()

    def forget_host(self, owner: str, device: str) -> HostEntry | None:
        """Forget a nic and return what was recorded, None when nothing was."""
        entry = self.hosts.remove(owner, device)
        if entry is not None:
            if entry.ipv4 or entry.ipv6:
                self.reload()  # its address may be given to another nic next
            else:
                self.reload_soon()
        return entry

    def reload(self) -> None:
        """Have it read its host files again; nothing happens when it does not run."""
        _RELOADS.run(self.pid_file, self._hang_up)

    def reload_soon(self) -> None:
        """The same, but once for many that ask in a row."""
        _RELOADS.request(self.pid_file, self._hang_up)

    def _hang_up(self) -> None:
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    def stop(self) -> None:
        """End it and wait until it is gone; idempotent."""
        pid = self.pid()
        if pid is not None:
            end_process(pid)
        self.pid_file.unlink(missing_ok=True)

    def leases(self) -> list[LeaseLine]:
        """The leases that it has given out."""
        return read_leases(self.lease_file)


def _command_line(pid: int) -> list[str]:
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return data.decode("utf-8", "replace").rstrip("\0").split("\0")


# -- arguments --------------------------------------------------------------------------------


def dhcp_ranges(config: Mapping[str, str]) -> list[Range]:
    """The ranges that DHCP gives addresses from, of both families."""
    found: list[Range] = []
    for family in ("ipv4", "ipv6"):
        address = config.get(f"{family}.address", "none")
        if address in ("", "none") or values.is_false(config.get(f"{family}.dhcp")):
            continue
        given = values.split_list(config.get(f"{family}.dhcp.ranges"))
        if given:
            found += [Range.parse(text) for text in given]
            continue
        subnet = ipaddress.ip_interface(address).network
        if subnet.num_addresses < 4:
            continue
        # As LXD: from the second address to the last one that is not the broadcast address.
        last = subnet[-2] if subnet.version == 4 else subnet[-1]
        found.append(Range(subnet[2], last))
    return found


def arguments(interface: str, config: Mapping[str, str]) -> list[str]:
    """dnsmasq's arguments for a network's configuration with its addresses chosen."""
    domain = config.get("dns.domain") or DEFAULT_DOMAIN
    args = [*_arguments_v4(config), *_arguments_v6(interface, config)]
    search = config.get("dns.search", "")
    if search:
        args.append(f"--dhcp-option-force=119,{','.join(values.split_list(search))}")
    if config.get("dns.mode") != "none":
        args += [f"--domain={domain}", f"--server=/{domain}/"]
        args.append(f"--interface-name=_gateway.{domain},{interface}")
    return args


def _arguments_v4(config: Mapping[str, str]) -> list[str]:
    address = config.get("ipv4.address", "none")
    if address in ("", "none"):
        return []
    own = ipaddress.ip_interface(address)
    args = [f"--listen-address={own.ip}"]
    if values.is_false(config.get("ipv4.dhcp")):
        return args
    args += ["--dhcp-no-override", "--dhcp-authoritative"]
    if config.get("ipv4.dhcp.gateway"):
        args.append(f"--dhcp-option-force=3,{config['ipv4.dhcp.gateway']}")
    if config.get("bridge.mtu", "1500") != "1500":
        args.append(f"--dhcp-option-force=26,{config['bridge.mtu']}")
    expiry = config.get("ipv4.dhcp.expiry") or DEFAULT_EXPIRY
    mask = own.network.netmask
    for span in dhcp_ranges({k: v for k, v in config.items() if not k.startswith("ipv6.")}):
        args.append(f"--dhcp-range={span.first},{span.last},{mask},{expiry}")
    return args


def _arguments_v6(interface: str, config: Mapping[str, str]) -> list[str]:
    address = config.get("ipv6.address", "none")
    if address in ("", "none"):
        return []
    own = ipaddress.ip_interface(address)
    args = [f"--listen-address={own.ip}", "--enable-ra"]
    if values.is_false(config.get("ipv6.dhcp")):
        return [*args, f"--dhcp-range=::,constructor:{interface},ra-only"]
    expiry = config.get("ipv6.dhcp.expiry") or DEFAULT_EXPIRY
    if not values.is_true(config.get("ipv6.dhcp.stateful")):
        return [*args, f"--dhcp-range=::,constructor:{interface},ra-stateless,ra-names"]
    length = own.network.prefixlen
    for span in dhcp_ranges({k: v for k, v in config.items() if not k.startswith("ipv4.")}):
        args.append(f"--dhcp-range={span.first},{span.last},{length},{expiry}")
    return args
