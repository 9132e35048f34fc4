# SPDX-License-Identifier: Apache-2.0
"""Null in a body means the zero value, as for LXD."""

from __future__ import annotations

import msgspec
import pytest

from nova_lxd.lxd.api import gojson
from nova_lxd.lxd.schema.instances import InstancePatch, InstancesPost


def test_null_is_the_zero_value() -> None:
    body = gojson.decode(
        b'{"name": null, "ephemeral": null, "profiles": null, "config": {"user.a": null},'
        b' "source": {"type": "none", "alias": null}, "devices": {"d": {"k": null}}}',
        InstancesPost,
    )
    assert (body.name, body.ephemeral, body.profiles) == ("", False, None)
    assert body.source.type == "none" and body.source.alias == ""
    assert body.config == {"user.a": ""} and body.devices == {"d": {"k": ""}}


def test_null_source_is_an_empty_one() -> None:
    assert gojson.decode(b'{"source": null}', InstancesPost).source.type == ""


def test_patch_leaves_null_alone() -> None:
    assert gojson.decode(b'{"ephemeral": null}', InstancePatch).ephemeral is msgspec.UNSET


@pytest.mark.parametrize("text", [b"{", b'{"name": 5, "config": null}', b"[null]", b"null"])
def test_wrong_types_are_still_refused(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        gojson.decode(text, InstancesPost)
