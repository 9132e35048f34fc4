# SPDX-License-Identifier: Apache-2.0
"""Each phase of the plugin calls what devstack offers, with the right words.

devstack itself cannot run in a test: its functions are replaced by ones that write down how
they were called.  What the plugin runs as programs (sudo, curl, openstack) is replaced too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "tools"))

from cloud.tempestrun import COMPUTE_FEATURES

PLUGIN = Path(__file__).resolve().parents[4] / "devstack"

STUBS = r"""
set -o errexit -o nounset -o pipefail
record() { printf '%s' "$1" >>"$CALLS"; shift; printf ' %s' "$@" >>"$CALLS"; echo >>"$CALLS"; }
for name in install_package setup_develop run_process stop_process iniset echo_summary \
        define_plugin enable_service; do
    eval "$name() { record $name \"\$@\"; }"
done
is_service_enabled() { [[ " $ENABLED " == *" $1 "* ]]; }
die() { echo "$2" >&2; exit 1; }
openstack() { record openstack "$@"; if [[ "$*" == *"image show"* ]]; then echo image-uuid; fi; }
sleep() { :; }
sudo() {
    record sudo "$@"
    if [[ "$1" == curl ]]; then
        case "$*" in
            *internal/ready*) echo '{"status_code": 200}' ;;
            *"GET http://lxd/1.0/storage-pools/"*) echo "$POOL_ANSWER" ;;
        esac
    elif [[ "$1" == */tools/images/build ]]; then
        echo "/images/$2.tar.gz"
    fi
}
"""


def run_phase(tmp_path: Path, *phase: str, **variables: str) -> list[str]:
    """The recorded calls of one phase, one a line."""
    calls = tmp_path / "calls"
    calls.write_text("")
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CALLS": str(calls), "ENABLED": "n-cpu tempest",
        "DATA_DIR": "/data", "NOVA_CONF": "/etc/nova/nova.conf", "STACK_GROUP": "stack",
        "TEMPEST_CONFIG": "/tempest.conf", "POOL_ANSWER": '{"type": "error"}', **variables,
    }
    program = f"{STUBS}\nsource {PLUGIN}/settings\n: >\"$CALLS\"\nsource {PLUGIN}/plugin.sh"
    subprocess.run(["bash", "-c", program, "plugin", *phase], env=environment, check=True,
                   timeout=60)
    return calls.read_text().splitlines()


def test_settings_enable_the_daemon_only_when_it_is_ours(tmp_path: Path) -> None:
    program = f"{STUBS}\nsource {PLUGIN}/settings\necho $NOVA_LXD_ENDPOINT"
    seen = {}
    for backend in ("bundled", "host"):
        calls = tmp_path / backend
        done = subprocess.run(
            ["bash", "-c", program], check=True, capture_output=True, text=True, timeout=60,
            env={"PATH": "/usr/bin:/bin", "CALLS": str(calls), "DATA_DIR": "/data",
                 "NOVA_LXD_BACKEND": backend})
        seen[backend] = (done.stdout.strip(), calls.read_text().splitlines())
    assert seen["bundled"] == ("/data/nova-lxd/unix.socket",
                               ["define_plugin nova-lxd", "enable_service nova-lxd"])
    assert seen["host"] == ("/var/lib/lxd/unix.socket", ["define_plugin nova-lxd"])


def test_install_takes_the_checkout(tmp_path: Path) -> None:
    assert f"setup_develop {PLUGIN.parent}" in run_phase(tmp_path, "stack", "install")


def test_host_backend_installs_no_container_library(tmp_path: Path) -> None:
    bundled = run_phase(tmp_path, "stack", "pre-install")
    host = run_phase(tmp_path, "stack", "pre-install", NOVA_LXD_BACKEND="host")
    assert any("liblxc1" in call for call in bundled)
    assert not any("liblxc1" in call for call in host)


def test_post_config_starts_the_daemon_and_configures_nova(tmp_path: Path) -> None:
    calls = run_phase(tmp_path, "stack", "post-config")
    started = next(call for call in calls if call.startswith("run_process nova-lxd"))
    assert "LXD_DIR=/data/nova-lxd" in started
    assert started.endswith("daemon --group stack root root")
    pool = next(i for i, call in enumerate(calls) if "--request POST" in call)
    assert '{"name": "default", "driver": "dir"}' in calls[pool]
    assert calls.index(started) < pool
    assert "iniset /etc/nova/nova.conf DEFAULT compute_driver lxd.LXDDriver" in calls
    assert "iniset /etc/nova/nova.conf lxd endpoint /data/nova-lxd/unix.socket" in calls


def test_post_config_with_the_hosts_lxd_starts_nothing_and_keeps_its_pool(tmp_path: Path) -> None:
    calls = run_phase(tmp_path, "stack", "post-config", NOVA_LXD_BACKEND="host",
                      POOL_ANSWER='{"type": "sync"}')
    assert not any(call.startswith("run_process") for call in calls)
    assert not any("--request POST" in call for call in calls)
    assert "iniset /etc/nova/nova.conf lxd endpoint /var/lib/lxd/unix.socket" in calls


def test_images_are_uploaded_as_raw(tmp_path: Path) -> None:
    calls = run_phase(tmp_path, "stack", "extra", NOVA_LXD_IMAGES="busybox")
    upload = next(call for call in calls if "image create" in call)
    assert "image create busybox" in upload
    assert "--disk-format raw --file /images/busybox.tar.gz" in upload


def test_tempest_gets_the_image_and_the_features(tmp_path: Path) -> None:
    calls = run_phase(tmp_path, "stack", "test-config")
    assert "iniset /tempest.conf compute image_ref image-uuid" in calls
    assert "iniset /tempest.conf compute-feature-enabled resize True" in calls
    assert "iniset /tempest.conf compute-feature-enabled vnc_console False" in calls
    assert not any("interceptors" in call for call in calls)
    assert run_phase(tmp_path, "stack", "test-config", ENABLED="n-cpu") == []
    host = run_phase(tmp_path, "stack", "test-config", NOVA_LXD_BACKEND="host")
    assert "iniset /tempest.conf lxd interceptors True" in host


@pytest.mark.parametrize("before", ["", "0", "/opt/stack/other"])
def test_tempest_plugin_is_named_beside_others(tmp_path: Path, before: str) -> None:
    program = f"{STUBS}\nsource {PLUGIN}/settings\necho $TEMPEST_PLUGINS"
    done = subprocess.run(
        ["bash", "-c", program], check=True, capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "CALLS": str(tmp_path / "calls"), "DATA_DIR": "/data",
             **({"TEMPEST_PLUGINS": before} if before else {})})
    others = [before] if before.startswith("/") else []
    assert done.stdout.split() == [*others, str(PLUGIN.parent)]


def test_features_are_those_of_the_quick_start(tmp_path: Path) -> None:
    """Where the plug-in names a feature, the quick start's tempest.conf says the same of it."""
    calls = run_phase(tmp_path, "stack", "test-config")
    named = {words[3]: words[4] == "True" for words in map(str.split, calls)
             if words[:3] == ["iniset", "/tempest.conf", "compute-feature-enabled"]}
    assert named and named == {name: COMPUTE_FEATURES[name] for name in named}


def test_unstack_stops_the_daemon(tmp_path: Path) -> None:
    assert "stop_process nova-lxd" in run_phase(tmp_path, "unstack")
    assert run_phase(tmp_path, "unstack", NOVA_LXD_BACKEND="host") == []


def test_a_node_without_compute_does_nothing(tmp_path: Path) -> None:
    assert run_phase(tmp_path, "stack", "post-config", ENABLED="n-api") == []


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["plugin.sh", "settings", "override-defaults"])
def test_shellcheck(name: str) -> None:
    # SC2034: settings are read by plugin.sh and devstack; SC1090: devstack sources us.
    subprocess.run(["shellcheck", "-s", "bash", "-e", "SC2034,SC2154", str(PLUGIN / name)],
                   check=True, timeout=60)
