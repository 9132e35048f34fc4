# SPDX-License-Identifier: Apache-2.0
"""The trust store: which certificates may use the HTTPS API, and tokens that add one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from nova_lxd.lxd.db import certificates as db_certificates
from nova_lxd.lxd.db.certificates import Certificate
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.errors import BadRequest, Conflict, Forbidden, NotFound
from nova_lxd.lxd.events import Events
from nova_lxd.lxd.operations import FINAL, Operation, Operations
from nova_lxd.lxd.serverconfig import ServerConfig

if TYPE_CHECKING:
    from cryptography import x509

_TOKEN_DESCRIPTION = "Executing operation"
_SPANS = {"M": 60, "H": 3600, "d": 86400, "w": 604800, "m": 2592000, "y": 31536000}


def certificate_of(der: bytes) -> x509.Certificate:
    """:raises BadRequest: the bytes are no X.509 certificate."""
    from cryptography import x509  # 8 MB: only where a certificate is added

    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as exc:
        raise BadRequest(f"Reading the certificate failed: {exc}") from exc


def common_name(der: bytes) -> str:
    """The certificate's common name, which names a client that gives no other; may be empty."""
    from cryptography.x509.oid import NameOID

    names = certificate_of(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def decode_certificate(text: str) -> bytes:
    """DER bytes of a certificate given as bare base64 (LXD's API) or PEM.

    :raises BadRequest: it is neither.
    """
    body = "".join(line for line in text.split("\n") if not line.startswith("-----"))
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as exc:
        raise BadRequest("Reading the certificate failed: it is not base64 or PEM") from exc


def expiry_after(span: str, now: datetime) -> datetime:
    """The time ``span`` (LXD's form: ``6H``, ``3d 2H``) after ``now``."""
    total = sum(int(word[:-1]) * _SPANS[word[-1]] for word in span.split())
    return now + timedelta(seconds=total)


class Trust:
    """Certificates of remote clients and the join tokens that add them."""

    def __init__(
        self, db: Database, events: Events, operations: Operations, config: ServerConfig
    ) -> None:
        self._db = db
        self._events = events
        self._operations = operations
        self._config = config

    def all(self) -> list[Certificate]:
        return db_certificates.get_all(self._db)

    def get(self, prefix: str) -> Certificate:
        """The certificate of a fingerprint or unique prefix.

        :raises NotFound: none, or more than one.
        """
        found = db_certificates.find(self._db, prefix)
        if len(found) != 1:
            raise NotFound("Certificate not found")
        return found[0]

    def add(
        self,
        der: bytes,
        name: str,
        kind: str,
        restricted: bool,
        projects: Sequence[str],
        requestor: Mapping[str, Any],
    ) -> Certificate:
        """Trust a certificate.

        :raises BadRequest: it is no certificate, or expired, or of an unknown type.
        :raises Conflict: it is trusted already.
        """
        kind = kind or "client"
        if kind not in ("client", "metrics"):
            raise BadRequest(f"Unknown certificate type {kind[:32]!r}: use client or metrics")
        parsed = certificate_of(der)
        if parsed.not_valid_after_utc < datetime.now(UTC):
            raise BadRequest("Adding the certificate failed: it has expired; make a new one")
        digest = hashlib.sha256(der).hexdigest()
        if db_certificates.find(self._db, digest):
            raise Conflict("Certificate already in trust store")
        pem = ssl.DER_cert_to_PEM_cert(der)
        cert = Certificate(digest, kind, name, pem, restricted, list(projects))
        db_certificates.put(self._db, cert)
        self._events.lifecycle(
            "certificate-created", f"/1.0/certificates/{digest}", "", requestor=requestor
        )
        return cert

    def update(self, cert: Certificate, requestor: Mapping[str, Any]) -> None:
        """Store changed fields of a trusted certificate."""
        db_certificates.put(self._db, cert)
        self._events.lifecycle(
            "certificate-updated",
            f"/1.0/certificates/{cert.fingerprint}",
            "",
            requestor=requestor,
        )

    def remove(self, cert: Certificate, requestor: Mapping[str, Any]) -> None:
        db_certificates.delete(self._db, cert.fingerprint)
        self._events.lifecycle(
            "certificate-deleted",
            f"/1.0/certificates/{cert.fingerprint}",
            "",
            requestor=requestor,
        )

    def make_token(
        self,
        name: str,
        addresses: Sequence[str],
        server_fingerprint: str,
        restricted: bool,
        projects: Sequence[str],
    ) -> Operation:
        """A token operation; clients redeem it once by adding a certificate with its secret."""
        now = datetime.now(UTC)
        span = self._config.get("core.remote_token_expiry")
        request = {"type": "client", "name": name, "restricted": restricted, "token": True}
        metadata: dict[str, Any] = {
            "secret": secrets.token_hex(32),
            "fingerprint": server_fingerprint,
            "addresses": list(addresses),
            "request": {**request, "projects": list(projects), "certificate": "", "password": ""},
        }
        if span:
            metadata["expiresAt"] = expiry_after(span, now)
        return self._operations.token("", _TOKEN_DESCRIPTION, metadata)

    def redeem(self, encoded: str) -> Mapping[str, Any]:
        """Use up the join token ``encoded`` (base64 JSON); returns the request it stands for.

        :raises Forbidden: the text is neither a token nor the trust password, there is no such
            token, or it has expired.
        """
        try:
            token = msgspec.json.decode(base64.b64decode(encoded, validate=True), type=dict)
        except (ValueError, msgspec.DecodeError) as exc:
            raise Forbidden(
                "Adding the certificate failed: not authorized; give a join token or the trust "
                "password"
            ) from exc
        secret = str(token.get("secret", ""))
        for op in self._operations.visible():
            if op.kind != "token" or op.status in FINAL or not op.metadata:
                continue
            if "request" not in op.metadata:  # an image's secret
                continue
            if not hmac.compare_digest(str(op.metadata["secret"]).encode(), secret.encode()):
                continue
            try:
                self._operations.cancel(op)
            except BadRequest:  # used up by somebody else in this moment
                continue
            expires = op.metadata.get("expiresAt")
            if expires is not None and expires < datetime.now(UTC):
                raise Forbidden("Adding the certificate failed: the join token has expired")
            request: Mapping[str, Any] = op.metadata["request"]
            return request
        raise Forbidden("Adding the certificate failed: no matching join token found")
