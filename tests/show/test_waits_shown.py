"""What a person sees while a command works: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import io

import pytest

import bench.show.waiting as waiting
from bench.show.waiting import Loading, Wait


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clock says."""
    seconds = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: seconds[0])
    return seconds


def test_without_a_terminal_a_wait_is_a_line_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Wait("training", 100, done=20) as wait:
        for second in range(1, 41):
            clock[0] = 5.0 * second
            wait.add()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "training: 32 of 100 steps, about 6 min left",
        "training: 44 of 100 steps, about 5 min left",
        "training: 56 of 100 steps, about 4 min left",
    ]


def test_on_a_terminal_a_wait_is_a_bar_and_logs_go_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Wait("controls", 4, "control") as wait:
        assert wait.is_shown
        wait.tell("off by one")
        wait.add(4)
    assert "controls: 100%" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()


def test_a_load_that_takes_a_second_counts_on_a_terminal_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Loading("smollm2, 98 MB") as loading:
        loading._ended.wait(1.5)
    assert "\rloading smollm2, 98 MB: 1 s " in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K")


def test_a_short_load_says_nothing_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with Loading("tiny, 5 MB"):
        pass
    assert capsys.readouterr().err == ""
