"""Metadata as it travels, and what of it a client is sure to take."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from serving.rpc import metadata
from serving.rpc.metadata import MAX_DETAILS, MAX_TRAILERS, Metadata

keys = st.text("abcdefghij-_.0123456789", min_size=1, max_size=12).map(str.lower)
entries = st.one_of(
    st.tuples(keys.filter(lambda key: not key.endswith("-bin")), st.text(max_size=400)),
    st.tuples(keys.map(lambda key: f"{key}-bin"), st.binary(max_size=3000)),
)
some_metadata = st.lists(entries, max_size=12).map(tuple)


@given(some_metadata)
def test_metadata_is_the_same_after_its_journey(given_metadata: Metadata) -> None:
    assert metadata.unflatten(metadata.flatten(given_metadata)) == given_metadata


@given(some_metadata)
def test_fitted_metadata_fits_and_keeps_the_order(given_metadata: Metadata) -> None:
    kept = metadata.fitted(given_metadata)

    assert metadata.size(kept) <= MAX_TRAILERS
    rest = iter(given_metadata)
    assert all(entry in rest for entry in kept)
    if metadata.size(given_metadata) <= MAX_TRAILERS:
        assert kept == given_metadata


@given(some_metadata)
def test_fitted_metadata_lacks_only_what_is_largest(given_metadata: Metadata) -> None:
    kept = list(metadata.fitted(given_metadata))

    sizes = [metadata.size((entry,)) for entry in kept]
    left_out = list(given_metadata)
    for entry in kept:
        left_out.remove(entry)
    assert max(sizes, default=0) <= min(
        (metadata.size((entry,)) for entry in left_out), default=MAX_TRAILERS
    )


@pytest.mark.parametrize(
    ("given_metadata", "size"),
    [((), 0), ((("ab", "cde"),), 37), ((("a-bin", b"\0"), ("ä", "ö")), 74)],
)
def test_entry_counts_its_bytes_and_an_overhead(given_metadata: Metadata, size: int) -> None:
    assert metadata.size(given_metadata) == size


@pytest.mark.parametrize("flat", [[b"key"], [b"key", b"\xff"], [b"\xff", b"value"]])
def test_what_is_no_metadata_is_refused(flat: list[bytes]) -> None:
    with pytest.raises(ValueError, match="pairs|utf-8"):
        metadata.unflatten(flat)


@given(st.text(max_size=2 * MAX_DETAILS))
def test_capped_details_are_the_beginning_of_what_was_given(details: str) -> None:
    capped = metadata.capped(details)

    assert len(capped.encode()) <= MAX_DETAILS
    if len(details.encode()) <= MAX_DETAILS:
        assert capped == details
    else:
        assert capped.endswith("…")
        assert details.startswith(capped[:-1])


def test_details_that_are_no_unicode_are_sent_all_the_same() -> None:
    assert metadata.capped("half \ud800") == "half ?"
