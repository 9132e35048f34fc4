# SPDX-License-Identifier: Apache-2.0
"""The guests' way out: the external subnet goes to the world under the machine's own address.

The rules are in an nftables table of the cloud's own.  Packets are forwarded only between the
external bridge and the interfaces of the machine's default routes, and from outside only as
answers: a machine that was no router does not become one for its neighbours.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path

from cloud.context import Cloud
from cloud.host import boot_id
from cloud.layout import EXTERNAL_BRIDGE
from cloud.run import run
from cloud.steps import Step

RESOLVER_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
SYSCTLS = Path("/proc/sys/net/ipv4/conf")


def table(cloud: Cloud) -> str:
    """The name of the cloud's nftables table, of family ip."""
    return "nova-lxd-cloud" + (f"-{cloud.layout.tag}" if cloud.layout.tag else "")


def uplinks(routes: Path = Path("/proc/net/route")) -> list[str]:
    """The interfaces of the default routes."""
    rows = (line.split() for line in routes.read_text().splitlines()[1:])
    found = (row[0] for row in rows if int(row[1], 16) == 0 and int(row[7], 16) == 0)
    return list(dict.fromkeys(found))


def rules(
    name: str, subnet: str, closed: Iterable[str], bridge: str = f'"{EXTERNAL_BRIDGE}"'
) -> str:
    """The table, as nft reads it.

    ``closed`` are the interfaces that forwarded nothing before: through them nobody comes in.
    """
    lines = [
        f"table ip {name} {{",
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat;",
        f"    oifname != {bridge} ip saddr {subnet} masquerade",
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter;",
        f"    oifname {bridge} ct state established,related accept",
        f"    oifname {bridge} drop",
        f"    iifname {bridge} accept",
        *(f'    iifname "{interface}" ct state new drop' for interface in closed),
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def forwarding(interface: str) -> Path:
    return SYSCTLS / interface / "forwarding"


def record(cloud: Cloud) -> Path:
    """What the interfaces' forwarding was before, to be put back."""
    return cloud.layout.run / "forwarding.json"


def remembered(cloud: Cloud) -> dict[str, str]:
    """The values to put back: none when the machine was booted since."""
    try:
        data = json.loads(record(cloud).read_text())
    except FileNotFoundError:
        return {}
    was: dict[str, str] = data["was"] if data["boot"] == boot_id() else {}
    return was


def open_way(cloud: Cloud) -> bool | None:
    """Load the rules, and let the interfaces forward."""
    if not cloud.settings.outbound:
        close_way(cloud)
        return False
    was = remembered(cloud)
    interfaces = [EXTERNAL_BRIDGE, *uplinks()]
    for interface in interfaces:
        was.setdefault(interface, forwarding(interface).read_text().strip())
    record(cloud).write_text(json.dumps({"boot": boot_id(), "was": was}))
    closed = [name for name in interfaces[1:] if was[name] == "0"]
    name = table(cloud)
    subnet = str(ipaddress.IPv4Network(cloud.settings.external_subnet))
    # In one transaction: an older table of ours goes as the new one comes.
    text = f"table ip {name}\ndelete table ip {name}\n" + rules(name, subnet, closed)
    run(("nft", "-f", "-"), log=cloud.log("step-outbound"), text=text)
    for interface in interfaces:
        forwarding(interface).write_text("1")
    return None


def close_way(cloud: Cloud) -> None:
    """Undo open_way(); there may be nothing to undo."""
    for interface, value in remembered(cloud).items():
        if forwarding(interface).exists():
            forwarding(interface).write_text(value)
    if record(cloud).exists():
        name = table(cloud)
        run(("nft", "-f", "-"), log=cloud.log("step-outbound"),
            text=f"table ip {name}\ndelete table ip {name}\n")
        record(cloud).unlink()


def is_open(cloud: Cloud) -> bool:
    """Whether the table is loaded."""
    return record(cloud).exists() and f"table ip {table(cloud)}" in run(
        ("nft", "list", "tables"), log=cloud.log("step-outbound")).splitlines()


def resolvers(files: Iterable[Path] = RESOLVER_FILES) -> list[str]:
    """The machine's name servers, as far as guests can reach them: none of its loopback."""
    found = []
    for path in files:
        if path.is_file():
            for line in path.read_text().splitlines():
                word, _, address = line.partition(" ")
                if word == "nameserver" and usable(address.strip()):
                    found.append(address.strip())
    return list(dict.fromkeys(found))


def usable(address: str) -> bool:
    try:
        return not ipaddress.IPv4Address(address).is_loopback
    except ipaddress.AddressValueError:  # the guests have IPv4 only
        return False


def steps(cloud: Cloud) -> list[Step]:
    return [Step("network/outbound", lambda: open_way(cloud), needs=("network/external bridge",))]
