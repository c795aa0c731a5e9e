"""``evaluate``, ``predict``, ``analyze`` and ``export``: a trained trial is asked, from its folder alone."""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from focalbench import console
from focalbench.cli.completion import complete_device
from focalbench.cli.config import AsJson
from focalbench.tags import MEAN_AP, ProtocolName
from focalbench.trained import SCORE_THRESH

if TYPE_CHECKING:
    from focalbench.trained.trial import TrainedTrial


# What mAP means; ``all`` shows every protocol and the variants of public tools.
ProtocolChoice = enum.StrEnum("ProtocolChoice", [*get_args(ProtocolName), "all"])  # type: ignore[misc]

TrialPath = Annotated[
    Path,
    typer.Argument(
        metavar="TRIAL", help="Folder of a trained trial: runs/NAME/TRIAL, or how its name begins.", show_default=False
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete_device)]
UnfinishedOption = Annotated[
    bool, typer.Option("--unfinished", help="Use the newest checkpoint of a trial that is not finished.")
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds VOC2007, ... Default: the trial's, else $FOCALBENCH_DATA.", show_default=False
    ),
]
SplitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        metavar="YEAR/SPLIT",
        help="Split to evaluate on; several are joined. Default: the trial's val.",
        show_default=False,
    ),
]


IgnoreOption = Annotated[
    bool,
    typer.Option("--ignore-other-classes", help="Leave out objects of classes that the network does not know."),
]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Execute this plugin source that the trial was trained with, where its network or loss is needed.",
        show_default=False,
    ),
]


def _load(trial: Path, device: str, unfinished: bool, plugins: list[str] | None) -> TrainedTrial:
    from focalbench.trained.trial import load_trained

    return load_trained(trial, device=device, unfinished=unfinished, plugins=plugins or (), warn=console.warn)


