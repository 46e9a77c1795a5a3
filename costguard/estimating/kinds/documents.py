"""Documents: tokens a page."""

from __future__ import annotations

from decimal import Decimal

from costguard.estimating.counts import Count, up
from costguard.estimating.pdf import pdf_pages
from costguard.prices.model import MediaTokens


def count(inline: str | None, tokens: MediaTokens, stated: Decimal | None) -> dict[str, Count] | None:
    """DOCUMENT tokens, as `Counter` describes. `stated` is in pages."""
    page = tokens.counts["document_page"]
    pages = pdf_pages(inline) if inline else None
    if pages is not None:
        return {"DOCUMENT": Count(pages.expected * page, pages.upper * page)}
    return None if stated is None else {"DOCUMENT": Count(up(stated) * page, up(stated) * page)}
