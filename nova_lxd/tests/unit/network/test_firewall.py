# SPDX-License-Identifier: Apache-2.0
"""Removing nftables tables on kernels that have them and on others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nova_lxd.lxd.errors import InternalError
from nova_lxd.lxd.host.run import Completed, ProgramError
from nova_lxd.lxd.network import firewall


def fake_nft(monkeypatch: pytest.MonkeyPatch, listed: list[dict[str, Any]]) -> list[list[str]]:
    """An nft that refuses every change and lists these tables; the calls come back."""
    calls: list[list[str]] = []

    def run(argv: list[str], **_options: Any) -> Completed:
        calls.append(argv)
        if "list" not in argv:
            raise ProgramError(argv, 1, "Could not process rule: Operation not supported")
        answer = {"nftables": [{"table": table} for table in listed]}
        return Completed(0, json.dumps(answer).encode(), "")

    monkeypatch.setattr(firewall, "run", run)
    return calls


def test_kernel_without_such_tables_has_none_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_nft(monkeypatch, [{"family": "bridge", "name": "t"}])
    firewall.remove("inet", "t")
    assert len(calls) == 2


def test_table_that_cannot_be_removed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nft(monkeypatch, [{"family": "inet", "name": "t"}])
    with pytest.raises(ProgramError):
        firewall.remove("inet", "t")


def test_rules_that_cannot_be_made_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nft(monkeypatch, [])
    with pytest.raises(InternalError, match=r"inet t failed: .*not supported; they need .* nft"):
        firewall.apply(firewall.Table("inet", "t"))
