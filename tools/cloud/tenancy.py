# SPDX-License-Identifier: Apache-2.0
"""What a user finds in the new cloud: projects, networks, flavors, images, a key pair."""

from __future__ import annotations

import os
from pathlib import Path

from cloud import ovn
from cloud.context import Cloud
from cloud.layout import REPOSITORY
from cloud.rest import Body, Endpoint, Rest
from cloud.run import run
from cloud.steps import Step, fingerprint

PROJECTS = ("admin", "demo")
KEY_NAME = "quickstart"
TENANT_SUBNET = "10.66.0.0/24"
EXTERNAL_NETWORK = "public"
TENANT_NETWORK = "private"
ROUTER = "router"

# name: (vcpus, MiB of memory, GiB of disk)
FLAVORS = {"c1.tiny": (1, 128, 1), "c1.small": (1, 512, 4), "c1.medium": (2, 1024, 8)}

# image name -> MiB of memory it needs
IMAGES = {"debian": 256, "busybox": 16}
# Whose password nova sets; root has none in Debian's image.
ADMIN_USERS = {"debian": "debian"}


def key_path(cloud: Cloud) -> Path:
    """The private key of the key pair that both users have."""
    return cloud.layout.state / "id_ed25519"


def make_key(cloud: Cloud) -> bool:
    path = key_path(cloud)
    if path.exists():
        return False
    run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "nova-lxd quickstart", "-f", path),
        log=cloud.log("step-contents"))
    return True


def projects(cloud: Cloud) -> None:
    """Project and user demo, who is a member there."""
    identity = Rest.login(cloud).service("identity")
    roles = {role["name"]: role["id"] for role in identity.get("/roles")["roles"]}
    project = identity.ensure("/projects", "project", {"name": "demo", "domain_id": "default"})
    demo = identity.ensure("/users", "user", {
        "name": "demo", "domain_id": "default", "password": cloud.password("demo"),
        "default_project_id": project["id"]})
    admin = identity.get("/users?name=admin")["users"][0]
    for user, role in ((demo, "member"), (admin, "member"), (admin, "admin")):
        identity.put(f"/projects/{project['id']}/users/{user['id']}/roles/{roles[role]}")


def key_pairs(cloud: Cloud) -> None:
    public = key_path(cloud).with_suffix(".pub").read_text().strip()
    for user in PROJECTS:
        compute = Rest.login(cloud, user).service("compute")
        there = [entry["keypair"]["name"] for entry in compute.get("/os-keypairs")["keypairs"]]
        if KEY_NAME not in there:
            compute.post("/os-keypairs", {"keypair": {
                "name": KEY_NAME, "type": "ssh", "public_key": public}})


def flavors(cloud: Cloud) -> None:
    compute = Rest.login(cloud).service("compute")
    for name, (vcpus, memory, disk) in FLAVORS.items():
        compute.ensure("/flavors", "flavor", {
            "name": name, "vcpus": vcpus, "ram": memory, "disk": disk, "id": name},
            searchable=False)


