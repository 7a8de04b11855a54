"""How many of the cores others use, in so short a time that it is of now."""

from coco import cores


def test_cores_are_busy_by_the_ticks_that_went_by_meanwhile(monkeypatch):
    ticks = iter([[(1000, 2000), (500, 900)], [(1030, 2030), (506, 930)]])
    monkeypatch.setattr(cores, "_ticks", lambda: next(ticks))
    assert cores.busy_cores(0) == 0.8  # the first core idle, the second in a fifth of the time


def test_a_system_that_does_not_say_is_no_error(monkeypatch):
    def missing():
        raise FileNotFoundError("/proc/stat")

    monkeypatch.setattr(cores, "_ticks", missing)
    assert cores.busy_cores(0) is None
