# SPDX-License-Identifier: Apache-2.0
"""Schema of the database, as an append-only list of migrations (each one transaction).

Never edit an entry that was released: append a new one.
"""

from __future__ import annotations

_V1 = (
    """CREATE TABLE config (
        key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT""",
    """CREATE TABLE projects (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, description TEXT NOT NULL DEFAULT '',
        config TEXT NOT NULL DEFAULT '{}') STRICT""",
    """INSERT INTO projects (name, description, config) VALUES ('default', 'Default LXD project',
        '{"features.images":"true","features.networks":"true","features.profiles":"true",'
        || '"features.storage.volumes":"true"}')""",
    """CREATE TABLE certificates (
        fingerprint TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL,
        restricted INTEGER NOT NULL DEFAULT 0, projects TEXT NOT NULL DEFAULT '[]',
        certificate TEXT NOT NULL) STRICT""",
    """CREATE TABLE profiles (
        id INTEGER PRIMARY KEY,
        project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        name TEXT NOT NULL, description TEXT NOT NULL DEFAULT '',
        config TEXT NOT NULL DEFAULT '{}', devices TEXT NOT NULL DEFAULT '{}',
        UNIQUE (project_id, name)) STRICT""",
    """INSERT INTO profiles (project_id, name, description)
        SELECT id, 'default', 'Default LXD profile' FROM projects WHERE name = 'default'""",
    """CREATE TABLE instances (
        id INTEGER PRIMARY KEY,
        project_id INTEGER NOT NULL REFERENCES projects (id),
        name TEXT NOT NULL, type TEXT NOT NULL DEFAULT 'container',
        architecture TEXT NOT NULL, description TEXT NOT NULL DEFAULT '',
        ephemeral INTEGER NOT NULL DEFAULT 0, stateful INTEGER NOT NULL DEFAULT 0,
        config TEXT NOT NULL DEFAULT '{}', devices TEXT NOT NULL DEFAULT '{}',
        profiles TEXT NOT NULL DEFAULT '[]', pool TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL, last_used_at REAL NOT NULL DEFAULT 0,
        intent TEXT NOT NULL DEFAULT '',
        UNIQUE (project_id, name)) STRICT""",
    """CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY,
        instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
        name TEXT NOT NULL, description TEXT NOT NULL DEFAULT '',
        architecture TEXT NOT NULL, ephemeral INTEGER NOT NULL DEFAULT 0,
        stateful INTEGER NOT NULL DEFAULT 0,
        config TEXT NOT NULL DEFAULT '{}', devices TEXT NOT NULL DEFAULT '{}',
        profiles TEXT NOT NULL DEFAULT '[]', created_at REAL NOT NULL,
        expires_at REAL NOT NULL DEFAULT 0, intent TEXT NOT NULL DEFAULT '',
        UNIQUE (instance_id, name)) STRICT""",
    """CREATE TABLE backups (
        id INTEGER PRIMARY KEY,
        instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
        name TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL NOT NULL DEFAULT 0,
        instance_only INTEGER NOT NULL DEFAULT 0, optimized INTEGER NOT NULL DEFAULT 0,
        compression TEXT NOT NULL DEFAULT '', UNIQUE (instance_id, name)) STRICT""",
    """CREATE TABLE images (
        id INTEGER PRIMARY KEY,
        project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        fingerprint TEXT NOT NULL, filename TEXT NOT NULL DEFAULT '',
        type TEXT NOT NULL DEFAULT 'container', size INTEGER NOT NULL,
        public INTEGER NOT NULL DEFAULT 0, auto_update INTEGER NOT NULL DEFAULT 0,
        cached INTEGER NOT NULL DEFAULT 0, architecture TEXT NOT NULL,
        properties TEXT NOT NULL DEFAULT '{}', profiles TEXT NOT NULL DEFAULT '["default"]',
        created_at REAL NOT NULL DEFAULT 0, uploaded_at REAL NOT NULL DEFAULT 0,
        expires_at REAL NOT NULL DEFAULT 0, last_used_at REAL NOT NULL DEFAULT 0,
        update_source TEXT NOT NULL DEFAULT '', UNIQUE (project_id, fingerprint)) STRICT""",
    """CREATE TABLE image_aliases (
        id INTEGER PRIMARY KEY,
        project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
        name TEXT NOT NULL, description TEXT NOT NULL DEFAULT '',
        image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        UNIQUE (project_id, name)) STRICT""",
    """CREATE TABLE storage_pools (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, driver TEXT NOT NULL,
        description TEXT NOT NULL DEFAULT '', config TEXT NOT NULL DEFAULT '{}',
        status TEXT NOT NULL DEFAULT 'Created') STRICT""",
    """CREATE TABLE storage_volumes (
        id INTEGER PRIMARY KEY,
        pool_id INTEGER NOT NULL REFERENCES storage_pools (id) ON DELETE CASCADE,
        project_id INTEGER NOT NULL REFERENCES projects (id),
        type TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL DEFAULT '',
        content_type TEXT NOT NULL DEFAULT 'filesystem', config TEXT NOT NULL DEFAULT '{}',
        created_at REAL NOT NULL, intent TEXT NOT NULL DEFAULT '',
        UNIQUE (pool_id, project_id, type, name)) STRICT""",
    """CREATE TABLE storage_volume_snapshots (
        id INTEGER PRIMARY KEY,
        volume_id INTEGER NOT NULL REFERENCES storage_volumes (id) ON DELETE CASCADE,
        name TEXT NOT NULL, description TEXT NOT NULL DEFAULT '',
        config TEXT NOT NULL DEFAULT '{}', created_at REAL NOT NULL,
        expires_at REAL NOT NULL DEFAULT 0, UNIQUE (volume_id, name)) STRICT""",
    """CREATE TABLE networks (
        id INTEGER PRIMARY KEY,
        project_id INTEGER NOT NULL REFERENCES projects (id),
        name TEXT NOT NULL, type TEXT NOT NULL, description TEXT NOT NULL DEFAULT '',
        config TEXT NOT NULL DEFAULT '{}', status TEXT NOT NULL DEFAULT 'Created',
        UNIQUE (project_id, name)) STRICT""",
    """CREATE TABLE warnings (
        uuid TEXT PRIMARY KEY, project TEXT NOT NULL DEFAULT '', type TEXT NOT NULL,
        entity_url TEXT NOT NULL DEFAULT '', status TEXT NOT NULL DEFAULT 'new',
        severity TEXT NOT NULL DEFAULT 'low', last_message TEXT NOT NULL DEFAULT '',
        count INTEGER NOT NULL DEFAULT 1, first_seen_at REAL NOT NULL,
        last_seen_at REAL NOT NULL) STRICT""",
)

_V2 = (
    """CREATE TABLE storage_volume_backups (
        id INTEGER PRIMARY KEY,
        volume_id INTEGER NOT NULL REFERENCES storage_volumes (id) ON DELETE CASCADE,
        name TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL NOT NULL DEFAULT 0,
        volume_only INTEGER NOT NULL DEFAULT 0, UNIQUE (volume_id, name)) STRICT""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_V1, _V2)
