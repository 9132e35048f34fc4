# SPDX-License-Identifier: Apache-2.0
"""What an ``intent`` in the database can say: the verb, and after a colon its target."""

from __future__ import annotations

CREATE = "create"
DELETE = "delete"
RENAME = "rename"
MOVE = "move"
RESTORE = "restore"
UPDATE = "update"
