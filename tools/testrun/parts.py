# SPDX-License-Identifier: Apache-2.0
"""The parts of the test run: what each runs in full, and the share of it that CI runs.

A part's commands run in order, the later ones also when an earlier one failed; ``{venv}`` is the
Python environment, ``{python}`` its interpreter, ``{bin}`` its directory of programs, ``{report}``
the file for a JUnit report, ``{work}`` a scratch directory, ``{cloud}`` the state of the cloud.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Command = tuple[str, ...]
_PYTEST = ("{python}", "-m", "pytest", "-q", "--junitxml={report}")


@dataclass(frozen=True)
class Part:
    """One part of the run.

    :param full: the commands of the whole part.
    :param share: those of CI's share; the whole part when empty.
    :param minutes: time after which the part counts as failed.
    :param share_minutes: the same for CI's share, where that is less.
    :param root: it makes containers, mounts and network namespaces.
    """

    name: str
    doc: str
    full: tuple[Command, ...]
    share: tuple[Command, ...] = ()
    minutes: int = 15
    share_minutes: int = 0
    root: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def patience(self, whole: bool) -> float:
        """Seconds after which it counts as failed."""
        return 60.0 * (self.minutes if whole else self.share_minutes or self.minutes)

    def commands(self, whole: bool) -> tuple[Command, ...]:
        return self.full if whole or not self.share else self.share


# What runs real systems is tried once more when it fails; the summary tells how often it was.
_LIVE = ("--reruns=1", "--reruns-delay=2")
_FUNCTIONAL = (*_PYTEST, "-p", "no:cacheprovider", "--timeout=300", *_LIVE)
_OTHERS = (
    "--ignore=nova_lxd/tests/functional/virt",
    "--ignore=nova_lxd/tests/functional/packaging",
)
_BESIDE = ("{python}", "tools/testrun/beside.py", "--backend")
_VIRT = "nova_lxd/tests/functional/virt"
# Wants a second host, which comes last as it stays.
_HOSTS = "nova_lxd/tests/cloud/test_hosts.py"
# Nova's other concurrency backend. Only named plug-ins: some import urllib3 before it is patched.
_EVENTLET = (
    "env",
    "OS_NOVA_DISABLE_EVENTLET_PATCHING=false",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1",
    "PYTEST_PLUGINS=pytest_asyncio.plugin,pytest_rerunfailures,pytest_timeout",
)
_GREEN = (*_FUNCTIONAL, _VIRT)
_GREEN_SHARE = "backend or console or https or killed"
_LXD_SHARE = (f"{_VIRT}/test_life.py", f"{_VIRT}/test_outage.py")
_ORACLE_SHARE = (
    "errors",
    "events",
    "exec",
    "networks",
    "profiles",
    "projects",
    "snapshots",
    "transcripts",
)
_NOVA = ("{python}", "-m", "nova_lxd.tests.nova")
_NOVA_SHARE = (
    "LXDConnectionTestCase",
    "LXDLoaderTestCase",
    "test_create_and_rebuild_server",
    "ServerSoftDeleteTests",
    "InstanceActionsTestV221",
    "ImagesTest",
    "test_disabled_while_away_and_enabled_again",
    "test_boot_server_with_two_ports_one_having_resource_request",
)
_CLOUD = ("{python}", "quickstart", "--state", "{cloud}")
_CLOUD_BENCHMARK = ("{python}", "-m", "benchmarks.cloud", "--state", "{cloud}")
_CLOUD_FAULTS = ("{python}", "-m", "nova_lxd.tests.faults.cloud", "--state", "{cloud}")

PARTS: tuple[Part, ...] = (
    Part(
        "style",
        "ruff on all Python, shellcheck on all shell, bashate on the devstack plugin",
        (
            ("{bin}/ruff", "check", "."),
            ("{python}", "tools/testrun/shells.py"),
        ),
    ),
    Part("types", "mypy --strict on the daemon", (("{bin}/mypy",),)),
    Part(
        "docs",
        "the documentation builds without a warning",
        (("{python}", "-m", "sphinx", "-q", "-W", "-b", "html", "doc/source", "{work}/html"),),
    ),
    Part("unit", "fast tests, no root, no programs", ((*_PYTEST, "nova_lxd/tests/unit"),)),
    Part(
        "packaging",
        "wheel and editable installs in fresh environments",
        ((*_FUNCTIONAL, "nova_lxd/tests/functional/packaging"),),
    ),
    Part(
        "functional",
        "the bundled daemon: real lxc, pylxd and containers",
        ((*_FUNCTIONAL, "--backend=bundled", *_OTHERS, "nova_lxd/tests/functional"),),
        minutes=30,
        root=True,
    ),
    Part(
        "kernel",
        "the daemon on another kernel: systemd, AppArmor, cgroup v2 alone, project quotas",
        (("{python}", "tools/kernel/run", "--report", "{report}"),),
        minutes=20,
        root=True,
    ),
    Part(
        "oracle",
        "the same tests against Debian's real LXD",
        ((*_FUNCTIONAL, "--backend=lxd", *_OTHERS, "nova_lxd/tests/functional"),),
        share=(
            (
                *_FUNCTIONAL,
                "--backend=lxd",
                *(f"nova_lxd/tests/functional/test_{name}.py" for name in _ORACLE_SHARE),
            ),
        ),
        minutes=60,
        share_minutes=15,
        root=True,
    ),
    Part(
        "driver",
        "the Nova driver on both back ends and both of Nova's concurrency backends",
        (
            *((*_BESIDE, backend, "--", *_FUNCTIONAL, _VIRT) for backend in ("bundled", "lxd")),
            *((*_EVENTLET, *_BESIDE, backend, "--", *_GREEN) for backend in ("bundled", "lxd")),
        ),
        share=(
            (*_BESIDE, "bundled", "--", *_FUNCTIONAL, _VIRT),
            (*_EVENTLET, *_BESIDE, "bundled", "--", *_GREEN, "-k", _GREEN_SHARE),
            (*_BESIDE, "lxd", "--", *_FUNCTIONAL, *_LXD_SHARE, "-k", "spawn or killed or ids"),
        ),
        minutes=60,
        share_minutes=15,
        root=True,
    ),
    Part(
        "nova",
        "Nova's own functional tests on the driver with real containers",
        ((*_BESIDE, "bundled", "--", "{python}", "-m", "nova_lxd.tests.nova"),),
        share=(
            (*_BESIDE, "bundled", "--", "{python}", "-m", "nova_lxd.tests.nova", *_NOVA_SHARE),
        ),
        minutes=40,
        share_minutes=10,
        root=True,
    ),
    Part(
        "faults",
        "random calls while parts are killed, then an audit of host and database",
        (("{python}", "-m", "nova_lxd.tests.faults", "--rounds", "200", "--seed", "1"),),
        share=(("{python}", "-m", "nova_lxd.tests.faults", "--rounds", "20", "--seed", "1"),),
        minutes=90,
        share_minutes=10,
        root=True,
    ),
    Part(
        "fuzz",
        "the API from its OpenAPI document, and by coverage every reader of untrusted bytes",
        (("{python}", "-m", "nova_lxd.tests.fuzz", "--seconds", "600", "--each", "180"),),
        share=(("{python}", "-m", "nova_lxd.tests.fuzz", "--seconds", "45", "--each", "5"),),
        minutes=45,
        share_minutes=10,
        root=True,
    ),
    Part(
        "benchmarks",
        "the bundled daemon beside real LXD: that every measurement works, never how fast",
        (
            ("{python}", "-m", "benchmarks.compare", "--debian"),
            ("{python}", "-m", "benchmarks.scale", "--count", "200"),
        ),
        share=(
            ("{python}", "-m", "benchmarks.compare", "--quick"),
            ("{python}", "-m", "benchmarks.scale", "--count", "10"),
        ),
        minutes=30,
        root=True,
    ),
    Part(
        "cloud",
        "a whole OpenStack: servers from outside, by API and ssh, then tempest",
        (
            (*_CLOUD, "up", "--venv", "{venv}"),
            (*_PYTEST, *_LIVE, "nova_lxd/tests/cloud", "--full", f"--ignore={_HOSTS}"),
            (*_CLOUD_FAULTS, "--rounds", "25"),
            (*_CLOUD_BENCHMARK, "--at-once", "20"),
            ("{python}", "tools/cloud/tempest", "--full"),
            (*_CLOUD, "add-host", "two"),
            (*_PYTEST, *_LIVE, _HOSTS, "--full"),
            ("{python}", "tools/cloud/tempest", "test_server_multinode"),
            (*_CLOUD, "destroy"),
            # The same from nothing: a minimal Debian, without and with systemd.
            ("{python}", "tools/newcomer"),
            ("{python}", "tools/newcomer", "--init", "systemd"),
        ),
        share=(
            (*_CLOUD, "up", "--venv", "{venv}"),
            (*_PYTEST, *_LIVE, "nova_lxd/tests/cloud", f"--ignore={_HOSTS}"),
            (*_CLOUD_FAULTS, "--rounds", "3"),
            (*_CLOUD_BENCHMARK, "--parts", "single", "--images", "busybox", "--rounds", "1"),
            ("{python}", "tools/cloud/tempest"),
            (*_CLOUD, "add-host", "two"),
            (*_PYTEST, *_LIVE, _HOSTS),
            (*_CLOUD, "destroy"),
        ),
        minutes=240,
        share_minutes=40,
        root=True,
        environment={"NOVA_LXD_CLOUD": "{cloud}", "NOVA_LXD_ARTIFACTS": "{work}"},
    ),
)
