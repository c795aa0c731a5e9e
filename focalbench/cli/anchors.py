"""``data anchors``: priors for YOLOv2 by clustering, and which objects RetinaNet's anchors can answer for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from focalbench import console
from focalbench.cli.config import AsJson, DataRoot, Overrides
from focalbench.errors import ConfigError, DataError

if TYPE_CHECKING:
    from focalbench.analysis.anchor_coverage import Alternative, Coverage
    from focalbench.boxes.priors import Priors
    from focalbench.config.model import RetinaNetConfig
    from focalbench.data.dataset import DetectionData

_STRIDE = 32  # YOLOv2's cells, in pixels


def _parse_size(text: str) -> tuple[int, int]:
    """``416`` or ``240,320`` (height, width; in brackets as in YAML or not)."""
    parts = text.strip().strip("[]").split(",")
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or not all(32 <= side <= 4096 for side in sides):
        raise ConfigError(f"--image-size: {text!r} should be one side or HEIGHT,WIDTH, 32 to 4096 pixels each")
    return sides[0], sides[-1]


def anchors(
    root: DataRoot,
    num_priors: Annotated[int, typer.Option("-k", min=1, max=50, help="Number of priors.")] = 5,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="YEAR/SPLIT", help="Split to look at; may be repeated. Default: training."),
    ] = None,
    image_size: Annotated[
        str, typer.Option("--image-size", metavar="SIDE|H,W", help="Canvas in pixels, as in data.image_size.")
    ] = "416",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the clustering.")] = 0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Choose prior boxes for YOLOv2 (k-means with 1 - IoU), and show which objects RetinaNet's anchors miss.

    -s model.backbone=tiny, -s model.anchor_scale=2 and the like choose the RetinaNet.
    """
    from focalbench.data.dataset import load_data
    from focalbench.data.files import default_splits

    canvas, model = _parse_size(image_size), _retinanet(overrides or [])
    splits = tuple(split) if split else default_splits(root)[0]
    data = load_data(root, splits, "auto", canvas, cache="none")
    if all(record.difficult.all() for record in data.records):
        raise DataError(f"{root}: {', '.join(splits)}: has no objects that count (difficult ones do not)")
    priors, published = _fit_priors(data, num_priors, seed)
    coverage, alternatives = _cover(data, model)
    if as_json:
        console.print_json(
            _priors_document(priors, published, data)
            | {"coverage": _coverage_document(coverage, alternatives, data, model)}
        )
        return
    _print_priors(priors, published, data)
    console.print_text("")
    _print_coverage(coverage, alternatives, data, model)


def _retinanet(overrides: list[str]) -> RetinaNetConfig:
    """The model's section with ``overrides`` applied.

    Raises:
        ConfigError: for keys of another section, or another detector.
    """
    from focalbench.config.load import default_config
    from focalbench.config.model import RetinaNetConfig

    for override in overrides:
        if not override.startswith("model."):
            raise ConfigError(f"-s {override}: only model.* has an effect here; --image-size sets the canvas")
    model = default_config(overrides).model
    if not isinstance(model, RetinaNetConfig):
        raise ConfigError("-s model.name: YOLOv2 has a prior for every object; this is about RetinaNet's anchors")
    return model


def _fit_priors(data: DetectionData, num_priors: int, seed: int) -> tuple[Priors, float]:
    """The clustered priors, at most as many as there are sizes, and the average best IoU of the published ones."""
    import numpy as np

    from focalbench.boxes.priors import VOC_PRIORS, average_best_iou, fit_priors
    from focalbench.data.stats import canvas_sizes

    cells = canvas_sizes(data.records, data.canvas) / _STRIDE
    num_sizes = len(np.unique(cells, axis=0))
    if num_priors > num_sizes:
        console.warn(f"-k {num_priors}: the objects have only {num_sizes} different size{'s'[: num_sizes > 1]}")
    return fit_priors(cells, min(num_priors, num_sizes), seed=seed), average_best_iou(cells, VOC_PRIORS)


