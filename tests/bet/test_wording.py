"""Counts are said as a person would."""

import pytest

from bet.wording import counted, duration


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (25176, "25,176 epochs")]
)
def test_one_is_singular_and_thousands_have_a_comma(number: int, said: str) -> None:
    assert counted(number, "epoch") == said


def test_durations_are_in_the_unit_that_people_would_use() -> None:
    told = [duration(seconds) for seconds in (0.0042, 1.52, 89.2, 1260, 9000, 3e5)]
    assert told == ["4.2 ms", "1.5 s", "90 s", "21 min", "2.5 h", "3.5 days"]
