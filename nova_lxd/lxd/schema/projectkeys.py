# SPDX-License-Identifier: Apache-2.0
"""Project configuration keys (LXD doc "Project configuration"); limits come with a later issue."""

from __future__ import annotations

from nova_lxd.lxd.schema.configkeys import Key, KeyTable, any_text, boolean
from nova_lxd.lxd.schema.serverkeys import expiry

FEATURES = (
    "features.images",
    "features.networks",
    "features.profiles",
    "features.storage.volumes",
)
# What a new project has unless it says otherwise (LXD 5.0: everything but its own networks).
DEFAULT_FEATURES = {
    "features.images": "true",
    "features.profiles": "true",
    "features.storage.volumes": "true",
}

PROJECT_KEYS = KeyTable(
    "project",
    (
        Key("features.images", "bool", "Own images and aliases.", boolean, "true"),
        Key("features.networks", "bool", "Own networks.", boolean, "false"),
        Key("features.profiles", "bool", "Own profiles.", boolean, "true"),
        Key("features.storage.volumes", "bool", "Own custom volumes.", boolean, "true"),
        Key("backups.compression_algorithm", "string", "Of backups.", any_text),
        Key("images.auto_update_cached", "bool", "Update cached images.", boolean),
        Key("images.auto_update_interval", "integer", "Hours between looks."),
        Key("images.compression_algorithm", "string", "Of new images."),
        Key("images.default_architecture", "string", "Preferred architecture."),
        Key("images.remote_cache_expiry", "integer", "Days a cached image stays.", any_text),
        Key("snapshots.expiry", "string", "Default life of snapshots.", expiry),
        Key("user.*", "string", "Free keys.", any_text),
    ),
)
