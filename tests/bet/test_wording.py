"""Counts are said as a person would."""

import pytest

from bet.wording import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (25176, "25,176 epochs")]
)
def test_one_is_singular_and_thousands_have_a_comma(number: int, said: str) -> None:
    assert counted(number, "epoch") == said
