# SPDX-License-Identifier: Apache-2.0
"""The ``nova-lxd`` command: the daemon and its administrative verbs."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from importlib import metadata

from nova_lxd.lxd import logs
from nova_lxd.lxd.cli_client import ClientError, LocalClient
from nova_lxd.lxd.environment import SERVER_VERSION
from nova_lxd.lxd.errors import LXDError
from nova_lxd.lxd.paths import Paths


def _daemon(args: argparse.Namespace) -> int:
    import uvloop

    from nova_lxd.lxd import daemon

    if os.geteuid() != 0:
        print("nova-lxd: running the daemon needs root", file=sys.stderr)
        return 1
    logs.set_up(args.logfile, args.verbose, args.debug)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(daemon.run(Paths.from_environment(), args.group))
    except LXDError as exc:
        print(f"nova-lxd: {exc}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    sys.stderr.flush()
    # A worker thread may still wait for an instance; all state is on disk, so leave it behind.
    os._exit(0)


def _waitready(args: argparse.Namespace) -> int:
    client = LocalClient()
    deadline = time.monotonic() + args.timeout if args.timeout else None
    while True:
        try:
            client.get("/internal/ready")
            return 0
        except ClientError as exc:
            if deadline is not None and time.monotonic() >= deadline:
                print(
                    f"nova-lxd: no daemon is ready after {args.timeout} s: {exc}", file=sys.stderr
                )
                return 1
        time.sleep(0.1)


def _shutdown(args: argparse.Namespace) -> int:
    client = LocalClient(timeout=args.timeout or None)
    try:
        client.put("/internal/shutdown?force=true" if args.force else "/internal/shutdown")
    except TimeoutError:
        print(f"nova-lxd: the daemon still runs after {args.timeout} s", file=sys.stderr)
        return 1
    return 0


def _sql(args: argparse.Namespace) -> int:
    client = LocalClient()
    if args.query in (".dump", ".schema"):
        schema = "1" if args.query == ".schema" else "0"
        answer = client.get(f"/internal/sql?database={args.database}&schema={schema}")
        print(answer["text"], end="")
        return 0
    query = sys.stdin.read() if args.query == "-" else args.query
    answer = client.post("/internal/sql", {"database": args.database, "query": query})
    for result in answer["Results"] or []:
        print("\t".join(result["columns"]))
        for row in result["rows"] or []:
            print("\t".join(str(value) for value in row))
    return 0


def _version(_args: argparse.Namespace) -> int:
    try:
        own = metadata.version("nova-lxd")
    except metadata.PackageNotFoundError:
        own = "from source"
    print(f"{SERVER_VERSION} (nova-lxd {own})")
    return 0


def _init(args: argparse.Namespace) -> int:
    from nova_lxd.lxd import cli_init

    return cli_init.main(args)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("nova-lxd", description="An LXD-compatible container daemon.")
    verbs = top.add_subparsers(dest="verb", required=True)

    verb = verbs.add_parser("daemon", help="run the daemon in the foreground")
    verb.add_argument("--group", help="group whose members may use the unix socket")
    verb.add_argument("--logfile", help="log to this file instead of stderr")
    verb.add_argument("-v", "--verbose", action="store_true", help="log informative messages")
    verb.add_argument("-d", "--debug", action="store_true", help="log everything")
    verb.set_defaults(run=_daemon)

    verb = verbs.add_parser("init", help="configure a new daemon")
    verb.add_argument("--auto", action="store_true", help="defaults, no questions")
    verb.add_argument("--minimal", action="store_true", help="a dir pool and a bridge")
    verb.add_argument("--preseed", action="store_true", help="read YAML from standard input")
    verb.add_argument("--dump", action="store_true", help="print the configuration as a preseed")
    verb.add_argument("--network-address", default="", help="address of the HTTPS API")
    verb.add_argument("--network-port", type=int, default=0, help="port of the HTTPS API (8443)")
    verb.add_argument("--storage-backend", default="", help="dir or btrfs")
    verb.add_argument("--storage-create-device", default="", help="block device for the pool")
    verb.add_argument("--storage-create-loop", type=int, default=0, help="loop file in GiB")
    verb.add_argument("--storage-pool", default="", help="name or path of existing storage")
    verb.add_argument("--trust-password", default="", help="password for new remote clients")
    verb.set_defaults(run=_init)

    verb = verbs.add_parser("waitready", help="wait until the daemon answers")
    verb.add_argument("-t", "--timeout", type=int, default=0, help="seconds; 0: for ever")
    verb.set_defaults(run=_waitready)

    verb = verbs.add_parser("shutdown", help="stop all instances, then the daemon")
    verb.add_argument("-t", "--timeout", type=int, default=0, help="seconds to wait; 0: no end")
    verb.add_argument("-f", "--force", action="store_true", help="do not wait for operations")
    verb.set_defaults(run=_shutdown)

    verb = verbs.add_parser("sql", help="read the daemon's database")
    verb.add_argument("database", choices=("local", "global"))
    verb.add_argument("query", help="a SELECT, .dump, .schema or - for standard input")
    verb.set_defaults(run=_sql)

    verb = verbs.add_parser("version", help="print the version")
    verb.set_defaults(run=_version)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except ClientError as exc:
        print(f"nova-lxd: {exc}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
