"""Answers one request, a JSON document that gpu_figures.py makes: ``python -m gpu_parts REQUEST``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from focalbench.runtime import prepare_process

prepare_process()  # before torch is loaded

from focalbench.devices import resolve_device, use_device  # noqa: E402
from gpu_parts import kernels, machine, steps, trainings  # noqa: E402
from gpu_parts.run import Run  # noqa: E402

PARTS: dict[str, tuple[Callable[[Run], None], ...]] = {
    "machine": (machine.doctor, machine.rates),
    "waits": (steps.waits,),
    "tests": (machine.tests,),
    "step": (steps.step, steps.profile),
    "training": (trainings.training,),
    "evaluation": (trainings.evaluation,),
    "kernels": (kernels.loss, kernels.kernel, kernels.matching_of_anchors),
    "graph": (steps.graph,),
    "cases": (steps.cases,),
    "sweep": (trainings.sweep,),
    "determinism": (trainings.determinism,),
    "side_by_side": (steps.side_by_side,),
    "pacer": (steps.pace_on_demand,),  # of side_by_side
    "variants": (steps.variants,),
    "without_search": (steps.without_search,),
}


def main() -> None:
    """Answers one request."""
    began = time.monotonic()
    request = json.loads(sys.argv[1])
    device = resolve_device(request["device"])
    use_device(device)
    run = Run(
        part=request["part"],
        device=device,
        work=Path(request["work"]),
        out=Path(request.get("out", request["work"])),
        data=request.get("data"),
        train=request.get("train", []),
        val=request.get("val", []),
        sweep_data=request.get("sweep_data"),
        known=frozenset(request.get("known", [])),
        left=lambda: request["seconds"] - (time.monotonic() - began),
    )
    (run.work / "runs").mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("FOCALBENCH_CACHE", str(run.work / "cache"))
    for measurements in PARTS[run.part]:
        measurements(run)
    sys.exit(run.exit_code())


if __name__ == "__main__":
    main()
