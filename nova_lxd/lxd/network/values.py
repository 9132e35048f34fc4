# SPDX-License-Identifier: Apache-2.0
"""Checks and readings of the values that network and device configuration holds.

A check is a function of the text that raises ValueError with LXD's sentence (package
``shared/validate``); :func:`check_config` runs a table of keys over a configuration.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.schema.configkeys import Key, KeyTable, Validator

Check = Callable[[str], object]

_TRUE = frozenset(("true", "yes", "1", "on"))
_FALSE = frozenset(("false", "no", "0", "off"))
_BYTE_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
    "EB": 10**18,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "PiB": 2**50,
    "EiB": 2**60,
}
_BIT_UNITS = {
    "": 1,
    "bit": 1,
    "kbit": 10**3,
    "Mbit": 10**6,
    "Gbit": 10**9,
    "Tbit": 10**12,
    "Pbit": 10**15,
    "Ebit": 10**18,
    "Kibit": 2**10,
    "Mibit": 2**20,
    "Gibit": 2**30,
    "Tibit": 2**40,
    "Pibit": 2**50,
    "Eibit": 2**60,
}
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def quoted(value: str) -> str:
    """The text as Go's %q shows it in LXD's sentences."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_true(value: str | None) -> bool:
    """Does the text say yes?  Unset is no."""
    return (value or "").lower() in _TRUE


def is_false(value: str | None) -> bool:
    """Does the text say no?  Unset is not no."""
    return (value or "").lower() in _FALSE


def split_list(value: str | None) -> list[str]:
    """The items of a comma separated list, trimmed, empty ones left out."""
    return [item.strip() for item in (value or "").split(",") if item.strip()]


def _size(value: str, units: Mapping[str, int], what: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", value.strip())
    if match is None or match.group(2) not in units:
        raise ValueError(f"Invalid value {quoted(value)}: {what}")
    number = int(match.group(1)) * units[match.group(2)]
    if number >= 2**63:
        raise ValueError(f"Invalid value {quoted(value)}: it is too large")
    return number


def parse_bytes(value: str) -> int:
    """Bytes of a text such as ``10MiB`` or ``5000``.  ValueError: it is no size."""
    return _size(value, _BYTE_UNITS, "give bytes with an optional unit such as MB or MiB")


def parse_bits(value: str) -> int:
    """Bits per second of a text such as ``100Mbit``.  ValueError: it is no rate."""
    return _size(value, _BIT_UNITS, "give bits per second with an optional unit such as Mbit")


# -- checks -----------------------------------------------------------------------------------


def anything(value: str) -> None:
    """Every text is fine."""


def optional(check: Check) -> Check:
    """The check, satisfied by the empty text too."""
    return lambda value: check(value) if value else None


def list_of(check: Check) -> Check:
    """The check for each item of a comma separated list."""

    def each(value: str) -> None:
        for item in (part.strip() for part in value.split(",")):
            try:
                check(item)
            except ValueError as exc:
                raise ValueError(f"Item {quoted(item)}: {exc}") from exc

    return each


def not_empty(value: str) -> None:
    if not value:
        raise ValueError("Required value")


def boolean(value: str) -> None:
    if value.lower() not in _TRUE | _FALSE:
        raise ValueError(f"Invalid value for a boolean {quoted(value)}")


def one_of(*choices: str) -> Check:
    def check(value: str) -> None:
        if value not in choices:
            raise ValueError(f"Invalid value {quoted(value)} (not one of [{' '.join(choices)}])")

    return check


def integer(low: int, high: int) -> Check:
    def check(value: str) -> None:
        if not re.fullmatch(r"[+-]?[0-9]+", value):
            raise ValueError(f"Invalid value for an integer {quoted(value)}")
        if not low <= int(value) <= high:
            raise ValueError(f"Value is not within valid range. Must be between {low} and {high}")

    return check


uint32 = integer(0, 2**32 - 1)
uint8 = integer(0, 255)


def interface_name(value: str) -> None:
    if len(value) < 2:
        raise ValueError("Network interface is too short (minimum 2 characters)")
    if len(value) > 15:
        raise ValueError("Network interface is too long (maximum 15 characters)")
    if ".." in value:
        raise ValueError("Network interface name must not contain '..'")
    if not re.fullmatch(r"[-_a-zA-Z0-9.]+", value):
        raise ValueError("Network interface contains invalid characters")


def mac(value: str) -> None:
    if not _MAC.fullmatch(value):
        raise ValueError("Invalid MAC address, must be 6 bytes of hex separated by colons")


def mtu(value: str) -> None:
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"Invalid MTU {quoted(value)}")
    if not 1280 <= int(value) <= 16384:
        raise ValueError(f"Out of MTU range (1280-16384) {quoted(value)}")


