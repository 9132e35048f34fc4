# SPDX-License-Identifier: Apache-2.0
"""Images and their aliases in the database; the files themselves are in LXD_DIR/images.

A row is the proof that an image is whole: it is written after the files have their final names and
removed before they are, so that files without a row are what a killed daemon left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nova_lxd.lxd.db.connection import Database, Row, dump, load


@dataclass(frozen=True)
class UpdateSource:
    """Where a copied image came from and newer versions of it are looked for."""

    alias: str
    server: str
    protocol: str
    certificate: str = ""
    image_type: str = ""


@dataclass(frozen=True)
class Alias:
    """A name for an image, unique in its project."""

    project: str
    name: str
    description: str
    fingerprint: str
    type: str
    public: bool


@dataclass(frozen=True)
class Image:
    """One image of one project; times are UNIX times, 0 for never."""

    project: str
    fingerprint: str
    filename: str
    type: str
    size: int
    architecture: str
    public: bool = False
    auto_update: bool = False
    cached: bool = False
    properties: dict[str, str] = field(default_factory=dict)
    profiles: list[str] = field(default_factory=lambda: ["default"])
    created_at: float = 0.0
    uploaded_at: float = 0.0
    expires_at: float = 0.0
    last_used_at: float = 0.0
    update_source: UpdateSource | None = None
    aliases: tuple[Alias, ...] = ()


_SELECT = "SELECT i.*, j.name AS project FROM images i JOIN projects j ON j.id = i.project_id "
_SELECT_ALIAS = (
    "SELECT a.name, a.description, j.name AS project, i.fingerprint, i.type, i.public"
    " FROM image_aliases a JOIN projects j ON j.id = a.project_id"
    " JOIN images i ON i.id = a.image_id "
)
_COLUMNS = (
    "fingerprint", "filename", "type", "size", "architecture", "public", "auto_update", "cached",
    "properties", "profiles", "created_at", "uploaded_at", "expires_at", "last_used_at",
    "update_source",
)  # fmt: skip
_PROJECT_ID = "(SELECT id FROM projects WHERE name = ?)"


def _alias(row: Row) -> Alias:
    return Alias(
        row["project"],
        row["name"],
        row["description"],
        row["fingerprint"],
        row["type"],
        bool(row["public"]),
    )


def _image(row: Row, aliases: Iterable[Alias]) -> Image:
    source = row["update_source"]
    return Image(
        project=row["project"],
        fingerprint=row["fingerprint"],
        filename=row["filename"],
        type=row["type"],
        size=row["size"],
        architecture=row["architecture"],
        public=bool(row["public"]),
        auto_update=bool(row["auto_update"]),
        cached=bool(row["cached"]),
        properties=load(row["properties"]),
        profiles=load(row["profiles"]),
        created_at=row["created_at"],
        uploaded_at=row["uploaded_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        update_source=UpdateSource(**load(source)) if source else None,
        aliases=tuple(aliases),
    )


def _values(image: Image) -> dict[str, Any]:
    """The column values of an image."""
    values = {name: getattr(image, name) for name in _COLUMNS}
    for name in ("public", "auto_update", "cached"):
        values[name] = int(values[name])
    # As in LXD, a property that is set to nothing is unset.
    values["properties"] = dump({key: value for key, value in image.properties.items() if value})
    values["profiles"] = dump(image.profiles)
    source = image.update_source
    values["update_source"] = dump(asdict(source)) if source else ""
    return values


def _select(db: Database, where: str, args: Sequence[Any]) -> list[Image]:
    rows = db.read().execute(f"{_SELECT}{where} ORDER BY i.fingerprint", args).fetchall()
    if not rows:
        return []
    named: dict[tuple[str, str], list[Alias]] = {}
    for alias in get_aliases(db):
        named.setdefault((alias.project, alias.fingerprint), []).append(alias)
    return [_image(row, named.get((row["project"], row["fingerprint"]), ())) for row in rows]


def get_all(db: Database, project: str | None = None) -> list[Image]:
    """The images of one project, or of all, by fingerprint."""
    return _select(db, "WHERE j.name = ?", (project,)) if project else _select(db, "", ())


def get(db: Database, project: str, fingerprint: str) -> Image | None:
    """The image with exactly this fingerprint."""
    found = _select(db, "WHERE j.name = ? AND i.fingerprint = ?", (project, fingerprint))
    return found[0] if found else None


def find(db: Database, project: str, prefix: str) -> list[Image]:
    """The images whose fingerprint begins with ``prefix`` (lower-case hex)."""
    upper = prefix + "g"  # sorts after every hex digit
    where = "WHERE j.name = ? AND i.fingerprint >= ? AND i.fingerprint < ?"
    return _select(db, where, (project, prefix, upper))


def of_fingerprint(db: Database, fingerprint: str) -> list[Image]:
    """The same image in every project that has it."""
    return _select(db, "WHERE i.fingerprint = ?", (fingerprint,))


def fingerprints(db: Database) -> set[str]:
    """Every fingerprint that any project has."""
    return {row[0] for row in db.read().execute("SELECT DISTINCT fingerprint FROM images")}


def insert(db: Database, image: Image) -> None:
    """Add the image; sqlite3.IntegrityError when its project has it already."""
    names = ", ".join(_COLUMNS)
    marks = ", ".join(f":{name}" for name in _COLUMNS)
    with db.write() as conn:
        conn.execute(
            f"INSERT INTO images (project_id, {names})"
            f" SELECT id, {marks} FROM projects WHERE name = :project",
            {**_values(image), "project": image.project},
        )


def update(db: Database, image: Image) -> None:
    """Store every field of an image but its project, fingerprint and aliases."""
    sets = ", ".join(f"{name} = :{name}" for name in _COLUMNS if name != "fingerprint")
    with db.write() as conn:
        conn.execute(
            f"UPDATE images SET {sets} WHERE fingerprint = :fingerprint"
            " AND project_id = (SELECT id FROM projects WHERE name = :project)",
            {**_values(image), "project": image.project},
        )


def delete(db: Database, project: str, fingerprint: str) -> None:
    """Remove the image and its aliases from one project."""
    with db.write() as conn:
        conn.execute(
            f"DELETE FROM images WHERE fingerprint = ? AND project_id = {_PROJECT_ID}",
            (fingerprint, project),
        )


def touch(db: Database, project: str, fingerprint: str, when: float) -> None:
    """Record that an instance was made from the image."""
    with db.write() as conn:
        conn.execute(
            "UPDATE images SET last_used_at = ?"
            f" WHERE fingerprint = ? AND project_id = {_PROJECT_ID}",
            (when, fingerprint, project),
        )


def get_aliases(db: Database, project: str | None = None) -> list[Alias]:
    """The aliases of one project, or of all, by name."""
    where, args = ("WHERE j.name = ? ", (project,)) if project else ("", ())
    rows = db.read().execute(f"{_SELECT_ALIAS}{where}ORDER BY a.name", args)
    return [_alias(row) for row in rows]


def get_alias(db: Database, project: str, name: str) -> Alias | None:
    row = (
        db.read()
        .execute(f"{_SELECT_ALIAS}WHERE j.name = ? AND a.name = ?", (project, name))
        .fetchone()
    )
    return _alias(row) if row else None


def put_alias(db: Database, project: str, name: str, fingerprint: str, description: str) -> None:
    """Make ``name`` an alias of the image, new or moved from another one."""
    with db.write() as conn:
        conn.execute(
            "INSERT INTO image_aliases (project_id, name, description, image_id)"
            " SELECT project_id, ?, ?, id FROM images WHERE fingerprint = ?"
            f" AND project_id = {_PROJECT_ID} ON CONFLICT (project_id, name)"
            " DO UPDATE SET image_id = excluded.image_id, description = excluded.description",
            (name, description, fingerprint, project),
        )


def rename_alias(db: Database, project: str, old: str, new: str) -> None:
    with db.write() as conn:
        conn.execute(
            f"UPDATE image_aliases SET name = ? WHERE name = ? AND project_id = {_PROJECT_ID}",
            (new, old, project),
        )


def delete_alias(db: Database, project: str, name: str) -> None:
    with db.write() as conn:
        conn.execute(
            f"DELETE FROM image_aliases WHERE name = ? AND project_id = {_PROJECT_ID}",
            (name, project),
        )


def move_aliases(db: Database, project: str, old: str, new: str) -> None:
    """Let every alias of image ``old`` name image ``new`` of the same project."""
    with db.write() as conn:
        conn.execute(
            "UPDATE image_aliases SET image_id ="
            f" (SELECT id FROM images WHERE fingerprint = ? AND project_id = {_PROJECT_ID})"
            " WHERE image_id ="
            f" (SELECT id FROM images WHERE fingerprint = ? AND project_id = {_PROJECT_ID})",
            (new, project, old, project),
        )


def profiles_known(db: Database, project: str, names: Iterable[str]) -> Mapping[str, bool]:
    """Which of the named profiles the project has."""
    rows = db.read().execute(
        f"SELECT name FROM profiles WHERE project_id = {_PROJECT_ID}", (project,)
    )
    have = {row[0] for row in rows}
    return {name: name in have for name in names}
