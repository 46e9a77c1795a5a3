"""Who may call, and on whose account: tokens that the operator issues, and projects that callers may name."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from urllib.parse import unquote

from costguard import tokens
from costguard.errors import ConfigurationError, LedgerError
from costguard.exchange.effects import Interrupted
from costguard.exchange.gate import ENFORCE, OFF
from costguard.guard import Guard
from costguard.projects import covers, parse_project
from costguard.serving import headers, pages
from costguard.serving.answering import TurnedAwayError
from costguard.serving.asgi import Scope, header, raw_path, text_header
from costguard.tokens import Token
from costguard.wire.dialect import Problem

FRESH_S = 1.0
"""What is known of tokens is looked up again after this: so soon one that was revoked is refused."""

_PREFIX = re.compile(r"/t/([^/]*)(?=/|$)")
"""A token in the path, for callers that can set nothing but a base URL: `/t/TOKEN/v1/…`."""

_NAME = re.compile(r"[A-Za-z0-9-]+")

log = logging.getLogger("costguard")


class Door:
    """Lets calls in.

    `project_header`: the header by which callers may name a project themselves; None: they may not.
    `require_token`: nobody calls without a token, also before there are any; once there are, it is so anyway.
    """

    def __init__(self, guard: Guard, *, project_header: str | None = None, require_token: bool = False) -> None:
        if project_header is not None and not _NAME.fullmatch(project_header):
            raise ConfigurationError(f"project_header: {project_header!r} is no name of a header, such as X-Project")
        if project_header is not None and project_header.lower().encode() in headers.TAKEN:
            raise ConfigurationError(
                f"project_header: {project_header} says something else; take a name of your own, such as X-Project"
            )
        self._guard = guard
        self._allows_project = project_header is not None
        self._own = headers.PROJECT.lower().encode()
        self._header = (project_header or headers.PROJECT).lower().encode()
        self.dropped = frozenset((self._header, self._own))
        """The headers that speak to this proxy only."""
        self._requires = require_token
        self._known: dict[str, Token] = {}
        self._at_s: float | None = None
        self._away: LedgerError | None = None
        """Why the last look failed."""
        self._away_until_s = 0.0
        """Not to be tried again before: each try may take as long as a connection does."""
        self._looking = asyncio.Lock()

    @staticmethod
    def take_token(scope: Scope) -> str | None:
        """The token that a request brings, "" for several. One in its path is taken out, so that no log has it."""
        path = raw_path(scope)
        found = _PREFIX.match(path)
        told = header(scope["headers"], headers.TOKEN)
        if found is not None:
            rest = path[found.end() :] or "/"
            scope["raw_path"], scope["path"] = rest.encode("latin-1"), unquote(rest)
            told.append(found[1])
        return None if not told else told[0] if len(set(told)) == 1 else ""

    async def project(self, scope: Scope, text: str | None) -> str | None:
        """The project that a call with this token is booked on; None: the guard's own. `TurnedAwayError` if none."""
        token = await self.holder(scope, text)
        named = text_header(scope["headers"], self._header)
        if (named and not self._allows_project) or (self._header != self._own and header(scope["headers"], self._own)):
            raise _turned(403, "project_refused", f"callers may not name their project here ({headers.PROJECT})")
        if not named:
            return None if token is None else token.project
        try:
            project = parse_project(named[0], self._header.decode())
        except ConfigurationError as error:
            raise _turned(400, "invalid_request", str(error)) from None
        if len(named) > 1 or (token is not None and not covers(token.project, project)):
            raise _turned(
                403, "project_refused", f"this token is for {token.project if token else 'one project'} alone"
            )
        return project

    async def reader(self, scope: Scope, text: str | None) -> str | None:
        """The project whose figures a request may read, with a token as any other or as `Authorization: Bearer`."""
        told = [value.partition(" ") for value in header(scope["headers"], b"authorization")]
        bearer = [value.strip() for scheme, _, value in told if scheme.lower() == "bearer"]
        token = await self.holder(scope, text or (bearer[0] if bearer else None))
        return None if token is None else token.project

    async def holder(self, scope: Scope, text: str | None) -> Token | None:
        """The token that `text` is; None for a caller who needs none. `TurnedAwayError` for one that is not good.

        Without one a web page from elsewhere is no caller: it has no key, but could fill a budget with calls.
        """
        if self._guard.mode == OFF:
            return None
        token_id = tokens.id_of(text) if text else None
        await self._look(token_id)
        if text is None:
            if self._known or self._requires:
                raise _turned(401, "token_missing", "this proxy wants a token: send it as X-Costguard-Token")
            if why := pages.stranger(scope):
                raise _turned(403, "page_refused", f"this call needs a token: {why}")
            return None
        token = self._known.get(token_id or "")
        if token is None or not tokens.is_of(text, token):
            raise _turned(401, "token_refused", "the token is unknown or revoked")
        return token

    async def _look(self, token_id: str | None) -> None:
        """Know the tokens as they were at most `FRESH_S` ago."""
        came_s = time.monotonic()
        async with self._looking:
            now_s = time.monotonic()
            if self._at_s is not None:
                is_fresh = now_s - self._at_s < FRESH_S and (not token_id or token_id in self._known)
                if is_fresh or self._at_s > came_s:  # many that came together are told by one look
                    return
            if self._away is not None and now_s < self._away_until_s:
                self._go_on(self._away)
                return
            try:
                found = await self._guard.offload(self._guard.ledger.tokens)
            except Interrupted as stop:
                raise stop.cancellation from None
            except LedgerError as error:
                log.error("tokens cannot be looked up: %s", error)
                self._away, self._away_until_s = error, time.monotonic() + FRESH_S
                self._go_on(error)
                return
            self._away = None
            self._known = {token.id: token for token in found}
            self._at_s = now_s

    def _go_on(self, error: LedgerError) -> None:
        """What was known stays so: a guard that blocks refuses the call itself, any other lets it go on."""
        if self._at_s is None and self._guard.mode == ENFORCE:
            raise LedgerError(str(error)) from None


def _turned(status: int, kind: str, message: str) -> TurnedAwayError:
    return TurnedAwayError(Problem(status, kind, f"{message}; nothing was sent"))
