"""Tokens in the ledger of any engine: kept, listed in order, revoked once."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledgers import open_ledger

from costguard import ConfigurationError, tokens
from costguard.ledger.owner import who

pytestmark = pytest.mark.usefixtures("each_engine")


def test_a_token_is_kept_as_it_was_made_and_revoked_once(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    made = [tokens.make(project, name, at_us, "somebody") for project, name, at_us in (("b", "", 2), ("a/é", "x", 1))]
    for _, kept in made:
        ledger.add_token(kept)
    (second, first) = [kept for _, kept in made]
    assert ledger.tokens() == [first, second]
    revoked = ledger.revoke_token(first.id, 7)
    assert revoked == first._replace(revoked_us=7, revoked_by=who())
    assert ledger.revoke_token(first.id, 9) == revoked
    assert ledger.tokens() == [revoked, second]
    assert ledger.revoke_token("unknown", 9) is None
    ledger.close()


def test_a_token_is_recognised_by_all_of_it() -> None:
    text, kept = tokens.make("acme", "", 1, "me")
    other, _ = tokens.make("acme", "", 1, "me")
    assert tokens.id_of(text) == kept.id
    assert tokens.is_of(text, kept)
    assert not tokens.is_of(other, kept)
    assert tokens.id_of(other) != kept.id
    for wrong in ("", "cgt_", text + "x", text[:-1], f"x{text}", text.replace("cgt_", "cgt-")):
        assert tokens.id_of(wrong) is None
    for project, name in (("acme//x", ""), ("acme", "a\nb")):
        with pytest.raises(ConfigurationError):
            tokens.make(project, name, 1, "me")
