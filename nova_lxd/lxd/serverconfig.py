# SPDX-License-Identifier: Apache-2.0
"""The server's own configuration: validated, stored, and applied to the parts it concerns."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping

from nova_lxd.lxd.db import config as db_config
from nova_lxd.lxd.db.connection import Database
from nova_lxd.lxd.schema.configkeys import given
from nova_lxd.lxd.schema.serverkeys import SECRET_KEYS, SERVER_KEYS

Apply = Callable[[Mapping[str, str]], None]
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}


def hash_password(password: str) -> str:
    """A salted scrypt hash, as stored in place of the password."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)
    return f"{salt.hex()}${digest.hex()}"


def password_matches(stored: str, password: str) -> bool:
    salt, _, digest = stored.partition("$")
    given = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), **_SCRYPT)
    return hmac.compare_digest(given.hex(), digest)


class ServerConfig:
    """``/1.0``'s config map; appliers run on a change before it is stored."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._values = db_config.get_all(db)
        self._appliers: dict[str, Apply] = {}
        self._lock = threading.Lock()

    def on_change(self, key: str, apply: Apply) -> None:
        """Have ``apply(new values)`` called when ``key`` changes; it may refuse by raising."""
        self._appliers[key] = apply

    def get(self, key: str) -> str:
        """The value of ``key`` or its default."""
        return SERVER_KEYS.value(self._values, key)

    def shown(self) -> dict[str, object]:
        """What the API shows: secrets only as ``true``."""
        return {k: True if k in SECRET_KEYS else v for k, v in self._values.items()}

    def replace(self, new: Mapping[str, str]) -> None:
        """Make ``new`` the configuration; ``true`` for a secret keeps the one that is set.

        :raises BadRequest: a key or value is invalid, or a part of the daemon refused it.
        """
        with self._lock:
            values = self._with_secrets(given(new))
            SERVER_KEYS.validate(values)
            changed = {
                key
                for key in values.keys() | self._values.keys()
                if values.get(key) != self._values.get(key)
            }
            for key, apply in self._appliers.items():
                if key in changed:
                    apply(values)
            db_config.replace_all(self._db, values)
            self._values = values

    def update(self, changes: Mapping[str, str]) -> None:
        """Merge ``changes``; an empty value unsets.  Raises as :meth:`replace`."""
        merged = {k: "true" if k in SECRET_KEYS else v for k, v in self._values.items()}
        self.replace({**merged, **changes})

    def _with_secrets(self, values: dict[str, str]) -> dict[str, str]:
        for key in SECRET_KEYS & values.keys():
            if values[key] == "true" and key in self._values:
                values[key] = self._values[key]
            else:
                values[key] = hash_password(values[key])
        return values

    def trust_password_matches(self, password: str) -> bool:
        """Whether ``password`` is the trust password; False when none is set."""
        stored = self._values.get("core.trust_password")
        return bool(stored and password and password_matches(stored, password))
