# SPDX-License-Identifier: Apache-2.0
"""proxy: a listener on one side of an instance's wall, connected to the other.

A helper process of our own does the forwarding (:mod:`.proxy_forwarder`); with ``nat`` the
kernel does, by nftables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nova_lxd.lxd.devices import proxy_address, proxy_process
from nova_lxd.lxd.devices.interface import Device, RunConfig, Volatile
from nova_lxd.lxd.devices.nodes import encode
from nova_lxd.lxd.devices.proxy_address import ProxyAddress
from nova_lxd.lxd.devices.proxy_forwarder import LISTEN_FAILED, REFUSED
from nova_lxd.lxd.devices.unix import octal_mode
from nova_lxd.lxd.errors import BadRequest, refused_by_host
from nova_lxd.lxd.host.netlink import Netlink
from nova_lxd.lxd.host.run import ProgramError, run
from nova_lxd.lxd.network import firewall
from nova_lxd.lxd.network import values as v
from nova_lxd.lxd.network.firewall import (
    MASQUERADE,
    Chain,
    Expression,
    Table,
    dnat,
    field_of,
    match,
)
from nova_lxd.lxd.schema.configkeys import KeyTable

_WILDCARDS = {"ipv4": "0.0.0.0", "ipv6": "::"}
_PACKAGES = Path(__file__).parents[3]
_FORWARDER = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from nova_lxd.lxd.devices.proxy_forwarder import main; "
    "sys.exit(main(sys.argv[2], sys.stdin.read()))"
)
_DSTNAT, _SRCNAT = -100, 100


class Proxy(Device):
    """LXD's device type "proxy"."""

    keys = KeyTable(
        "proxy device",
        [
            v.key("listen", "string", "Address to listen on.", proxy_address.check),
            v.key("connect", "string", "Address to connect to.", proxy_address.check),
            v.key(
                "bind",
                "string",
                "Side to listen on: host or instance.",
                v.one_of("host", "instance", "guest", "container"),
                "host",
            ),
            v.key("nat", "bool", "Let the kernel translate instead of a helper.", v.boolean),
            v.key("proxy_protocol", "bool", "Send the client's address ahead.", v.boolean),
            v.key("uid", "integer", "Owner of the listening unix socket.", v.uint32, "0"),
            v.key("gid", "integer", "Group of the listening unix socket.", v.uint32, "0"),
            v.key("mode", "integer", "Mode of the listening unix socket.", octal_mode, "0644"),
            v.key("security.uid", "integer", "User that the helper becomes.", v.uint32),
            v.key("security.gid", "integer", "Group that the helper becomes.", v.uint32),
            v.key("user.*", "string", "Free keys of the user."),
        ],
    )
    required = frozenset(("listen", "connect"))

    @property
    def listen(self) -> ProxyAddress:
        return proxy_address.parse(self.get("listen"))

    @property
    def connect(self) -> ProxyAddress:
        return proxy_address.parse(self.get("connect"))

    @property
    def on_host(self) -> bool:
        """Does it listen on the host?"""
        return self.get("bind") in ("", "host")

    # -- configuration ----------------------------------------------------------------------

    def check(self) -> None:
        listen, connect = self.listen, self.connect
        many, ports = len(connect.ports), len(listen.ports)
        if many > 1 and many != ports:
            raise BadRequest("Mismatch between listen port(s) and connect port(s) count")
        if self.flag("proxy_protocol") and (connect.kind != "tcp" or self.flag("nat")):
            raise BadRequest("The PROXY header can only be sent to tcp servers in non-nat mode")
        owned = any(self.get(key) for key in ("uid", "gid", "mode"))
        if owned and (listen.kind != "unix" or listen.abstract):
            raise BadRequest(
                "Only proxy devices for non-abstract unix sockets can carry uid, gid, or mode"
                " properties"
            )
        if self.flag("nat"):
            self._check_nat(listen, connect)

    def _check_nat(self, listen: ProxyAddress, connect: ProxyAddress) -> None:
        if not self.on_host:
            raise BadRequest("Only host-bound proxies can use NAT")
        if "unix" in (listen.kind, connect.kind) or listen.kind != connect.kind:
            raise BadRequest(
                f"Proxying {listen.kind} <-> {connect.kind} is not supported when using NAT"
            )
        if listen.host in _WILDCARDS.values():
            raise BadRequest(
                f"Cannot listen on wildcard address {v.quoted(listen.host)} when in nat mode"
            )
        if listen.family != connect.family:
            raise BadRequest("Cannot mix IP versions between listen and connect in nat mode")

    # -- life -------------------------------------------------------------------------------

    def start(self) -> RunConfig:
        self.post_stop()
        return RunConfig()

    def post_start(self) -> None:
        self.post_stop()
        if self.flag("nat"):
            self._start_nat()
        else:
            self._start_forwarder()

    def stop(self) -> RunConfig:
        self.post_stop()
        return RunConfig()

    def post_stop(self) -> Volatile:
        proxy_process.end(self._pid_file())
        if self.flag("nat"):
            firewall.remove("inet", self._table())
        return {}

    # -- forwarder --------------------------------------------------------------------------

    def _pid_file(self) -> str:
        return str(self.directory() / encode(f"proxy.{self.name}"))

    def _start_forwarder(self) -> None:
        inst = self.instance
        self.directory().mkdir(mode=0o711, parents=True, exist_ok=True)
        log = self.host.paths.log(inst.project, inst.name)
        log.mkdir(mode=0o700, parents=True, exist_ok=True)
        # By standard input: a range of ports can be longer than an argument may be.
        job = json.dumps(self._job(str(log / f"proxy.{self.name}.log"))).encode()
        # Isolated, and without site-packages: it starts fast and loads nothing but this package.
        command = [sys.executable, "-I", "-S", "-c", _FORWARDER, str(_PACKAGES)]
        try:
            run([*command, self._pid_file()], input=job, timeout=60)
        except ProgramError as exc:
            if exc.returncode not in (LISTEN_FAILED, REFUSED):
                raise
            number, _, why = exc.stderr.strip().partition(" ")
            if exc.returncode == REFUSED:
                attempt = f"Starting the forwarder of proxy {self.name}"
                raise refused_by_host(attempt, OSError(int(number), why)) from exc
            listen = v.quoted(self.get("listen"))
            raise BadRequest(f"Listening on {listen} failed: {why}") from exc

    def _job(self, log: str) -> dict[str, Any]:
        """What the forwarder has to do."""
        return {
            "listen": asdict(self.listen),
            "connect": asdict(self.connect),
            "init": self.instance.init_pid,
            "listen_inside": not self.on_host,
            "owner": self._owner(),
            "root": (0, 0) if self.on_host else self.instance.root_ids,
            "mode": int(self.get("mode") or "644", 8),
            "become": [
                int(self.get(key)) if self.get(key) else None
                for key in ("security.uid", "security.gid")
            ],
            "proxy_protocol": self.flag("proxy_protocol"),
            "log": log,
        }

    def _owner(self) -> tuple[int, int]:
        """Owner of the listening socket's file, as the host sees it."""
        uid, gid = int(self.get("uid") or 0), int(self.get("gid") or 0)
        if self.on_host or not self.instance.idmap:
            return uid, gid
        host_uid, host_gid = self.instance.idmap.host_uid(uid), self.instance.idmap.host_gid(gid)
        if host_uid is None or host_gid is None:
            raise BadRequest(
                f"Starting proxy {self.name} failed: the instance's id map has no {uid}:{gid}"
            )
        return host_uid, host_gid

    # -- NAT --------------------------------------------------------------------------------

    def _table(self) -> str:
        inst = self.instance
        return firewall.table_name(
            self.host.paths.tag, "proxy", inst.project, inst.name, self.name
        )

    def _start_nat(self) -> None:
        target, host_name = self._target_nic()
        redirects: list[list[Expression]] = []
        returns: list[list[Expression]] = []
        listen = self.listen
        protocol = "ip" if listen.family == "ipv4" else "ip6"
        for incoming, outgoing in self._port_pairs():
            redirects.append(
                [
                    match(field_of(protocol, "daddr"), listen.host),
                    match(field_of(listen.kind, "dport"), incoming),
                    dnat(protocol, target, outgoing),
                ]
            )
            # The instance that asks for itself by the host's address must be answered by it.
            returns.append(
                [
                    match(field_of(protocol, "saddr"), target),
                    match(field_of(protocol, "daddr"), target),
                    match(field_of(listen.kind, "dport"), outgoing),
                    MASQUERADE,
                ]
            )
        chains = [
            Chain("incoming", "nat", "prerouting", _DSTNAT, redirects),
            Chain("local", "nat", "output", _DSTNAT, redirects),
            Chain("hairpin", "nat", "postrouting", _SRCNAT, returns),
        ]
        firewall.apply(Table("inet", self._table(), chains))
        with Netlink() as nl:
            link = nl.find(host_name) if host_name else None
            if link is not None and link.master:
                nl.set_bridge_port(link.index, hairpin=True)

    def _port_pairs(self) -> Iterator[tuple[int, int]]:
        outgoing = self.connect.ports
        for index, incoming in enumerate(self.listen.ports):
            yield incoming, outgoing[index] if len(outgoing) > 1 else outgoing[0]

    def _target_nic(self) -> tuple[str, str]:
        """(address, host's interface) of the nic that the connect address belongs to.

        Only a fixed address of the instance will do: another would redirect traffic to others.
        """
        family, wanted = self.connect.family, self.connect.host
        for name, config in sorted(self.instance.devices.items()):
            if config.get("type") != "nic":
                continue
            for address in v.split_list(config.get(f"{family}.address")):
                if wanted in (address, _WILDCARDS[family]) and address != "none":
                    return address, self.instance.volatile(name, "host_name")
        version = family[-1]
        if wanted == _WILDCARDS[family]:
            raise BadRequest(
                f"Instance has no static IPv{version} address assigned to be used as the"
                " connect IP"
            )
        raise BadRequest(
            f"Connect IP {v.quoted(wanted)} must be one of the instance's static IPv{version}"
            " addresses"
        )