def networks(cloud: Cloud) -> None:
    """The external network, and demo's own network behind a router."""
    public = external_network(cloud, Rest.login(cloud).service("network"))
    network = Rest.login(cloud, "demo").service("network")
    private = network.ensure("/networks", "network", {"name": TENANT_NETWORK})
    subnet = network.ensure("/subnets", "subnet", {
        "name": TENANT_NETWORK, "network_id": private["id"], "ip_version": 4,
        "cidr": TENANT_SUBNET})
    router = network.ensure("/routers", "router", {
        "name": ROUTER, "external_gateway_info": {"network_id": public["id"]}})
    ports = network.get(f"/ports?device_id={router['id']}&network_id={private['id']}")["ports"]
    if not ports:
        network.put(f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
    for user in PROJECTS:
        open_default_group(Rest.login(cloud, user))


def external_network(cloud: Cloud, network: Endpoint) -> Body:
    made: Body = network.ensure("/networks", "network", {
        "name": EXTERNAL_NETWORK, "router:external": True, "is_default": True,
        "provider:network_type": "flat", "provider:physical_network": ovn.PHYSICAL_NETWORK})
    base = cloud.settings.external_subnet.partition("/")[0].rpartition(".")[0]
    network.ensure("/subnets", "subnet", {
        "name": EXTERNAL_NETWORK, "network_id": made["id"], "ip_version": 4,
        "cidr": cloud.settings.external_subnet, "gateway_ip": f"{base}.1", "enable_dhcp": False,
        "allocation_pools": [{"start": f"{base}.10", "end": f"{base}.250"}]})
    return made


def open_default_group(rest: Rest) -> None:
    """Let ssh and ping into servers of the default security group."""
    network = rest.service("network")
    groups = network.get(f"/security-groups?name=default&project_id={rest.project_id}")
    group = groups["security_groups"][0]
    there = {(rule["direction"], rule["protocol"], rule["port_range_min"])
             for rule in group["security_group_rules"]}
    for protocol, port in (("icmp", None), ("tcp", 22)):
        if ("ingress", protocol, port) not in there:
            network.post("/security-group-rules", {"security_group_rule": {
                "security_group_id": group["id"], "direction": "ingress", "ethertype": "IPv4",
                "protocol": protocol, "port_range_min": port, "port_range_max": port}})


def build_image(cloud: Cloud, name: str) -> Path:
    """The image file for Glance, built from Debian packages.

    It is kept in the state directory, or in $NOVA_LXD_CACHE, which outlives the cloud.
    """
    if cloud.settings.driver == "fake":
        path = cloud.layout.images / "empty.img"
        path.write_bytes(bytes(1 << 20))
        return path
    cache = os.environ.get("NOVA_LXD_CACHE") or cloud.layout.images
    printed = run(
        (REPOSITORY / "tools/images/build", name, "--artifact", "unified.tar.gz", "--seed", "none",
         "--cache", cache),
        log=cloud.log(f"step-image-{name}"), timeout=3600,
        remedy="see whether this machine reaches a Debian mirror, then run 'quickstart up' again",
    )
    return Path(printed.splitlines()[-1])


def upload_image(cloud: Cloud, name: str, label: str = "") -> bool:
    """Put the image into Glance, as ``label`` if that is given.

    What an interrupted upload left is replaced.
    """
    path = build_image(cloud, name)
    label = label or name
    images = Rest.login(cloud).service("image")
    for entry in images.get(f"/images?name={label}")["images"]:
        if entry["status"] == "active":
            return False
        images.delete(f"/images/{entry['id']}")
    properties = {"hypervisor_type": "lxd", "os_type": "linux"}
    if name in ADMIN_USERS:
        properties["os_admin_user"] = ADMIN_USERS[name]
    if cloud.settings.driver == "fake":
        properties = {}
    # Glance knows no tar format: a unified LXD tarball goes as raw, and the driver looks inside.
    image = images.post("/images", {
        "name": label, "disk_format": "raw", "container_format": "bare", "visibility": "public",
        "min_ram": IMAGES[name], **properties})
    images.upload(f"/images/{image['id']}/file", path)
    return True


def steps(cloud: Cloud) -> list[Step]:
    once = fingerprint(repr(FLAVORS), cloud.settings.external_subnet, cloud.settings.driver)
    result = [
        Step("contents/key", lambda: make_key(cloud), needs=("packages",)),
        Step("contents/projects", lambda: projects(cloud), needs=("keystone/catalogue",),
             stamp=once),
        Step("contents/flavors", lambda: flavors(cloud), stamp=once,
             needs=("keystone/catalogue", "start nova-api")),
        Step("contents/key pairs", lambda: key_pairs(cloud), stamp=once,
             needs=("contents/projects", "contents/key", "start nova-api")),
        Step("contents/networks", lambda: networks(cloud), stamp=once,
             needs=("contents/projects", "start neutron-api", "network/external bridge",
                    "start ovn-northd")),
    ]
    names = list(IMAGES) if cloud.settings.driver == "lxd" else ["debian"]
    for name in names:
        result += [
            Step(f"image/{name}", lambda name=name: build_image(cloud, name) and None,
                 needs=("packages",), stamp=once),
            Step(f"contents/image {name}", lambda name=name: upload_image(cloud, name), stamp=once,
                 needs=(f"image/{name}", "keystone/catalogue", "start glance")),
        ]
    return result
