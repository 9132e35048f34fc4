# SPDX-License-Identifier: Apache-2.0
"""The command line of quickstart."""

from __future__ import annotations

import argparse
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cloud import hosts, openrc, plan, showcase, status, teardown
from cloud.context import Cloud
from cloud.controller import bring_up, choose
from cloud.errors import CloudError
from cloud.layout import DEFAULT_STATE, Layout
from cloud.progress import Progress
from cloud.services import Service
from cloud.settings import BACK_ENDS, DRIVERS, OPTIONAL, Settings
from cloud.steps import Runner

EPILOG = """\
examples:
  quickstart up                       # everything, and a first server
  quickstart up --without horizon     # less
  eval "$(quickstart env)"            # then: openstack server list
  quickstart logs nova-compute -f
  quickstart destroy                  # leaves nothing but Debian packages
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="quickstart", description="A complete single-node OpenStack with the LXD driver.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--state", type=Path,
                     default=Path(os.environ.get("NOVA_LXD_CLOUD") or DEFAULT_STATE),
                     help=f"directory of the cloud (default: $NOVA_LXD_CLOUD or {DEFAULT_STATE})")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="bring the cloud up, or go on where an earlier run stopped")
    up.add_argument("--without", default=None, metavar="LIST",
                    help=f"parts to leave out, with commas between: {', '.join(OPTIONAL)}")
    up.add_argument("--driver", choices=DRIVERS, help="nova's compute driver (default lxd)")
    up.add_argument("--lxd", choices=BACK_ENDS, help="the container daemon (default bundled)")
    up.add_argument("--pool", choices=("dir", "btrfs"), help="storage of containers (default dir)")
    up.add_argument("--venv", type=Path, help="use this Python environment with OpenStack in it")
    up.add_argument("--external-subnet", metavar="CIDR", help="subnet of the floating IPs")
    up.add_argument("--outbound", action=argparse.BooleanOptionalAction, default=None,
                    help="guests reach the world, under the machine's address (default: yes)")
    up.add_argument("--no-server", action="store_true", help="do not create a first server")
    add_host = verbs.add_parser("add-host", help="add a compute host in namespaces of its own")
    add_host.add_argument("name", help="its name, for example two")
    verbs.add_parser("status", help="each service, its health and its log")
    env = verbs.add_parser("env", help="shell variables for the openstack command")
    env.add_argument("user", nargs="?", default="demo", choices=openrc.USERS)
    verbs.add_parser("down", help="stop servers and services; all data stays")
    verbs.add_parser("destroy", help="remove the cloud from this machine")
    restart = verbs.add_parser("restart", help="restart services, after a change of the source")
    restart.add_argument("services", nargs="+", metavar="SERVICE")
    logs = verbs.add_parser("logs", help="show the log of a service")
    logs.add_argument("service", nargs="?")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("-n", "--lines", type=int, default=50)
    return top


def no_cloud(state: Path) -> CloudError:
    return CloudError(f"there is no cloud in {state}.",
                      remedy="make one: quickstart up, or name its directory with --state")


def open_cloud(state: Path) -> Cloud:
    """The existing cloud of a state directory; CloudError when there is none."""
    layout = Layout(state.absolute())
    settings = Settings.load(layout)
    if settings is None:
        raise no_cloud(layout.state)
    return Cloud(layout, settings, choose(layout))


def prepare(arguments: argparse.Namespace, progress: Progress) -> Cloud:
    """The cloud with this command line's wishes taken into its settings."""
    layout = Layout(arguments.state.absolute())
    layout.make()
    settings = Settings.load(layout) or Settings()
    if arguments.without is not None:
        settings.without = [part for part in arguments.without.split(",") if part]
        if unknown := set(settings.without) - set(OPTIONAL):
            raise CloudError(f"--without does not know {', '.join(sorted(unknown))}.",
                             remedy=f"choose from {', '.join(OPTIONAL)}")
    for name in ("driver", "lxd", "pool", "external_subnet", "outbound"):
        if (value := getattr(arguments, name)) is not None:
            setattr(settings, name, value)
    if arguments.venv is not None:
        settings.venv = str(arguments.venv.absolute())
    for note in settings.complete(socket.gethostname()):
        progress.note(note)
    settings.save(layout)
    return Cloud(layout, settings, choose(layout))


