# SPDX-License-Identifier: Apache-2.0
"""Horizon, with its settings outside of the Python environment."""

from __future__ import annotations

from pathlib import Path

from cloud import wsgi
from cloud.context import Cloud
from cloud.layout import write_private
from cloud.services import Service
from cloud.steps import Step, fingerprint

# Horizon reads openstack_dashboard/local/local_settings.py inside its own package, as
# ``local.local_settings``.  A module put into sys.modules beforehand takes its place, so
# that a Python environment shared by several clouds is not written to.
SETTINGS = '''# Written by quickstart at every 'up': changes here are lost.
import sys
import types

from openstack_dashboard import defaults

local = types.ModuleType("local.local_settings")
local.__dict__.update(
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    WEBROOT="/",
    STATIC_ROOT={static!r},
    STATIC_URL="/static/",
    COMPRESS_OFFLINE=True,
    SECRET_KEY={secret!r},
    CACHES={{"default": {{"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}}},
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    OPENSTACK_HOST="127.0.0.1",
    OPENSTACK_KEYSTONE_URL={keystone!r},
    OPENSTACK_API_VERSIONS={{"identity": 3, "image": 2, "volume": 3}},
    OPENSTACK_KEYSTONE_DEFAULT_DOMAIN="Default",
    OPENSTACK_KEYSTONE_DEFAULT_ROLE="member",
    CONSOLE_TYPE="SERIAL",
    # Servers of this driver boot from images, never from volumes.
    LAUNCH_INSTANCE_DEFAULTS={{
        **defaults.LAUNCH_INSTANCE_DEFAULTS, "create_volume": False, "hide_create_volume": True,
        "disable_volume": True, "disable_volume_snapshot": True}},
    TIME_ZONE="UTC",
)
sys.modules["local.local_settings"] = local
from openstack_dashboard.settings import *  # noqa: E402,F403
'''

WSGI = '''# Written by quickstart at every 'up': changes here are lost.
import os
import sys

sys.path[:0] = [{here!r}, {package!r}]
os.environ["DJANGO_SETTINGS_MODULE"] = "cloud_horizon_settings"
from django.core.wsgi import get_wsgi_application  # noqa: E402

application = get_wsgi_application()
'''


def package(cloud: Cloud) -> Path:
    """openstack_dashboard in the Python environment; it must be on sys.path itself."""
    return next(cloud.venv.glob("lib/python3*/site-packages")) / "openstack_dashboard"


def configure(cloud: Cloud) -> Path:
    here = cloud.etc("horizon")
    write_private(here / "cloud_horizon_settings.py", SETTINGS.format(
        static=str(cloud.data("horizon/static")), secret=cloud.password("horizon"),
        keystone=cloud.url("keystone", "/v3")))
    write_private(here / "cloud_horizon_wsgi.py",
                  WSGI.format(here=str(here), package=str(package(cloud))))
    return here


def static_files(cloud: Cloud) -> None:
    here = configure(cloud)
    env = {"PYTHONPATH": f"{here}:{package(cloud)}",
           "DJANGO_SETTINGS_MODULE": "cloud_horizon_settings"}
    cloud.manage("horizon", "django-admin", "collectstatic", "--noinput", "--verbosity", "0",
                 env=env)
    cloud.manage("horizon", "django-admin", "compress", "--force", env=env)


def service(cloud: Cloud) -> Service:
    here = configure(cloud)
    return wsgi.api(
        cloud, "horizon", "cloud_horizon_wsgi", port="horizon", path="/auth/login/",
        env={"PYTHONPATH": f"{here}:{package(cloud)}"},
        watch=tuple(str(path) for path in sorted(here.glob("*.py"))),
        extra=("--static-map", f"/static={cloud.data('horizon/static')}"),
    )


def steps(cloud: Cloud) -> list[Step]:
    if not cloud.has("horizon"):
        return []
    return [
        Step("horizon/static files", lambda: static_files(cloud), needs=("python/openstack",),
             stamp=fingerprint(SETTINGS, str(cloud.venv))),
        cloud.start("horizon", lambda: service(cloud), "horizon/static files", "start keystone"),
    ]
