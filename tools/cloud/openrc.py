# SPDX-License-Identifier: Apache-2.0
"""How a user logs in: shell variables, and clouds.yaml for openstacksdk."""

from __future__ import annotations

import json
import shlex

from cloud.context import REGION, Cloud
from cloud.layout import write_private

USERS = ("demo", "admin")


def variables(cloud: Cloud, user: str) -> dict[str, str]:
    """The OS_ variables of ``user`` in the project of the same name."""
    return {
        "OS_AUTH_URL": cloud.url("keystone", "/v3"), "OS_USERNAME": user,
        "OS_PASSWORD": cloud.password(user), "OS_PROJECT_NAME": user,
        "OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default",
        "OS_IDENTITY_API_VERSION": "3", "OS_REGION_NAME": REGION, "OS_INTERFACE": "public",
    }


def shell(cloud: Cloud, user: str) -> str:
    """Lines for a shell to evaluate; the programs of the environment come last in PATH."""
    lines = [f"export {name}={shlex.quote(value)}"
             for name, value in variables(cloud, user).items()]
    lines += [f"export PATH=$PATH:{shlex.quote(str(cloud.venv / 'bin'))}",
              "export PYTHONWARNINGS=ignore"]
    return "\n".join(lines) + "\n"


def write(cloud: Cloud) -> None:
    """Write openrc-USER files and a clouds.yaml (JSON is YAML) into the state directory."""
    for user in USERS:
        write_private(cloud.layout.state / f"openrc-{user}", shell(cloud, user))
    clouds = {
        user: {
            "auth": {"auth_url": cloud.url("keystone", "/v3"), "username": user,
                     "password": cloud.password(user), "project_name": user,
                     "user_domain_id": "default", "project_domain_id": "default"},
            "region_name": REGION, "identity_api_version": 3,
        } for user in USERS
    }
    write_private(cloud.layout.state / "clouds.yaml", json.dumps({"clouds": clouds}, indent=1))