@contextmanager
def exclusive(state: Path, create: bool = False) -> Iterator[None]:
    """One changing verb at a time for one state directory, which only 'up' makes."""
    if create:
        state.mkdir(parents=True, exist_ok=True)
    elif not state.is_dir():
        raise no_cloud(state)
    descriptor = os.open(state, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise CloudError(f"another quickstart is at work in {state}.",
                         remedy="wait for it to end") from error
    finally:
        os.close(descriptor)


def up(arguments: argparse.Namespace) -> int:
    with exclusive(arguments.state, create=True), Progress() as progress:
        cloud = prepare(arguments, progress)
        cloud.controller.prepare()
        Runner(cloud.layout.done, progress).run(plan.steps(cloud))
        openrc.write(cloud)
        progress.note(f"the cloud is up, in {progress.elapsed:.0f} s")
        if not arguments.no_server:
            showcase.show(cloud)
        print(showcase.next_steps(cloud, command_name(arguments)))
    return 0


def add_host(arguments: argparse.Namespace) -> int:
    with exclusive(arguments.state), Progress() as progress:
        cloud = open_cloud(arguments.state)
        cloud.controller.prepare()
        record = hosts.add(cloud, arguments.name)
        Runner(cloud.layout.done, progress).run(plan.steps(cloud))
        progress.note(f"host {record.name} is up at {record.address}, "
                      f"in {progress.elapsed:.0f} s")
    print(f'a server there: openstack --os-compute-api-version 2.74 server create '
          f'--host {record.name} ... (as admin)')
    return 0


def command_name(arguments: argparse.Namespace) -> str:
    """How this command was called, for hints that can be copied."""
    state = f" --state {arguments.state}" if arguments.state != DEFAULT_STATE else ""
    return sys.argv[0] + state


def show_status(arguments: argparse.Namespace) -> int:
    lines, well = status.table(open_cloud(arguments.state))
    print("\n".join(lines))
    return 0 if well else 3


def show_env(arguments: argparse.Namespace) -> int:
    print(openrc.shell(open_cloud(arguments.state), arguments.user), end="")
    return 0


def stop(arguments: argparse.Namespace) -> int:
    with exclusive(arguments.state):
        teardown.down(open_cloud(arguments.state))
    return 0


def destroy(arguments: argparse.Namespace) -> int:
    with exclusive(arguments.state):
        cloud = open_cloud(arguments.state)
        packages = cloud.settings.installed_packages
        teardown.destroy(cloud)
    print(f"removed {arguments.state}")
    if packages:
        print(f"Debian packages it had installed: apt-get purge {' '.join(packages)}")
    return 0


def restart(arguments: argparse.Namespace) -> int:
    with exclusive(arguments.state):
        cloud = open_cloud(arguments.state)
        known = status.services(cloud)
        for name in arguments.services:
            service = find_service(known, name)
            cloud.controller.stop(name)
            bring_up(cloud.controller, service)
            print(f"restarted {name}")
    return 0


def find_service(known: dict[str, Service], name: str) -> Service:
    if name not in known:
        raise CloudError(f"there is no service {name}.", remedy=f"choose from: {' '.join(known)}")
    return known[name]


def show_logs(arguments: argparse.Namespace) -> int:
    cloud = open_cloud(arguments.state)
    known = status.services(cloud)
    if arguments.service is None:
        print("\n".join(f"{name:<32} {service.tail or service.log}"
                        for name, service in known.items()))
        return 0
    service = find_service(known, arguments.service)
    follow = ["-F"] if arguments.follow else []
    return subprocess.call(["tail", "-n", str(arguments.lines), *follow,
                            service.tail or service.log])


VERBS = {
    "up": up, "add-host": add_host, "status": show_status, "env": show_env, "down": stop,
    "destroy": destroy, "restart": restart, "logs": show_logs,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    arguments = parser().parse_args(argv)
    if os.geteuid() != 0:
        print("quickstart: this needs root (network devices, containers, users).",
              file=sys.stderr)
        return 1
    try:
        return VERBS[arguments.verb](arguments)
    except CloudError as error:
        print(f"\nquickstart {arguments.verb}: {error.report()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; 'quickstart {arguments.verb}' goes on from here", file=sys.stderr)
        return 130
