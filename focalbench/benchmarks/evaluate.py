"""`bench evaluate`: VOC mAP at the size of VOC07 test against the classic loop and faster-coco-eval, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.benchmarks.classic_voc import Columns, classic_average_precision
from focalbench.metrics.coco import coco_data_set, coco_results
from focalbench.metrics.flat import check_detections, check_ground_truth
from focalbench.metrics.voc import voc_average_precision

NUM_IMAGES, NUM_DETECTIONS, NUM_OBJECTS, NUM_CLASSES = 4952, 495_000, 15_000, 20
_WANTED = {"classic loop": 35.0, "faster-coco-eval": 10.0}


def bench_evaluate(
    *,
    num_images: int = NUM_IMAGES,
    num_detections: int = NUM_DETECTIONS,
    num_objects: int = NUM_OBJECTS,
    num_classes: int = NUM_CLASSES,
    repeats: int = 3,
) -> dict[str, Any]:
    """Times three evaluators on the same random detections, interleaved, medians of ``repeats``.

    faster-coco-eval is timed at the single IoU .5 and all object sizes, without the time to build its input from arrays
    (given apart): the comparison that suits it best.

    Returns:
        ``{"case": {...}, "seconds": {...}, "ratios": {...}, "wanted": {...}, "equal_to_classic_loop": bool}``; ratios
        are the others' time over ours.
    """
    detections, ground_truth = random_case(num_images, num_detections, num_objects, num_classes)
    kept: dict[str, NDArray[np.float64]] = {}

    def ours() -> None:
        kept["ours"] = voc_average_precision(detections, ground_truth, num_classes=num_classes)["ap"]

    def classic() -> None:
        kept["classic"] = classic_average_precision(detections, ground_truth, num_classes=num_classes)

    build, coco = _coco_steps(detections, ground_truth, num_classes)
    evaluators: dict[str, Callable[[], None]] = {
        "focalbench": ours,
        "classic loop": classic,
        "faster-coco-eval": coco,
    }
    build_seconds = _timed(build)
    ours()  # warm caches and lazy imports of every part before the clock runs
    seconds: dict[str, list[float]] = {name: [] for name in evaluators}
    for _ in range(repeats):
        for name, evaluator in evaluators.items():
            seconds[name].append(_timed(evaluator))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians[name] / medians["focalbench"] for name in _WANTED}
    return {
        "case": {"images": num_images, "detections": num_detections, "objects": num_objects, "classes": num_classes},
        "seconds": medians | {"faster-coco-eval, building its input": build_seconds},
        "ratios": ratios,
        "wanted": dict(_WANTED),
        "equal_to_classic_loop": bool(np.array_equal(kept["ours"], kept["classic"], equal_nan=True)),
    }


def random_case(num_images: int, num_detections: int, num_objects: int, num_classes: int) -> tuple[Columns, Columns]:
    """Returns random objects, a tenth of them difficult, and detections, a third near an object of their class."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(1, 400, (num_objects, 2))
    truth: Columns = {
        "image": rng.integers(0, num_images, num_objects),
        "label": rng.integers(0, num_classes, num_objects),
        "box": np.concatenate([corner, corner + rng.uniform(10, 110, (num_objects, 2))], axis=1).astype(np.float32),
        "difficult": rng.random(num_objects) < 0.1,
    }
    near = rng.integers(0, num_objects, num_detections)
    is_near = rng.random(num_detections) < 1 / 3
    box = truth["box"][near] + rng.normal(0, 8, (num_detections, 4))
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    found: Columns = {
        "image": np.where(is_near, truth["image"][near], rng.integers(0, num_images, num_detections)),
        "label": np.where(is_near, truth["label"][near], rng.integers(0, num_classes, num_detections)),
        "score": rng.random(num_detections).astype(np.float32),
        "box": box.astype(np.float32),
    }
    return found, truth


def _coco_steps(
    detections: Columns, ground_truth: Columns, num_classes: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Building faster-coco-eval's input, and its evaluation of it."""
    from faster_coco_eval import COCO, COCOeval_faster

    built: dict[str, Any] = {}

    def build() -> None:
        det, gt = check_detections(detections, num_classes), check_ground_truth(ground_truth, num_classes)
        images = np.unique(np.concatenate([gt.image, det.image]))
        built["truth"] = COCO(coco_data_set(gt, images, num_classes))
        built["results"] = built["truth"].loadRes(coco_results(det))

    def evaluate() -> None:
        evaluation = COCOeval_faster(built["truth"], built["results"], iouType="bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
        evaluation.accumulate()

    return build, evaluate


def _timed(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
