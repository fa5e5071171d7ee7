"""Progress is one plain line an iteration where nobody watches, and a live bar in a terminal."""

import io

from rich.console import Console

from raypref.progress import Display, clock


def test_plain_lines_tell_how_far_how_fast_and_how_long():
    output = io.StringIO()
    with Display(3, 0, Console(file=output, width=200)) as display:
        display.say("starting")
        for done in (1, 2, 3):
            display.updated(done, 0.5, 12.34)
    lines = output.getvalue().splitlines()
    assert lines[0] == "starting"
    assert lines[1] == "iteration 1/3  reward 0.5000  12.3 pairs/s  left ?"
    assert lines[3] == "iteration 3/3  reward 0.5000  12.3 pairs/s  left 0:00"


def test_a_terminal_gets_a_live_bar():
    output = io.StringIO()
    with Display(2, 1, Console(file=output, width=120, force_terminal=True)) as display:
        display.updated(2, 0.5, 12.34)
    assert "iteration 2/2" in output.getvalue()
    assert "reward 0.5000  12.3 pairs/s" in output.getvalue()


def test_clock():
    assert [clock(seconds) for seconds in (0.0, 61.0, 3661.0)] == ["0:00", "1:01", "1:01:01"]
