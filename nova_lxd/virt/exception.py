# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between Nova and LXD, as Nova exceptions.

Each carries LXD's own sentence, so that it ends up in the instance's fault.
"""

from __future__ import annotations

from typing import Any

from nova import exception


class LXDError(exception.NovaException):
    """LXD refused or failed a request.

    ``status`` is the HTTP status, or that of the failed background operation, whose own data is
    ``metadata`` then.
    """

    msg_fmt = "LXD could not %(action)s: %(reason)s"

    def __init__(
        self, status: int = 0, metadata: dict[str, Any] | None = None, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        self.status = status
        self.metadata = metadata or {}


class LXDRefused(LXDError):
    """LXD answered 400: it cannot or may not do what was asked, now or later."""


class LXDNotFound(LXDError):
    """LXD answered 404."""


class LXDConflict(LXDError):
    """LXD answered 409 or 412: it exists already, or somebody else changed it."""


class LXDUnavailable(exception.HypervisorUnavailable):
    """No LXD answers at the configured endpoint."""

    msg_fmt = "LXD at %(endpoint)s does not answer: %(reason)s"


class LXDTimeout(LXDError):
    """An operation did not end within [lxd]operation_timeout."""


class HostNotUsable(exception.NovaException):
    """The LXD server cannot run instances as it is; the message says what to do."""

    msg_fmt = "This host cannot run instances on LXD: %(reason)s"


class ImageNotUsable(exception.ImageUnacceptable):
    """The Glance image cannot become a container's root; the message says why."""
