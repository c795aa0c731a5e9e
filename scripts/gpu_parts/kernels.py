"""The loss and the matching of anchors: against public ones, a copy, float64 and the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from focalbench.benchmarks.loss import NUM_CLASSES, bench_loss, random_case
from focalbench.boxes import matching
from focalbench.boxes.anchors import AnchorPyramid
from focalbench.kernels import triton_kernels
from focalbench.losses import focal_op
from gpu_parts.run import Run, replayed


def loss(run: Run) -> None:
    """The focal loss against the public ones and the bytes floor: a copy reads and writes as much as a loss must."""
    sizes = None if run.on_gpu else {"tiny": 400}

    def race() -> dict[str, Any]:
        return bench_loss(sizes=sizes, repeats=21 if run.on_gpu else 1, device=str(run.device))

    run.measure("bench loss", race)


def kernel(run: Run) -> None:
    """The operation that a detector calls, forward and backward, as graph replays: time in copies, error to float64."""
    sizes = {"320 px x 32": 32 * 19_206, "paper": 16 * 49_104} if run.on_gpu else {"tiny": 400}
    for name, anchors in sizes.items():
        for dtype in (torch.bfloat16, torch.float32, torch.float16):
            for gamma in (2.0, 0.5):
                case = f"{name} {str(dtype).removeprefix('torch.')} gamma {gamma:g}"
                run.measure(
                    case, lambda anchors=anchors, dtype=dtype, gamma=gamma: _kernel_case(run, anchors, dtype, gamma)
                )


def _kernel_case(run: Run, anchors: int, dtype: torch.dtype, gamma: float) -> dict[str, Any]:
    logits, labels = random_case(anchors, NUM_CLASSES, dtype, str(run.device))
    labels[5::5000] = -1
    sets = [(logits.roll(shift).requires_grad_(), labels) for shift in range(3)]  # more than a cache holds
    parameters = [torch.tensor(value, device=run.device) for value in (gamma, 0.25, 0.75)]

    def gradient(logits: Tensor, labels: Tensor) -> Tensor:
        return torch.autograd.grad(focal_op.focal_sum(logits, labels, *parameters), logits)[0]

    rows = slice(0, 20_000)
    exact = sets[0][0].detach()[rows].cpu().double().requires_grad_()
    exact_parameters = [value.cpu().double() for value in parameters]
    wanted = torch.autograd.grad(focal_op.focal_sum(exact, labels[rows].cpu(), *exact_parameters), exact)[0]
    found = gradient(*sets[0])[rows].cpu().double()
    copies = [torch.empty_like(one) for one, _ in sets]
    ours, spread = replayed(run, lambda: [gradient(*one) for one in sets])
    copy, _ = replayed(run, lambda: [to.copy_(one.detach()) for to, (one, _) in zip(copies, sets, strict=True)])
    return {
        "relative_error": float((found - wanted).norm() / wanted.norm()),
        "us": 1e3 * ours / 3,
        "spread": spread,
        "copy_us": 1e3 * copy / 3,
        "of_copy": ours / copy,
        "mib": logits.numel() * logits.element_size() / 2**20,
        "kernel": "triton" if run.on_gpu and triton_kernels("focalbench.losses.focal_triton") else "torch",
    }


def matching_of_anchors(run: Run) -> None:
    """Matching anchors and objects, as graph replays: what a training calls against torch's operations."""

    num_images, num_objects, side = (32, 24, 320) if run.on_gpu else (2, 3, 64)
    anchors = AnchorPyramid(5, scale=4, octaves=3, ratios=(0.5, 1.0, 2.0)).on_canvas((side, side))
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(num_images, num_objects, 2, generator=generator) * side * 0.7
    sizes = 8 + torch.rand(num_images, num_objects, 2, generator=generator) * side * 0.3
    boxes, labels = torch.cat([corners, corners + sizes], -1), torch.zeros(num_images, num_objects, dtype=torch.int64)
    given = anchors.to(run.device), boxes.to(run.device), labels.to(run.device)

    def called() -> Tensor:
        return matching.match_anchors(*given, pos_iou=0.5, neg_iou=0.4)

    def as_tensors() -> Tensor:
        return matching._assign(matching._batched_iou(*given), 0.5, 0.4, True)

    def race() -> dict[str, Any]:
        equal = torch.equal(called().cpu(), matching.match_anchors(anchors, boxes, labels, pos_iou=0.5, neg_iou=0.4))
        ours, tensors = replayed(run, called)[0], replayed(run, as_tensors)[0]
        return {"us": 1e3 * ours, "as_tensors_us": 1e3 * tensors, "equals_the_cpu": equal, "anchors": len(anchors)}

    run.measure(f"matching, {num_images} images of {num_objects} objects", race)
