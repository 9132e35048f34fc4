# SPDX-License-Identifier: Apache-2.0
"""HTTPS: trust by password and token, what strangers see, copies between two servers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nova_lxd.tests.functional.conftest import furnish, remove
from nova_lxd.tests.functional.daemon import Daemon

PORT = 8443


class Client:
    """`lxc` inside the daemon's network, with a configuration of its own."""

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self._daemon = daemon
        self.home = home
        home.mkdir()

    def lxc(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = self._daemon.sandbox.run(
            ["lxc", *args],
            check=False,
            env={
                "LXD_CONF": str(self.home),
                "HOME": str(self.home),
                "LXD_DIR": str(self._daemon.lxd_dir),
            },
        )
        assert not check or done.returncode == 0, done.stderr
        return done


@pytest.fixture
def https(daemon: Daemon) -> Iterator[str]:
    """The daemon's HTTPS address, open for one test; no trust is left behind."""
    address = f"127.0.0.1:{PORT}"
    daemon.lxc("config", "set", "core.https_address", address)
    yield address
    for path in daemon.get("/1.0/certificates"):
        assert daemon.api("DELETE", path).status == 200
    daemon.lxc("config", "unset", "core.trust_password")
    daemon.lxc("config", "unset", "core.https_address")


@pytest.fixture
def client(daemon: Daemon, tmp_path: Path) -> Client:
    return Client(daemon, tmp_path / "client")


def curl(daemon: Daemon, *arguments: str) -> tuple[int, str]:
    done = daemon.inside("curl", "-sk", "-w", "\n%{http_code}", *arguments, check=False)
    body, _newline, code = done.stdout.rpartition("\n")
    return int(code), body


def test_password(daemon: Daemon, https: str, client: Client) -> None:
    daemon.lxc("config", "set", "core.trust_password", "sekrit")
    assert daemon.get("/1.0")["config"]["core.trust_password"] is True
    wrong = client.lxc(
        "remote", "add", "srv", https, "--accept-certificate", "--password", "guess", check=False
    )
    assert wrong.returncode != 0 and "not authorized" in wrong.stderr
    assert daemon.get("/1.0/certificates") == []
    client.lxc("remote", "add", "srv", https, "--accept-certificate", "--password", "sekrit")
    (certificate,) = daemon.get("/1.0/certificates?recursion=1")
    assert certificate["type"] == "client" and certificate["restricted"] is False
    assert certificate["name"].startswith("root@")  # lxc's certificate says whose it is
    assert certificate["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    assert client.lxc("list", "srv:", "-fcsv").returncode == 0
    assert client.lxc("profile", "list", "srv:", "-fcsv").stdout.startswith("default,")
    daemon.lxc("config", "trust", "remove", certificate["fingerprint"][:12])
    assert client.lxc("list", "srv:", check=False).returncode != 0


def test_token(daemon: Daemon, https: str, client: Client) -> None:
    done = daemon.lxc("config", "trust", "add", "--name", "friend")
    token = done.stdout.split()[-1]
    listed = daemon.lxc("config", "trust", "list-tokens", "-fcsv").stdout
    assert listed.startswith("friend,")
    client.lxc("remote", "add", "srv", token, "--accept-certificate")
    (certificate,) = daemon.get("/1.0/certificates?recursion=1")
    assert certificate["name"] == "friend"
    assert "default" in client.lxc("profile", "list", "srv:", "-fcsv").stdout
    # Used up.
    assert daemon.lxc("config", "trust", "list-tokens", "-fcsv").stdout == ""
    other = Client(daemon, client.home.with_name("other"))
    done = other.lxc("remote", "add", "srv", token, "--accept-certificate", check=False)
    assert done.returncode != 0


def test_certificate_added_by_hand(daemon: Daemon, https: str, client: Client) -> None:
    client.lxc("remote", "add", "srv", https, "--accept-certificate", "--public", check=False)
    client.lxc("remote", "generate-certificate", check=False)
    crt = client.home / "client.crt"
    if not crt.exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1",
             "-nodes", "-days", "30", "-subj", "/CN=hand", "-out", str(crt),
             "-keyout", str(client.home / "client.key")],
            check=True, capture_output=True,
        )  # fmt: skip
    daemon.lxc("config", "trust", "add", str(crt))
    assert "client.crt" in daemon.lxc("config", "trust", "list", "-fcsv").stdout
    pair = ("--cert", str(crt), "--key", str(client.home / "client.key"))
    assert curl(daemon, *pair, f"https://{https}/1.0/instances")[0] == 200
    assert '"auth":"trusted"' in curl(daemon, *pair, f"https://{https}/1.0")[1]
    assert "already" in daemon.refused("config", "trust", "add", str(crt))


def test_strangers_see_next_to_nothing(daemon: Daemon, https: str) -> None:
    code, body = curl(daemon, f"https://{https}/1.0")
    assert code == 200 and '"auth":"untrusted"' in body
    assert "environment" not in body and "core.https_address" not in body
    for path in ("instances", "certificates", "networks", "profiles", "events", "operations"):
        code, body = curl(daemon, f"https://{https}/1.0/{path}")
        assert code == 403, (path, body)
        assert "not authorized" in body
    code, body = curl(daemon, f"https://{https}/1.0/images")
    assert code == 200 and '"metadata":[]' in body
    code, _body = curl(daemon, "-X", "POST", "-d", "{}", f"https://{https}/1.0/certificates")
    assert code in (400, 403)
    assert curl(daemon, f"https://{https}/internal/ready")[0] == 403


