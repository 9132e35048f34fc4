# SPDX-License-Identifier: Apache-2.0
"""The one place that talks to LXD.

One pylxd session per thread (a session holds one HTTP connection and is not thread-safe), LXD's
refusals as exceptions of :mod:`nova_lxd.virt.exception`, told apart by status and never by
text, and repetition of a request only where a second one cannot do harm.
"""

from __future__ import annotations

import os
import pathlib
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib import parse

import pylxd
import pylxd.exceptions
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from oslo_log import log as logging
from ws4py.client import WebSocketBaseClient

from nova_lxd.virt import exception

LOG = logging.getLogger(__name__)

WELL_KNOWN_SOCKETS = (
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/nova-lxd/unix.socket",
)
READ_ATTEMPTS = 3
OPERATION_POLL = 30  # seconds that LXD holds one wait request open
CHUNK = 1 << 20
W = TypeVar("W", bound="WebSocket")
# What belongs to no project: the server itself, its projects, its hardware.
HOST_WIDE = ((), ("projects",), ("resources",))


class WebSocket(WebSocketBaseClient):
    """A WebSocket that its maker reads, with ``once()``; over TLS, to the right server only.

    ws4py and pylxd verify nothing: a server of another's could read what a guest's console says.

    :ivar pinned: the server's certificate (DER), when exactly one is trusted
    """

    pinned: bytes | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # LXD refuses a handshake whose Origin is not its own Host
        kwargs["exclude_headers"] = ["origin"]
        super().__init__(*args, **kwargs)

    def handshake_ok(self) -> None:
        """Reading is done by the caller."""

    @property
    def handshake_request(self) -> bytes:
        """What is said first, secret included: not a word of it to a stranger.

        :raises ssl.SSLCertVerificationError: the server's certificate is not the pinned one
        """
        if self.pinned and self.sock.getpeercert(binary_form=True) != self.pinned:
            self.close_connection()
            raise ssl.SSLCertVerificationError(
                f"the certificate of {self.host} is not the one of [lxd]server_cert"
            )
        request: bytes = super().handshake_request
        return request


