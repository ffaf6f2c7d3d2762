"""When the GPUs of a job, or their power limit, have changed."""

import pytest

from carbon_exporter.forecast.gpus import Gpus


def seen(*told):
    """After polls of (seconds, GPUs, watts)."""
    gpus = Gpus()
    for seconds, held, watts in told:
        gpus.see(held, watts, float(seconds))
    return gpus


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        ([(0, 8, 700), (1000, 8, 700)], []),
        ([(0, 8, 700), (100, 16, 700), (1000, 16, 700)], []),  # its nodes are scraped one after the other
        ([(0, 8, 700), (1000, 16, 700), (2000, 16, 700)], [1000]),
        ([(0, 8, 700), (1000, 8, 400), (1030, 8, 400)], [1000]),
        ([(0, 8, 700), (1000, 8, 699.5), (1030, 8, 699)], []),
        ([(0, 8, None), (1000, 8, 700), (1030, 8, 700)], []),  # it has only become known
        ([(0, 8, 700), (1000, 8, None), (1030, 8, 700)], []),
        ([(0, 8, 700), (1000, None, None), (1030, 8, 700)], []),
        ([(0, 8, 700), (1000, 16, 700), (1300, 8, 700), (1330, 8, 700)], []),  # moved: the old node still counted
        ([(0, 8, 700), (1000, 7, 700), (1030, 8, 700)], []),  # a GPU that could not be read
        ([(0, 8, 700), (1000, 16, 700), (2000, 8, 700)], [1000, 2000]),
        ([(0, 8, 700), (1000, 16, 700), (1100, 12, 700), (1200, 8, 700), (1500, 4, 700)], [1500]),
    ],
)
def test_a_change_is_one_that_lasts(told, changes):
    assert seen(*told).change_seconds == changes


def test_changes_are_bounded_and_the_newest_kept():
    gpus = seen(*((1000 * number, 4 + number, 700.0) for number in range(100)))
    assert gpus.change_seconds == [1000.0 * number for number in range(84, 100)]
    assert (gpus.held, gpus.limit_watts) == (103, 700)
