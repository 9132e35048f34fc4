# SPDX-License-Identifier: Apache-2.0
"""The compute service while LXD does not answer, by Nova's own API and database."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from nova.tests.functional import integrated_helpers

from nova_lxd.virt import client, exception

SECONDS = 30


class ServiceOutageTestCase(integrated_helpers.ProviderUsageBaseTestCase):
    """A service is disabled as long as LXD is away, and an operator's wish is left alone."""

    compute_driver = "lxd.LXDDriver"

    def setUp(self) -> None:
        super().setUp()
        self.compute = self._start_compute("host1")
        self._wait(lambda: self._service()["status"] == "enabled", "enabled at first")

    def _service(self) -> dict[str, Any]:
        (service,) = self.admin_api.get_services(host="host1", binary="nova-compute")
        return service

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            self.assertLess(time.monotonic(), end, f"{what}: not within {SECONDS} s")
            time.sleep(0.1)

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """Let LXD be as if it had died: its stream ends, and no connection is made."""
        gone = exception.LXDUnavailable(endpoint="/gone", reason="connection refused")
        with mock.patch.object(client.LXDClient, "websocket", side_effect=gone):
            self.compute.driver.watcher._stream.sock.shutdown(socket.SHUT_RDWR)
            yield

    def test_disabled_while_away_and_enabled_again(self) -> None:
        with self._away():
            self._wait(lambda: self._service()["status"] == "disabled", "disabled")
            self.assertRegex(self._service()["disabled_reason"], "^AUTO: .*LXD")
        self._wait(lambda: self._service()["status"] == "enabled", "enabled again")
        self.assertIsNone(self._service()["disabled_reason"])

    def test_disabled_by_an_operator_stays_disabled(self) -> None:
        wish = {"status": "disabled", "disabled_reason": "a new disk"}
        self.admin_api.put_service(self._service()["id"], wish)
        watcher = self.compute.driver.watcher
        with self._away():
            self._wait(lambda: not watcher._current, "noticed")
        self._wait(lambda: watcher._current, "noticed that it is back")
        time.sleep(0.5)
        shown = self._service()
        self.assertEqual("disabled", shown["status"])
        self.assertEqual("a new disk", shown["disabled_reason"])

    def test_server_is_asked_for_where_lxd_answers(self) -> None:
        """No server is sent to a host whose LXD is away."""
        with self._away():
            self._wait(lambda: self._service()["status"] == "disabled", "disabled")
            request = self._build_server(networks="none")
            server = self.api.post_server({"server": request})
            found = self._wait_for_state_change(server, "ERROR")
            self.assertIn("No valid host", found["fault"]["message"])
        self._wait(lambda: self._service()["status"] == "enabled", "enabled again")
        self._wait_for_state_change(self.api.post_server({"server": request}), "ACTIVE")
