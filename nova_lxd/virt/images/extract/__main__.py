# SPDX-License-Identifier: Apache-2.0
"""The child process that reads a disk image: confined before the first byte is looked at."""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import sys

from nova_lxd.virt.images.extract import archive, blocks

UNUSABLE = 3  # exit code: the image is at fault, stderr says why
NOBODY = 65534
PR_SET_NO_NEW_PRIVS = 38
ADDRESS_SPACE = 1 << 30
SPARE = 1 << 30  # archive headers and padding on top of the content


def confine(max_bytes: int, cpu_seconds: int) -> None:
    """Give up every right and bound every resource; open files stay usable."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes + SPARE, max_bytes + SPARE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def main() -> int:
    """Write the archive; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--max-bytes", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=int, required=True)
    options = parser.parse_args()
    with open(options.source, "rb") as source, open(options.target, "wb") as target:
        confine(options.max_bytes, options.cpu_seconds)
        try:
            system = archive.find_root(blocks.open_disk(source))
            archive.Writer(system, target, options.max_bytes).write()
        except (ValueError, MemoryError, RecursionError) as e:
            sys.stderr.write(str(e) or type(e).__name__)
            return UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
