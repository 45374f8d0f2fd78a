"""Progress: everything is passed on, and the log tells how far it got and how long it will take."""

from __future__ import annotations

import logging

import pytest

from spp_det.runtime import progress
from spp_det.runtime.progress import track


class Clock:
    """Time that passes when it is told to, in place of the module's."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "spp_det.runtime.progress"]


def test_a_long_work_writes_a_line_every_half_minute(clock, caplog):
    caplog.set_level(logging.INFO, "spp_det")
    seen = []
    for item in track(range(100), "conv5 maps"):
        seen.append(item)
        clock.now += 2
    assert seen == list(range(100))
    assert len(lines(caplog)) == 200 // 30
    assert lines(caplog)[0] == "conv5 maps: 15 of 100 images, 0.5 images/s, 0:02:50 left"


def test_what_was_done_before_counts_for_how_far_it_is_not_for_how_fast(clock, caplog):
    caplog.set_level(logging.INFO, "spp_det")
    for _ in track(iter(range(10)), "fine-tuning", 50, unit="steps", done=40):
        clock.now += 10
    assert lines(caplog)[0] == "fine-tuning: 43 of 50 steps, 0.1 steps/s, 0:01:10 left"


def test_without_an_end_there_is_no_time_left_to_tell(clock, caplog):
    caplog.set_level(logging.INFO, "spp_det")
    for _ in track(iter("abc"), "reading"):
        clock.now += 20
    assert lines(caplog) == ["reading: 2 images, 0.05 images/s"]


def test_short_work_leaves_the_log_alone(caplog):
    caplog.set_level(logging.INFO, "spp_det")
    assert list(track([], "nothing")) == []
    assert list(track("abc", "little")) == ["a", "b", "c"]
    assert lines(caplog) == []
