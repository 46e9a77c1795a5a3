"""Who may call and on which project: tokens, headers that name one, and what of them is kept."""

from __future__ import annotations

import asyncio
import hmac
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner
from conftest import FLASH, a_task
from proxied import Served

from costguard import Guard, tokens
from costguard.cli import main
from costguard.cli.app import Session
from costguard.errors import LedgerError
from costguard.serving import door, pages
from costguard.testing import StandIn

pytest_plugins = ("serving_fixtures",)

HEADER = "X-Costguard-Token"


@pytest.fixture
def run(ledger: Path) -> Callable[..., str]:
    """Run the command on the proxy's ledger; what it prints."""

    def call(*words: str) -> str:
        result = CliRunner().invoke(main, list(words), obj=Session(ledger))
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


@pytest.fixture
def token(own_guard: Guard, run: Callable[..., str]) -> str:
    """A token for the project acme/web."""
    return run("token", "create", "acme/web", "--name", "The web team").strip()


@pytest.fixture(autouse=True)
def looked_up_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "FRESH_S", 0)


def call(served: Served, path: str = "/v1", **headers: str) -> httpx.Response:
    return httpx.post(f"{served.url}{path}", json=[a_task()], headers=headers)


def booked(guard: Guard) -> list[str]:
    return [row.project for row in guard.ledger.tasks()]


def test_a_call_is_booked_on_its_tokens_project_and_the_token_goes_no_further(
    served: Served, own_guard: Guard, token: str, standin: StandIn
) -> None:
    assert call(served, **{HEADER: token}).status_code == 200
    assert call(served, f"/t/{token}/v1").status_code == 200
    assert call(served, f"/t/{token}/v1", **{HEADER: token}).status_code == 200
    assert booked(own_guard) == ["acme/web"] * 3
    for got in standin.received:
        assert got.path == "/v1"
        assert not any(token in value for value in got.headers.values())


def test_a_sdk_sends_it_as_a_header_or_in_its_base_url(served: Served, own_guard: Guard, token: str) -> None:
    for options in (
        {"base_url": f"{served.url}/v1", "default_headers": {HEADER: token}},
        {"base_url": f"{served.url}/t/{token}/v1"},
    ):
        with openai.OpenAI(api_key="KEY", **options) as client:
            client.chat.completions.create(
                model=FLASH, messages=[{"role": "user", "content": "x"}], max_tokens=20
            )  # fmt: skip
    assert booked(own_guard) == ["acme/web"] * 2


def test_without_tokens_nobody_is_asked_and_with_one_everybody_is(
    served: Served, own_guard: Guard, run: Callable[..., str], standin: StandIn
) -> None:
    assert call(served).status_code == 200
    run("token", "create", "acme/web")
    refused = call(served)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (401, "tokenMissing")
    assert booked(own_guard) == ["acme/search"]
    assert len(standin.received) == 1


def test_where_tokens_are_required_none_is_as_good_as_none(
    own_guard: Guard, upstream: str, serve: Callable[..., Served], standin: StandIn
) -> None:
    proxy = serve(own_guard, upstream, require_token=True)
    assert call(proxy).status_code == 401
    assert httpx.get(f"{proxy.url}/v1/models").status_code == 401
    assert httpx.get(f"{proxy.url}/healthz").status_code == 200
    assert standin.received == []


def test_a_revoked_token_is_refused_and_the_last_ones_end_opens_nothing(
    served: Served, own_guard: Guard, token: str, run: Callable[..., str]
) -> None:
    assert call(served, **{HEADER: token}).status_code == 200
    run("token", "revoke", str(tokens.id_of(token)))
    refused = call(served, **{HEADER: token})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (401, "tokenRefused")
    assert call(served).status_code == 401
    assert booked(own_guard) == ["acme/web"]


@pytest.mark.parametrize("spoil", [
    lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"), lambda text: text + "x", lambda text: text.upper(),
    lambda text: "", lambda text: "cgt_" + "0" * 12 + text[16:], lambda text: text[:17], lambda text: f"{text}%20",
])  # fmt: skip
def test_a_wrong_token_is_refused_wherever_it_stands(
    spoil: Callable[[str], str], served: Served, token: str, standin: StandIn
) -> None:
    wrong = spoil(token)
    assert call(served, **{HEADER: wrong}).status_code == 401
    assert call(served, f"/t/{wrong}/v1").status_code == 401
    assert call(served, f"/t/{wrong}/v1", **{HEADER: token}).status_code == 401
    assert call(served, f"/t/{wrong}").status_code == 401
    assert standin.received == []