def evaluate(
    trial: TrialPath,
    split: SplitOption = None,
    protocol: Annotated[
        ProtocolChoice | None,
        typer.Option(help="What mAP means. Default: the trial's.", show_default=False, case_sensitive=False),
    ] = None,
    root: RootOption = None,
    ignore_other_classes: IgnoreOption = False,
    device: DeviceOption = "auto",
    unfinished: UnfinishedOption = False,
    plugin: PluginOption = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a trained trial on any split."""
    trained = _load(trial, device, unfinished, plugin)
    chosen = protocol.value if protocol is not None else trained.config.eval.protocol
    data = trained.data(root=root, splits=split, ignore_other_classes=ignore_other_classes)
    detections, truth = trained.detect(data), data.ground_truth()
    document: dict[str, Any] = {
        "trial": trained.name,
        "step": trained.step,
        "split": split or list(getattr(trained.config.data, "val", ("synthetic/val",))),
        "images": len(data),
        "objects": len(truth["label"]),
        "detections": len(detections["label"]),
        "classes": list(trained.classes),
    }
    if chosen == "all":
        document |= {"protocol": "all", "protocols": _all_protocols(detections, truth, trained.classes)}
    else:
        from focalbench.training.evaluate import score

        found = score(detections, truth, trained.classes, chosen)
        document |= {"protocol": chosen, "mAP": found.mean_ap, MEAN_AP: found.mean_ap, "AP": found.ap}
    if as_json:
        console.print_json(document)
    else:
        _print_evaluation(document)


def _all_protocols(detections: dict[str, Any], truth: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """Name of each protocol and variant -> mAP and AP by class, all from the same detections."""
    from focalbench.metrics.protocols import PROTOCOLS
    from focalbench.metrics.voc import voc_variants

    results: dict[str, Any] = {**voc_variants(detections, truth, num_classes=len(classes))}
    further: dict[str, Any] = {}
    for name, protocol in PROTOCOLS.items():
        if (row := f"{name} ({protocol.rule})") not in results:
            results[row] = protocol.score(detections, truth, num_classes=len(classes))
            means = {key: mean for key, mean in results[row].items() if key.startswith("map_")}
            further |= {f"{name}, {key.removeprefix('map_')}": {"mAP": mean} for key, mean in means.items()}
    by_class = {row: dict(zip(classes, result["ap"].tolist(), strict=True)) for row, result in results.items()}
    return {row: {"mAP": result["map"], "AP": by_class[row]} for row, result in results.items()} | further


def _print_evaluation(document: dict[str, Any]) -> None:
    about = f"{document['trial']}, step {document['step']}, on {', '.join(document['split'])}: " + ", ".join(
        console.counted(document[f"{noun}s"], noun) for noun in ("image", "object", "detection")
    )
    if "protocols" in document:
        classes = document["classes"] if len(document["classes"]) <= 6 else []
        rows = [
            [name, console.points(row["mAP"]), *(_points(row.get("AP", {}).get(cls)) for cls in classes)]
            for name, row in document["protocols"].items()
        ]
        note = "mAP and AP in points, from one set of boxes"
        console.print_table(["protocol", "mAP", *classes], rows, title=about, note=note)
        return
    rows = [[name, console.points(value)] for name, value in document["AP"].items()]
    undefined = [name for name, value in document["AP"].items() if value != value]
    rows.append(["mean", console.points(document["mAP"])])
    console.print_table(["class", f"AP {document['protocol']}, points"], rows, title=about)
    if undefined:
        console.warn(f"no objects to find, so no AP and not part of the mean: {', '.join(undefined)}")


def _points(value: float | None) -> str:
    return "-" if value is None else console.points(value)


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.2f}"


def predict(
    trial: TrialPath,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Files, folders or patterns such as 'dir/*.jpg'.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the pictures.")] = Path("predictions"),
    score_thresh: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Boxes with a lower score are left out.")
    ] = SCORE_THRESH,
    device: DeviceOption = "auto",
    unfinished: UnfinishedOption = False,
    plugin: PluginOption = None,
    as_json: AsJson = False,
) -> None:
    """Draw boxes on images and print them; no image is ever overwritten."""
    trained = _load(trial, device, unfinished, plugin)
    from focalbench.errors import DataError
    from focalbench.figures.lettering import undrawable
    from focalbench.report.prediction_files import PictureFolder
    from focalbench.trained.inference import find_images, predict_image

    paths, faults = find_images(images)
    folder = PictureFolder(out, inputs=paths)
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            found = predict_image(trained, path, score_thresh=score_thresh)
            picture = folder.draw(path, found, trained.classes, score_thresh)
        except DataError as fault:
            faults.append(str(fault))
            continue
        rows.append(_prediction_row(path, picture, found, trained.classes))
        if not as_json:
            _print_prediction(rows[-1], score_thresh)
    if as_json:
        console.print_json(rows)
    else:
        for label, name in undrawable(trained.classes).items():
            console.print_text(f"#{label} on the pictures is {name}: no font on this machine has its letters")
    if faults:
        shown = [*faults[:15], *([f"... and {len(faults) - 15} more"] if len(faults) > 15 else [])]
        raise DataError("\n".join([*shown, f"images done: {len(rows)}, errors: {len(faults)}"]))


def _prediction_row(path: Path, picture: Path, found: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """One image of the JSON document; boxes are VOC pixels of the upright image."""
    height, width = found.image.shape[:2]
    return {
        "image": str(path),
        "picture": str(picture),
        "width": width,
        "height": height,
        "highest_score": round(found.highest_score, 6),
        "detections": [
            {"class": classes[label], "score": round(float(score), 6), "box": [round(float(x), 2) for x in box]}
            for label, score, box in zip(found.labels, found.scores, found.voc_boxes, strict=True)
        ],
    }


def _print_prediction(row: dict[str, Any], score_thresh: float) -> None:
    count, highest = len(row["detections"]), row["highest_score"]
    near = "" if count else f" (highest score {_cut(highest)}, below {score_thresh:g})"
    console.print_text(f"{row['image']}: {count} box{'' if count == 1 else 'es'}{near}, drawn in {row['picture']}")
    for box in row["detections"]:
        corners = " ".join(f"{value:.0f}" for value in box["box"])
        console.print_text(f"  {box['class']} {box['score']:.3f}  {corners}")


def _cut(score: float) -> str:
    """Three decimals, cut rather than rounded: .2999 is to be seen below .3; the first digit of what is smaller."""
    return f"{math.floor(1000 * score) / 1000:.3f}" if score >= 0.001 else f"{score:.1g}"


def analyze(
    trial: TrialPath,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Folder for figures and numbers. Default: TRIAL/analysis.", show_default=False
        ),
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Split the missing AP by cause, as TIDE does.")] = False,
    split: SplitOption = None,
    root: RootOption = None,
    ignore_other_classes: IgnoreOption = False,
    device: DeviceOption = "auto",
    unfinished: UnfinishedOption = False,
    plugin: PluginOption = None,
    as_json: AsJson = False,
) -> None:
    """Show where the loss of a trained trial comes from: figures 1 and 4 of the paper, hard tail, calibration."""
    trained = _load(trial, device, unfinished, plugin)
    from focalbench.records.trial import TrialFolder
    from focalbench.report.analysis import write_analysis

    data = trained.data(root=root, splits=split, ignore_other_classes=ignore_other_classes)
    document = write_analysis(trained, data, out or TrialFolder(trained.folder).analysis, errors=errors)
    if as_json:
        console.print_json(document)
    else:
        _print_analysis(document)


def _print_analysis(document: dict[str, Any]) -> None:
    loss = document["loss"]
    rows = []
    for group in ("positives", "negatives"):
        for gamma, shares in loss[group]["share_of_hardest"].items():
            rows.append([group, gamma, *(_percent(value) for value in shares.values())])
    hardest = next(iter(loss["positives"]["share_of_hardest"].values()))
    columns = ["elements", "gamma", *(f"hardest {100 * float(key):g} %" for key in hardest)]
    title = f"{document['trial']}: share of the loss held by the hardest elements, %"
    console.print_table(columns, rows, title=title)
    _print_tail(document["hard_tail"], document["kinds"])
    calibration = document["calibration"]
    console.print_text(f"\ncalibration: D-ECE {_percent(calibration['d_ece'])} % over {document['detections']} boxes")
    if "errors" in document:
        errors = document["errors"]
        rows = [[cause, row["count"], console.points(row["cost"])] for cause, row in errors["by_cause"].items()]
        title = f"\nerrors by cause, mAP {console.points(errors['mAP'])} points ({errors['interpolation']})"
        console.print_table(["cause", "count", "costs, points of mAP"], rows, title=title)
    console.print_text(f"\nfigures and numbers: {document['out']}")


def _print_tail(tail: dict[str, Any], kinds: dict[str, str]) -> None:
    if not tail["regions"]:
        console.print_text("\nthis loss is given no negatives, so they have no hard tail")
        return
    rows = [
        [kind, f"{sums['regions']:g}", _percent(sums["share_of_negative_loss"]), _percent(sums["share_of_class_loss"])]
        for kind, sums in tail["by_kind"].items()
    ]
    columns = ["what is there", "regions", "% of negatives' loss", "% of class loss"]
    note = "\n".join(f"{kind}: {text}" for kind, text in kinds.items())
    console.print_table(columns, rows, title=f"\nthe hardest negatives, gamma {tail['gamma']:g}", note=note)


def export(
    trial: TrialPath,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="ONNX file.", show_default=False)],
    unfinished: UnfinishedOption = False,
    plugin: PluginOption = None,
    as_json: AsJson = False,
) -> None:
    """Write the trained network as ONNX, checked against torch."""
    trained = _load(trial, "cpu", unfinished, plugin)
    from focalbench.trained.export import export_onnx

    done = export_onnx(trained, out)
    height, width = trained.canvas
    num_classes = len(trained.classes)
    document = {
        "file": str(out),
        "input": {"images": ["N", 3, height, width]},
        "outputs": {"scores": ["N", done.num_boxes, num_classes], "boxes": ["N", done.num_boxes, 4]},
        "classes": list(trained.classes),
        "score_difference": done.score_difference,
        "box_difference": done.box_difference,
    }
    if as_json:
        console.print_json(document)
        return
    console.print_text(f"{out}: {trained.name}, step {trained.step}")
    console.print_text(f"  images (N, 3, {height}, {width}) float32, normalised RGB")
    console.print_text(f"  scores (N, {done.num_boxes}, {num_classes}) in [0, 1]: {', '.join(trained.classes)}")
    console.print_text(f"  boxes  (N, {done.num_boxes}, 4) xyxy canvas pixels; threshold and suppression are yours")
    if done.score_difference is None:
        console.warn("not checked: onnxruntime is not installed; pip install 'focalbench[onnx]'")
    else:
        console.print_text(
            f"  checked with onnxruntime: largest difference {done.score_difference:.1g} in a score, "
            f"{done.box_difference:.1g} px in a box"
        )
