# SPDX-License-Identifier: Apache-2.0
"""HTTP on worker threads: constant memory, progress, cancellation, pinned certificates."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from nova_lxd.lxd.errors import BadRequest, InternalError, LXDError, NotFound, TooLarge
from nova_lxd.lxd.operations import Operation

#: Seconds without a byte from the other side before a transfer is given up.
TIMEOUT = 60.0
CHUNK = 1024 * 1024
#: The longest JSON document that another server may send, in bytes.
MAX_DOCUMENT = 64 * 1024 * 1024
USER_AGENT = "LXD 5.0.2"
_PROGRESS_SECONDS = 0.5


class Settings(Protocol):
    """The server's configuration."""

    def get(self, key: str) -> str: ...


class _Pin:
    """The certificate that a server has to show, and the sockets of one request."""

    def __init__(self, pem: str) -> None:
        self.sockets: list[socket.socket] = []
        self.der: bytes | None = None
        if pem:
            try:
                self.der = ssl.PEM_cert_to_DER_cert(pem.strip())
            except ValueError as exc:
                raise BadRequest(f"Reading the server's certificate failed: {exc}") from exc

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.der is not None:  # compared byte by byte after the handshake instead
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def check(self, connection: http.client.HTTPConnection) -> None:
        self.sockets.append(connection.sock)
        if self.der is None or not isinstance(connection.sock, ssl.SSLSocket):
            return
        if connection.sock.getpeercert(True) != self.der:
            connection.close()
            raise ssl.SSLCertVerificationError("the server shows another certificate")

    def interrupt(self) -> None:
        """End the transfer from another thread; its reads fail at once."""
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own: it would pull the TLS state from under the reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise urllib.error.HTTPError(
                req.full_url, code, "it redirects to an insecure address", headers, fp
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, pin: _Pin) -> None:
        super().__init__()
        self._pin = pin

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        pin = self._pin

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                pin.check(self)

        return self.do_open(Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, pin: _Pin) -> None:
        super().__init__()
        self._pin = pin

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        pin = self._pin

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                pin.check(self)

        return self.do_open(Connection, req, context=pin.context())


