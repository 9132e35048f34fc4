# SPDX-License-Identifier: Apache-2.0
"""Trees into archives, as a stream: tarballs with LXD's compression algorithms, and squashfs."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host.run import ProgramError
from nova_lxd.lxd.storage.copying import run_mortal
from nova_lxd.lxd.storage.gzip_stream import GzipStream

SQUASHFS = "squashfs"
# Algorithm, as in compression_algorithm: programs that do it, best first, with their arguments.
_COMPRESSORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "bzip2": (("bzip2", "-c"),),
    # Without arguments it is done here: see _in_process().
    "gzip": (("pigz", "-c", "-n"), ("gzip", "-c", "-n")),
    "lz4": (("lz4", "-c", "-q"),),
    "lzma": (("xz", "-c", "--format=lzma"),),
    "pigz": (("pigz", "-c", "-n"),),
    "xz": (("xz", "-c", "-T0"),),
    "zstd": (("zstd", "-c", "-q", "-T0"),),
}


@dataclass(frozen=True)
class Source:
    """Entries of one directory; in the archive they stand at its top."""

    directory: Path
    entries: tuple[str, ...]


def check_algorithm(algorithm: str) -> list[str]:
    """The words of a compression algorithm with its arguments, such as ``xz -9``.

    :raises BadRequest: unknown, with arguments that are no plain options, or not installed.
    """
    try:
        words = shlex.split(algorithm)
    except ValueError:
        words = []
    if not words or words[0] not in (*_COMPRESSORS, SQUASHFS, "none"):
        raise BadRequest(
            f"Unknown compression algorithm {algorithm[:64]!r}: use none, {SQUASHFS} or"
            f" {', '.join(_COMPRESSORS)}"
        )
    if not all(word.startswith("-") and len(word) > 1 and "/" not in word for word in words[1:]):
        raise BadRequest(f"Bad arguments in compression algorithm {algorithm[:64]!r}")
    if words[0] in _COMPRESSORS and not _in_process(words):
        _compressor(words)
    return words


def _in_process(words: Sequence[str]) -> bool:
    """Plain gzip needs no program; with arguments of the program's it is run."""
    return list(words) == ["gzip"]


def _compressor(words: Sequence[str]) -> list[str]:
    for argv in _COMPRESSORS[words[0]]:
        if shutil.which(argv[0]):
            return [*argv, *words[1:]]
    raise BadRequest(f"The program for compression algorithm {words[0]} is not installed")


def suffix(algorithm: str) -> str:
    """The file name suffix that LXD gives to an archive, such as ``.tar.gz``."""
    return {
        "bzip2": ".tar.bz2",
        "gzip": ".tar.gz",
        "pigz": ".tar.gz",
        "lz4": ".tar.lz4",
        "lzma": ".tar.lzma",
        "xz": ".tar.xz",
        "zstd": ".tar.zst",
        SQUASHFS: ".squashfs",
    }.get(check_algorithm(algorithm)[0], ".tar")


def _tar(sources: Sequence[Source]) -> list[str]:
    argv = [
        "tar", "--create", "--file=-", "--numeric-owner", "--sparse", "--format=posix",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        "--xattrs", "--xattrs-include=*", "--acls",
    ]  # fmt: skip
    for source in sources:
        argv += [
            f"--directory={source.directory}",
            *(f"--add-file={name}" for name in source.entries),
        ]
    return argv


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


@contextlib.contextmanager
def packed(
    sources: Sequence[Source], algorithm: str = "none", scratch: Path | None = None
) -> Iterator[Readable]:
    """A compressed tarball or squashfs of entries of directories, to be read to its end.

    Leaving the block early ends the programs.

    :param scratch: a directory with space for a squashfs file; else the system's for such.
    :raises BadRequest: the algorithm is unknown or not installed.
    :raises ProgramError: at the end of the block, when a program failed; what was read is waste.
    """
    words = check_algorithm(algorithm)
    if words[0] == SQUASHFS:
        with _squashed(sources, words[1:], scratch) as file:
            yield file
    elif _in_process(words):
        with _piped([_tar(sources)]) as archive, GzipStream(archive) as stream:
            yield stream
    else:
        compressor = [] if words[0] == "none" else [_compressor(words)]
        with _piped([_tar(sources), *compressor]) as archive:
            yield archive


@contextlib.contextmanager
def _piped(pipeline: Sequence[list[str]]) -> Iterator[IO[bytes]]:
    """The output of programs each of which reads what the one before it writes.

    :raises ProgramError: at the end of the block, when one failed and all was read.
    """
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        running: list[subprocess.Popen[bytes]] = []
        stdin: int | IO[bytes] | None = subprocess.DEVNULL
        for argv in pipeline:
            program = subprocess.Popen(
                argv, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, cwd="/",
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
            stack.callback(_end, program)
            assert program.stdout is not None
            if running and running[-1].stdout is not None:
                running[-1].stdout.close()  # so that it gets SIGPIPE when its reader ends
            running.append(program)
            stdin = program.stdout
        assert running[-1].stdout is not None
        yield running[-1].stdout
        if running[-1].stdout.read(1):
            return  # left early on purpose
        for program, argv in zip(running, pipeline, strict=True):
            code = program.wait()
            # 1 is "a file changed while it was read": as good as any moment's state.
            if code not in ((0, 1) if argv[0] == "tar" else (0,)):
                errors.seek(0)
                said = errors.read().decode("utf-8", "replace")
                raise ProgramError(argv, code, said)


def _end(program: subprocess.Popen[bytes]) -> None:
    if program.stdout is not None:
        program.stdout.close()
    if program.poll() is None:
        program.kill()
        program.wait()


@contextlib.contextmanager
def _squashed(
    sources: Sequence[Source], options: Sequence[str], scratch: Path | None
) -> Iterator[IO[bytes]]:
    """mksquashfs has to seek, so its result goes through a file.

    The tree is streamed as a tarball, so that entries of several directories fit in.
    """
    with tempfile.TemporaryDirectory(prefix="nova-lxd-pack-", dir=scratch) as directory:
        file = Path(directory, "image.squashfs")
        with _piped([_tar(sources)]) as stream:
            run_mortal(
                [
                    "mksquashfs", "-", str(file), "-tar", "-noappend", "-quiet",
                    "-no-progress", "-xattrs", "-root-mode", "0755", *options,
                ],
                stdin=stream.fileno(),
            )  # fmt: skip
        with file.open("rb") as result:
            yield result


def write(
    sources: Sequence[Source], algorithm: str, out: IO[bytes], scratch: Path | None = None
) -> None:
    """Write such an archive to a file.

    :raises OSError: the file cannot take it (ENOSPC).
    """
    with packed(sources, algorithm, scratch) as stream:
        while data := stream.read(1 << 20):
            out.write(data)
