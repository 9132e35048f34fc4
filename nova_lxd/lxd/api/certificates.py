# SPDX-License-Identifier: Apache-2.0
"""/1.0/certificates: the trust store and join tokens."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.db.certificates import Certificate
from nova_lxd.lxd.errors import BadRequest, Forbidden, NotFound
from nova_lxd.lxd.trust import common_name, decode_certificate

_SEPARATORS = re.compile(r"[\0-\x1f\x7f]")


class CertificatesPost(msgspec.Struct):
    """Body of POST /1.0/certificates."""

    name: str = ""
    type: str = "client"
    restricted: bool = False
    projects: list[str] | None = None
    certificate: str = ""
    password: str = ""
    token: bool = False


class CertificatePut(msgspec.Struct):
    """Body of PUT /1.0/certificates/FINGERPRINT."""

    name: str = ""
    type: str = "client"
    restricted: bool = False
    projects: list[str] | None = None
    certificate: str = ""


def _to_api(cert: Certificate) -> dict[str, Any]:
    return {
        "name": cert.name,
        "type": cert.type,
        "restricted": cert.restricted,
        "projects": cert.projects,
        "certificate": cert.certificate,
        "fingerprint": cert.fingerprint,
    }


def _put_fields(cert: Certificate) -> list[Any]:
    return [cert.certificate, cert.fingerprint, cert.type, cert.name, cert.projects]


@route("GET", "/1.0/certificates")
async def get_certificates(request: Request) -> web.StreamResponse:
    """List the trusted certificates."""
    certs = request.services.trust.all()
    if request.recursion:
        return envelope.sync([_to_api(cert) for cert in certs])
    return envelope.sync([f"/1.0/certificates/{cert.fingerprint}" for cert in certs])


@route("POST", "/1.0/certificates", public=True, body=CertificatesPost)
async def post_certificates(request: Request) -> web.StreamResponse:
    """Trust a certificate: by an administrator, the trust password or a join token."""
    body = await request.body(CertificatesPost)
    if body.token:
        return _make_token(request, body)
    name, restricted, projects = body.name, body.restricted, body.projects or []
    if not request.trusted:
        trust, config = request.services.trust, request.services.config
        if not body.password:
            raise Forbidden("Adding a certificate failed: no password or token was given")
        if not await request.run(config.trust_password_matches, body.password):
            granted = await request.run(trust.redeem, body.password)
            name = granted["name"] or name
            restricted, projects = granted["restricted"], granted["projects"]
    elif request.identity.restricted:
        raise Forbidden("Adding a certificate failed: the client's certificate is restricted")
    der = decode_certificate(body.certificate) if body.certificate else _peer(request)
    if _SEPARATORS.search(name) or len(name) > 255:
        raise BadRequest("Adding a certificate failed: its name has control characters")
    cert = await request.run(
        request.services.trust.add,
        der,
        name or common_name(der) or (request.http.remote or ""),
        body.type,
        restricted,
        projects,
        request.requestor,
    )
    return envelope.sync(location=f"/1.0/certificates/{cert.fingerprint}")


def _peer(request: Request) -> bytes:
    if request.identity.certificate is None:
        raise BadRequest("Can't use TLS data on non-TLS link")
    return request.identity.certificate


def _make_token(request: Request, body: CertificatesPost) -> web.StreamResponse:
    if not request.trusted or request.identity.restricted:
        raise Forbidden("Making a join token failed: not authorized")
    environment = request.services.environment
    if not environment.addresses():
        raise BadRequest(
            "Making a join token failed: the server listens on no address; set core.https_address"
        )
    for project in body.projects or []:
        request.services.projects.get(project)
    op = request.services.trust.make_token(
        body.name,
        environment.addresses(),
        environment.fingerprint,
        body.restricted,
        body.projects or [],
    )
    return envelope.operation(op)


@route("GET", "/1.0/certificates/{fingerprint}")
async def get_certificate(request: Request) -> web.StreamResponse:
    """Show one trusted certificate."""
    cert = request.services.trust.get(request.path("fingerprint"))
    return envelope.sync(_to_api(cert), etag_fields=_put_fields(cert))


@route("PUT", "/1.0/certificates/{fingerprint}", body=CertificatePut)
async def put_certificate(request: Request) -> web.StreamResponse:
    """Replace a certificate's name, restrictions or, by its owner, the certificate itself."""
    cert = request.services.trust.get(request.path("fingerprint"))
    request.check_etag(_put_fields(cert))
    return await _store(request, cert, await request.body(CertificatePut))


@route("PATCH", "/1.0/certificates/{fingerprint}", body=CertificatePut)
async def patch_certificate(request: Request) -> web.StreamResponse:
    """Change some fields of a certificate."""
    cert = request.services.trust.get(request.path("fingerprint"))
    request.check_etag(_put_fields(cert))
    given = await request.json_object()
    try:
        merged = msgspec.convert({**_to_api(cert), **given}, CertificatePut)
    except msgspec.ValidationError as exc:
        raise BadRequest(f"Changing certificate {cert.fingerprint} failed: {exc}") from exc
    return await _store(request, cert, merged)


async def _store(request: Request, cert: Certificate, body: CertificatePut) -> web.StreamResponse:
    if request.identity.restricted:
        raise Forbidden("Changing a certificate failed: the client's certificate is restricted")
    pem = cert.certificate
    if body.certificate and decode_certificate(body.certificate) != decode_certificate(pem):
        raise BadRequest(
            "Changing a certificate failed: the body holds another one; add that one and delete "
            "this one"
        )
    for project in body.projects or []:
        request.services.projects.get(project)
    if body.type not in ("client", "metrics"):
        raise BadRequest(f"Unknown certificate type {body.type!r}: use client or metrics")
    new = Certificate(
        cert.fingerprint, body.type, body.name, pem, body.restricted, body.projects or []
    )
    await request.run(request.services.trust.update, new, request.requestor)
    return envelope.sync()


@route("DELETE", "/1.0/certificates/{fingerprint}")
async def delete_certificate(request: Request) -> web.StreamResponse:
    """Stop trusting a certificate."""
    cert = request.services.trust.get(request.path("fingerprint"))
    own = request.identity.username == cert.fingerprint
    if request.identity.restricted and not own:
        raise NotFound("Certificate not found")
    await request.run(request.services.trust.remove, cert, request.requestor)
    return envelope.sync()
