# SPDX-License-Identifier: Apache-2.0
"""Keystone: configuration, keys, bootstrap, and the catalogue of the other services."""

from __future__ import annotations

from cloud import wsgi
from cloud.context import REGION, Cloud
from cloud.ini import write
from cloud.rest import Rest
from cloud.services import Service
from cloud.steps import Step, fingerprint

# service name -> (type, path of its endpoint)
CATALOGUE = {
    "glance": ("image", ""),
    "placement": ("placement", ""),
    "nova": ("compute", "/v2.1"),
    "neutron": ("network", ""),
    "cinder": ("block-storage", "/v3"),
}


def configure(cloud: Cloud) -> None:
    home = cloud.data("keystone")
    home.chmod(0o700)
    write(cloud.etc("keystone", "keystone.conf"), {
        "DEFAULT": {"use_stderr": True},
        "database": cloud.database("keystone"),
        "token": {"provider": "fernet"},
        "fernet_tokens": {"key_repository": str(home / "fernet")},
        "credential": {"key_repository": str(home / "credential")},
        "cache": cloud.cache(),
        "oslo_policy": {"enforce_scope": True},
        "oslo_concurrency": cloud.locks("keystone"),
    })


def manage(cloud: Cloud, *arguments: str, env: dict[str, str] | None = None) -> None:
    configure(cloud)
    cloud.manage("keystone", "keystone-manage", "--config-file",
                 cloud.etc("keystone", "keystone.conf"), *arguments, env=env)


def make_keys(cloud: Cloud) -> None:
    for verb in ("fernet_setup", "credential_setup"):
        manage(cloud, verb, "--keystone-user", "root", "--keystone-group", "root")


def bootstrap(cloud: Cloud) -> None:
    """User, project and roles of the administrator; the password goes by the environment."""
    url = cloud.url("keystone", "/v3/")
    manage(cloud, "bootstrap", "--bootstrap-admin-url", url, "--bootstrap-internal-url", url,
           "--bootstrap-public-url", url, "--bootstrap-region-id", REGION,
           env={"OS_BOOTSTRAP_PASSWORD": cloud.password("admin")})


def service(cloud: Cloud) -> Service:
    configure(cloud)
    return wsgi.api(
        cloud, "keystone", "keystone.wsgi.api", port="keystone", path="/v3",
        env={"OS_KEYSTONE_CONFIG_FILES": str(cloud.etc("keystone", "keystone.conf"))},
        watch=(str(cloud.etc("keystone", "keystone.conf")),),
    )


def catalogue(cloud: Cloud) -> None:
    """Project, users, roles, services and endpoints of the other services."""
    admin = Rest.login(cloud)
    identity = admin.service("identity")
    roles = {role["name"]: role["id"] for role in identity.get("/roles")["roles"]}
    project = identity.ensure("/projects", "project", {"name": "service", "domain_id": "default"})
    for name, (kind, path) in CATALOGUE.items():
        if name == "cinder" and not cloud.has("cinder"):
            continue
        user = identity.ensure("/users", "user", {
            "name": name, "domain_id": "default", "password": cloud.password(name),
            "default_project_id": project["id"]})
        for role in ("admin", "service"):
            identity.put(f"/projects/{project['id']}/users/{user['id']}/roles/{roles[role]}")
        entry = identity.ensure("/services", "service", {"name": name, "type": kind})
        endpoints = identity.get(f"/endpoints?service_id={entry['id']}")["endpoints"]
        there = {endpoint["interface"]: endpoint for endpoint in endpoints}
        for interface in ("public", "internal", "admin"):
            body = {"service_id": entry["id"], "interface": interface, "region_id": REGION,
                    "url": cloud.url(name, path)}
            if interface not in there:
                identity.post("/endpoints", {"endpoint": body})
            elif there[interface]["url"] != body["url"]:
                identity.patch(f"/endpoints/{there[interface]['id']}", {"endpoint": body})


def steps(cloud: Cloud) -> list[Step]:
    addresses = fingerprint(repr([cloud.url(name) for name in CATALOGUE]),
                            repr(sorted(cloud.settings.passwords.items())),
                            repr(cloud.settings.without))
    return [
        Step("keystone/keys", lambda: make_keys(cloud), needs=("python/openstack",), stamp="1"),
        Step("keystone/schema", lambda: manage(cloud, "db_sync"), stamp="1",
             needs=("python/openstack", "mariadb/databases")),
        Step("keystone/bootstrap", lambda: bootstrap(cloud), stamp=addresses,
             needs=("keystone/schema", "keystone/keys", "start memcached")),
        cloud.start("keystone", lambda: service(cloud), "keystone/bootstrap"),
        Step("keystone/catalogue", lambda: catalogue(cloud), needs=("start keystone",),
             stamp=addresses),
    ]
