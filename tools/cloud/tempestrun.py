# SPDX-License-Identifier: Apache-2.0
"""tempest with a configuration made from the running cloud, and a summary of what it said."""

from __future__ import annotations

import argparse
import collections
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cloud import ini, tempestimages, tenancy, venv
from cloud.cli import open_cloud
from cloud.context import REGION, Cloud, Section
from cloud.errors import CloudError
from cloud.layout import DEFAULT_STATE
from cloud.rest import Rest

HERE = Path(__file__).resolve().parent
SHARE = HERE / "tempest-share.txt"
FULL = HERE / "tempest-full.txt"
EXCLUDE = HERE / "tempest-exclude.txt"
ALONE = HERE / "tempest-alone.txt"
FLAVORS = ("c1.small", "c1.medium")
SECOND_IMAGE = "debian-again"

COMPUTE_FEATURES: Section = {
    "resize": True, "pause": True, "suspend": True, "shelve": True, "rescue": True,
    "snapshot": True, "interface_attach": True, "console_output": True,
    # tempest looks for a block device; a container has its config drive as /config-drive, which
    # nova_lxd/tests/cloud/test_boot.py looks at.
    "config_drive": False,
    "metadata_service": True, "disk_config": True, "change_password": True,
    "cold_migration": False, "live_migration": False, "serial_console": True,
    "vnc_console": False, "spice_console": False,
    "ide_bus": False, "attach_encrypted_volume": False, "personality": True,
    "hostname_fqdn_sanitization": True,
    "stable_rescue": False, "volume_multiattach": False, "swap_volume": False,
}


def directory(cloud: Cloud) -> Path:
    return cloud.data("tempest")


def configuration(cloud: Cloud) -> dict[str, Section]:
    """tempest.conf: what this cloud has, asked from its own APIs."""
    rest = Rest.login(cloud)
    # Some tests need two images that are not the same one.
    tenancy.upload_image(cloud, "debian", SECOND_IMAGE)
    image, second = (rest.service("image").get(f"/images?name={name}")["images"][0]["id"]
                     for name in ("debian", SECOND_IMAGE))
    network = rest.service("network")
    external = network.get(f"/networks?name={tenancy.EXTERNAL_NETWORK}")["networks"][0]
    extensions = ",".join(item["alias"] for item in network.get("/extensions")["extensions"])
    return {
        "DEFAULT": {"log_file": str(directory(cloud) / "tempest.log"), "debug": False},
        "oslo_concurrency": {"lock_path": str(cloud.data("tempest/lock"))},
        "auth": {
            "use_dynamic_credentials": True, "admin_username": "admin",
            "admin_password": cloud.password("admin"), "admin_project_name": "admin",
            "admin_domain_name": "Default",
        },
        "identity": {"uri_v3": cloud.url("keystone", "/v3"), "auth_version": "v3",
                     "region": REGION},
        "identity-feature-enabled": {"api_v2": False},
        "service_available": {"cinder": cloud.has("cinder"), "glance": True, "neutron": True,
                              "nova": True, "swift": False, "horizon": cloud.has("horizon")},
        "image": {"region": REGION},
        "compute": {
            "image_ref": image, "image_ref_alt": second, "flavor_ref": FLAVORS[0],
            "flavor_ref_alt": FLAVORS[1], "min_microversion": "2.1",
            "max_microversion": "latest", "build_timeout": 300, "build_interval": 1,
            "min_compute_nodes": len(cloud.settings.hosts),
        },
        "compute-feature-enabled": COMPUTE_FEATURES,
        "validation": {
            "run_validation": cloud.settings.driver == "lxd", "image_ssh_user": "debian",
            "image_alt_ssh_user": "debian", "connect_method": "floating", "ssh_timeout": 180,
            "ssh_key_type": "ecdsa", "network_for_ssh": tenancy.EXTERNAL_NETWORK,
        },
        "network": {
            "public_network_id": external["id"], "project_network_cidr": "10.100.0.0/16",
            "floating_network_name": tenancy.EXTERNAL_NETWORK,
        },
        "network-feature-enabled": {"floating_ips": True, "api_extensions": extensions,
                                    "ipv6": True, "port_security": True},
        "volume": {"volume_size": 1, "storage_protocol": "nfs", "vendor_name": "Open Source"},
        "volume-feature-enabled": {"backup": False},
        "dashboard": {"dashboard_url": cloud.url("horizon", "/")},
        # Debian empties /tmp, tempest's own choice, at boot.
        "scenario": {"target_dir": "/var/tmp"},
        # What this project's own plug-in wants to know.
        "lxd": {"image_files": str(tempestimages.prepare(cloud)),
                "interceptors": cloud.settings.lxd == "real"},
    }


