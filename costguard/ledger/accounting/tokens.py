"""The tokens of a proxy's clients, as hashes: made, listed, revoked, and never removed."""

from __future__ import annotations

from costguard.ledger.accounting.reading import Reading
from costguard.ledger.engine import Tx
from costguard.ledger.owner import who
from costguard.tokens import Token

_COLUMNS = "token_id, project, name, digest, at_us, who, revoked_us, revoked_by"


class Tokens(Reading):
    """The part of `Ledger` that keeps tokens."""

    def add_token(self, token: Token) -> None:
        """Keep a new one."""
        sql = f"INSERT INTO tokens ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)"
        self._write(lambda tx: tx.run(sql, token))

    def tokens(self) -> list[Token]:
        """All of them, revoked ones too, oldest first."""
        sql = f"SELECT {_COLUMNS} FROM tokens ORDER BY at_us, token_id"
        return self._read(lambda tx: [Token(*row) for row in tx.all(sql)])

    def revoke_token(self, token_id: str, at_us: int) -> Token | None:
        """Let a token be refused from now on: as it stands then. None if there is none; once revoked it stays so."""
        sql = "UPDATE tokens SET revoked_us = ?, revoked_by = ? WHERE token_id = ? AND revoked_us IS NULL"

        def op(tx: Tx) -> Token | None:
            tx.run(sql, (at_us, who(), token_id))
            row = tx.one(f"SELECT {_COLUMNS} FROM tokens WHERE token_id = ?", (token_id,))
            return Token(*row) if row else None

        return self._write(op)
