# SPDX-License-Identifier: Apache-2.0
"""Network rates of a flavor, and when they change."""

from __future__ import annotations

import pytest

from nova_lxd.tests.functional.virt import world
from nova_lxd.virt import guest, shaping

IN, OUT = "quota:vif_inbound_", "quota:vif_outbound_"


@pytest.mark.parametrize(
    "specs", [{}, {IN + "average": "0"}, {IN + "peak": "500", OUT + "burst": "64"}]
)
def test_no_average_is_no_rate(specs: dict[str, str]) -> None:
    assert shaping.rates(specs) is None
    assert guest.vif_rates(world.flavor(extra_specs=specs)) == {}


def test_directions_are_the_guests() -> None:
    found = shaping.rates({IN + "average": "1000", OUT + "average": "10", OUT + "burst": "200"})
    assert found == shaping.Rates(
        inbound=shaping.Rate(1000, burst=100), outbound=shaping.Rate(10, burst=200)
    )


def test_burst_is_never_below_what_a_timer_needs() -> None:
    (found,) = [shaping.rates({IN + "average": "10", IN + "burst": "1"})]
    assert found and found.inbound and found.inbound.burst == shaping.MIN_BURST_KB


def test_peak_below_the_average_means_nothing() -> None:
    found = shaping.rates({IN + "average": "100", IN + "peak": "50"})
    assert found and found.inbound and found.inbound.peak is None
    found = shaping.rates({IN + "average": "100", IN + "peak": "150"})
    assert found and found.inbound and found.inbound.peak == 150


def test_every_change_changes_the_mark() -> None:
    variants = [
        {IN + "average": "100"},
        {OUT + "average": "100"},
        {IN + "average": "101"},
        {IN + "average": "100", IN + "peak": "200"},
        {IN + "average": "100", IN + "burst": "64"},
        {IN + "average": "100", OUT + "average": "100"},
    ]
    marks = {
        guest.vif_rates(world.flavor(extra_specs=specs))[guest.VIF_RATES_KEY]
        for specs in variants
    }
    assert len(marks) == len(variants)
