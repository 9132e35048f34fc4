# SPDX-License-Identifier: Apache-2.0
"""/1.0/instances/NAME/exec: run a program inside, with or without WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from nova_lxd.lxd.api import envelope, streams
from nova_lxd.lxd.api.request import Request
from nova_lxd.lxd.api.routes import route
from nova_lxd.lxd.api.sockets import Sockets
from nova_lxd.lxd.api.streams import Descriptor
from nova_lxd.lxd.errors import BadRequest
from nova_lxd.lxd.host import terminal
from nova_lxd.lxd.host.liblxc.client import Exec
from nova_lxd.lxd.instances.exec import Executor, Program, refused, require_running
from nova_lxd.lxd.instances.instance import Instance
from nova_lxd.lxd.operations import Operation

LOG = logging.getLogger(__name__)
# LXD: how long a client has to connect all of its sockets.


class ExecPost(msgspec.Struct, rename="kebab"):
    """Body of POST /1.0/instances/NAME/exec."""

    command: list[str] | None = None
    environment: dict[str, str] | None = None
    wait_for_websocket: bool = False
    interactive: bool = False
    width: int = 0
    height: int = 0
    record_output: bool = False
    user: int = 0
    group: int = 0
    cwd: str = ""


def resources(name: str) -> dict[str, list[str]]:
    """What an operation on one instance lists as touched."""
    return {"containers": [f"/1.0/containers/{name}"], "instances": [f"/1.0/instances/{name}"]}


@route("POST", "/1.0/instances/{name}/exec", body=ExecPost)
@route("POST", "/1.0/containers/{name}/exec", body=ExecPost)
async def post_exec(request: Request) -> web.StreamResponse:
    """Run a program inside an instance."""
    body = await request.body(ExecPost)
    services = request.services
    instance = services.instances.get(request.project().name, request.path("name"))
    require_running(instance)
    if body.interactive and not body.wait_for_websocket:
        raise BadRequest("Can't use interactive mode without websocket")
    services.instances.ctx.grace.begin()
    config = await request.run(_expanded_config, request, instance)
    program = (
        Program(body.command or [], body.environment or {}, body.user, body.group, body.cwd)
        .checked()
        .with_defaults(config)
    )
    services.instances.announce(
        "instance-exec",
        instance,
        context={"command": list(program.command)},
        requestor=request.requestor,
    )
    if body.wait_for_websocket:
        session = Session(request, instance, program, body)
        op = services.operations.websocket(
            instance.project,
            "Executing command",
            session.run,
            session.connect,
            resources=resources(instance.name),
            metadata=session.metadata(),
            requestor=request.requestor,
        )
        return envelope.operation(op)
    return _without_sockets(request, instance, program, body.record_output)


def _expanded_config(request: Request, instance: Instance) -> dict[str, str]:
    instances = request.services.instances
    return instances.expanded(instances.record(instance)).config


def _executor(request: Request) -> Executor:
    return Executor(request.services.instances.ctx.liblxc, request.services.paths)


def _without_sockets(
    request: Request, instance: Instance, program: Program, record: bool
) -> web.StreamResponse:
    services = request.services
    executor = _executor(request)
    logs = services.paths.log(instance.project, instance.name)

    def run(op: Operation) -> Mapping[str, Any]:
        if not record:
            return _outcome(op, {"return": executor.run(instance, program)})
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = {n: logs / f"exec_{op.id}.{ext}" for n, ext in (("1", "stdout"), ("2", "stderr"))}
        with files["1"].open("wb") as out, files["2"].open("wb") as err:
            code = executor.run(instance, program, out, err)
        base = f"/1.0/instances/{instance.name}/logs"
        output = {n: f"{base}/{f.name}" for n, f in files.items()}
        return _outcome(op, {"return": code, "output": output})

    op = services.operations.task(
        instance.project,
        "Executing command",
        run,
        resources=resources(instance.name),
        requestor=request.requestor,
    )
    return envelope.operation(op)


def _outcome(op: Operation, result: dict[str, Any]) -> dict[str, Any]:
    """The result of a program; the operation fails, but shows it, when none could be run."""
    failure = refused(result["return"])
    if failure is not None:
        op.update(result)
        raise failure
    return result


class Session:
    """One program with its WebSockets: 0, 1, 2 (or 0 alone for a terminal) and control."""

    def __init__(
        self, request: Request, instance: Instance, program: Program, body: ExecPost
    ) -> None:
        self._request = request
        self._instance = instance
        self._program = program
        self._body = body
        self._streams = ("0",) if body.interactive else ("0", "1", "2")
        self._sockets = Sockets(self._streams, ("control",))
        self._process: Exec | None = None
        # What came before the program had begun.
        self._early: list[int] = []
        self._size = (body.height, body.width)
        self._master: Descriptor | None = None

    def metadata(self) -> dict[str, Any]:
        """What the operation shows: how to connect."""
        return {
            "command": list(self._program.command),
            "environment": dict(self._program.environment),
            "fds": self._sockets.secrets,
            "interactive": self._body.interactive,
        }

    async def connect(self, secret: str, pending: Any) -> None:
        """Take one WebSocket; returns when the session is over."""
        name, socket = await self._sockets.accept(secret, pending)
        if name == "control":
            if not await streams.drain(socket, self._control) and not self._sockets.over:
                self._signal(signal.SIGKILL)  # the client is gone without a goodbye
            return
        await self._sockets.until_over()

    def _signal(self, number: int) -> None:
        """Signal the program, or keep the signal for it: clients may go before it has begun."""
        if self._process is not None:
            self._process.kill(number)
        else:
            self._early.append(number)

    def _begun(self, process: Exec) -> None:
        self._process = process
        for number in self._early:
            process.kill(number)

    def _control(self, text: str) -> None:
        """Handle one message of the control socket."""
        try:
            message = msgspec.json.decode(text, type=dict)
            command = message.get("command")
            if command == "window-resize":
                size = message.get("args") or {}
                self._size = int(size["height"]), int(size["width"])
                if self._master is not None:
                    terminal.resize(self._master.fd, *self._size)
            elif command == "signal":
                self._signal(_signal_number(message["signal"]))
        except (*streams.UNUSABLE, OSError) as exc:
            LOG.debug("Control message %r was ignored: %s", text[:200], exc)

    async def run(self, op: Operation) -> Mapping[str, Any]:
        """Wait for the sockets, run the program, pump, and tell its exit code."""
        try:
            await self._sockets.wait()
            if self._body.interactive:
                code = await self._on_terminal()
            else:
                code = await self._on_pipes()
            for name in self._streams:
                if name != "0" or self._body.interactive:
                    await streams.send_end(self._sockets[name])
            return _outcome(op, {"return": code})
        finally:
            await self._sockets.close()

    async def _on_terminal(self) -> int:
        executor = _executor(self._request)
        process, fd = await self._request.run(
            executor.start_on_terminal,
            self._instance,
            self._program,
            *self._size,
        )
        master = self._master = Descriptor(fd)
        if all(self._size):
            terminal.resize(fd, *self._size)
        self._begun(process)
        socket = self._sockets["0"]
        ended = asyncio.Event()
        sending = asyncio.create_task(streams.to_socket(master, socket, ended))
        taking = asyncio.create_task(streams.from_socket(socket, master, close_at_end=False))
        taking.add_done_callback(lambda _task: self._hang_up(socket))
        try:
            return await self._wait(ended, [sending])
        finally:
            await _end(sending)
            await _end(taking)
            self._master = None
            master.close()

    def _hang_up(self, socket: web.WebSocketResponse) -> None:
        """A terminal whose client is gone sends the hang-up signal, as a closed line does."""
        if socket.closed and not self._sockets.over:
            self._signal(signal.SIGHUP)

    async def _on_pipes(self) -> int:
        executor = _executor(self._request)
        inner_in, outer_in = os.pipe2(os.O_CLOEXEC)
        outer_out, inner_out = os.pipe2(os.O_CLOEXEC)
        outer_err, inner_err = os.pipe2(os.O_CLOEXEC)
        ours = [Descriptor(fd) for fd in (outer_in, outer_out, outer_err)]
        try:
            try:
                process = await self._request.run(
                    executor.start, self._instance, self._program, inner_in, inner_out, inner_err
                )
            finally:
                for fd in (inner_in, inner_out, inner_err):
                    os.close(fd)
            self._begun(process)
            stdin, stdout, stderr = ours
            ended = asyncio.Event()
            sending = [
                asyncio.create_task(streams.to_socket(stdout, self._sockets["1"], ended)),
                asyncio.create_task(streams.to_socket(stderr, self._sockets["2"], ended)),
            ]
            # Once nobody takes what it writes, the program is to learn that, not to wait for ever.
            for task, source in zip(sending, (stdout, stderr), strict=True):
                task.add_done_callback(partial(_close, source))
            taking = asyncio.create_task(
                streams.from_socket(self._sockets["0"], stdin, close_at_end=True)
            )
            try:
                return await self._wait(ended, sending)
            finally:
                for task in (*sending, taking):
                    await _end(task)
        finally:
            for descriptor in ours:
                descriptor.close()

    async def _wait(self, ended: asyncio.Event, sending: list[asyncio.Task[None]]) -> int:
        """The program's exit code, once what it wrote has been sent."""
        assert self._process is not None
        await streams.readable(self._process.fileno())
        code = self._process.wait(0)
        ended.set()
        await asyncio.gather(*sending)
        return code


def _signal_number(value: Any) -> int:
    """:raises ValueError: there is no such signal."""
    number = int(value)
    if not 0 < number < signal.NSIG:
        raise ValueError(f"no signal {number}")
    return number


def _close(source: Descriptor, _task: asyncio.Task[None]) -> None:
    source.close()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
