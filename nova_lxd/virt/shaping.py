# SPDX-License-Identifier: Apache-2.0
"""Network rates of a flavor (``quota:vif_*``), kept on the host where no guest can undo them.

LXD has no rates for ``physical`` nics, Open vSwitch owns the queueing discipline of its ports,
and a datapath in user space takes packets before any filter of the port sees them. So a port
with a rate gets a second pair: packets cross from one to the other by ``tc`` redirection, and
leave each through a token bucket. That holds on every switch::

    switch - tap... = tsw... -(redirect)- tgu... = tin... - guest
"""

from __future__ import annotations

import dataclasses
from typing import Any

from nova_lxd.virt import privsep

# tc sends in bursts of at least this, so that a slow timer does not cost throughput.
MIN_BURST_KB = 32
BURST_SECONDS = 0.1  # of the average, when the flavor names none
FRAME_OVERHEAD = 64  # bytes that a frame may have beyond its MTU
DEFAULT_MTU = 1500


@dataclasses.dataclass(frozen=True)
class Rate:
    """What may pass in one direction.

    :param average: kilobytes per second
    :param burst: kilobytes that may pass at ``peak`` speed at once
    :param peak: kilobytes per second, None for as fast as it goes
    """

    average: int
    burst: int
    peak: int | None = None


@dataclasses.dataclass(frozen=True)
class Rates:
    """Both directions as the guest sees them; None is unlimited."""

    inbound: Rate | None
    outbound: Rate | None


@dataclasses.dataclass(frozen=True)
class Links:
    """The names of both pairs' ends, from the switch to the guest."""

    outer: str
    switch_end: str
    guest_end: str
    inner: str


def rates(specs: dict[str, str]) -> Rates | None:
    """Return the rates that a flavor's extra specs ask for; None when they ask for none."""
    found = Rates(_rate(specs, "inbound"), _rate(specs, "outbound"))
    return found if found.inbound or found.outbound else None


def text(found: Rates) -> str:
    """Write the rates as one line, to tell whether those of a container are still wanted."""
    sides = (("in", found.inbound), ("out", found.outbound))
    return " ".join(f"{name}:{r.average}/{r.peak or ''}/{r.burst}" for name, r in sides if r)


def make(found: Rates, links: Links, mac: str, mtu: int | None) -> None:
    """Make both pairs and join them; what is half made is the caller's to delete."""
    privsep.create_veth(links.outer, links.switch_end, None, mtu)
    privsep.create_veth(links.guest_end, links.inner, mac, mtu)
    privsep.join_links(links.switch_end, links.guest_end)
    frame = (mtu or DEFAULT_MTU) + FRAME_OVERHEAD
    for name, rate in ((links.switch_end, found.outbound), (links.guest_end, found.inbound)):
        if rate:
            privsep.limit_rate(name, **dataclasses.asdict(rate), frame=frame)


def _rate(specs: dict[str, Any], direction: str) -> Rate | None:
    average = int(specs.get(f"quota:vif_{direction}_average", 0))
    if not average:
        return None  # as for libvirt: peak and burst mean nothing alone
    peak = int(specs.get(f"quota:vif_{direction}_peak", 0))
    burst = int(specs.get(f"quota:vif_{direction}_burst", 0))
    burst = max(burst or int(average * BURST_SECONDS), MIN_BURST_KB)
    return Rate(average, burst, peak if peak > average else None)
