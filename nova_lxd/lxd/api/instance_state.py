# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances/NAME/state, and PUT /1.0/instances: what runs, and starting and stopping it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from nova_lxd.lxd.api import envelope, instance_view
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.errors import BadRequest, LXDError
from nova_lxd.lxd.instances import action, state
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.operations import Operation
from nova_lxd.lxd.schema.instances import InstancesPut, StatePut

_AT_ONCE = 8


@route("GET", "/1.0/containers/{name}/state")
@route("GET", "/1.0/instances/{name}/state")
async def get_state(request: Request) -> web.StreamResponse:
    """Show what an instance uses."""
    svc = request.services.instances
    inst = instance_view.find(request)

    def read() -> object:
        record = svc.record(inst)
        with state.Usage(svc) as usage:
            return state.of_instance(svc, inst, record, svc.expanded(record), usage)

    return envelope.sync(await request.run(read))


def _timeout(body: StatePut) -> float | None:
    # LXD: not positive means to wait for ever.
    return float(body.timeout) if body.timeout > 0 else None


def _check(body: StatePut) -> str:
    if body.action not in action.DESCRIPTIONS:
        raise BadRequest(f"Unknown action {body.action[:32]!r}")
    if body.stateful:
        raise BadRequest("Stateful stop and start need CRIU, which this server does not use yet")
    return action.DESCRIPTIONS[body.action]


@route("PUT", "/1.0/containers/{name}/state", body=StatePut)
@route("PUT", "/1.0/instances/{name}/state", body=StatePut)
async def put_state(request: Request) -> web.StreamResponse:
    """Start, stop, restart, freeze or unfreeze an instance."""
    svc = request.services.instances
    inst = instance_view.find(request)
    body = await request.body(StatePut)
    description = _check(body)
    requestor = request.requestor
    show_timing = request.query_bool("timing")

    def work(_op: Operation) -> dict[str, str] | None:
        steps = action.change(
            svc,
            inst,
            body.action,
            force=body.force,
            timeout=_timeout(body),
            requestor=requestor,
        )
        return steps if show_timing else None

    op = request.services.operations.task(
        inst.project,
        description,
        work,
        resources={"instances": [f"/1.0/instances/{inst.name}"]},
        requestor=requestor,
    )
    return envelope.operation(op)


def _fits(inst: Instance, wanted: str) -> bool:
    """Is the instance in a state from which the action makes sense (others are passed over)?"""
    if wanted == "start":
        return not inst.is_running
    if wanted == "unfreeze":
        return inst.frozen
    if wanted == "freeze":
        return inst.is_running and not inst.frozen
    return inst.is_running


@route("PUT", "/1.0/containers", body=InstancesPut)
@route("PUT", "/1.0/instances", body=InstancesPut)
async def put_instances(request: Request) -> web.StreamResponse:
    """Change the state of all instances of a project."""
    svc = request.services.instances
    project = request.project().name
    body = (await request.body(InstancesPut)).state or StatePut()
    _check(body)
    requestor = request.requestor

    def one(inst: Instance) -> str | None:
        try:
            action.change(
                svc,
                inst,
                body.action,
                force=body.force,
                timeout=_timeout(body),
                requestor=requestor,
            )
        except LXDError as exc:
            return f" - Instance: {inst.name}: {exc}"
        return None

    def work(_op: Operation) -> None:
        chosen = [inst for inst in svc.all(project) if _fits(inst, body.action)]
        with ThreadPoolExecutor(_AT_ONCE, "bulk") as pool:
            failures = [text for text in pool.map(one, chosen) if text]
        if failures:
            raise BadRequest(
                f"Changing the state to {body.action} failed for the following instances:\n"
                + "\n".join(failures)
            )

    names = [inst.name for inst in svc.all(project) if _fits(inst, body.action)]
    op = request.services.operations.task(
        project,
        "Updating instance state",
        work,
        resources=instance_view.resources(request, names),
        requestor=requestor,
    )
    return envelope.operation(op)