def show_size(size: float) -> str:
    """Bytes in LXD's short form, such as ``12.34MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.2f}{unit}"
        size /= 1000
    return f"{size:.2f}TB"


def bypasses_proxy(host: str, ignored: str) -> bool:
    """Whether core.proxy_ignore_hosts (names, ``.domain`` or ``*``, by commas) has the host."""
    for entry in (word.strip().lower() for word in ignored.split(",")):
        domain = entry.removeprefix("*").lstrip(".")
        if entry == "*" or (domain and (host == domain or host.endswith(f".{domain}"))):
            return True
    return False


class Progress:
    """Tells an operation's readers how far a transfer is, at most twice a second.

    :param what: begins the text, for example ``rootfs``; may be empty.
    """

    def __init__(
        self,
        op: Operation | None,
        what: str = "",
        total: int = 0,
        key: str = "download_progress",
    ) -> None:
        self._op = op
        self._what = f"{what}: " if what else ""
        self._total = total
        self._key = key
        self._done = 0
        self._began = self._told = time.monotonic()

    def add(self, size: int) -> None:
        """Another ``size`` bytes went over.

        :raises Cancelled: the client cancelled the operation.
        """
        self._done += size
        if self._op is None:
            return
        self._op.check_cancelled()
        now = time.monotonic()
        at_end = self._total and self._done >= self._total
        if now - self._told < _PROGRESS_SECONDS and not at_end:
            return
        self._told = now
        speed = show_size(self._done / max(now - self._began, 0.001))
        if self._total:
            done = f"{min(100, self._done * 100 // self._total)}%"
        else:
            done = show_size(self._done)
        self._op.update({self._key: f"{self._what}{done} ({speed}/s)"})


@dataclass
class Answer:
    """The head of an answer; :meth:`chunks` gives its body once."""

    status: int
    url: str
    headers: Mapping[str, str]
    _response: http.client.HTTPResponse = field(repr=False)

    @property
    def length(self) -> int:
        """The length that the server announced, 0 when it did not."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else 0

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces of up to 1 MiB.

        :raises InternalError: it ended before the announced length.
        """
        received = 0
        while data := self._response.read(CHUNK):
            received += len(data)
            yield data
        if self.length and received < self.length:
            raise InternalError(
                f"Requesting {self.url} failed: it ended after {received} of {self.length} bytes"
            )


class Fetcher:
    """Makes requests to other servers under the proxy settings of this one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def _proxies(self, host: str) -> dict[str, str]:
        get = self._settings.get
        configured = {"http": get("core.proxy_http"), "https": get("core.proxy_https")}
        configured = {scheme: url for scheme, url in configured.items() if url}
        ignored = get("core.proxy_ignore_hosts")
        if not configured:
            configured = urllib.request.getproxies_environment()
            ignored = ignored or configured.get("no", "")
        return {} if bypasses_proxy(host, ignored) else configured

    def _opener(self, host: str, pin: _Pin) -> urllib.request.OpenerDirector:
        opener = urllib.request.OpenerDirector()  # no file: or ftp: URLs
        for handler in (
            urllib.request.ProxyHandler(self._proxies(host)),
            _Http(pin),
            _Https(pin),
            _NoDowngrade(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        return opener

    @contextmanager
    def open(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        certificate: str = "",
        op: Operation | None = None,
    ) -> Iterator[Answer]:
        """Ask another server; the block reads the answer.

        :param body: bytes, or an iterable of bytes with a Content-Length among the headers.
        :param certificate: PEM of the certificate that the server must show; else the system's
            authorities decide.
        :param op: cancelling it interrupts the transfer.
        :raises NotFound: the server answers 404.
        :raises LXDError: it cannot be reached, is not who it should be, or refuses.
        """
        host = _host(url)
        pin = _Pin(certificate)
        request = urllib.request.Request(
            url, data=body, method=method, headers={"User-Agent": USER_AGENT, **(headers or {})}
        )
        with _interruptible(op, pin.interrupt), self._errors(url, op):
            opener = self._opener(host, pin)
            with opener.open(request, timeout=TIMEOUT) as response:
                told = {key.lower(): value for key, value in response.headers.items()}
                yield Answer(response.status, url, told, response)

    @contextmanager
    def _errors(self, url: str, op: Operation | None) -> Iterator[None]:
        try:
            yield
        except LXDError:
            raise
        except urllib.error.HTTPError as exc:
            with exc:
                raise _refused(url, exc) from exc
        except (OSError, http.client.HTTPException) as exc:
            if op is not None:
                op.check_cancelled()
            reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
            raise InternalError(f"Requesting {url} failed: {reason}") from exc

    def document(self, url: str, *, certificate: str = "", op: Operation | None = None) -> Any:
        """A JSON document.

        :raises LXDError: as :meth:`open`, or it is no JSON, or too long.
        """
        content = bytearray()
        with self.open(url, certificate=certificate, op=op) as answer:
            for chunk in answer.chunks():
                content += chunk
                if len(content) > MAX_DOCUMENT:
                    raise TooLarge(f"Requesting {url} failed: over {MAX_DOCUMENT} bytes")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise InternalError(f"Requesting {url} failed: it is no JSON: {exc}") from exc

    def save(
        self,
        answer: Answer,
        write: Callable[[bytes], None],
        op: Operation | None,
        what: str = "",
    ) -> None:
        """Hand an answer's body to ``write`` piece by piece, telling the progress."""
        progress = Progress(op, what, answer.length)
        for chunk in answer.chunks():
            write(chunk)
            progress.add(len(chunk))


def _host(url: str) -> str:
    """The host that a URL names.

    :raises BadRequest: it is no http or https URL.
    """
    host: str | None = None
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.port != 0:
            host = parts.hostname
    except ValueError as exc:
        raise BadRequest(f"Requesting {url[:200]!r} failed: {exc}") from exc
    if not host:
        raise BadRequest(f"Requesting {url[:200]!r} failed: it is no http or https URL")
    return host


def _refused(url: str, exc: urllib.error.HTTPError) -> LXDError:
    """What the server said, in the envelope of LXD if it used that."""
    said = str(exc.reason)
    try:
        envelope = json.loads(exc.read(65536))
        said = str(envelope["error"])
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        pass  # it is not LXD's: the reason phrase has to do
    kind = NotFound if exc.code == 404 else InternalError
    return kind(f"Requesting {url} failed: the server answers {exc.code}: {said[:300]}")


@contextmanager
def _interruptible(op: Operation | None, interrupt: Callable[[], None]) -> Iterator[None]:
    """Let a cancelled operation interrupt the block."""
    if op is None:
        yield
        return
    op.on_cancel(interrupt)
    try:
        op.check_cancelled()
        yield
    finally:
        op.on_cancel(None)
