"""Who is let in at one address for many workers."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.unit.test_serve import FakePool, address
from xpu_utils.serve.command import CannotServe, _token

TOKEN = "a token of some length"


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "/prompt", 401),
        ({"Authorization": "Bearer wrong"}, "/prompt", 401),
        ({"Authorization": f"Bearer {TOKEN}"}, "/prompt", 200),
        ({"Authorization": "Basic " + base64.b64encode(f"anybody:{TOKEN}".encode()).decode()}, "/api/prompt", 200),
        ({"Authorization": "Basic !"}, "/prompt", 401),
        ({}, f"/prompt?token={TOKEN}", 401),
        ({}, f"/ws?token={TOKEN}", 400),  # let in, and no WebSocket
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}, "/prompt", 403),
    ],
)
@pytest.mark.asyncio
async def test_where_there_is_a_token_nobody_is_let_in_without(
    tmp_path: Path, headers: dict[str, str], path: str, status: int
) -> None:
    _, routes = address(tmp_path, FakePool())
    async with TestClient(TestServer(routes.application(TOKEN))) as client:
        assert (await client.get(path, headers=headers)).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8188", "Origin": "http://localhost:8188"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),  # a name that was made to lead here
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
@pytest.mark.asyncio
async def test_without_a_token_only_this_machines_own_are_let_in(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    _, routes = address(tmp_path, FakePool())
    async with TestClient(TestServer(routes.application(""))) as client:
        assert (await client.get("/queue", headers=headers)).status == status


def test_an_address_that_others_reach_needs_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XPU_SERVE_TOKEN", raising=False)
    assert {_token(host, None) for host in ("127.0.0.1", "::1", "localhost")} == {""}
    for host in ("0.0.0.0", "::", "192.168.1.4", "comfy.lan"):
        with pytest.raises(CannotServe, match="set a token"):
            _token(host, None)
    monkeypatch.setenv("XPU_SERVE_TOKEN", "short")
    with pytest.raises(CannotServe, match="in XPU_SERVE_TOKEN is short"):
        _token("127.0.0.1", None)
    file = tmp_path / "token"
    with pytest.raises(CannotServe, match="cannot be read"):
        _token("127.0.0.1", file)
    file.write_text("\n")
    with pytest.raises(CannotServe, match=r"token is short"):  # it is there to be asked for
        _token("127.0.0.1", file)
    file.write_text(f"{TOKEN}\n")
    assert _token("0.0.0.0", file) == TOKEN
    monkeypatch.setenv("XPU_SERVE_TOKEN", f" {TOKEN}\n")
    assert _token("0.0.0.0", None) == TOKEN, "as clients send it"
