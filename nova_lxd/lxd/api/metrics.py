# SPDX-License-Identifier: Apache-2.0
"""/1.0/metrics: OpenMetrics text for Prometheus."""

from __future__ import annotations

from aiohttp import web

from nova_lxd.lxd import metrics
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.errors import Forbidden
from nova_lxd.lxd.schema.configkeys import is_true


@route("GET", "/1.0/metrics", public=True)
async def get_metrics(request: Request) -> web.StreamResponse:
    """Show the metrics of one project, or of all that the client may use and the daemon."""
    services = request.services
    if not request.trusted and is_true(services.config.get("core.metrics_authentication")):
        raise Forbidden("not authorized")
    project = request.project().name if request.query("project") else None
    identity = request.identity

    def wanted(name: str) -> bool:
        return identity.may_use(name) and project in (None, name)

    def collect() -> str:
        samples = list(metrics.of_instances(services.instances, wanted))
        if project is None and not identity.restricted:
            running = len(services.operations.running())
            warnings = [w for w in services.warnings.all() if w.status == "new"]
            samples += metrics.of_daemon(running, len(warnings))
        return metrics.render(samples)

    text = await request.attempt("Gathering the metrics", collect)
    return web.Response(text=text, content_type="text/plain")
