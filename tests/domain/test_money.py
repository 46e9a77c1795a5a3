"""Money: whole nano-dollars inside, exact decimals at the edges, never a float."""

from __future__ import annotations

from decimal import ROUND_UP, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard.errors import ConfigurationError
from costguard.money import AMOUNT_MAX, NANOS, from_provider, parse_usd, to_text, to_usd

nanos = st.integers(-(2**70), 2**70)
amounts = st.integers(0, AMOUNT_MAX)


@given(amounts)
def test_an_amount_written_out_is_read_back_exactly(amount: int) -> None:
    assert parse_usd(to_text(amount)) == amount
    assert parse_usd(to_usd(amount)) == amount


@given(nanos)
def test_text_is_plain_with_2_to_9_decimals_and_no_trailing_zeros(amount: int) -> None:
    whole, _, decimals = to_text(amount).partition(".")
    assert whole.removeprefix("-").isdigit()
    assert decimals.isdigit()
    assert 2 <= len(decimals) <= 9
    assert len(decimals) == 2 or not decimals.endswith("0")
    assert Decimal(to_text(amount)) * NANOS == amount


@given(nanos)
def test_usd_is_exact_whatever_the_precision_of_the_program(amount: int) -> None:
    with localcontext() as context:
        context.prec = 2
        usd = to_usd(amount)
    assert usd.as_integer_ratio() == Decimal(to_text(amount)).as_integer_ratio()


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.00"), (1, "0.000000001"), (NANOS, "1.00"), (1_217_000, "0.001217"), (-5_000_000, "-0.005")],
)
def test_known_amounts_are_written_as_stated(amount: int, text: str) -> None:
    assert to_text(amount) == text


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("200", 200 * NANOS),
        (" 0.5 ", NANOS // 2),
        ("0.100000000", NANOS // 10),
        ("1e-9", 1),
        (Decimal("1E+3"), 1000 * NANOS),
        (0, 0),
        ("-0", 0),
        (10**9, AMOUNT_MAX),
    ],
)
def test_amounts_are_read_from_text_whole_numbers_and_decimals(value: str | int | Decimal, amount: int) -> None:
    assert parse_usd(value) == amount


@pytest.mark.parametrize("value", [0.1, 1.0, True, None, b"1", [1]])
def test_floats_and_other_types_are_refused_by_type(value: object) -> None:
    with pytest.raises(TypeError, match=r"budget: expected str, int or Decimal in USD"):
        parse_usd(value, "budget")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "is not an amount"),
        ("12,50", "is not an amount"),
        ("$5", "is not an amount"),
        ("NaN", "is not a finite amount"),
        (Decimal("sNaN"), "is not a finite amount"),
        ("Infinity", "is not a finite amount"),
        ("-0.01", "is negative"),
        ("1000000000.000000001", "is above 1000000000 USD"),
        ("1e999999", "is above 1000000000 USD"),
        ("0.0000000001", "has more than 9 decimals"),
        (Decimal("1e-999999"), "has more than 9 decimals"),
    ],
)
def test_unusable_amounts_are_refused_by_name(value: str | Decimal, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"ceiling: .*{complaint}"):
        parse_usd(value, "ceiling")


@given(st.decimals(0, 10**6, allow_nan=False, allow_infinity=False, places=14))
def test_a_provider_s_figure_is_rounded_to_the_nearest_nano_dollar(figure: Decimal) -> None:
    assert abs(Decimal(from_provider(figure)) - figure * NANOS) <= Decimal("0.5")


@pytest.mark.parametrize(("figure", "amount"), [("5e-10", 0), ("15e-10", 2), ("25e-10", 2), ("0.00122", 1_220_000)])
def test_halves_of_a_nano_dollar_go_to_the_even_one(figure: str, amount: int) -> None:
    assert from_provider(Decimal(figure)) == amount


def test_a_provider_s_figure_is_read_whatever_the_precision_and_the_rounding_of_the_program() -> None:
    with localcontext() as context:
        context.prec, context.rounding = 3, ROUND_UP
        assert from_provider(Decimal("999999.123456789")) == 999_999_123_456_789
        assert from_provider(Decimal("999999.1234567891")) == 999_999_123_456_789
