# SPDX-License-Identifier: Apache-2.0
"""Ask a daemon for one thing over and over until told to end: the load beside a measurement.

    python3 -m benchmarks.load SOCKET TARGET CONNECTIONS

A process of its own, so that it takes no time from the one that measures.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.client import requests_per_second

_STEP = 3600.0


@contextmanager
def load(socket: Path, target: str, connections: int) -> Iterator[None]:
    """Put this load on a daemon for the block."""
    argv = [sys.executable, "-m", "benchmarks.load", str(socket), target, str(connections)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is about to begin
        try:
            yield
            if process.poll() is not None:
                raise AssertionError(f"the load on {socket} ended early")
        finally:
            process.kill()


def main() -> None:
    """Run as a program."""
    socket, target, connections = sys.argv[1:]
    print("ready", flush=True)
    while True:
        requests_per_second(Path(socket), target, int(connections), _STEP)


if __name__ == "__main__":
    main()
