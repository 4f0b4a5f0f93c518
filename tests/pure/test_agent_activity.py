"""Whether a run works, from what is seen of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from modelworks.agent.activity import GPU_MEMORY, MOVED, STEPS_STOPPED, Activity, Signs

PERIOD = 2.0
HALF_AN_HOUR = 1800.0


def moments(seconds: float) -> Iterator[float]:
    return (1000.0 + n * PERIOD for n in range(int(seconds / PERIOD)))


def idle(activity: Activity, looks: Iterator[Signs]) -> list[float]:
    """When it was idle."""
    found = []
    for signs in looks:
        activity.look(signs)
        if activity.idle:
            found.append(signs.at)
    return found


@given(st.floats(0.051, 64.0))
def test_a_silent_run_that_computes_for_half_an_hour_is_never_idle(cores: float) -> None:
    looks = (Signs(at, sample={"cpu": cores, "gpu": 0.0}) for at in moments(HALF_AN_HOUR))
    assert idle(Activity(60.0, 5.0), looks) == []


@given(st.floats(0.021, 1.0), st.floats(GPU_MEMORY, 1.0))
def test_a_silent_run_whose_gpu_works_is_never_idle(busy: float, memory: float) -> None:
    sample = {"cpu": 0.0, "gpu": busy, "gpu_memory_busy": memory}
    looks = (Signs(at, step=7, word=b"7", sample=sample) for at in moments(HALF_AN_HOUR))
    assert idle(Activity(60.0, 5.0), looks) == []


def test_a_run_that_gets_no_cpu_on_a_machine_with_too_much_to_do_is_not_idle() -> None:
    looks = (Signs(at, sample={"cpu": 0.01, "pressed": 0.6}) for at in moments(HALF_AN_HOUR))
    assert idle(Activity(60.0, 5.0), looks) == []
    looks = (Signs(at, sample={"cpu": 0.01, "pressed": 0.1}) for at in moments(HALF_AN_HOUR))
    assert idle(Activity(60.0, 5.0), looks) != []


def test_a_run_whose_gpu_tells_nothing_is_never_idle() -> None:
    sample = {"cpu": 0.0, "gpu": 0.0, "gpu_unknown": 1.0}
    looks = (Signs(at, sample=sample) for at in moments(HALF_AN_HOUR))
    assert idle(Activity(60.0, 5.0), looks) == []


def test_a_run_that_reads_its_data_is_not_idle() -> None:
    looks = (
        Signs(at, sample={"cpu": 0.01, "read": float(n * 2 * MOVED)}) for n, at in enumerate(moments(HALF_AN_HOUR))
    )
    assert idle(Activity(60.0), looks) == []


def test_a_run_that_waits_in_the_kernel_is_idle_after_the_time() -> None:
    activity = Activity(60.0, 5.0)
    found = idle(activity, (Signs(at, sample={"cpu": 0.01, "gpu": 0.0}) for at in moments(200)))
    # The first look believes that it works, the second has something to compare with.
    assert found[0] - 1000.0 == 60.0
    assert len(found) == len(list(moments(200))) - 30
    assert activity.active_at == 1000.0


@given(st.floats(0.1, 1000.0))
def test_five_of_its_own_steps_are_waited_for_where_they_are_longer(step: float) -> None:
    sample = {"cpu": 0.0}
    looks = (Signs(at, step=3, step_seconds=step, word=b"3", sample=sample) for at in moments(6000))
    found = idle(Activity(60.0, 5.0), looks)
    assert found[0] - 1000.0 - PERIOD <= max(60.0, 5 * step) <= found[0] - 1000.0


def test_any_sign_brings_a_run_back() -> None:
    quiet = Signs(0.0, 100, b"1", 1, None, {"cpu": 0.0, "read": 0.0, "written": 0.0})
    signs = {
        "output": {"log_bytes": 101},
        "a step": {"word": b"2", "step": 2},
        "CPU": {"sample": {"cpu": 0.06}},
        "GPU": {"sample": {"cpu": 0.0, "gpu": 0.5}},
        "disk": {"sample": {"cpu": 0.0, "written": 1e6}},
    }
    for name, sign in signs.items():
        activity, clock = Activity(10.0), count(0)
        for _ in range(20):
            activity.look(Signs(**{**quiet.__dict__, "at": float(next(clock))}))
        assert activity.idle
        assert activity.look(Signs(**{**quiet.__dict__, "at": float(next(clock)), **sign})), name
        assert not activity.idle


def test_what_the_platform_writes_into_the_log_is_no_sign() -> None:
    """Its bytes are taken off before the write: for a moment there seem to be fewer."""
    activity = Activity(4.0)
    for at, log_bytes in enumerate([50, 50, 50, 20, 50, 50, 50]):
        activity.look(Signs(float(at), log_bytes, sample={"cpu": 0.0}))
    assert activity.idle
    assert activity.active_at == 0.0


def test_a_collective_that_spins_on_gpus_is_idle_once_the_steps_have_stopped() -> None:
    """The kernel of a blocked collective runs all the time, and a CPU polls for its end; memory is not touched."""
    spinning = {"cpu": 1.0, "gpu": 1.0, "gpu_memory_busy": 0.0}
    stepped = [Signs(at, step=n, word=b"%d" % n, sample=spinning) for n, at in enumerate(moments(60))]
    stuck = [Signs(at + 60.0, step=29, word=b"29", sample=spinning) for at in moments(200)]
    assert idle(Activity(60.0, 5.0), iter(stepped)) == []
    activity = Activity(60.0, 5.0)
    found = idle(activity, iter([*stepped, *stuck]))
    assert 60.0 <= found[0] - stepped[-1].at <= 60.0 + STEPS_STOPPED + PERIOD


def test_a_script_that_tells_no_steps_is_never_called_idle_while_its_gpu_is_busy() -> None:
    spinning = {"cpu": 1.0, "gpu": 1.0, "gpu_memory_busy": 0.0}
    assert idle(Activity(60.0, 5.0), (Signs(at, sample=spinning) for at in moments(HALF_AN_HOUR))) == []


def test_a_gap_in_the_samples_is_not_taken_for_idleness() -> None:
    activity = Activity(10.0)
    activity.look(Signs(0.0, sample={"cpu": 1.0}))
    activity.look(Signs(100.0))  # nothing could be measured
    activity.look(Signs(102.0, sample={"cpu": 0.0}))
    assert not activity.idle


def test_without_a_watch_nothing_is_ever_idle() -> None:
    assert idle(Activity(None), (Signs(at, sample={"cpu": 0.0}) for at in moments(HALF_AN_HOUR))) == []
