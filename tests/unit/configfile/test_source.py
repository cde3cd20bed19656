"""YAML with the places of its values."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, strategies as st

from serving.configfile.mistakes import ConfigError, Mistake
from serving.configfile.source import Document

TEXT = st.text(st.characters(exclude_categories=["C", "Z"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcdef", min_size=1), inner, max_size=4)
    ),
    max_leaves=20,
)


def document(text: str) -> Document:
    return Document(text.encode(), "config.yaml")


def place(text: str, *path: str | int, of_key: bool = False) -> tuple[int, int]:
    found = document(text).located(Mistake(path, "", of_key))
    return found.line, found.column


@given(PLAIN)
def test_values_are_those_that_yaml_has(value: object) -> None:
    text = yaml.safe_dump({"value": value}, allow_unicode=True)

    assert document(text).values == {"value": value}


@given(st.text())
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    mistakes: list[Mistake] = []
    try:
        document(text)
    except ConfigError as error:
        mistakes = error.mistakes

    assert all(mistake.line >= 1 and mistake.column >= 1 for mistake in mistakes)


def test_place_is_that_of_the_value_or_of_its_key() -> None:
    text = "a:\n- b\n- c:  1\n"

    assert place(text, "a", 1, "c") == (3, 7)
    assert place(text, "a", 1, "c", of_key=True) == (3, 3)
    assert place(text, "a", 0) == (2, 3)


def test_place_of_what_is_missing_is_that_of_what_lacks_it() -> None:
    assert place("a:\n  b: 1\n", "a", "c") == (2, 3)
    assert place("a: [1]\n", "a", 5) == (1, 4)


def test_merged_keys_keep_their_own_places_and_lose_to_those_of_the_mapping() -> None:
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n  a: 5\n"

    assert document(text).values["z"] == {"a": 5, "b": 2, "c": 4}
    assert place(text, "z", "b") == (1, 17)
    assert place(text, "z", "a") == (5, 6)


def test_date_is_text() -> None:
    assert document("version: 2026-01-31").values == {"version": "2026-01-31"}


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused_not_a_crash(opening: str) -> None:
    with pytest.raises(ConfigError, match="nested too deeply|is not YAML"):
        document(opening * 20_000)
