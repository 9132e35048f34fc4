# SPDX-License-Identifier: Apache-2.0
"""The server over HTTPS, with a client certificate and the server's own pinned."""

from __future__ import annotations

import base64
import contextlib
import datetime
import os
import pathlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nova.compute import power_state

from nova_lxd.tests.functional.virt import guests, world
from nova_lxd.virt import events, exception, guest
from nova_lxd.virt.client import LXDClient

pytestmark = pytest.mark.timeout(180)


def _certificate(directory: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Make a self-signed certificate; return the paths of it and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def conf(conf: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Nova's configuration with an https endpoint, which the server has for this module."""
    work = tmp_path_factory.mktemp("https")
    cert, key = _certificate(work, "nova-compute")
    local = LXDClient(conf.lxd, "default")
    address = f"127.0.0.1:{_free_port()}"
    local.patch(json={"config": {"core.https_address": address}})
    der = ssl.PEM_cert_to_DER_cert(cert.read_text())
    body = {"type": "client", "name": "nova", "certificate": base64.b64encode(der).decode()}
    local.post("certificates", json=body)
    server_cert = work / "server.crt"
    server_cert.write_text(local.server()["environment"]["certificate"])
    values = {
        "endpoint": f"https://{address}",
        "client_cert": str(cert),
        "client_key": str(key),
        "server_cert": str(server_cert),
        "var_dir": os.environ["LXD_DIR"],
    }
    for name, value in values.items():
        conf.set_override(name, value, "lxd")
    with pytest.MonkeyPatch.context() as patch:
        # an operator's own bundle, which does not know the server
        patch.setenv("REQUESTS_CA_BUNDLE", str(cert))
        yield conf
    for name in values:
        conf.clear_override(name, "lxd")
    digest = x509.load_der_x509_certificate(der).fingerprint(hashes.SHA256()).hex()
    local.delete("certificates", digest)
    local.patch(json={"config": {"core.https_address": ""}})


@contextlib.contextmanager
def _replaced(conf: Any, name: str, value: str | None) -> Iterator[None]:
    """Give an option of ``[lxd]`` another value for a while."""
    before = conf.lxd[name]
    conf.set_override(name, value, "lxd")
    try:
        yield
    finally:
        conf.set_override(name, before, "lxd")


def test_life_over_https(driver: Any, context: Any, image: str) -> None:
    assert driver.client.endpoint.startswith("https://127.0.0.1:")
    instance = world.instance(image)
    driver.spawn(context, instance, world.image_meta(image), [], None, {}, world.network_info(0))
    assert driver.get_info(instance).state == power_state.RUNNING
    assert driver.consoles.run(guest.name(instance), ["grep", "-q", "me"], b"it is me\n") == 0
    driver.events_seen.clear()
    stop = {"action": "stop", "force": True}
    driver.client.put("instances", guest.name(instance), "state", json=stop)
    guests.wait_for(
        lambda: "Stopped" in [event.get_name() for event in driver.events_seen], "told"
    )
    assert driver.get_info(instance).state == power_state.SHUTDOWN
    driver.destroy(context, instance, [])
    assert not driver.instance_exists(instance)


def test_strange_server_is_told_nothing(driver: Any, conf: Any, tmp_path: pathlib.Path) -> None:
    """Neither a request nor a WebSocket goes to a server with another certificate."""
    client = LXDClient(conf.lxd, driver.client.project)
    client.server()  # a session with the right server, for the WebSocket
    other, _key = _certificate(tmp_path, "other")
    with _replaced(conf, "server_cert", str(other)):
        with pytest.raises(exception.LXDUnavailable, match="ingerprint"):
            LXDClient(conf.lxd, "default").server()
        stream = client.websocket(events._Stream, "events", type="lifecycle")
        with pytest.raises(ssl.SSLCertVerificationError, match="server_cert"):
            stream.connect()


def test_client_without_certificate_is_refused(driver: Any, conf: Any) -> None:
    with _replaced(conf, "client_cert", None), pytest.raises(exception.LXDError) as caught:
        LXDClient(conf.lxd, driver.client.project).get("instances")
    assert caught.value.status == 403
