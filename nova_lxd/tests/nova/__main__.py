# SPDX-License-Identifier: Apache-2.0
"""Run Nova's functional tests on this driver: ``python -m nova_lxd.tests.nova [pattern ...]``.

Needs root, a server at LXD_DIR with a storage pool ``default``, and the packages of
test-requirements.txt. It runs one test at a time (instances of different tests share their
names), prints the excluded tests with their reasons, and ends with 1 when a test failed.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import unittest
from pathlib import Path

os.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "True")
os.environ.setdefault("OS_STDOUT_CAPTURE", "1")
os.environ.setdefault("OS_STDERR_CAPTURE", "1")
os.environ.setdefault("OS_TEST_TIMEOUT", "300")

from nova import monkey_patch

monkey_patch.patch()


def check_installation() -> None:
    """Nova's wheel puts api-paste.ini into the environment's etc/, its tests look beside nova/."""
    beside = Path(sysconfig.get_path("purelib"), "etc")
    if not (beside / "nova" / "api-paste.ini").exists():
        raise SystemExit(
            f"nova's tests need {beside}/nova/api-paste.ini: ln -s {sys.prefix}/etc {beside}"
        )


def main(patterns: list[str]) -> int:
    """Run what matches any of the patterns; everything without one."""
    check_installation()
    from nova_lxd.tests.nova import suite

    tests = unittest.TestSuite()
    left_out: dict[str, str] = {}
    for pattern in patterns or [""]:
        chosen, excluded = suite.build(pattern)
        tests.addTest(chosen)
        left_out |= excluded
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(tests)
    reasons = [reason for _test, reason in result.skipped] + list(left_out.values())
    for reason in reasons:
        sys.stdout.write(f"skipped: {reason}\n")
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    passed = result.testsRun - failed - len(result.skipped)
    sys.stdout.write(f"{passed} passed, {failed} failed, {len(reasons)} skipped\n")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # a test's stuck service thread must not keep the process