def vlan(value: str) -> None:
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"Invalid VLAN ID {quoted(value)}")
    if int(value) > 4094:
        raise ValueError(f"Out of VLAN ID range (0-4094) {quoted(value)}")


def port(value: str) -> None:
    if not value.isascii() or not value.isdigit() or int(value) > 65535:
        raise ValueError(f"Invalid port number {quoted(value)}")


def address(value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f"Not an IP address {quoted(value)}")


def address_v4(value: str) -> None:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError(f"Not an IPv4 address {quoted(value)}")


def address_v6(value: str) -> None:
    try:
        parsed = ipaddress.IPv6Address(value)
    except ValueError:
        raise ValueError(f"Not an IPv6 address {quoted(value)}")
    if parsed.scope_id:
        raise ValueError(f"Not an IPv6 address {quoted(value)}")


def _interface(value: str, version: int) -> None:
    if "/" not in value:
        raise ValueError(f"invalid CIDR address: {value}")
    try:
        found = ipaddress.ip_interface(value)
    except ValueError:
        raise ValueError(f"invalid CIDR address: {value}")
    if found.version != version:
        raise ValueError(f"Not an IPv{version} address {quoted(value)}")
    if found.ip == found.network.network_address:
        raise ValueError(f"Not a usable IPv{version} address {quoted(value)}")


def interface_v4(value: str) -> None:
    """An IPv4 address of a host with its prefix length, such as 10.0.0.1/24."""
    _interface(value, 4)


def interface_v6(value: str) -> None:
    """An IPv6 address of a host with its prefix length."""
    _interface(value, 6)


def _network(value: str, version: int) -> None:
    if "/" not in value:
        raise ValueError(f"invalid CIDR address: {value}")
    try:
        found = ipaddress.ip_interface(value)
    except ValueError:
        raise ValueError(f"invalid CIDR address: {value}")
    if found.version != version:
        raise ValueError(f"Not an IPv{version} network {quoted(value)}")
    if found.ip != found.network.network_address:
        raise ValueError(f"Not an IPv{version} network address {quoted(value)}")


def network_v4(value: str) -> None:
    """An IPv4 subnet such as 10.0.0.0/24."""
    _network(value, 4)


def network_v6(value: str) -> None:
    """An IPv6 subnet."""
    _network(value, 6)


def _range(value: str, check: Check) -> None:
    start, separator, end = value.partition("-")
    if not separator:
        raise ValueError("IP range must contain start and end IP addresses")
    check(start.strip())
    check(end.strip())
    if int(ipaddress.ip_address(start.strip())) > int(ipaddress.ip_address(end.strip())):
        raise ValueError("Start IP address must be before or equal to end IP address")


def range_v4(value: str) -> None:
    """``FIRST-LAST`` of IPv4 addresses."""
    _range(value, address_v4)


def range_v6(value: str) -> None:
    """``FIRST-LAST`` of IPv6 addresses."""
    _range(value, address_v6)


def size(value: str) -> None:
    """A size in bytes with an optional unit."""
    parse_bytes(value)


def rate(value: str) -> None:
    """A rate in bits per second with an optional unit."""
    parse_bits(value)


def says(check: Check) -> Validator:
    """The check in the form that :class:`Key` holds: what is wrong with the text, or None."""

    def answer(value: str) -> str | None:
        try:
            check(value)
        except ValueError as exc:
            return str(exc)
        return None

    return answer


def key(name: str, kind: str, doc: str, check: Check = anything, default: str = "") -> Key:
    """The declaration of one config key with a check of this module; the empty text is unset."""
    return Key(name, kind, doc, says(optional(check)), default)


def check_config(
    config: Mapping[str, str],
    table: KeyTable,
    *,
    invalid: Callable[[str, str], str],
    unknown: Callable[[str], str],
    required: Collection[str] = (),
) -> None:
    """Check a configuration against its table of keys.

    :param invalid: makes the error's sentence of (key, reason).
    :param unknown: makes the error's sentence of a key that the table does not have.
    :raises BadRequest: a key is unknown, missing or has an invalid value.
    """
    for name in required:
        if not config.get(name):
            raise BadRequest(invalid(name, "Required value"))
    for name, value in config.items():
        declared = table.find(name)
        if declared is None:
            raise BadRequest(unknown(name))
        reason = "Contains a NUL byte" if "\0" in value else declared.check(value)
        if reason:
            raise BadRequest(invalid(name, reason))
