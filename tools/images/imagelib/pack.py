# SPDX-License-Identifier: Apache-2.0
"""Turns a root file system tree and its metadata into the artifacts that LXD imports."""

from __future__ import annotations

import abc
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
TEMPLATES = HERE / "templates"
ARTIFACTS = (
    "metadata.tar.xz",
    "rootfs.squashfs",
    "rootfs.tar.gz",
    "unified.tar.gz",
    "unified.tar.xz",
    "disk.ext4",
)
# Of a disk: sparse, and more than any test writes.
_DISK_BYTES = 4 * 1024**3
# Every file gets this time, so that the same inputs give the same fingerprint.
EPOCH = 1700000000

_TAR = (
    "tar",
    "--numeric-owner",
    "--sort=name",
    f"--mtime=@{EPOCH}",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
)


class BuildError(Exception):
    """One step of a build failed; the text says which and why."""


class Recipe(abc.ABC):
    """What tells one image from another."""

    name: str

    @abc.abstractmethod
    def inputs(self) -> bytes:
        """Bytes that change whenever the image would."""

    @abc.abstractmethod
    def tree(self, root: Path) -> None:
        """Fill the empty directory ``root`` with the root file system."""

    @abc.abstractmethod
    def metadata(self) -> dict[str, Any]:
        """The content of metadata.yaml."""


def run(argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    """Run a program; BuildError with the end of its stderr when it fails or is missing."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            check=False,
        )
    except FileNotFoundError as exc:
        raise BuildError(f"'{words[0]}' is not installed") from exc
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise BuildError(f"'{words[0]}' failed with exit code {done.returncode}: {said}")


def copy_overlay(source: Path, root: Path) -> None:
    """Copy the files below ``source`` over ``root``, owned by root, the execute bit kept."""
    for path in sorted(source.rglob("*")):
        target = root / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def overlay_texts(source: Path) -> list[str]:
    """The names and texts of the files below ``source``: what an image takes from it."""
    parts: list[str] = []
    for path in sorted(source.rglob("*")):
        if path.is_file():
            parts += [str(path.relative_to(source)), path.read_text(encoding="utf-8")]
    return parts


def _key(recipe: Recipe) -> str:
    digest = hashlib.sha256(recipe.inputs())
    digest.update(json.dumps(recipe.metadata(), sort_keys=True).encode())
    for path in sorted([*TEMPLATES.rglob("*"), *(HERE / "imagelib").glob("*.py")]):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _write_metadata(recipe: Recipe, into: Path) -> None:
    """metadata.yaml (JSON is YAML) and the templates it names."""
    metadata = recipe.metadata()
    into.mkdir(parents=True, exist_ok=True)
    text = json.dumps(metadata, indent=2) + "\n"
    (into / "metadata.yaml").write_text(text, encoding="utf-8")
    templates = into / "templates"
    templates.mkdir(exist_ok=True)
    for entry in metadata["templates"].values():
        shutil.copyfile(TEMPLATES / entry["template"], templates / entry["template"])


def _make(artifact: str, build: Path, target: Path) -> None:
    root, meta = build / "tree" / "rootfs", build / "tree" / "metadata"
    members: list[str | Path] = ["-C", meta, "metadata.yaml", "templates"]
    if artifact == "metadata.tar.xz":
        run([*_TAR, "-cJf", target, *members])
    elif artifact == "rootfs.squashfs":
        squash = ["-noappend", "-comp", "xz", "-no-progress", "-all-time", str(EPOCH)]
        run(["mksquashfs", root, target, *squash, "-mkfs-time", str(EPOCH)])
    elif artifact == "rootfs.tar.gz":
        run([*_TAR, "-czf", target, "-C", root, "."])
    elif artifact == "disk.ext4":
        with target.open("xb") as disk:
            disk.truncate(_DISK_BYTES)
        run(["mkfs.ext4", "-q", "-F", "-d", root, target])
    else:
        flag = "-cJf" if artifact.endswith(".xz") else "-czf"
        run([*_TAR, flag, target, *members, "-C", build / "tree", "rootfs"])


def pack(
    recipe: Recipe, cache: Path, artifacts: Sequence[str], *, rebuild: bool = False
) -> list[Path]:
    """Paths of ``artifacts`` in ``cache``, built where missing.  The caller holds the lock."""
    build = cache / f"{recipe.name}-{_key(recipe)}"
    if rebuild and build.exists():
        shutil.rmtree(build)
    wanted = [build / artifact for artifact in artifacts]
    if all(path.exists() for path in wanted):
        return wanted
    if os.geteuid() != 0:
        raise BuildError("building an image needs root: the files in it belong to root")
    tree = build / "tree"
    if not (tree / "rootfs").exists():
        # Private: the root file system holds set-uid programs.
        tree.mkdir(parents=True, exist_ok=True)
        tree.chmod(0o700)
        partial = tree / "rootfs.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(mode=0o755)
        recipe.tree(partial)
        partial.rename(tree / "rootfs")
    _write_metadata(recipe, tree / "metadata")
    for path in wanted:
        if not path.exists():
            partial = path.with_name(path.name + ".partial")
            partial.unlink(missing_ok=True)
            _make(path.name, build, partial)
            partial.rename(path)
    return wanted
