# SPDX-License-Identifier: Apache-2.0
"""Moving the HTTPS listener: overlapping addresses, and refusals that keep the old one."""

from __future__ import annotations

from nova_lxd.tests.functional.daemon import Daemon


def listens(daemon: Daemon) -> bool:
    """Does a TLS client get an answer on 127.0.0.1:8443?"""
    argv = ["curl", "-skf", "-o", "/dev/null", "https://127.0.0.1:8443/"]
    return daemon.sandbox.run(argv, check=False).returncode == 0


def test_listener_moves_to_an_overlapping_address(bare: Daemon) -> None:
    bare.lxc("config", "set", "core.https_address", "127.0.0.1:8443")
    assert listens(bare)
    bare.lxc("config", "set", "core.https_address", ":8443")
    assert bare.lxc("config", "get", "core.https_address").stdout.strip() == ":8443"
    assert listens(bare)
    bare.lxc("config", "unset", "core.https_address")
    assert not listens(bare)


def test_refused_address_keeps_the_old_listener(bare: Daemon) -> None:
    bare.lxc("config", "set", "core.https_address", "127.0.0.1:8443")
    answer = bare.api("PATCH", "/1.0", {"config": {"core.https_address": "127.0.0.1:99999"}})
    assert answer.status >= 400
    if bare.backend == "lxd":
        return  # real LXD stores the port it could not use, and listens no more
    assert bare.lxc("config", "get", "core.https_address").stdout.strip() == "127.0.0.1:8443"
    assert listens(bare)