def test_two_tokens_in_one_call_are_none(served: Served, token: str, run: Callable[..., str]) -> None:
    other = run("token", "create", "acme/app").strip()
    answer = httpx.post(f"{served.url}/v1", json=[a_task()], headers=[(HEADER, token), (HEADER, other)])
    assert answer.status_code == 401


def test_hashes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(tokens, "hmac", type("Hmac", (), {"compare_digest": staticmethod(compare)}))
    text, kept = tokens.make("acme", "", 1, "me")
    assert tokens.is_of(text, kept)
    assert not tokens.is_of(text, kept._replace(digest="0" * 64))
    assert not tokens.is_of(text, kept._replace(revoked_us=2))
    assert [pair[1] for pair in compared] == [kept.digest, "0" * 64, kept.digest]


def test_the_ledger_keeps_a_hash_and_nothing_is_logged(
    served: Served,
    own_guard: Guard,
    token: str,
    ledger: Path,
    run: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = token.rpartition(str(tokens.id_of(token)))[2].removeprefix("_")
    for headers, path in (
        ({HEADER: token}, "/v1"),
        ({}, f"/t/{token}/v1"),
        ({}, f"/t/{token}x/v1"),
        ({}, f"/t/{token}"),
    ):
        call(served, path, **headers)
    mine = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "asyncio"))]
    assert mine
    assert not any(secret in record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    shown = run("token", "list", "--format", "json")
    assert secret not in shown
    assert "The web team" in shown
    own_guard.close()
    connection = sqlite3.connect(ledger)
    (row,) = connection.execute("SELECT * FROM tokens").fetchall()
    connection.close()
    assert not any(secret in str(value) for value in row)
    files = b"".join(path.read_bytes() for path in ledger.parent.iterdir() if path.is_file())
    assert secret.encode() not in files


def test_a_project_in_a_header_is_refused_unless_the_operator_lets_callers_name_it(
    served: Served, own_guard: Guard, standin: StandIn
) -> None:
    answer = call(served, **{"X-Costguard-Project": "acme/other"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "projectRefused")
    assert standin.received == []


def test_callers_name_their_project_where_they_may(
    own_guard: Guard, upstream: str, serve: Callable[..., Served], standin: StandIn
) -> None:
    proxy = serve(own_guard, upstream, project_header="X-Project")
    assert call(proxy, **{"X-Project": "acme/other/team"}).status_code == 200
    assert call(proxy).status_code == 200
    assert call(proxy, **{"X-Project": "../up"}).status_code == 400
    assert call(proxy, **{"X-Costguard-Project": "acme/web"}).status_code == 403
    assert booked(own_guard) == ["acme/other/team", "acme/search"]
    assert all("x-project" not in got.headers for got in standin.received)


def test_with_a_token_the_project_lies_within_its_own(
    own_guard: Guard, upstream: str, serve: Callable[..., Served], token: str
) -> None:
    proxy = serve(own_guard, upstream, project_header="X-Project")
    assert call(proxy, **{HEADER: token, "X-Project": "acme/web/shop"}).status_code == 200
    assert call(proxy, **{HEADER: token, "X-Project": "acme/webshop"}).status_code == 403
    assert call(proxy, **{HEADER: token, "X-Project": "acme"}).status_code == 403
    assert booked(own_guard) == ["acme/web/shop"]


def test_the_list_says_who_made_what_and_when_it_was_revoked(token: str, run: Callable[..., str]) -> None:
    token_id = str(tokens.id_of(token))
    assert token_id in run("token", "list")
    run("token", "revoke", token)
    assert f'"token": "{token_id}"' in run("token", "list", "--format", "json")
    assert run("token", "revoke", token_id) == f"Token {token_id} for acme/web is revoked.\n"
    unknown = CliRunner().invoke(main, ["token", "revoke", "abc"], obj=Session("nowhere.db"))
    assert unknown.exit_code == 1


def test_a_ledger_that_cannot_be_opened_asks_nobody_for_a_token_where_nothing_is_refused(
    upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served], standin: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    guard = make_guard(path=tmp_path / "folder", mode="observe", endpoints=[f"{upstream}/v1"])
    assert call(serve(guard, upstream)).status_code == 200
    assert len(standin.received) == 1


def test_a_token_that_was_known_stays_so_while_the_ledger_is_away(
    served: Served, own_guard: Guard, token: str, standin: StandIn
) -> None:
    assert call(served, **{HEADER: token}).status_code == 200
    own_guard.close()
    assert call(served, **{HEADER: token}).status_code == 503
    assert call(served).status_code == 401
    assert httpx.get(f"{served.url}/v1/models", headers={HEADER: token}).status_code == 404  # the upstream's


@pytest.mark.parametrize("named", ["acme/café".encode(), "acme/café".encode("latin-1")])
def test_a_project_in_any_language_is_the_one_that_has_the_budget(
    named: bytes, own_guard: Guard, upstream: str, serve: Callable[..., Served]
) -> None:
    own_guard.set_budget("acme/café", 0, per="total")
    proxy = serve(own_guard, upstream, project_header="X-Project")
    assert httpx.post(f"{proxy.url}/v1", json=[a_task()], headers={b"X-Project": named}).status_code == 402


def test_what_is_wrong_with_the_ledger_is_the_operators_to_know(
    served: Served, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert call(served).status_code == 200
    away = ledger.parent.with_name("away")
    ledger.parent.rename(away)
    answers = [call(served), httpx.get(f"{served.url}/metrics"), httpx.get(f"{served.url}/healthz")]
    away.rename(ledger.parent)
    assert [answer.status_code for answer in answers] == [503] * 3
    assert not any(ledger.name in answer.text or str(ledger.parent) in answer.text for answer in answers)
    assert ledger.name in caplog.text


def test_many_that_bring_unknown_tokens_together_are_told_by_one_look(
    own_guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    found = own_guard.ledger.tokens

    def counted() -> list[tokens.Token]:
        looks.append(1)
        return found()

    monkeypatch.setattr(own_guard.ledger, "tokens", counted)
    entrance = door.Door(own_guard)
    unknown = [tokens.make("acme", "", 1, "me")[0] for _ in range(50)]

    async def all_at_once() -> list[Any]:
        scope: dict[str, Any] = {"headers": []}
        return await asyncio.gather(*[entrance.holder(scope, text) for text in unknown], return_exceptions=True)

    assert {str(error).partition(";")[0] for error in asyncio.run(all_at_once())} == {"the token is unknown or revoked"}
    assert len(looks) == 2  # the first came before the others had


PAGES = [
    ({"Origin": "https://elsewhere.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://[x"}, 403),
    ({"Origin": "http://10.0.0.7:3000"}, 403),
    ({"Host": "elsewhere.example:8402"}, 403),
    ({"Host": "elsewhere.example", "Origin": "http://elsewhere.example"}, 403),
    ({"Origin": "http://localhost:3000"}, 200),
    ({"Origin": "HTTP://127.0.0.1:3000"}, 200),
    ({"Origin": "http://[::1]:3000"}, 200),
    ({"Origin": "vscode-webview://abc"}, 200),
    ({"Host": "host.docker.internal:8402"}, 200),
    ({"Host": "costguard:8402", "Origin": "http://costguard:8402"}, 200),
    ({"Host": "LOCALHOST."}, 200),
]


@pytest.mark.parametrize(("headers", "status"), PAGES)
def test_a_web_page_from_elsewhere_needs_a_token(
    headers: dict[str, str],
    status: int,
    served: Served,
    standin: StandIn,
    own_guard: Guard,
    request: pytest.FixtureRequest,
) -> None:
    as_a_page = {**headers, "Content-Type": "text/plain"}
    answer = call(served, **as_a_page)
    assert answer.status_code == status
    assert httpx.get(f"{served.url}/metrics", headers=as_a_page).status_code == status
    if status == 403:
        assert answer.json()["errors"][0]["code"] == "pageRefused"
        assert standin.received == []
        assert call(served, **as_a_page, **{HEADER: request.getfixturevalue("token")}).status_code == 200


def test_beyond_loopback_a_public_name_is_as_good_as_any() -> None:
    headers = [(b"host", b"llm.example")]
    assert pages.stranger({"server": ("127.0.0.1", 1), "headers": headers})
    assert pages.stranger({"server": ("10.0.0.1", 1), "headers": headers}) is None
    own = [*headers, (b"origin", b"https://llm.example")]
    assert pages.stranger({"server": ("10.0.0.1", 1), "headers": own}) is None


@pytest.mark.parametrize(("mode", "outcome"), [("enforce", LedgerError), ("observe", type(None))])
def test_while_the_ledger_is_away_callers_do_not_wait_for_it_one_after_the_other(
    mode: str, outcome: type, guard_of: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FRESH_S", 1000)
    guard = guard_of("http://127.0.0.1:9", mode=mode)
    looks: list[int] = []

    def away() -> list[tokens.Token]:
        looks.append(1)
        raise LedgerError("no connection")

    monkeypatch.setattr(guard.ledger, "tokens", away)
    entrance = door.Door(guard)

    async def all_at_once() -> list[Any]:
        scope: dict[str, Any] = {"headers": []}
        return await asyncio.gather(*[entrance.holder(scope, None) for _ in range(20)], return_exceptions=True)

    assert {type(found) for found in asyncio.run(all_at_once())} == {outcome}
    assert len(looks) == 1
