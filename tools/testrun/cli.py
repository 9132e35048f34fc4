# SPDX-License-Identifier: Apache-2.0
"""``./runtests``: prepare the machine, run the parts, print one line for each and the sum."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from testrun import setup
from testrun.parts import PARTS, Part
from testrun.report import Result, read

_LAST_LINES = 60
# Not below the checkout: containers must be able to pass all directories above their files.
CLOUD = Path("/var/lib/nova-lxd-tests")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("runtests", description=__doc__)
    top.add_argument("parts", nargs="*", metavar="PART", help="run these only; see --list")
    top.add_argument("--full", action="store_true", help="all of each part, not CI's share")
    top.add_argument("--list", action="store_true", help="list the parts and end")
    top.add_argument("--venv", type=Path, help="Python environment to use (default: .venv)")
    top.add_argument("--no-setup", action="store_true", help="the machine is prepared already")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.list:
        for part in PARTS:
            print(f"{part.name:20} {part.doc}")
        return 0
    known = {part.name: part for part in PARTS}
    unknown = [name for name in args.parts if name not in known]
    if unknown:
        print(f"runtests: unknown parts {' '.join(unknown)}; see ./runtests --list")
        return 2
    chosen = [known[name] for name in args.parts] or list(PARTS)
    artifacts = setup.REPOSITORY / "artifacts"
    artifacts.mkdir(exist_ok=True)
    venv: Path = args.venv or setup.REPOSITORY / ".venv"
    if not args.no_setup and not _prepare(venv, artifacts):
        return 1
    results = [_run_part(part, venv, artifacts, whole=args.full) for part in chosen]
    return _sum_up(results)


def _prepare(venv: Path, artifacts: Path) -> bool:
    log = artifacts / "setup.log"
    log.write_bytes(b"")
    steps = (
        ("Debian packages", lambda: setup.packages_installed(log)),
        ("Python environment", lambda: setup.environment(venv, log)),
    )
    for name, step in steps:
        begun = time.monotonic()
        try:
            said = step()
        except setup.SetupError as exc:
            print(f"{name}: failed: {exc}")
            print("\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:]))
            return False
        print(f"{name}: {said} ({time.monotonic() - begun:.0f} s)", flush=True)
    return True


def _run_part(part: Part, venv: Path, artifacts: Path, *, whole: bool) -> Result:
    """Run a part's commands, its output to artifacts/PART.log."""
    if part.root and os.geteuid() != 0:
        return Result(part.name, skipped=1, reasons={"needs root": 1})
    log = artifacts / f"{part.name}.log"
    begun = time.monotonic()
    print(f"--- {part.name}: {part.doc}", flush=True)
    result = Result(part.name)
    with log.open("wb") as stream:
        for number, command in enumerate(part.commands(whole)):
            report = artifacts / f"{part.name}-{number}.xml"
            report.unlink(missing_ok=True)
            values = {
                "python": str(venv / "bin/python"),
                "bin": str(venv / "bin"),
                "report": str(report),
                "venv": str(venv),
                "work": str(artifacts),
                "cloud": str(CLOUD),
            }
            words = [word.format(**values) for word in command]
            start = stream.tell()
            deadline = part.patience(whole) - (time.monotonic() - begun)
            extra = {name: text.format(**values) for name, text in part.environment.items()}
            code = _run_command(words, extra, venv, stream, deadline)
            result += read(part.name, words, code, report, log, start)
    result.seconds = time.monotonic() - begun
    print(result.line(), flush=True)
    if result.failed:
        tail = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        print("\n".join(f"    {line}" for line in tail), flush=True)
    return result


def _run_command(
    words: list[str], extra: dict[str, str], venv: Path, stream: object, seconds: float
) -> int:
    """One command in a session of its own; 124 when it ran out of time and was killed."""
    environment = {
        **os.environ,
        **extra,
        "PATH": f"{venv / 'bin'}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "PYTHONWARNINGS": "ignore",
    }
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # they override pinned certificates
        environment.pop(name, None)
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=stream,  # type: ignore[arg-type]
        stderr=subprocess.STDOUT,
        cwd=setup.REPOSITORY,
        env=environment,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return 124


def _sum_up(results: list[Result]) -> int:
    total = Result("total")
    for result in results:
        total += result
    print("\n=== summary")
    for result in results:
        print(result.line())
    if total.reasons:
        print("\n=== skips by reason")
        for reason, count in sorted(total.reasons.items(), key=lambda item: -item[1]):
            print(f"{count:5}  {reason}")
    print()
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
