# SPDX-License-Identifier: Apache-2.0
"""HTTPS listeners: moved to overlapping addresses, kept when refused, and one for metrics."""

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


def metrics_answer(daemon: Daemon, path: str, port: int = 9100) -> tuple[str, str]:
    """Status and body of a GET without a certificate."""
    argv = ["curl", "-sk", "-w", "\n%{http_code}", f"https://127.0.0.1:{port}{path}"]
    body, _, status = daemon.sandbox.run(argv).stdout.rpartition("\n")
    return status, body


def test_metrics_have_an_address_of_their_own(bare: Daemon) -> None:
    bare.lxc("config", "set", "core.metrics_address", "127.0.0.1")
    assert metrics_answer(bare, "/1.0/metrics")[0] == "403"
    bare.lxc("config", "set", "core.metrics_authentication", "false")
    status, text = metrics_answer(bare, "/1.0/metrics")
    assert status == "200" and text.endswith("# EOF\n")
    assert metrics_answer(bare, "/1.0/instances")[0] == "404"
    bare.restart()
    assert metrics_answer(bare, "/1.0/metrics")[0] == "200"
    bare.lxc("config", "set", "core.metrics_address", "127.0.0.1:9101")
    assert metrics_answer(bare, "/1.0/metrics", 9101)[0] == "200"
    bare.lxc("config", "unset", "core.metrics_address")
    argv = ["curl", "-sk", "https://127.0.0.1:9101/1.0/metrics"]
    assert bare.sandbox.run(argv, check=False).returncode == 7


def test_default_architecture_is_one_that_lxd_knows(bare: Daemon) -> None:
    bare.lxc("config", "set", "images.default_architecture", "aarch64")
    assert bare.refused("config", "set", "images.default_architecture", "abacus")
    assert bare.get("/1.0")["config"]["images.default_architecture"] == "aarch64"
