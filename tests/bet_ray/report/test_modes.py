"""Which modes each setting takes, from the episodes it was judged by."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from bet import tasks
from bet_ray.evaluation import measurement
from bet_ray.report.modes import mode_panels
from bet_ray.report.records import read_records

from .conftest import TASK


def test_modes_are_those_of_the_episodes_that_judged_each_setting(finished: Path) -> None:
    records = read_records(finished)
    found = mode_panels(records)
    assert found is not None
    assert [panel.title for panel in found.panels] == ["bins", "gamma"]
    assert found.demonstrated == TASK.mode_entropy
    expected = [measurement(TASK, records.rows_of(one.trial, one.rung)) for one in records.judged()]
    won = [one for one in expected if one.success.estimate > 0]
    assert found.without == len(expected) - len(won)
    assert won
    for panel in found.panels:
        values = sorted((dot.numbers[0].value, dot.numbers[1].value) for dot in panel.dots)
        assert values == [pytest.approx(pair) for pair in sorted((one.mode_coverage, one.mode_entropy) for one in won)]
        for dot in panel.dots:
            assert all(number.low <= number.value <= number.high for number in dot.numbers)
            assert dot.numbers[0].high <= 1
            assert dot.numbers[1].value <= math.log(len(TASK.modes))


def test_a_task_without_named_modes_has_none(finished: Path) -> None:
    assert mode_panels(replace(read_records(finished), task=tasks.get("pusht"))) is None


@pytest.mark.slow
def test_settings_that_never_succeed_take_no_mode(pushed: Path) -> None:
    assert mode_panels(read_records(pushed)) is None
