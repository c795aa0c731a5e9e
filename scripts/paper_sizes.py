"""One training step and one evaluation at the papers' sizes, batch 2: seconds and peak memory of each, on the CPU.

RetinaNet with ResNet-50 on 608 x 1024 (shorter side 600 in the paper) and YOLOv2 with Darknet-19 on 416 and on 608, the
largest canvas of its multi-scale training. Images are noise with four objects each.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

BATCH = 2
CASES = (
    ("RetinaNet-R50", (608, 1024), ["model.name=retinanet", "model.backbone=resnet50", "loss.name=focal"]),
    ("YOLOv2", (416, 416), ["model.name=yolov2", "model.backbone=darknet19", "loss.name=softmax_focal"]),
    ("YOLOv2", (608, 608), ["model.name=yolov2", "model.backbone=darknet19", "loss.name=softmax_focal"]),
)


def measure(canvas: tuple[int, int], overrides: list[str]) -> dict[str, float]:
    """Seconds of a training step (forward, backward, update) and of an evaluation; peak resident MiB of the process."""
    import torch

    from focalbench.config.load import default_config
    from focalbench.data.voc import VOC_CLASSES
    from focalbench.experiment import build
    from focalbench.experiment.build_loss import build_criterion
    from focalbench.runtime import peak_memory_mb
    from focalbench.structures import Targets
    from focalbench.training.loop import StepSettings, train_step

    config = default_config([*overrides, f"data.image_size=[{canvas[0]},{canvas[1]}]"])
    model = build.build_model(config, len(VOC_CLASSES))
    criterion = build_criterion(config, model)
    settings = StepSettings(torch.device("cpu"), torch.float32, clip_norm=None)
    state = build.build_state(config, model, criterion, settings)
    corners = torch.rand(BATCH, 4, 2) * torch.tensor([canvas[1], canvas[0]]) / 2
    boxes = torch.cat((corners, corners + 20 + 200 * torch.rand(BATCH, 4, 2)), dim=2)
    targets = Targets(boxes, torch.randint(0, len(VOC_CLASSES), (BATCH, 4)))
    images = torch.randn(BATCH, 3, *canvas).to(memory_format=torch.channels_last)

    state.model.train()
    start = time.perf_counter()
    train_step(state, images, targets, settings)
    trained = time.perf_counter()
    state.model.eval()
    with torch.no_grad():
        state.model.decode(state.model(images), score_thresh=0.05, nms_thresh=0.5, max_detections=300)
    return {"training": trained - start, "evaluation": time.perf_counter() - trained, "peak_mb": peak_memory_mb()}


def main() -> None:
    """Prints a line a case; each is measured in a process of its own, so that its peak is its own."""
    for name, canvas, overrides in CASES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            done = pool.submit(measure, canvas, overrides).result()
        print(
            f"{name} {canvas[0]} x {canvas[1]}, batch {BATCH}: training step {done['training']:.1f} s, "
            f"evaluation {done['evaluation']:.1f} s, peak {done['peak_mb'] / 1024:.1f} GiB"
        )


if __name__ == "__main__":
    main()