def _cover(data: DetectionData, model: RetinaNetConfig) -> tuple[Coverage, list[Alternative]]:
    """How the objects are matched with this RetinaNet's anchors, and with others."""
    from focalbench.analysis.anchor_coverage import Layout, measure_coverage, try_alternatives
    from focalbench.models.retinanet import head_settings

    head = head_settings(
        model.backbone,
        num_levels=model.num_levels,
        anchor_scale=model.anchor_scale,
        anchor_octaves=model.anchor_octaves,
    )
    layout = Layout(data.canvas, head, model.anchor_ratios, model.pos_iou, model.neg_iou)
    return measure_coverage(data, layout), try_alternatives(data, layout)


def _canvas_text(canvas: tuple[int, int]) -> str:
    return f"{canvas[0]} px" if canvas[0] == canvas[1] else f"{canvas[0]} x {canvas[1]} px"


def _priors_document(priors: Priors, published: float, data: DetectionData) -> dict[str, Any]:
    return {
        "priors": priors.sizes.round(4).tolist(),
        "unit": f"cells of {_STRIDE} px on a {_canvas_text(data.canvas)} canvas",
        "shares": priors.shares.tolist(),
        "average_iou": priors.average_iou,
        "average_iou_voc_priors": published,
        "objects": int(sum((~record.difficult).sum() for record in data.records)),
    }


def _coverage_document(
    coverage: Coverage, alternatives: list[Alternative], data: DetectionData, model: RetinaNetConfig
) -> dict[str, Any]:
    from focalbench.analysis.anchor_coverage import advise

    return {
        "backbone": model.backbone,
        "image_size": list(data.canvas),
        "pos_iou": model.pos_iou,
        "anchors_an_image": coverage.anchors_per_image,
        **coverage.counts(),
        "classes": coverage.by_class(data.classes),
        "sizes": coverage.by_size(),
        "alternatives": [
            {"set": one.setting, "share_below": one.share_below, "anchors_an_image": one.anchors_per_image}
            for one in alternatives
        ],
        "advice": advise(alternatives),
    }


def _print_priors(priors: Priors, published: float, data: DetectionData) -> None:
    rows = [
        (f"{width:.3f}", f"{height:.3f}", f"{width * _STRIDE:.0f}", f"{height * _STRIDE:.0f}", f"{100 * share:.1f}%")
        for (width, height), share in zip(priors.sizes, priors.shares, strict=True)
    ]
    values = ", ".join(f"[{width:.3f}, {height:.3f}]" for width, height in priors.sizes)
    console.print_table(
        ("width, cells", "height, cells", "width, px", "height, px", "objects"),
        rows,
        title=f"YOLOv2: {len(rows)} priors on a {_canvas_text(data.canvas)} canvas",
        note=f"average best IoU {priors.average_iou:.4f} (VOC's five published priors: {published:.4f})",
    )
    console.print_text(f"model.priors: [{values}]")  # on one line, to be copied


def _print_coverage(
    coverage: Coverage, alternatives: list[Alternative], data: DetectionData, model: RetinaNetConfig
) -> None:
    from focalbench.analysis.anchor_coverage import SAMPLE, advise

    groups = {"all": coverage.counts()} | coverage.by_class(data.classes) | coverage.by_size()
    rows = [(name, *_cells(counts)) for name, counts in groups.items()]
    where = f"{model.backbone}, {_canvas_text(data.canvas)}, {coverage.anchors_per_image} anchors per image"
    console.print_table(
        ("objects", "number", "matched", "forced", "without", "anchors each"),
        rows,
        title=f"RetinaNet ({where})",
        note=f"matched: by an anchor with an IoU of {model.pos_iou:g} or more\n"
        "forced:  only by the best anchor, whatever its IoU\n"
        "without: the best anchor went to a neighbour\n",
    )
    changes = [
        (one.setting or "as it is", f"{100 * one.share_below:.1f}%", str(one.anchors_per_image)) for one in alternatives
    ]
    sampled = f"on {SAMPLE} of the images\n" if len(data) > SAMPLE else ""
    note = f"{sampled}advice: {advise(alternatives)}"
    console.print_table(("one change (-s)", "not matched", "anchors per image"), changes, note=note)


def _cells(counts: dict[str, Any]) -> tuple[str, ...]:
    """One row: the number of objects, three shares of it, and the mean number of anchors."""
    total = counts["objects"]
    if not total:
        return ("0", "-", "-", "-", "-")
    shares = (f"{100 * counts[key] / total:.1f}%" for key in ("matched", "forced", "without"))
    return (str(total), *shares, f"{counts['anchors_an_object']:.1f}")
