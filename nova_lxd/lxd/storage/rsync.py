# SPDX-License-Identifier: Apache-2.0
"""The rsync half of LXD's migration protocol: a client that sends, a server that receives.

Both ends and the features are as in LXD, so that trees go to and come from real LXD.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nova_lxd.lxd.host.run import ProgramError
from nova_lxd.lxd.storage import relay
from nova_lxd.lxd.storage.copying import run_mortal
from nova_lxd.lxd.storage.drivers.interface import MigrationType

RSYNC = MigrationType("rsync", ("xattrs", "delete", "compress", "bidirectional"))
# rsync's exit code when files vanished while it sent them.
_VANISHED = 24


def _options(features: Sequence[str]) -> list[str]:
    options = ["--numeric-ids", "--devices", "--partial", "--sparse"]
    if "xattrs" in features:
        options.append("--xattrs")
    if "delete" in features:
        options.append("--delete")
    if "compress" in features:
        options += ["--compress", "--compress-level=2"]
    return options


def send(
    path: Path,
    stream: socket.socket,
    features: Sequence[str],
    bwlimit: int = 0,
    *,
    final: bool = True,
) -> None:
    """Send the content of a directory (or one file) to the rsync server behind ``stream``.

    :param bwlimit: bytes per second, 0 for none.
    :param final: False when files may vanish meanwhile, because another pass follows.
    :raises ProgramError: either side failed; the peer keeps what it has got.
    """
    shell = shlex.join([sys.executable, "-I", "-S", relay.__file__, str(stream.fileno())])
    limit = [f"--bwlimit={max(1, bwlimit // 1024)}k"] if bwlimit else []
    source = f"{path}/" if path.is_dir() else str(path)
    argv = ["rsync", "-ar", *_options(features), *limit, "-e", shell, source, "localhost:/tmp/foo"]
    try:
        with _vanishing(final):
            run_mortal(argv, pass_fds=[stream.fileno()])
    finally:
        stream.close()


@contextlib.contextmanager
def _vanishing(final: bool) -> Iterator[None]:
    """Let rsync say that files vanished, unless this pass is the final one."""
    try:
        yield
    except ProgramError as exc:
        if final or exc.returncode != _VANISHED:
            raise


def receive(
    path: Path, stream: socket.socket, features: Sequence[str], *, final: bool = True
) -> None:
    """Make a directory (or file) equal to what the rsync client behind ``stream`` sends.

    :param final: as for :func:`send`.
    :raises ProgramError: either side failed; the directory holds a part.
    """
    # The letters are what LXD's sender expects of its peer: recursion, links, owners, devices…
    argv = ["rsync", "--server", "-vlogDtpre.iLsfx", *_options(features), ".", f"{path}/"]
    try:
        with _vanishing(final):
            run_mortal(argv, stdin=stream.fileno(), stdout=stream.fileno())
        stream.shutdown(socket.SHUT_WR)
    finally:
        stream.close()
