"""A step's batch is a pure function of seed and step."""

import threading
import weakref

import numpy as np
import pytest
import torch

from focalbench.data.loader import BatchSchedule, Prefetcher, step_generator


@pytest.mark.parametrize(("num_images", "batch_size"), [(12, 4), (10, 4), (3, 8), (1, 4), (7, 7)])
def test_every_epoch_shows_every_image_once(num_images, batch_size):
    schedule = BatchSchedule(num_images, batch_size, seed=3)
    seen = np.concatenate([schedule.indices(step) for step in range(num_images * 2)])
    assert len(seen) == 2 * num_images * batch_size
    for epoch in seen.reshape(-1, num_images):
        assert sorted(epoch.tolist()) == list(range(num_images))


def test_a_step_needs_no_steps_before_it():
    forward = BatchSchedule(10, 4, seed=0)
    expected = [forward.indices(step).tolist() for step in range(30)]
    for step in (29, 3, 17, 0):
        assert BatchSchedule(10, 4, seed=0).indices(step).tolist() == expected[step]
        assert forward.indices(step).tolist() == expected[step]


def test_seeds_and_epochs_shuffle_differently():
    schedule = BatchSchedule(100, 100, seed=0)
    assert schedule.indices(0).tolist() != schedule.indices(1).tolist()
    assert schedule.indices(0).tolist() != BatchSchedule(100, 100, seed=1).indices(0).tolist()
    assert schedule.indices(0).dtype == np.int64


@pytest.mark.parametrize("numbers", [(0, 4), (4, 0)])
def test_nothing_to_draw_is_refused(numbers):
    with pytest.raises(ValueError, match="at least 1"):
        BatchSchedule(*numbers, seed=0)


def test_step_generators_are_apart_and_repeatable():
    draws = {(seed, step): torch.rand(4, generator=step_generator(seed, step)) for seed in (0, 1) for step in (0, 1)}
    assert len({tuple(value.tolist()) for value in draws.values()}) == 4
    assert torch.equal(draws[1, 1], torch.rand(4, generator=step_generator(1, 1)))
    assert step_generator(2**63, 2**40).device.type == "cpu"


def test_ahead_gives_what_was_asked_for_whatever_the_order():
    asked = []

    def load(step):
        asked.append((step, threading.current_thread() is threading.main_thread()))
        return step * 10

    prefetcher = Prefetcher(load)
    assert [prefetcher(step) for step in (0, 1, 2, 7, 8, 2)] == [0, 10, 20, 70, 80, 20]
    assert not any(in_main for _, in_main in asked)


def test_what_was_read_ahead_and_the_thread_go_with_the_last_reference():
    class Batch:
        pass

    batches = []

    def load(step):
        made = Batch()
        batches.append(weakref.ref(made))
        threads.add(threading.current_thread())
        return made

    threads = set()
    prefetcher = Prefetcher(load)
    prefetcher(0)
    del prefetcher
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert [batch() for batch in batches] == [None, None]


def test_the_next_step_is_loaded_before_it_is_asked_for():
    loaded = {step: threading.Event() for step in range(3)}
    prefetcher = Prefetcher(lambda step: loaded[step].set())
    prefetcher(0)
    assert loaded[1].wait(timeout=30)
    assert not loaded[2].is_set()


def test_a_fault_while_loading_ahead_is_raised_where_the_step_is_asked_for():
    def load(step):
        if step == 1:
            raise OSError("unreadable")
        return step

    prefetcher = Prefetcher(load)
    assert prefetcher(0) == 0
    with pytest.raises(OSError, match="unreadable"):
        prefetcher(1)
    assert prefetcher(2) == 2
