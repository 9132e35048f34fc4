# SPDX-License-Identifier: Apache-2.0
"""``init``: by questions on a terminal or a pipe, from a preseed, by itself, and dumped."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from nova_lxd.tests.functional.daemon import Daemon

NOT_OURS = ("Would you like to use LXD clustering?", "Would you like to connect to a MAAS server?")


class Terminal:
    """``init`` on a terminal of its own, answered by the first words of each question."""

    def __init__(self, daemon: Daemon, answers: Mapping[str, str | list[str]]) -> None:
        self.questions: list[str] = []
        self.output = ""
        self._answers = {key: [v] if isinstance(v, str) else list(v) for key, v in answers.items()}
        argv = daemon.sandbox.argv(daemon.admin_argv("init"))
        pid, self._fd = pty.fork()
        if pid == 0:
            os.execvpe(argv[0], argv, daemon.environment)
        try:
            self._talk()
        finally:
            os.close(self._fd)
            self.code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _talk(self) -> None:
        seen = 0
        while True:
            ready, _, _ = select.select([self._fd], [], [], 30)
            assert ready, f"init says nothing more: {self.output}"
            try:
                data = os.read(self._fd, 4096)
            except OSError:  # EIO: it has ended
                return
            self.output += data.decode()
            last = self.output[seen:].rpartition("\n")[2]
            if last.endswith(": "):
                seen = len(self.output)
                os.write(self._fd, f"{self._answer(last)}\n".encode())

    def _answer(self, question: str) -> str:
        if not question.startswith(NOT_OURS):
            self.questions.append(question.strip())
        for key, given in self._answers.items():
            if question.startswith(key) and given:
                return given.pop(0)
        return ""

    def unused(self) -> list[str]:
        """Answers that no question was put for."""
        return [answer for given in self._answers.values() for answer in given]


def listed(questions: list[str]) -> list[str]:
    """Questions without what depends on the host: free space, and the order of the drivers."""
    return [re.sub(r"\(btrfs, dir\)|\(dir, btrfs\)|=\d+GiB", "", each) for each in questions]


def default_devices(daemon: Daemon) -> Any:
    return daemon.get("/1.0/profiles/default")["devices"]


def test_defaults_of_the_questions(bare: Daemon) -> None:
    terminal = Terminal(bare, {"Name of the storage backend": "dir"})
    assert terminal.code == 0, terminal.output
    assert listed(terminal.questions) == [
        "Do you want to configure a new storage pool? (yes/no) [default=yes]:",
        "Name of the new storage pool [default=default]:",
        "Name of the storage backend to use  [default=btrfs]:",
        "Would you like to create a new local network bridge? (yes/no) [default=yes]:",
        "What should the new bridge be called? [default=lxdbr0]:",
        "What IPv4 address should be used? (CIDR subnet notation, “auto” or “none”) "
        "[default=auto]:",
        "What IPv6 address should be used? (CIDR subnet notation, “auto” or “none”) "
        "[default=auto]:",
        "Would you like the LXD server to be available over the network? (yes/no) [default=no]:",
        "Would you like stale cached images to be updated automatically? (yes/no) [default=yes]:",
        'Would you like a YAML "lxd init" preseed to be printed? (yes/no) [default=no]:',
    ]
    assert default_devices(bare) == {
        "root": {"type": "disk", "path": "/", "pool": "default"},
        "eth0": {"type": "nic", "name": "eth0", "network": "lxdbr0"},
    }
    assert bare.get("/1.0/storage-pools/default")["driver"] == "dir"
    assert bare.get("/1.0/networks/lxdbr0")["config"]["ipv4.nat"] == "true"


def test_every_question_answered(bare: Daemon) -> None:
    terminal = Terminal(
        bare,
        {
            "Name of the new storage pool": "fast",
            "Name of the storage backend": ["nosuch", "btrfs"],
            "Size in GiB": ["tiny", "1"],
            "What should the new bridge": "br7",
            "What IPv4": ["10.81.0.1", "10.81.0.1/24"],
            "Would you like LXD to NAT IPv4": "no",
            "What IPv6": "none",
            "Would you like the LXD server": "yes",
            "Port": ["0", "8444"],
            "Trust password": "secret",
            "Again": "secret",
            "Would you like stale": "no",
            "Would you like a YAML": "yes",
        },
    )
    assert terminal.code == 0, terminal.output
    assert listed(terminal.questions)[3:6] == [
        "Name of the storage backend to use  [default=btrfs]:",
        "Create a new BTRFS pool? (yes/no) [default=yes]:",
        "Would you like to use an existing empty block device (e.g. a disk or partition)? "
        "(yes/no) [default=no]:",
    ]
    assert terminal.unused() == []  # each wrong answer was refused and the question put again
    assert "secret" not in terminal.output.partition("config:")[0]
    pool = bare.get("/1.0/storage-pools/fast")
    assert pool["driver"] == "btrfs" and pool["config"]["size"] in ("1GiB", "1GB")
    network = bare.get("/1.0/networks/br7")["config"]
    assert (network["ipv4.address"], network["ipv4.nat"]) == ("10.81.0.1/24", "false")
    assert network["ipv6.address"] == "none"
    config = bare.get("/1.0")["config"]
    assert config["core.https_address"] == "[::]:8444"
    assert config["core.trust_password"] is True
    assert config["images.auto_update_interval"] == "0"
    printed = yaml.safe_load(terminal.output[terminal.output.index("config:") :])
    assert printed["networks"][0]["name"] == "br7"
    assert printed["storage_pools"][0]["name"] == "fast"
    again = Terminal(bare, {"Name of the new storage pool": ["fast", "slow"],
                            "Name of the storage backend": "dir",
                            "Would you like to create a new local": "no"})  # fmt: skip
    assert 'The requested storage pool "fast" already exists.' in again.output
    assert bare.get("/1.0/storage-pools/slow")["driver"] == "dir"


def test_existing_bridge(bare: Daemon) -> None:
    bare.inside("ip", "link", "add", "mybr", "type", "bridge")
    script = {
        "Do you want to configure a new storage pool?": "no",
        "Would you like to create a new local": "no",
        "Would you like to configure LXD to use an existing": "yes",
        "Name of the existing bridge": ["nosuch", "mybr"],
    }
    terminal = Terminal(bare, script)
    assert terminal.code == 0, terminal.output
    assert "The requested interface doesn't exist." in terminal.output
    assert default_devices(bare) == {
        "eth0": {"type": "nic", "name": "eth0", "nictype": "bridged", "parent": "mybr"}
    }


def piped(daemon: Daemon, *arguments: str, text: str) -> subprocess.CompletedProcess[str]:
    """``init`` with its standard input from a pipe."""
    argv = daemon.sandbox.argv(daemon.admin_argv("init", *arguments))
    return subprocess.run(
        argv, input=text, capture_output=True, text=True, env=daemon.environment, check=False
    )


def test_answers_from_a_pipe(bare: Daemon) -> None:
    answers = ["yes", "pipe", "dir", "no", "no", "no", "yes", "no"]
    if bare.backend == "lxd":
        answers = ["no", *answers[:3], "no", *answers[3:]]
    done = piped(bare, text="\n".join(answers) + "\n")
    assert done.returncode == 0, done.stderr
    assert default_devices(bare) == {"root": {"type": "disk", "path": "/", "pool": "pipe"}}
    if bare.backend == "bundled":  # real LXD takes the end for empty answers, without end
        short = piped(bare, text="yes\n")
        assert short.returncode == 1 and "standard input ended" in short.stderr


PRESEED = """
config:
  images.auto_update_interval: 15
