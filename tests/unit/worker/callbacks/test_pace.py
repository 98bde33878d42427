from worker.callbacks import pace


def test_it_halves_down_to_one_and_comes_back_slowly() -> None:
    now = pace.fresh(8)
    assert now.slots == 8
    for slots in (4, 2, 1, 1):
        now = pace.slowed_down(now, now=0, pause=0)
        assert now.slots == slots
    successes = 0
    while now.slots < 8:
        now = pace.sped_up(now)
        successes += 1
    assert 20 < successes < 60
    for _ in range(50):
        now = pace.sped_up(now)
    assert now.slots == 8


def test_a_pause_is_never_shortened_by_a_later_one() -> None:
    now = pace.slowed_down(pace.fresh(8), now=1_000, pause=5)
    assert now.not_before == 6_000
    assert pace.slowed_down(now, now=2_000, pause=1).not_before == 6_000


def test_when_the_clock_was_put_back_a_pause_is_over() -> None:
    now = pace.slowed_down(pace.fresh(8), now=1_000, pause=5)
    assert pace.put_right(now, now=1_000, longest=5) == now
    assert pace.put_right(now, now=999, longest=5).not_before == 999
