# SPDX-License-Identifier: Apache-2.0
"""nftables rules of this daemon, each network and each nic in a table of its own.

A table is replaced whole in one transaction, so applying one is idempotent, and it goes whole, so
nothing can be left of it.  Its name carries the daemon's tag (``nova_lxd_TAG_…``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host.run import ProgramError, run

Expression = dict[str, Any]

_PREFIX = "nova_lxd_"


@dataclass(frozen=True)
class Chain:
    """A base chain: where it hooks in and its rules, each a list of nftables JSON expressions."""

    name: str
    kind: str
    hook: str
    priority: int
    rules: Sequence[Sequence[Expression]]
    device: str = ""


@dataclass(frozen=True)
class Table:
    """One table; ``family`` is inet, bridge or netdev."""

    family: str
    name: str
    chains: Sequence[Chain] = field(default_factory=tuple)


def table_name(tag: str, kind: str, *parts: str) -> str:
    """The name of the table of a network (kind ``net``), nic (``nic``) or proxy (``proxy``)."""
    # A character that nftables does not take becomes its code, so that two names stay two.
    safe = (
        re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found.group()):x}_", part) for part in parts
    )
    return f"{_PREFIX}{tag}_{kind}_" + ".".join(safe)


def apply(*tables: Table) -> None:
    """Put the tables in place of any of the same name, all in one transaction.

    :raises InternalError: nftables refuses them or is not there; nothing has changed then.
    """
    commands: list[Expression] = []
    for table in tables:
        # The first "add" lets "delete" succeed whether or not the table was there.
        commands += [{verb: {"table": _identity(table)}} for verb in ("add", "delete", "add")]
        for chain in table.chains:
            commands.append({"add": {"chain": _chain(table, chain)}})
            commands += [
                {
                    "add": {
                        "rule": {
                            "family": table.family,
                            "table": table.name,
                            "chain": chain.name,
                            "expr": list(rule),
                        }
                    }
                }
                for rule in chain.rules
            ]
    try:
        _nft(commands)
    except ProgramError as exc:
        names = ", ".join(f"{table.family} {table.name}" for table in tables)
        # Of the many that follow from the first one.
        reason = (exc.stderr.strip().splitlines() or [str(exc)])[0].rpartition("Error: ")[2]
        raise InternalError(
            f"Making the nftables rules {names} failed: {reason}; they need the program nft and a "
            "kernel that has nf_tables for this family"
        ) from exc


def remove(family: str, name: str) -> None:
    """Remove a table; nothing happens when there is none."""
    table = Table(family, name)
    # Adding it first makes the deletion succeed whether or not it was there.
    try:
        _nft([{"add": {"table": _identity(table)}}, {"delete": {"table": _identity(table)}}])
    except ProgramError:
        # A kernel without such tables cannot add one either, and has none to remove.
        if (family, name) in _listed():
            raise


def tables(tag: str) -> list[tuple[str, str]]:
    """(family, name) of every table of the daemon with this tag."""
    prefix = f"{_PREFIX}{tag}_"
    return [(family, name) for family, name in _listed() if name.startswith(prefix)]


def _listed() -> list[tuple[str, str]]:
    """(family, name) of every table of this network namespace."""
    listed = json.loads(run(["nft", "-j", "list", "tables"]).text)["nftables"]
    found = (item["table"] for item in listed if "table" in item)
    return [(table["family"], table["name"]) for table in found]


def _identity(table: Table) -> Expression:
    return {"family": table.family, "name": table.name}


def _chain(table: Table, chain: Chain) -> Expression:
    described: Expression = {
        "family": table.family,
        "table": table.name,
        "name": chain.name,
        "type": chain.kind,
        "hook": chain.hook,
        "prio": chain.priority,
        "policy": "accept",
    }
    if chain.device:
        described["dev"] = chain.device
    return described


def _nft(commands: list[Expression]) -> None:
    run(["nft", "-j", "-f", "-"], input=json.dumps({"nftables": commands}).encode(), timeout=60)


# -- expressions ------------------------------------------------------------------------------

ACCEPT: Expression = {"accept": None}
DROP: Expression = {"drop": None}
MASQUERADE: Expression = {"masquerade": None}


def match(left: Expression, right: Any, op: str = "==") -> Expression:
    return {"match": {"op": op, "left": left, "right": right}}


def field_of(protocol: str, name: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": name}}


def meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def prefix(network: str) -> Expression:
    """``10.0.0.0/24`` as nftables writes it."""
    address, _, length = network.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def any_of(values: Iterable[Any]) -> Expression:
    return {"set": list(values)}


def dnat(family: str, address: str, port: int | None = None) -> Expression:
    """Send the packet to another address, ``family`` is ip or ip6."""
    target: Expression = {"family": family, "addr": address}
    if port is not None:
        target["port"] = port
    return {"dnat": target}


def snat(family: str, address: str) -> Expression:
    return {"snat": {"family": family, "addr": address}}


def limit_over(bytes_per_second: int, burst: int) -> list[Expression]:
    """Drop what goes beyond a rate, with ``burst`` bytes at once allowed."""
    return [
        {
            "limit": {
                "rate": bytes_per_second,
                "rate_unit": "bytes",
                "per": "second",
                "burst": burst,
                "burst_unit": "bytes",
                "inv": True,
            }
        },
        DROP,
    ]
