# SPDX-License-Identifier: Apache-2.0
"""A small client of OpenStack's HTTP APIs, for what must be made before anything else is there."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud.context import Cloud
from cloud.errors import CloudError

Body = dict[str, Any]


class HttpError(CloudError):
    """The service answered with an error; ``status`` is HTTP's."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(problem, remedy="see the log of that service: quickstart logs SERVICE")
        self.status = status


@dataclass(frozen=True)
class Endpoint:
    """One service, used with one token."""

    url: str
    token: str
    headers: tuple[tuple[str, str], ...] = ()

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: Body) -> Any:
        return self.call("POST", path, body)

    def put(self, path: str, body: Body | None = None) -> Any:
        return self.call("PUT", path, body)

    def patch(self, path: str, body: Body) -> Any:
        return self.call("PATCH", path, body)

    def delete(self, path: str) -> None:
        self.call("DELETE", path)

    def call(self, method: str, path: str, body: Body | None = None) -> Any:
        """One request with a JSON body; returns the decoded answer, None when it is empty.

        Raises HttpError for a status of 400 or more.
        """
        data = None if body is None else json.dumps(body).encode()
        return decode(self.send(method, path, data, {"Content-Type": "application/json"}))

    def upload(self, path: str, source: Path) -> None:
        """PUT the content of a file, streamed."""
        with source.open("rb") as stream:
            self.send("PUT", path, stream, {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(source.stat().st_size),
            })

    def send(self, method: str, path: str, data: Any, headers: dict[str, str]) -> bytes:
        parts = urllib.parse.urlsplit(self.url + path)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(method, target or "/", data, {
                "X-Auth-Token": self.token, "Accept": "application/json",
                **dict(self.headers), **headers})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CloudError(
                f"{method} {self.url}{path} got no answer: {error}.",
                remedy="see which service is down: quickstart status",
            ) from error
        finally:
            connection.close()
        if response.status >= 400:
            text = content.decode(errors="replace").strip()[:300]
            raise HttpError(f"{method} {self.url}{path} was refused with {response.status}: "
                            f"{text}", response.status)
        return content

    def ensure(self, path: str, kind: str, body: Body, *, searchable: bool = True) -> Any:
        """The resource of ``body``'s name, made if there is none.

        ``searchable`` says whether the service takes a name in the query.
        """
        query = "?" + urllib.parse.urlencode({"name": body["name"]}) if searchable else ""
        found = self.get(path + query)[f"{kind}s"]
        exact = [item for item in found if item["name"] == body["name"]]
        if exact:
            return exact[0]
        return self.post(path, {kind: body})[kind]


def decode(content: bytes) -> Any:
    return json.loads(content) if content else None


class Rest:
    """A login: a token and the catalogue it came with."""

    def __init__(self, token: str, answer: Body, headers: dict[str, tuple[tuple[str, str], ...]],
                 ) -> None:
        self.token = token
        self.project_id: str = answer["token"]["project"]["id"]
        self._headers = headers
        self._urls = {
            entry["type"]: endpoint["url"]
            for entry in answer["token"]["catalog"] for endpoint in entry["endpoints"]
            if endpoint["interface"] == "public"
        }

    @classmethod
    def login(cls, cloud: Cloud, user: str = "admin", project: str = "") -> Rest:
        """Log in with the password of ``user``; CloudError when keystone refuses."""
        body = {"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": user, "domain": {"id": "default"}, "password": cloud.password(user)}}},
            "scope": {"project": {"name": project or user, "domain": {"id": "default"}}},
        }}
        parts = urllib.parse.urlsplit(cloud.url("keystone", "/v3/auth/tokens"))
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            connection.request("POST", parts.path, json.dumps(body),
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CloudError(f"keystone does not answer at {parts.netloc}: {error}.",
                             remedy="bring the cloud up: quickstart up") from error
        finally:
            connection.close()
        if response.status != 201:
            raise HttpError(
                f"keystone refused the login of {user}: {content.decode(errors='replace')[:200]}",
                response.status)
        headers = {
            "compute": (("OpenStack-API-Version", "compute 2.96"),),
            "placement": (("OpenStack-API-Version", "placement 1.39"),),
        }
        token = response.getheader("X-Subject-Token") or ""
        return cls(token, json.loads(content), headers)

    def service(self, kind: str) -> Endpoint:
        """The service of a type in the catalogue, ready for requests."""
        if kind not in self._urls:
            raise CloudError(f"the catalogue has no service of type {kind}.",
                             remedy="run 'quickstart up' again")
        suffix = {"image": "/v2", "network": "/v2.0"}.get(kind, "")
        url = self._urls[kind].rstrip("/")
        return Endpoint(url + suffix, self.token, self._headers.get(kind, ()))
