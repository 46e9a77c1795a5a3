"""Project paths and tags: what is accepted, what is refused, and how paths cover each other."""

from __future__ import annotations

import enum
import functools
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from costguard.errors import ConfigurationError
from costguard.projects import (
    DEFAULT_PROJECT,
    ROOT,
    ancestors,
    child_of,
    covers,
    like,
    parent_of,
    parse_budget_project,
    parse_project,
    parse_tags,
)

patient = settings(deadline=None)  # a loaded machine is no failure

segments = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp"), exclude_characters="/"), min_size=1, max_size=20
).map(functools.partial(unicodedata.normalize, "NFC"))
usable_segments = segments.filter(lambda s: s not in (".", "..", "*") and s == s.strip())
paths = st.lists(usable_segments, min_size=1, max_size=8).map("/".join)


class Team(str, enum.Enum):  # noqa: UP042  (its str() differs from its value, as users' enums may)
    SEARCH = "search"


@patient
@given(paths)
def test_a_usable_path_is_returned_unchanged_and_parsing_again_changes_nothing(path: str) -> None:
    assert parse_project(path) == path
    assert parse_project(parse_project(path)) == path


def test_the_root_and_the_default_are_themselves_usable_paths() -> None:
    assert parse_project(ROOT) == "/"
    assert parse_project(DEFAULT_PROJECT) == "default"


def test_paths_are_case_sensitive() -> None:
    assert parse_project("Acme/Search") != parse_project("acme/search")
    assert not covers("Acme", "acme/search")


@pytest.mark.parametrize("path", ["...", ".hidden", "a..b", "a b", "été/東京", "v1.2", "a\\b", "~", "a\u00a0b"])
def test_names_that_only_look_special_are_usable(path: str) -> None:
    assert parse_project(path) == path


def test_limits_are_eight_segments_and_two_hundred_characters_inclusive() -> None:
    assert parse_project("/".join("abcdefgh"))
    assert parse_project("x" * 200)
    with pytest.raises(ConfigurationError, match=r"has 9 segments; use at most 8"):
        parse_project("/".join("abcdefghi"))
    with pytest.raises(ConfigurationError, match=r"has 201 characters; shorten it to at most 200"):
        parse_project("x" * 201)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "the path is empty"),
        ("/acme", "begins or ends with a slash; write 'acme'"),
        ("acme/", "begins or ends with a slash; write 'acme'"),
        ("//", "begins or ends with a slash"),
        ("acme//search", "has an empty segment"),
        (".", r"has the segment '\.'"),
        ("acme/../other", r"has the segment '\.\.'"),
        (" ", "has blanks at an end"),
        ("acme / search", "blanks at an end of the segment 'acme '; write 'acme'"),
        ("acme/\u3000x", "has blanks at an end"),
        ("acme/\n", r"the control character U\+000A"),
        ("a\x7fb", r"the control character U\+007F"),
        ("a\x85b", r"the control character U\+0085"),
        ("a\x00b", r"the control character U\+0000"),
        ("a\u200bb", r"the format character U\+200B"),
        ("a\u202eb", r"the format character U\+202E"),
        ("a\ufeffb", r"the format character U\+FEFF"),
        ("a\U000e0041b", r"the format character U\+E0041"),
        ("a\ud800b", r"the surrogate character U\+D800"),
    ],
)
def test_an_unusable_path_is_refused_with_what_was_found_in_plain_characters(path: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refusal:
        parse_project(path, "scope")
    assert str(refusal.value).startswith("scope: ")
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in str(refusal.value))


@patient
@given(st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp")), segments)
def test_no_control_format_or_surrogate_character_is_accepted_anywhere(bad: str, segment: str) -> None:
    for path in (bad + segment, segment + bad, f"acme/{segment}{bad}{segment}"):
        with pytest.raises(ConfigurationError):
            parse_project(path)


@pytest.mark.parametrize("value", [None, 7, b"acme", ["acme"], {"a": 1}, True])
def test_a_path_that_is_no_text_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"project: expected a path as text.*{type(value).__name__}"):
        parse_project(value)


def test_a_subclass_of_str_becomes_plain_text() -> None:
    assert type(parse_project(Team.SEARCH)) is str
    assert parse_project(Team.SEARCH) == "search"


def test_ancestors_run_from_the_path_itself_to_the_root() -> None:
    assert ancestors("acme/search/prod") == ("acme/search/prod", "acme/search", "acme", "/")
    assert ancestors("acme") == ("acme", "/")
    assert ancestors("/") == ("/",)


@patient
@given(paths)
def test_every_ancestor_is_a_usable_path_that_covers_the_project(path: str) -> None:
    chain = ancestors(path)
    assert len(chain) == path.count("/") + 2
    for ancestor in chain:
        assert parse_project(ancestor) == ancestor
        assert covers(ancestor, path)