class LXDClient:
    """Requests to one LXD server within one project.

    :param conf: the ``[lxd]`` section
    :param project: LXD project of every request that does not name another
    """

    def __init__(self, conf: Any, project: str) -> None:
        self.project = project
        self._conf = conf
        self._local = threading.local()
        self.endpoint = conf.endpoint or _default_socket()

    # -- requests ---------------------------------------------------------------------------

    def get(self, *path: str, **params: str) -> Any:
        """Return the metadata of a GET; repeated when the connection breaks (it is safe to).

        :raises LXDNotFound, LXDError, LXDUnavailable:
        """
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                return self._request("get", path, params=params).json()["metadata"]
            except exception.LXDUnavailable:
                if attempt == READ_ATTEMPTS:
                    raise
                time.sleep(0.2 * attempt)
        raise AssertionError("unreachable")

    def exists(self, *path: str, **params: str) -> bool:
        """Tell whether a GET of the path finds something."""
        try:
            self.get(*path, **params)
        except exception.LXDNotFound:
            return False
        return True

    def post(self, *path: str, wait: bool = True, **kwargs: Any) -> Any:
        """POST; with ``wait`` the answer is the metadata of the finished operation."""
        return self._change("post", path, wait, kwargs)

    def put(self, *path: str, wait: bool = True, **kwargs: Any) -> Any:
        """PUT; see :meth:`post`."""
        return self._change("put", path, wait, kwargs)

    def patch(self, *path: str, wait: bool = True, **kwargs: Any) -> Any:
        """PATCH; see :meth:`post`."""
        return self._change("patch", path, wait, kwargs)

    def delete(self, *path: str, missing_ok: bool = False, **kwargs: Any) -> Any:
        """DELETE and wait; with ``missing_ok`` an absent thing counts as deleted."""
        try:
            return self._change("delete", path, True, kwargs)
        except exception.LXDNotFound:
            if not missing_ok:
                raise
            return None

    @contextmanager
    def stream(self, *path: str, **params: str) -> Iterator[Iterator[bytes]]:
        """Read a raw body (an image, a file, a log) in pieces."""
        response = self._request("get", path, params=params, stream=True, is_api=False)
        try:
            yield response.iter_content(CHUNK)
        finally:
            response.close()

    def websocket(self, kind: type[W], *path: str, **params: str) -> W:
        """Make (and not yet connect) a WebSocket of the given class to an API path."""
        session = self.session()
        options = dict(session.ssl_options or {})
        pinned = None
        if session.websocket_url.startswith("wss:"):
            if self._conf.server_cert:
                pem = pathlib.Path(self._conf.server_cert).read_bytes()
                certificate = x509.load_pem_x509_certificate(pem)
                pinned = certificate.public_bytes(serialization.Encoding.DER)
            else:
                options |= {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": requests.certs.where()}
        socket = kind(session.websocket_url, ssl_options=options)
        socket.pinned = pinned
        query = parse.urlencode({"project": self.project, **params})
        socket.resource = f"/1.0/{'/'.join(map(_quote, path))}?{query}"
        return socket

    def wait(self, operation_id: str, action: str = "finish an operation") -> dict[str, Any]:
        """Wait for a background operation; return it when it succeeded.

        :raises LXDError: it failed or was cancelled; carries LXD's reason
        :raises LXDTimeout: it did not end within [lxd]operation_timeout; it is cancelled then
        """
        deadline = time.monotonic() + self._conf.operation_timeout
        while time.monotonic() < deadline:
            poll = max(1, min(OPERATION_POLL, int(deadline - time.monotonic())))
            operation = self.get("operations", operation_id, "wait", timeout=str(poll))
            status = operation["status_code"]
            if status == 200:
                return operation
            if status >= 400:
                raise exception.LXDError(
                    status, operation.get("metadata"), action=action, reason=operation["err"]
                )
        self._cancel(operation_id)
        raise exception.LXDTimeout(
            action=action,
            reason=f"no end after {self._conf.operation_timeout} seconds ([lxd]operation_timeout)",
        )

    # -- what the server is -----------------------------------------------------------------

    def server(self) -> dict[str, Any]:
        """Return ``GET /1.0``: api_extensions, auth, environment."""
        return self.get()

    def has_extension(self, name: str) -> bool:
        """Tell whether the server announces an API extension."""
        return self.session().has_api_extension(name)

    @property
    def var_dir(self) -> pathlib.Path:
        """LXD's state directory on this host."""
        if self._conf.var_dir:
            return pathlib.Path(self._conf.var_dir)
        if self.endpoint.startswith("/"):
            return pathlib.Path(self.endpoint).parent
        return pathlib.Path("/var/lib/lxd")

    # -- below ------------------------------------------------------------------------------

    def session(self) -> pylxd.Client:
        """Return this thread's pylxd client, connecting when it has none."""
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._connect()
        return client

    def _connect(self) -> pylxd.Client:
        conf = self._conf
        options: dict[str, Any] = {"timeout": conf.request_timeout}
        if not self.endpoint.startswith("/"):
            options["cert"] = (conf.client_cert, conf.client_key) if conf.client_cert else None
            options["verify"] = conf.server_cert or True
            # the server's certificate is pinned: a CA bundle from the environment must not win
            options["session"] = pylxd.client.get_session_for_url(
                self.endpoint, verify=options.pop("verify"), cert=options["cert"]
            )
            options["session"].trust_env = False
        try:
            return pylxd.Client(endpoint=self.endpoint, **options)
        except (pylxd.exceptions.ClientConnectionFailed, requests.RequestException, OSError) as e:
            raise exception.LXDUnavailable(endpoint=self.endpoint, reason=e)
        except pylxd.exceptions.LXDAPIException as e:
            raise exception.LXDUnavailable(endpoint=self.endpoint, reason=e)

    def _request(self, verb: str, path: tuple[str, ...], **kwargs: Any) -> requests.Response:
        node = self.session().api
        for part in path:
            node = node[_quote(part)]
        if path[:1] not in HOST_WIDE:
            kwargs["params"] = {"project": self.project, **(kwargs.get("params") or {})}
        if path[-1:] == ("wait",):
            kwargs["timeout"] = self._conf.request_timeout + OPERATION_POLL
        try:
            return getattr(node, verb)(**kwargs)
        except pylxd.exceptions.LXDAPIException as e:
            raise _translate(e, verb, path)
        except (requests.RequestException, OSError) as e:
            self._local.client = None
            raise exception.LXDUnavailable(endpoint=self.endpoint, reason=e)

    def _change(self, verb: str, path: tuple[str, ...], wait: bool, kwargs: dict[str, Any]) -> Any:
        body = self._request(verb, path, **kwargs).json()
        if body["type"] != "async" or not wait:
            return body["metadata"]
        return self.wait(body["metadata"]["id"], _describe(verb, path))

    def _cancel(self, operation_id: str) -> None:
        try:
            self._request("delete", ("operations", operation_id))
        except exception.LXDError as e:
            LOG.warning("LXD operation %s cannot be cancelled: %s", operation_id, e)


def _default_socket() -> str:
    if os.environ.get("LXD_DIR"):
        return str(pathlib.Path(os.environ["LXD_DIR"], "unix.socket"))
    for path in WELL_KNOWN_SOCKETS:
        if pathlib.Path(path).exists():
            return path
    return WELL_KNOWN_SOCKETS[0]


def _quote(part: str) -> str:
    return parse.quote(part, safe="")


def _describe(verb: str, path: tuple[str, ...]) -> str:
    return f"{verb} {'/'.join(('/1.0', *path))}"


def _translate(
    error: pylxd.exceptions.LXDAPIException, verb: str, path: tuple[str, ...]
) -> exception.LXDError:
    """Make the Nova exception that the status asks for; LXD's sentence goes along."""
    status = error.response.status_code
    kind = {
        400: exception.LXDRefused,
        404: exception.LXDNotFound,
        409: exception.LXDConflict,
        412: exception.LXDConflict,
    }.get(status, exception.LXDError)
    return kind(status, None, action=_describe(verb, path), reason=str(error))
