"""scripts/step_memory.py counts what a step keeps, once, and what grows with the batch alone."""

import torch
from step_memory import kept_bytes, state_bytes, training


def test_what_is_kept_grows_with_the_batch_and_is_less_in_16_bits() -> None:
    one, two, four = (training("retinanet", "tiny", (64, 64), size) for size in (1, 2, 4))
    full = [kept_bytes(config, torch.float32) for config in (one, two, four)]
    half = [kept_bytes(config, torch.bfloat16) for config in (one, two, four)]
    assert full[2] - full[1] > 1.9 * (full[1] - full[0]) > 0
    assert half[2] - half[1] < 0.7 * (full[2] - full[1])
    images = 4 * 3 * 64 * 64 * 4
    assert images < full[2] < state_bytes(one) + 100 * images
    assert state_bytes(one) == state_bytes(four)
