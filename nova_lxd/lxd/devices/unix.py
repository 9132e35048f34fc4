# SPDX-License-Identifier: Apache-2.0
"""unix-char and unix-block: a device node of the host in the instance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from nova_lxd.lxd.devices import nodes
from nova_lxd.lxd.devices.interface import Device, RunConfig, Volatile
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.network import values
from nova_lxd.lxd.network import values as v
from nova_lxd.lxd.schema.configkeys import Key, KeyTable

_WORDS = {"c": "character", "b": "block"}
_TYPES = ("unix-char", "unix-block")


def octal_mode(value: str) -> None:
    """Check of a mode such as 0660."""
    if not re.fullmatch(r"0?[0-7]{1,4}", value):
        raise ValueError("Invalid value for an octal file mode")


def owner_keys() -> list[Key]:
    """The keys that say how a node looks inside."""
    return [
        v.key("uid", "integer", "Owner inside.", v.uint32, "0"),
        v.key("gid", "integer", "Group inside.", v.uint32, "0"),
        v.key("mode", "integer", "Permissions inside.", octal_mode, "0660"),
    ]


def followed(config: Mapping[str, str]) -> Path | None:
    """The host's node whose coming and going a device follows while its instance runs, if any."""
    if config.get("type") not in _TYPES or config.get("major"):
        return None
    optional = values.is_false(config.get("required"))
    return Path(config.get("source") or config["path"]) if optional else None


class UnixDevice(Device):
    """Common to both kinds."""

    kind: ClassVar[str]
    keys = KeyTable(
        "unix device",
        [
            v.key("source", "string", "Device node on the host."),
            v.key("path", "string", "Device node inside, by default the source's path."),
            v.key("major", "integer", "Major number, by default the source's.", v.uint32),
            v.key("minor", "integer", "Minor number, by default the source's.", v.uint32),
            v.key("required", "bool", "Fail to start without it.", v.boolean, "true"),
            *owner_keys(),
            v.key("user.*", "string", "Free keys of the user."),
        ],
    )

    @property
    def is_required(self) -> bool:
        return not values.is_false(self.get("required"))

    def _source(self) -> Path:
        return Path(self.get("source") or self.get("path"))

    def _target(self) -> str:
        return self.get("path") or self.get("source")

    def check(self) -> None:
        if not self.get("source") and not self.get("path"):
            raise BadRequest(
                'Unix device entry is missing the required "source" or "path" property'
            )
        for key in ("source", "path"):
            text = self.get(key)
            if text and (not text.startswith("/") or ".." in Path(text).parts):
                raise BadRequest(f'Invalid value for device option "{key}": Path must be absolute')
        if bool(self.get("major")) != bool(self.get("minor")):
            raise BadRequest('Both "major" and "minor" properties are needed, or none of them')
        if self.instance.is_profile or self.get("major"):
            return
        if self._source().exists():
            self._check_kind(nodes.kind_of(self._source())[0])
        elif self.is_required:
            raise BadRequest(
                f"The required device path doesn't exist and the major and minor settings are not"
                f" specified: {self._source()}"
            )

    def _check_kind(self, found: str) -> None:
        if found != self.kind:
            raise BadRequest(f"Path specified is not a {_WORDS[self.kind]} device")

    def is_given(self) -> bool:
        """Has the running instance what the host has now, be it nothing?"""
        given = nodes.taken(self.directory(), self.name).device_rules
        node = self._node()
        return given == ([] if node is None else [node.rule])

    def _node(self) -> nodes.Node | None:
        """What the instance is to get; None when the host lacks it and that is allowed.

        :raises BadRequest: the host lacks it, or it is of the other kind.
        """
        if self.get("major"):
            major, minor = int(self.get("major")), int(self.get("minor"))
        else:
            try:
                found, major, minor = nodes.kind_of(self._source())
            except (FileNotFoundError, NotADirectoryError) as exc:
                if not self.is_required:
                    return None
                raise BadRequest(
                    f"The required device path doesn't exist: {self._source()}"
                ) from exc
            self._check_kind(found)
        return nodes.Node(
            kind=self.kind,
            major=major,
            minor=minor,
            target=self._target(),
            mode=int(self.get("mode"), 8) if self.get("mode") else nodes.DEFAULT_MODE,
            uid=int(self.get("uid") or 0),
            gid=int(self.get("gid") or 0),
        )

    def start(self) -> RunConfig:
        nodes.remove(self.directory(), self.name)
        node = self._node()
        if node is None:
            return RunConfig()
        return nodes.make(self.directory(), self.name, node, self.instance)

    def stop(self) -> RunConfig:
        return nodes.taken(self.directory(), self.name)

    def post_stop(self) -> Volatile:
        nodes.remove(self.directory(), self.name)
        return {}


class UnixChar(UnixDevice):
    """LXD's device type "unix-char"."""

    kind = "c"


class UnixBlock(UnixDevice):
    """LXD's device type "unix-block"."""

    kind = "b"
