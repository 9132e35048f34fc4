# SPDX-License-Identifier: Apache-2.0
"""A minimal client of the local daemon for the administrative verbs."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import quote

from nova_lxd.lxd.paths import Paths


class ClientError(Exception):
    """The daemon is not there or refused; ``status`` is 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class LocalClient:
    """Requests over LXD_DIR/unix.socket; each returns the answer's metadata.

    :param timeout: seconds after which a request without an answer raises TimeoutError.
    """

    def __init__(self, paths: Paths | None = None, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._socket = str((paths or Paths.from_environment()).socket)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """:raises ClientError: no daemon, or it answered with an error."""
        connection = _UnixConnection(self._socket, self._timeout)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, quote(path, safe="/?=&%:"), payload)
            answer = json.loads(connection.getresponse().read())
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise ClientError(f"Asking the daemon at {self._socket} failed: {exc}") from exc
        finally:
            connection.close()
        if answer["type"] == "error":
            raise ClientError(answer["error"], answer["error_code"])
        if answer["type"] == "async":
            return self._wait(answer["operation"])
        return answer["metadata"]

    def _wait(self, operation: str) -> Any:
        done = self.request("GET", f"{operation}/wait")
        if done["status_code"] != 200:
            raise ClientError(done["err"], done["status_code"])
        return done["metadata"]

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def put(self, path: str, body: Any = None) -> Any:
        return self.request("PUT", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self.request("PATCH", path, body)

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)
