"""The stand-in's JSON, in which figures keep every digit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard.testing import exact

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_back_with_every_digit(value: Any) -> None:
    assert exact.loads(exact.dumps(value)) == value
    exact.dumps(value).encode()


def test_json_keeps_trailing_zeros_small_figures_and_lone_surrogates() -> None:
    text = '{"n":NaN,"a":0.00500,"b":0.000000001,"c":[1.0,null,true],"d":"\\ud800","e":"é"}'
    assert exact.dumps(exact.loads(text)) == text


def test_json_refuses_floats() -> None:
    with pytest.raises(TypeError, match="float"):
        exact.dumps({"cost": 0.1})
