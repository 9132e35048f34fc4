# SPDX-License-Identifier: Apache-2.0
"""Keys of the server: names that other modules have, too, and values that are refused."""

from __future__ import annotations

import pytest

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.images import architectures
from nova_lxd.lxd.schema.serverkeys import ARCHITECTURES, SERVER_KEYS


def test_architectures_are_those_of_images() -> None:
    assert set(ARCHITECTURES) == set(architectures.ALIASES)


@pytest.mark.parametrize(
    "key, value",
    [
        ("core.metrics_address", "not an address"),
        ("core.shutdown_timeout", "-1"),
        ("images.default_architecture", "abacus"),
    ],
)
def test_bad_values_are_refused(key: str, value: str) -> None:
    with pytest.raises(BadRequest, match="Invalid value for server option"):
        SERVER_KEYS.validate({key: value})
