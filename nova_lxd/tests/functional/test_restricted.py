# SPDX-License-Identifier: Apache-2.0
"""A certificate that is restricted to one project sees and changes nothing of the others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nova_lxd.tests.functional.conftest import furnish, remove
from nova_lxd.tests.functional.daemon import Daemon
from nova_lxd.tests.functional.sandbox import wait_for

ADDRESS = "127.0.0.1:8443"
# LXD 5.0.2 looks at the project of the request only, not at the one that the body names, and
# shows operations of any project; here a restricted client gets neither.
LXD_LETS_THROUGH = "LXD 5.0.2 does not refuse this"


class Restricted:
    """Requests over HTTPS with a client certificate."""

    def __init__(self, daemon: Daemon, certificate: Path, key: Path) -> None:
        self._daemon = daemon
        self._options = ("-sk", "--cert", str(certificate), "--key", str(key))

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and metadata (the error's text when there is one)."""
        given = () if body is None else ("-d", json.dumps(body))
        url = f"https://{ADDRESS}{path}"
        done = self._daemon.inside(
            "curl", *self._options, "-X", method, *given, "-w", "\n%{http_code}", url
        )
        text, _newline, code = done.stdout.rpartition("\n")
        if not text.startswith("{"):
            return int(code), text
        answer = json.loads(text)
        return int(code), answer["error"] if answer["type"] == "error" else answer["metadata"]

    def events(self, seconds: int, query: str = "") -> subprocess.Popen[bytes]:
        """A WebSocket to /1.0/events, read for some seconds; its frames are the output."""
        upgrade = (
            "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        )  # fmt: skip
        headers = [word for header in upgrade for word in ("-H", header)]
        return self._daemon.sandbox.popen(
            ["curl", *self._options, "-N", "--http1.1", "--max-time", str(seconds), *headers,
             f"https://{ADDRESS}/1.0/events?{query}"],
            stdout=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture(scope="module")
def server(backend: str) -> Iterator[Daemon]:
    """A daemon with the projects ``mine`` and ``other``, each with a volume and an instance."""
    with Daemon(backend) as daemon:
        furnish(daemon)
        daemon.lxc("config", "set", "core.https_address", ADDRESS)
        for project in ("mine", "other"):
            daemon.lxc(
                "project", "create", project, "-c", "features.images=false",
                "-c", "features.profiles=false", "-c", "features.storage.volumes=true",
            )  # fmt: skip
            daemon.lxc("storage", "volume", "create", "default", "vol", "--project", project)
            daemon.lxc("launch", "busybox", f"in-{project}", "--project", project)
        yield daemon
        for project in ("mine", "other"):
            remove(daemon, f"in-{project}", project)


@pytest.fixture(scope="module")
def mine(server: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Restricted:
    """A client whose certificate is restricted to the project ``mine``."""
    home = tmp_path_factory.mktemp("restricted")
    certificate, key = home / "client.crt", home / "client.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1",
         "-nodes", "-days", "30", "-subj", "/CN=mine", "-out", str(certificate),
         "-keyout", str(key)],
        check=True, capture_output=True,
    )  # fmt: skip
    server.lxc("config", "trust", "add", str(certificate), "--restricted", "--projects", "mine")
    return Restricted(server, certificate, key)


def test_own_project_is_open(mine: Restricted) -> None:
    assert mine.api("GET", "/1.0/instances?project=mine") == (
        200, ["/1.0/instances/in-mine?project=mine"],
    )  # fmt: skip
    assert mine.api("GET", "/1.0/projects") == (200, ["/1.0/projects/mine"])
    code, server = mine.api("GET", "/1.0?project=mine")
    assert code == 200 and server["auth"] == "trusted" and server["config"] in ({}, None)


@pytest.mark.parametrize(
    "path",
    [
        "/1.0/instances", "/1.0/instances/in-other", "/1.0/instances/in-other/state",
        "/1.0/instances/in-other/logs", "/1.0/instances/in-other/backups", "/1.0/profiles",
        "/1.0/storage-pools/default/volumes", "/1.0/storage-pools/default/volumes/custom/vol",
        "/1.0/networks", "/1.0/operations", "/1.0/metrics",
    ],
)  # fmt: skip
def test_other_projects_are_closed(server: Daemon, mine: Restricted, path: str) -> None:
    if server.backend == "lxd" and path == "/1.0/operations":
        pytest.skip(LXD_LETS_THROUGH)
    assert mine.api("GET", f"{path}?project=other")[0] in (403, 404)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/1.0?project=mine", {"config": {"user.x": "1"}}),
        ("POST", "/1.0/projects", {"name": "third"}),
        ("PATCH", "/1.0/projects/mine", {"config": {"user.x": "1"}}),
        ("DELETE", "/1.0/projects/mine", None),
        ("POST", "/1.0/storage-pools", {"name": "p2", "driver": "dir"}),
        ("DELETE", "/1.0/storage-pools/default", None),
        ("GET", "/1.0/warnings", None),
        ("POST", "/1.0/certificates", {"type": "client", "token": True, "name": "more"}),
        ("POST", "/1.0/instances?project=mine",
         {"name": "x", "source": {"type": "copy", "source": "in-other", "project": "other"}}),
        ("POST", "/1.0/instances/in-mine?project=mine",
         {"name": "x", "project": "other", "migration": True}),
        ("POST", "/1.0/storage-pools/default/volumes/custom?project=mine",
         {"name": "x", "source": {"type": "copy", "name": "vol", "project": "other"}}),
        ("POST", "/1.0/storage-pools/default/volumes/custom/vol?project=mine",
         {"name": "x", "project": "other"}),
    ],
)  # fmt: skip
def test_refused(
    server: Daemon, mine: Restricted, method: str, path: str, body: dict[str, Any] | None
) -> None:
    if server.backend == "lxd" and body and '"other"' in json.dumps(body):
        pytest.skip(LXD_LETS_THROUGH)
    assert mine.api(method, path, body)[0] in (403, 404)


def test_lists_over_all_projects_leave_the_others_out(server: Daemon, mine: Restricted) -> None:
    for path in ("instances", "storage-pools/default/volumes", "operations"):
        code, found = mine.api("GET", f"/1.0/{path}?all-projects=true&recursion=1&project=")
        assert code in (200, 403), (path, found)
        assert "in-other" not in json.dumps(found) and '"other"' not in json.dumps(found), path
    code, text = mine.api("GET", "/1.0/metrics")
    if code == 200:
        assert "in-other" not in text


def test_used_by_leaves_the_others_out(mine: Restricted) -> None:
    code, pool = mine.api("GET", "/1.0/storage-pools/default")
    assert code == 200
    assert any("project=mine" in url for url in pool["used_by"])
    assert not [url for url in pool["used_by"] if "project=other" in url]


def test_join_tokens_stay_secret(server: Daemon, mine: Restricted) -> None:
    """Neither the list of operations nor the events give one away: it may be unrestricted."""
    if server.backend == "lxd":
        pytest.skip(LXD_LETS_THROUGH)
    listener = mine.events(6, "project=mine&type=operation,logging")
    wait_for(lambda: "events" in json.dumps(server.sandbox.processes()), "the listener")
    server.lxc("config", "trust", "add", "--name", "friend")
    code, operations = mine.api("GET", "/1.0/operations?project=mine&recursion=1")
    assert code == 200 and "secret" not in json.dumps(operations)
    server.lxc("config", "set", "in-mine", "user.x=1", "--project", "mine")
    heard, _ = listener.communicate(timeout=20)
    assert b"Updating instance" in heard  # it did listen
    assert b"secret" not in heard and b"token" not in heard