storage_pools:
- name: data
  driver: dir
networks:
- name: br3
  type: bridge
  config: {ipv4.address: 10.83.0.1/24, ipv4.nat: true, ipv6.address: none}
projects:
- name: p1
  config: {features.images: false}
profiles:
- name: default
  devices:
    root: {type: disk, path: /, pool: data}
- name: extra
  config: {limits.memory: 1GiB}
"""


def test_preseed_twice_and_dump(bare: Daemon) -> None:
    for _ in range(2):
        done = piped(bare, "--preseed", text=PRESEED)
        assert done.returncode == 0, done.stderr
    assert bare.get("/1.0")["config"] == {"images.auto_update_interval": "15"}
    assert default_devices(bare)["root"]["pool"] == "data"
    dumped = bare.admin("init", "--dump", check=True).stdout
    found = yaml.safe_load(dumped)
    assert sorted(found) == ["config", "networks", "profiles", "projects", "storage_pools"]
    assert {each["name"] for each in found["profiles"]} == {"default", "extra"}
    [network] = found["networks"]
    assert network["config"]["ipv4.address"] == "10.83.0.1/24"
    assert (network["type"], network["project"]) == ("bridge", "default")
    assert piped(bare, "--preseed", text=dumped).returncode == 0
    assert bare.admin("init", "--dump").stdout == dumped


def test_dump_sets_up_another_server(bare: Daemon) -> None:
    assert piped(bare, "--preseed", text=PRESEED).returncode == 0
    dumped = yaml.safe_load(bare.admin("init", "--dump").stdout)
    dumped["storage_pools"][0]["config"].pop("source")
    with Daemon(bare.backend, "other") as other:
        done = piped(other, "--preseed", text=yaml.safe_dump(dumped))
        assert done.returncode == 0, done.stderr
        assert other.get("/1.0/networks/br3") == bare.get("/1.0/networks/br3")
        assert other.get("/1.0/profiles/extra")["config"] == {"limits.memory": "1GiB"}


def test_failed_preseed_is_undone(bare: Daemon) -> None:
    wrong = PRESEED.replace("limits.memory: 1GiB", "limits.memory: lots")
    done = piped(bare, "--preseed", text=wrong)
    assert done.returncode == 1 and "lots" in done.stderr
    assert bare.get("/1.0")["config"].get("images.auto_update_interval", "") == ""
    assert bare.get("/1.0/storage-pools") == []
    assert "/1.0/networks/br3" not in bare.get("/1.0/networks")
    assert bare.get("/1.0/projects") == ["/1.0/projects/default"]
    assert default_devices(bare) == {}


@pytest.mark.parametrize("mode", ["--auto", "--minimal"])
def test_without_questions(bare: Daemon, mode: str) -> None:
    bare.admin("init", mode, check=True)
    assert bare.get("/1.0/storage-pools/default")["driver"] == "dir"
    assert bare.get("/1.0/networks/lxdbr0")["config"]["ipv4.nat"] == "true"
    assert sorted(default_devices(bare)) == ["eth0", "root"]


def test_auto_with_options(bare: Daemon) -> None:
    bare.admin(
        "init", "--auto", "--storage-backend=btrfs", "--storage-create-loop=1",
        "--network-address=127.0.0.1", "--trust-password=sesame", check=True,
    )  # fmt: skip
    assert bare.get("/1.0/storage-pools/default")["driver"] == "btrfs"
    config = bare.get("/1.0")["config"]
    assert config["core.https_address"] == "127.0.0.1:8443"
    assert config["core.trust_password"] is True
    again = bare.admin("init", "--auto", "--storage-backend=btrfs", "--storage-create-loop=1")
    assert "Storage has already been configured" in again.stderr


@pytest.mark.parametrize(
    "options, reason",
    [
        ("--auto --preseed", "Can't use --auto and --preseed together"),
        ("--auto --minimal", "Can't use --minimal and --auto together"),
        ("--dump --auto", "Can't use --dump with other flags"),
        ("--network-address=::1", "Configuration flags require --auto"),
        ("--auto --network-port=1", "--network-port can't be used without --network-address"),
        ("--auto --trust-password=x", "--trust-password can't be used without --network-address"),
        ("--auto --storage-backend=nosuch", "backend 'nosuch' isn't supported by lxd init"),
        ("--auto --storage-create-loop=5", "may be used with the 'dir' backend"),
        (
            "--auto --storage-backend=btrfs --storage-create-loop=5 --storage-create-device=/x",
            "Only one of --storage-create-device or --storage-create-loop can be specified",
        ),
    ],
)
def test_options_that_exclude_each_other(daemon: Daemon, options: str, reason: str) -> None:
    refused = daemon.admin("init", *options.split())
    assert refused.returncode == 1 and reason in refused.stderr
