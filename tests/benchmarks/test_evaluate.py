"""The benchmark of the evaluation: small here, at full size by `focalbench bench evaluate`."""

import numpy as np

from focalbench.benchmarks.classic_voc import classic_average_precision
from focalbench.benchmarks.evaluate import bench_evaluate, random_case
from focalbench.metrics.voc import voc_average_precision


def test_all_evaluators_run_and_ours_equals_the_classic_loop() -> None:
    document = bench_evaluate(num_images=60, num_detections=1500, num_objects=150, num_classes=5, repeats=1)
    assert document["equal_to_classic_loop"]
    assert set(document["ratios"]) == set(document["wanted"]) == {"classic loop", "faster-coco-eval"}
    assert all(seconds > 0 for seconds in document["seconds"].values())


def test_the_case_has_hits_misses_and_difficult_objects() -> None:
    found, truth = random_case(60, 1500, 150, 5)
    ap = voc_average_precision(found, truth, num_classes=5)["ap"]
    assert ((ap > 0.05) & (ap < 0.95)).all()
    assert 0 < truth["difficult"].mean() < 0.5
    np.testing.assert_array_equal(classic_average_precision(found, truth, num_classes=5), ap)