def test_public_images_are_seen_and_fetched(daemon: Daemon, https: str, client: Client) -> None:
    fingerprint = daemon.get("/1.0/images/aliases/busybox")["target"]
    assert curl(daemon, f"https://{https}/1.0/images/{fingerprint}")[0] == 404
    body = {"public": True}
    assert daemon.api("PATCH", f"/1.0/images/{fingerprint}", body).status == 200
    try:
        assert curl(daemon, f"https://{https}/1.0/images/{fingerprint}")[0] == 200
        client.lxc("remote", "add", "pub", https, "--public", "--accept-certificate")
        assert fingerprint[:12] in client.lxc("image", "list", "pub:", "-fcsv").stdout
    finally:
        daemon.api("PATCH", f"/1.0/images/{fingerprint}", {"public": False})


def test_address_can_be_closed_again(daemon: Daemon) -> None:
    daemon.lxc("config", "set", "core.https_address", f"127.0.0.1:{PORT}")
    assert curl(daemon, f"https://127.0.0.1:{PORT}/1.0")[0] == 200
    daemon.lxc("config", "unset", "core.https_address")
    done = daemon.inside("curl", "-sk", f"https://127.0.0.1:{PORT}/1.0", check=False)
    assert done.returncode == 7


@pytest.mark.parametrize("mode", ["pull", "push", "relay"])
def test_copy_between_servers(daemon: Daemon, https: str, client: Client, mode: str) -> None:
    """A second daemon in the same network; instance, snapshots and an image go over."""
    other = Daemon(daemon.backend, "other")
    other.sandbox.close()
    other.sandbox = daemon.sandbox
    try:
        other.start()
        other.lxc("storage", "create", "default", "dir")
        other.lxc("profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
        for each, port in ((daemon, PORT), (other, PORT + 1)):
            each.lxc("config", "set", "core.https_address", f"127.0.0.1:{port}")
            each.lxc("config", "set", "core.trust_password", "sekrit")
        for name, port in (("one", PORT), ("two", PORT + 1)):
            client.lxc(
                "remote", "add", name, f"127.0.0.1:{port}", "--accept-certificate",
                "--password", "sekrit",
            )  # fmt: skip
        client.lxc("init", "one:busybox", "one:mover")
        client.lxc("file", "push", "/etc/hostname", "one:mover/root/f")
        client.lxc("snapshot", "one:mover", "s0")
        client.lxc("copy", "one:mover", "two:moved", f"--mode={mode}")
        assert other.status("moved") == "Stopped"
        assert [each["name"] for each in other.instance_snapshots("moved")] == ["s0"]
        assert other.api("GET", "/1.0/instances/moved/files?path=/root/f").status == 200
        other.lxc("start", "moved")
        assert other.exec("moved", "stat", "-c", "%u", "/bin/busybox") == "0"
        other.lxc("delete", "-f", "moved")
        client.lxc("image", "copy", "one:busybox", "two:", "--copy-aliases", f"--mode={mode}")
        assert other.get("/1.0/images/aliases/busybox")
    finally:
        remove(daemon, "mover")
        other.sandbox = type(other.sandbox)("none")
        other._remove()


def test_trusted_client_from_a_second_remote_runs_everything(
    daemon: Daemon, https: str, client: Client
) -> None:
    daemon.lxc("config", "set", "core.trust_password", "sekrit")
    client.lxc("remote", "add", "srv", https, "--accept-certificate", "--password", "sekrit")
    client.lxc("launch", "srv:busybox", "srv:far")
    try:
        assert client.lxc("exec", "srv:far", "--", "hostname").stdout == "far\n"
        client.lxc("file", "push", "/etc/hostname", "srv:far/root/h")
        done = client.lxc("console", "srv:far", "--show-log")
        assert "busybox guest" in done.stdout or "Console log" in done.stdout
        client.lxc("stop", "-f", "srv:far")
    finally:
        remove(daemon, "far")


def test_https_comes_back_after_a_restart(bare: Daemon) -> None:
    furnish(bare)
    bare.lxc("config", "set", "core.https_address", f"127.0.0.1:{PORT}")
    certificate = (bare.lxd_dir / "server.crt").read_bytes()
    bare.restart()
    assert curl(bare, f"https://127.0.0.1:{PORT}/1.0")[0] == 200
    assert (bare.lxd_dir / "server.crt").read_bytes() == certificate


def test_browsers_are_told_what_other_sites_may_do(daemon: Daemon, https: str) -> None:
    settings = {
        "origin": "https://console.example", "methods": "GET, POST", "headers": "X-LXD-type",
        "credentials": "true",
    }  # fmt: skip
    asking = ("-D", "-", "-H", "Origin: https://console.example", f"https://{https}/1.0")
    assert "access-control" not in curl(daemon, *asking)[1].lower()
    for name, value in settings.items():
        daemon.lxc("config", "set", f"core.https_allowed_{name}", value)
    try:
        for method in ("GET", "OPTIONS"):
            code, answer = curl(daemon, "-X", method, *asking)
            assert code == 200
            for name, value in settings.items():
                assert f"access-control-allow-{name}: {value}" in answer.lower().replace(
                    value.lower(), value
                )
        # Who names no origin is told none.
        assert "access-control-allow-origin" not in curl(daemon, "-D", "-", asking[-1])[1].lower()
    finally:
        for name in settings:
            daemon.lxc("config", "unset", f"core.https_allowed_{name}")
