# SPDX-License-Identifier: Apache-2.0
"""TLS as LXD does it: every client is asked for a certificate, none is verified in the handshake.

Trust is decided afterwards by fingerprint.  Python's ``ssl`` has no such mode (cpython issue
75425), so OpenSSL's own ``SSL_CTX_set_verify`` is called on the context, behind checks that the
right structure was found.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
from pathlib import Path

from nova_lxd.lxd.errors import InternalError

_VERIFY_PEER = 0x01
_VerifyCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


def _accept_any(_preverified: int, _store: int | None) -> int:
    return 1


# Referenced by this module for as long as OpenSSL may call it.
_accept = _VerifyCallback(_accept_any)


def _ask_for_certificates(context: ssl.SSLContext) -> None:
    """Make OpenSSL request a client certificate and accept whatever comes.

    :raises InternalError: this build of Python keeps the SSL_CTX elsewhere.
    """
    try:
        library = ctypes.CDLL(_ssl.__file__)
        set_verify = library.SSL_CTX_set_verify
        get_mode = library.SSL_CTX_get_verify_mode
    except (OSError, AttributeError) as exc:
        raise InternalError(
            "Opening HTTPS failed: OpenSSL's SSL_CTX_set_verify is not reachable in this build "
            "of Python; use the unix socket, or a Python linked against a shared OpenSSL"
        ) from exc
    address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    set_verify.argtypes = [ctypes.c_void_p, ctypes.c_int, _VerifyCallback]
    set_verify.restype = None
    get_mode.argtypes = [ctypes.c_void_p]
    get_mode.restype = ctypes.c_int
    context.verify_mode = ssl.CERT_OPTIONAL
    seen_optional = get_mode(address)
    context.verify_mode = ssl.CERT_NONE
    seen_none = get_mode(address)
    if (seen_optional, seen_none) != (_VERIFY_PEER, 0):
        raise InternalError(
            "Opening HTTPS failed: the layout of this Python's SSLContext is unknown; use the "
            "unix socket, or the Python that the distribution ships"
        )
    set_verify(address, _VERIFY_PEER, _accept)


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """The context of the HTTPS listener, TLS 1.2 and newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    _ask_for_certificates(context)
    return context