@patient
@given(paths, paths)
@example("acme", "acmes")
@example("acme/search", "acme/search-2")
@example("acme/search", "acme")
def test_a_path_covers_exactly_the_projects_that_have_it_as_an_ancestor(one: str, other: str) -> None:
    assert covers(one, other) == (one in ancestors(other))
    assert covers(one, "/") is False


def test_tags_come_back_as_a_new_dict_in_the_same_order() -> None:
    given_tags = {"team": "search", "release": "été 1", "empty": ""}
    tags = parse_tags(MappingProxyType(given_tags))
    assert list(tags.items()) == list(given_tags.items())
    assert parse_tags(given_tags) is not given_tags
    assert parse_tags({}) == {}


def test_tag_limits_are_twenty_tags_sixty_four_and_two_hundred_characters_inclusive() -> None:
    assert len(parse_tags({f"k{n}": "v" for n in range(20)})) == 20
    assert parse_tags({"k" * 64: "v" * 200})
    with pytest.raises(ConfigurationError, match="found 21 tags; keep at most 20"):
        parse_tags({f"k{n}": "v" for n in range(21)})
    with pytest.raises(ConfigurationError, match=r"the key .* has 65 characters; shorten it to at most 64"):
        parse_tags({"k" * 65: "v"})
    with pytest.raises(ConfigurationError, match="the value of 'k' has 201 characters; shorten it to at most 200"):
        parse_tags({"k": "v" * 201})


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (None, "expected a mapping .* found NoneType"),
        ([("a", "b")], "expected a mapping .* found list"),
        ({1: "x"}, "expected keys as text, found int 1"),
        ({"": "x"}, "found an empty key"),
        ({"team": 7}, "expected text as the value of 'team', found int"),
        ({"team": None}, "expected text as the value of 'team', found NoneType"),
        ({"te\nam": "x"}, r"the key 'te\\nam' contains the control character U\+000A"),
        ({"team": "a\x1bb"}, r"the value of 'team' contains the control character U\+001B"),
        ({"team": "a\udfffb"}, r"the value of 'team' contains the surrogate character U\+DFFF"),
    ],
)
def test_unusable_tags_are_refused_by_name(tags: Mapping[object, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_tags(tags)


def test_a_refusal_of_a_tag_never_shows_its_value() -> None:
    for value in ("secret\x00", "secret" * 50, b"secret"):
        with pytest.raises(ConfigurationError) as refusal:
            parse_tags({"token": value})
        assert "secret" not in str(refusal.value)


def test_emoji_joined_by_format_characters_are_usable_tag_values() -> None:
    assert parse_tags({"who": "👩\u200d🔬"}) == {"who": "👩\u200d🔬"}


# Names are one text in one spelling


def test_names_that_look_the_same_are_the_same() -> None:
    composed, decomposed = "\u00e9t\u00e9", "e\u0301te\u0301"
    assert parse_project(f"acme/{decomposed}") == f"acme/{composed}"
    assert parse_tags({decomposed: decomposed}) == {composed: composed}


@given(st.text(max_size=30))
def test_every_text_is_refused_or_kept_in_its_composed_form(text: str) -> None:
    try:
        path = parse_project(text)
    except ConfigurationError:
        return
    assert path == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(("breaking", "name"), [("\u2028", "line separator"), ("\u2029", "paragraph separator")])
def test_what_breaks_a_line_is_refused_by_name(breaking: str, name: str) -> None:
    for parse in (parse_project, lambda text: parse_tags({"k": text}), lambda text: parse_tags({text: "v"})):
        with pytest.raises(ConfigurationError, match=f"contains the {name} U\\+20"):
            parse(f"a{breaking}b")


# Default budgets


def test_a_star_names_the_children_of_a_project_for_a_budget_only() -> None:
    assert [parse_budget_project(name) for name in ("acme", "/", "acme/*", "/*")] == ["acme", "/", "acme/*", "/*"]
    for name in ("acme/*", "/*", "*", "a/*/b"):
        with pytest.raises(ConfigurationError):
            parse_project(name)
    for name in ("*", "a/*/b", "a/*/*", "//*", "a/b/c/d/e/f/g/h/*"):
        with pytest.raises(ConfigurationError):
            parse_budget_project(name)


@given(paths)
def test_a_project_is_covered_by_the_defaults_of_those_above_it(path: str) -> None:
    for ancestor in ancestors(path)[:-1]:
        default = like(ancestor)
        assert default is not None
        assert parse_budget_project(default) == default
        assert child_of(parent_of(default), path) == ancestor
    assert like(ROOT) is None
