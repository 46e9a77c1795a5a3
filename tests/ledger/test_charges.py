"""Two tellings of one result become one charge: field by field, nothing taken away, lines that add up."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import told

from costguard.ledger.charges import BEYOND_NOTE, COST_GAP_NANOS, WEAK, Charge, Line, merged


def together(first: Charge, *later: Charge) -> Charge:
    for one in later:
        first = merged(first, one) or first
    return first


figures = st.one_of(st.none(), st.integers(0, 30_000))
counts = st.one_of(st.none(), st.integers(0, 9))
charges = st.one_of(
    st.builds(told, figures, st.none(), counts, counts, assumed=st.integers(0, 30_000)),
    st.builds(told, st.none(), figures, counts, counts, assumed=st.integers(0, 30_000)),
    st.builds(lambda total, gap: told(max(0, total + gap), total), st.integers(0, 30_000), st.integers(-5_000, 5_000)),
)
"""Tellings without anything odd in any of them."""
FIELDS = ("cost_nanos", "total_nanos", "prompt_tokens", "completion_tokens")


@given(st.lists(charges, min_size=1, max_size=4))
def test_whatever_is_merged_the_lines_add_up_and_no_figure_is_lost_or_falls(tellings: list[Charge]) -> None:
    found = together(*tellings)
    assert sum(line.nanos for line in found.lines) == found.nanos
    for field in FIELDS:
        values = [getattr(one, field) for one in tellings if getattr(one, field) is not None]
        assert getattr(found, field) == max(values, default=None)
    if found.total_nanos is not None and found.cost_nanos is not None:
        apart = abs(found.cost_nanos - found.total_nanos) > COST_GAP_NANOS
        assert found.odd or not apart
        assert found.nanos == (max(found.cost_nanos, found.total_nanos) if apart else found.total_nanos)
    elif found.basis not in WEAK:
        assert found.nanos == (found.cost_nanos if found.total_nanos is None else found.total_nanos)


@given(st.lists(charges, min_size=2, max_size=3))
def test_the_order_of_tellings_does_not_matter_to_the_money(tellings: list[Charge]) -> None:
    ends = {(end.nanos, end.basis) for end in (together(*order) for order in permutations(tellings))}
    assert len(ends) == 1


@given(st.lists(charges, min_size=1, max_size=4))
def test_what_was_told_before_adds_nothing(tellings: list[Charge]) -> None:
    found = together(*tellings)
    assert [merged(found, one) for one in (*tellings, found)] == [None] * (len(tellings) + 1)


@pytest.mark.parametrize("later", [told(total=0), told(0, 0), told(0), told(prompt=0), told(assumed=900_000)])
def test_a_zero_or_weaker_telling_takes_nothing_away(later: Charge) -> None:
    assert together(told(200_000), later).nanos == 200_000


def test_a_cost_and_a_total_that_do_not_fit_are_charged_at_the_larger_with_the_difference_as_a_line() -> None:
    found = together(told(200_000), told(total=100_000, prompt=7))
    assert (found.nanos, found.basis, found.odd) == (200_000, "breakdown", True)
    assert found.lines == (Line("prompt", "TEXT", 7, 100_000), Line("unexplained", "", None, 100_000))


def test_the_provider_s_figure_takes_the_place_of_our_own_though_it_is_smaller() -> None:
    own = told(assumed=900_000)._replace(odd=True, notes=("cost is unusable",))
    assert together(own, told(5)) == told(5)._replace(notes=())


def test_of_equal_amounts_the_finer_lines_are_kept() -> None:
    coarse = told(total=100)._replace(lines=(Line("unitemized", "", None, 100),))
    for order in permutations((coarse, told(total=100, prompt=7))):
        assert together(*order).lines == (Line("prompt", "TEXT", 7, 100),)


def test_that_nobody_asked_for_a_result_stays_said() -> None:
    beyond = told(assumed=7)._replace(odd=True, notes=(BEYOND_NOTE,))
    found = together(beyond, told(5, 5))
    assert (found.odd, found.notes) == (True, (BEYOND_NOTE,))