def prepare(cloud: Cloud) -> Path:
    """Install tempest if it is missing, make its directory, write its configuration."""
    if not Path(cloud.bin("tempest")).exists():
        venv.pip_install(cloud, "tempest")
    home = directory(cloud)
    if not (home / ".stestr.conf").exists():
        # Not in ~/.tempest: a list there outlives the cloud, and refuses the next one's name.
        registry = home.with_name("tempest-workspaces.yaml")
        cloud.manage("tempest", "tempest", "init", "--workspace-path", registry, home)
    ini.write(home / "etc/tempest.conf", configuration(cloud))
    return home


def patterns(path: Path) -> list[str]:
    """The lines of a list, without comments."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def passes(wanted: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The runs that cover what is wanted: what each selects, and what it leaves out besides.

    Those that spoil the rest of their class are left to a run each, after the others.
    """
    alone = [name for name in patterns(ALONE) if any(re.search(each, name) for each in wanted)]
    selected = [f"^{re.escape(name)}(\\[|$)" for name in alone]
    return [("|".join(wanted), selected), *((each, []) for each in selected)]


def execute(cloud: Cloud, wanted: Sequence[str], concurrency: int) -> int:
    """Run the tests that match; prints a summary with the reasons of skips.

    Returns tempest's exit code, the worst of its runs.
    """
    home = prepare(cloud)
    lines: list[str] = []
    codes = []
    for number, (selected, besides) in enumerate(passes(wanted)):
        left_out = home / f"left-out-{number}.txt"
        left_out.write_text("\n".join([*patterns(EXCLUDE), *besides]) + "\n")
        codes.append(run_once(cloud, selected, left_out, concurrency, lines))
    print(summary(lines))
    return max(codes)


def run_once(
    cloud: Cloud, selected: str, left_out: Path, concurrency: int, lines: list[str]
) -> int:
    """One ``tempest run``; its output is printed and added to ``lines``."""
    argv = [cloud.bin("tempest"), "run", "--concurrency", str(concurrency),
            "--regex", selected, "--exclude-list", str(left_out)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    # tempest's own clients must not check certificates that this cloud does not use.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        environment.pop(name, None)
    return followed(argv, directory(cloud), environment, lines)


def followed(
    argv: Sequence[str], cwd: Path, environment: Mapping[str, str], lines: list[str]
) -> int:
    """Run a program in a session of its own, of which nothing stays when this one is ended.

    Its output is printed and added to ``lines``; returns its exit code.
    """
    with subprocess.Popen(argv, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True,
                          errors="replace", start_new_session=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            # tempest's workers outlive tempest, and would go on making servers.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode


# A line of tempest's output: {worker} test name [seconds] ... verdict
VERDICT = re.compile(
    r"^\{\d+\} (?P<test>.+?) (\[[\d.]+s\] )?\.\.\. (?P<verdict>\w+)(: (?P<why>.*))?$")


def summary(lines: Iterable[str]) -> str:
    """Counts, the names of failures and the reasons of skips, from tempest's own lines."""
    verdicts = [match for match in map(VERDICT.match, lines) if match]
    counts = collections.Counter(match["verdict"] for match in verdicts)
    reasons = collections.Counter(
        match["why"] or "no reason given" for match in verdicts if match["verdict"] == "SKIPPED")
    told = [f"tempest: {counts['ok']} passed, {counts['FAILED']} failed, "
            f"{counts['SKIPPED']} skipped"]
    told += [f"  failed: {match['test']}" for match in verdicts if match["verdict"] == "FAILED"]
    told += [f"  skipped {count}: {reason}" for reason, count in reasons.most_common()]
    return "\n".join(told)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the share, the whole or what is named; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools/cloud/tempest", description=__doc__)
    parser.add_argument("--state", type=Path,
                        default=Path(os.environ.get("NOVA_LXD_CLOUD") or DEFAULT_STATE))
    parser.add_argument("--full", action="store_true", help="the whole, not the CI share")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("regex", nargs="*", help="only these tests")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that its workers end, too
    wanted = arguments.regex or patterns(FULL if arguments.full else SHARE)
    try:
        return execute(open_cloud(arguments.state), wanted, arguments.concurrency)
    except CloudError as error:
        print(f"tools/cloud/tempest: {error.report()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tools/cloud/tempest: ended before its time; what it had made stays in the cloud",
              file=sys.stderr)
        return 130
