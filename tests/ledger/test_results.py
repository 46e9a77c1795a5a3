"""Which tellings are of one result: by its index, its seed and its figures, as far as each of them is told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import told

from costguard.ledger.accounting.results import Booked, Same, merged_key, result_key, same_results
from costguard.ledger.charges import Charge

FULL = told(200_000, 200_000, 100, 50)
MANY = 99
"""Room for more results than any of these tests tells of."""


def known(*tellings: tuple[str, Charge]) -> list[Booked]:
    return [Booked(n, 1, result_key(names, c), c.nanos, c.basis, False) for n, (names, c) in enumerate(tellings)]


def seen(*tellings: tuple[str, Charge]) -> list[tuple[str, int | None]]:
    return [(result_key(names, charge), charge.nanos) for names, charge in tellings]


def found(
    have: list[Booked], come: list[tuple[str, int | None]], capacity: int, *, whole: bool = False
) -> list[object]:
    """The number of the known result that each one seen is, None for a new one."""
    return [None if one is None else one.booked.seq for one in same_results(have, come, capacity=capacity, whole=whole)]


@pytest.mark.parametrize("capacity", [1, 2])
@pytest.mark.parametrize(
    "later",
    [
        ("s:7", FULL),
        ("", FULL),
        ("i:0 s:7", told(200_000)),
        ("s:7", told(total=200_000)),
        ("s:7", told(total=195_000, prompt=100)),
        ("", told(prompt=100)),
        ("s:7", told()),
    ],
)
def test_what_one_road_leaves_untold_fits_whatever_another_tells(later: tuple[str, Charge], capacity: int) -> None:
    assert found(known(("", told(200_000))), seen(later), capacity) == [0]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (("s:1", FULL), ("s:2", FULL)),
        (("i:0", FULL), ("i:1", FULL)),
        (("i:0 s:1", FULL), ("i:0 s:2", FULL)),
        (("", told(200_000)), ("s:1", told(300_000))),
        (("", told(200_000)), ("", told(100_000))),
        (("", told(200_000)), ("", told(total=194_999))),
        (("", told(200_000, 200_000, 100, 50)), ("", told(200_000, 200_000, 100, 49))),
    ],
)
def test_told_values_that_differ_rule_it_out(first: tuple[str, Charge], later: tuple[str, Charge]) -> None:
    assert found(known(first), seen(later), MANY) == [None]


@pytest.mark.parametrize("names", ["i:0", "s:7", "i:1 s:7"])
def test_equal_names_are_one_result_whatever_the_figures(names: str) -> None:
    for figures in (told(1), told(900_000, 900_000), told()):
        assert found(known((names, FULL)), seen((names, figures)), MANY) == [0]


def test_another_figure_without_any_name_is_another_result_while_there_is_room_for_one() -> None:
    assert found(known(("", told(200_000))), seen(("", told(300_000))), MANY) == [None]
    assert found(known(("", told(200_000))), seen(("", told(300_000))), 1) == [0]


@pytest.mark.parametrize("figure", [100_000, 300_000])
@pytest.mark.parametrize("names", ["", "s:7"])
def test_without_room_for_another_result_a_figure_is_late_or_grown(figure: int, names: str) -> None:
    have = known(("i:0", told(200_000)))
    assert found(have, seen((names, told(figure))), 2) == [None]
    assert found(have, seen((names, told(figure))), 1) == [0]


def test_an_index_above_the_capacity_says_nothing() -> None:
    assert found(known(("i:0", FULL)), seen(("i:3", FULL)), 2) == [0]
    assert found(known(("i:3", FULL)), seen(("i:0", FULL)), 2) == [0]
    assert found(known(("i:1", FULL)), seen(("i:2", FULL)), 2) == [None], "some count from 1"


def test_of_a_single_result_no_index_says_anything_and_the_seed_does() -> None:
    assert found(known(("i:0", FULL)), seen(("i:1", FULL)), 1) == [0]
    assert found(known(("i:0 s:1", FULL)), seen(("i:0 s:2", FULL)), 1) == [None]


def test_the_surest_pair_goes_first() -> None:
    have = known(("", told(200_000)), ("s:7", told(100_000)), ("s:8", told(300_000)))
    assert found(have, seen(("", told(300_000)), ("s:7", told(200_000)), ("", told(200_000))), MANY) == [2, 1, 0]


def test_of_two_that_fit_the_one_with_more_equal_figures_is_taken() -> None:
    have = known(("i:0", told(200_000)), ("i:1", told(200_000, 201_000, 100)))
    assert found(have, seen(("s:1", told(200_000, 201_000)), ("s:2", told(200_000))), MANY) == [1, 0]


def test_a_whole_record_holds_each_known_result() -> None:
    have = known(("", told(100_000)), ("", told(300_000)))
    record = seen(("s:1", told(120_000)), ("s:2", told(300_000)), ("s:3", told(50_000)))
    assert found(have, record, 3, whole=True) == [0, 1, None]


def test_a_telling_that_may_be_another_s_tells_nothing() -> None:
    def tells(have: list[Booked], names: str, capacity: int) -> list[bool]:
        pairs = same_results(have, seen((names, told(200_000, 201_000))), capacity=capacity)
        return [one.tells for one in pairs if one is not None]

    two = known(("i:0", told(200_000)), ("i:1", told(200_000)))
    assert tells(two, "i:1", 2) == [True], "the index says which"
    assert tells(two, "s:7", 2) == [False], "either"
    assert tells(two[:1], "s:7", 2) == [False], "or one that is not known yet"
    assert tells(two[:1], "s:7", 1) == [True], "there is no other"
    assert tells(known(("", told(200_000)), ("", told(200_000))), "s:7", 2) == [True], "it makes no difference"


def test_names_are_kept_together_where_they_are_surely_of_one_result_and_dropped_where_they_clash() -> None:
    assert merged_key("i:0 f:1,,,", "s:7 f:1,,,", told(1), named=True) == "s:7 i:0 f:1,,,"
    assert merged_key("i:0 f:1,,,", "s:7 f:1,,,", told(1, 2), named=False) == "i:0 f:1,2,,"
    assert merged_key("i:0", "i:1 s:7", told(), named=True) == "s:7"


# --- the same by chance ---

ids = st.fixed_dictionaries({}, optional={"index": st.integers(0, 2), "seed": st.integers(0, 2)})
tellings = st.lists(st.tuples(ids, st.sampled_from([None, 1, 2])), max_size=5)
Telling = tuple[dict[str, int], int | None]


def key(names: dict[str, int], units: int | None) -> str:
    called = " ".join(f"{name[0]}:{value}" for name, value in names.items())
    return result_key(called, None if units is None else told(units))


def matched(have: list[Telling], come: list[Telling], capacity: int, *, whole: bool) -> list[Same | None]:
    booked = [
        Booked(seq, 1, key(names, units), units or 0, "cost" if units else "assumed", False)
        for seq, (names, units) in enumerate(have)
    ]
    return same_results(booked, [(key(n, u), u) for n, u in come], capacity=capacity, whole=whole)


@given(tellings, st.randoms(use_true_random=False), st.integers(1, 6), st.booleans())
def test_a_list_of_results_is_always_found_again_in_itself(
    have: list[Telling], rng: random.Random, capacity: int, whole: bool
) -> None:
    again = list(have)
    rng.shuffle(again)
    pairs = [one for one in matched(have, again, capacity, whole=whole) if one is not None]
    assert len({one.booked.seq for one in pairs}) == len(pairs), "no result is two others"
    assert len(pairs) == len(have)


def test_of_two_that_share_a_name_the_one_that_is_called_the_same_is_the_surer() -> None:
    have: list[Telling] = [({"index": 0, "seed": 1}, None), ({"index": 1, "seed": 1}, None), ({"index": 1}, None)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        pairs = matched(have, [have[n] for n in order], 2, whole=False)
        assert [one.booked.seq for one in pairs if one is not None] == list(order)


@given(tellings, tellings, st.integers(3, 6), st.booleans())
def test_results_that_differ_in_a_name_are_never_one(
    have: list[Telling], come: list[Telling], capacity: int, whole: bool
) -> None:
    """But that an equal seed says more than an index, and that some roads count from 1."""
    counts_from_one = any(str(capacity) == str(names.get("index")) for names, _ in (*have, *come))
    for (names, _), one in zip(come, matched(have, come, capacity, whole=whole), strict=True):
        if one is not None:
            other = have[one.booked.seq][0]
            shared = names.keys() & other.keys()
            if "seed" in shared:
                assert names["seed"] == other["seed"]
            elif not counts_from_one:
                assert all(names[part] == other[part] for part in shared)


def test_roads_that_count_from_1_and_from_0_tell_of_the_same_results() -> None:
    zero = known(("i:0", told(200_000)), ("i:1", told(300_000)))
    assert found(zero, seen(("i:1", told(200_000)), ("i:2", told(300_000))), 2) == [0, 1]
    one = known(("i:1", told(200_000)), ("i:2", told(300_000)))
    assert found(one, seen(("i:0", told(200_000)), ("i:1", told(300_000))), 2) == [0, 1]
    assert found(one, seen(("i:2", told(300_000))), 2) == [1]


def test_an_equal_seed_says_more_than_an_index() -> None:
    assert found(known(("i:0 s:7", told(200_000))), seen(("i:1 s:7", told(200_000))), MANY) == [0]


def test_late_figures_are_told_to_a_result_that_has_none_of_the_provider_s() -> None:
    assumed = [one._replace(basis="assumed") for one in known(("i:0", told()), ("i:1", told()))]
    (pair,) = same_results(assumed, seen(("", told(800_000))), capacity=2)
    assert pair is not None
    assert pair.tells
