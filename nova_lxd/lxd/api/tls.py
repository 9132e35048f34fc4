# SPDX-License-Identifier: Apache-2.0
"""TLS as LXD does it: every client is asked for a certificate, none is verified in the handshake.

Trust is decided afterwards by fingerprint.  Python's ``ssl`` has no such mode (cpython issue
75425), so OpenSSL's own ``SSL_CTX_set_verify`` is called on the context, behind checks that the
right structure was found.
"""

from __future__ import annotations

import _ssl
import ctypes
import datetime
import os
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

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


def ensure_server_certificate(cert: Path, key: Path) -> None:
    """Make the server's own self-signed certificate (ECDSA P-384, ten years) unless it exists."""
    if cert.exists() and key.exists():
        return
    private = ec.generate_private_key(ec.SECP384R1())
    hostname = socket.gethostname()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "linuxcontainers.org"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"root@{hostname}"[:64]),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    _write_private(
        key,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
