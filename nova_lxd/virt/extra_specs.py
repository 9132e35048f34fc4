# SPDX-License-Identifier: Apache-2.0
"""Extra specs of the ``lxd:`` namespace, for Nova's API (nova.api.extra_spec_validators)."""

from __future__ import annotations

from typing import Any

from nova.api.validation.extra_specs import base

FLAGS = {
    "privileged": "Run the container without its own user namespace. Honoured only where"
    " ``[lxd]allow_privileged`` is set.",
    "nesting": "Allow containers inside the container. Honoured only where"
    " ``[lxd]allow_nesting`` is set.",
    "intercept_mknod": "Let the guest make harmless device nodes.",
    "intercept_setxattr": "Let the guest set the extended attributes overlay file systems need.",
    "intercept_bpf": "Let the guest load device-cgroup BPF programs.",
    "intercept_sysinfo": "Answer sysinfo(2) from the container's own limits.",
}


def register() -> list[Any]:
    """Return the validators; Nova calls this at start-up of its API."""
    validators = [
        base.ExtraSpecValidator(
            name=f"lxd:{name}",
            description=f"{text} Only supported by the LXD virt driver.",
            value={"type": bool},
        )
        for name, text in FLAGS.items()
    ]
    validators.append(
        base.ExtraSpecValidator(
            name="lxd:processes",
            description="The largest number of processes in the guest."
            " Only supported by the LXD virt driver.",
            value={"type": int, "min": 1},
        )
    )
    return validators
