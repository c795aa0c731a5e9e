"""Makes the sections below the tables: curves, photographs, false positives, loss figures; says why one is missing."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.arms import Arm
from focalbench.analysis.comparison import Comparison
from focalbench.figures.lettering import undrawable
from focalbench.records.detections import UnusableDetectionsError
from focalbench.records.trial import TrialFolder
from focalbench.report.curves import (
    MAX_DRAWN,
    LineStyle,
    Picture,
    line_styles,
    mean_over_classes,
    plot_class_ap,
    plot_f1,
    plot_learning_curves,
    plot_precision_recall,
)
from focalbench.report.evaluation_set import EvaluationImages, FoundObjects, UnavailableImagesError, read_found_objects
from focalbench.report.photographs import NUM_FALSE_POSITIVES, ImageAcrossArms, crop_false_positive, images_across_arms
from focalbench.tags import CLASS_AP, MEAN_AP, TRAIN_LOSS

MAX_CLASSES_DRAWN = 24
_LOSS_FIGURES = {
    "loss_against_p_t.png": "Loss against the probability of the right answer, and where the elements lie (figure 1)",
    "cumulative_loss.png": "Share of the loss that the hardest elements hold (figure 4, from the other end)",
    "gradient_norms.png": "Elements by gradient norm",
    "calibration.png": "Reliability of the scores",
    "hard_negatives.png": "The negatives with the highest loss",
    "errors.png": "What each cause of error costs",
}
"""Files that ``focalbench analyze`` leaves in a trial's folder, and what they show."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_MAX_PNG_BYTES = 8 << 20


@dataclass(frozen=True)
class FalsePositiveRow:
    """Describes a false positive in words, with its crop where the image can be read."""

    image_id: str
    claimed: str
    score: str
    kind: str
    crop: Picture | None


@dataclass(frozen=True)
class ArmFalsePositives:
    """Lists the false positives of one trial that have the highest scores."""

    label: str
    seed: int
    rows: list[FalsePositiveRow]


@dataclass(frozen=True)
class LossFigures:
    """Holds what ``analyze`` drew for one trial."""

    trial: str
    label: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Confusion:
    """Holds the confusion matrix of one trial: true classes and background down, detected ones and missed across."""

    label: str
    seed: int
    classes: tuple[str, ...]
    matrix: NDArray[np.int64]


@dataclass
class Evidence:
    """Holds everything drawn; lists stay empty where a reason is given.

    Attributes:
        styles: label -> how it is drawn, in the order of the legend.
        left_out: labels of arms that are in the tables only.
        learning: learning curves.
        class_ap: AP per class; None without classes.
        precision_recall: all classes together; None without detections.
        class_curves: one small figure a class.
        f1: F1 over the score; None without detections.
        confusions: who is taken for whom, of the trials in ``image_seeds``.
        images: the same test images across arms.
        image_seeds: label -> seed of the trial whose detections are drawn.
        false_positives: of the same trials.
        loss_figures: of every trial that has them.
        numbered: classes that pictures show by number, label to name.
        objects_per_class: countable objects of the test set by class.
        detections_reason: why curves, images or false positives lack an arm, or are missing.
        images_reason: why the photographs are missing.
    """

    styles: dict[str, LineStyle]
    left_out: list[str] = field(default_factory=list)
    learning: list[Picture] = field(default_factory=list)
    class_ap: Picture | None = None
    precision_recall: Picture | None = None
    class_curves: list[Picture] = field(default_factory=list)
    f1: Picture | None = None
    confusions: list[Confusion] = field(default_factory=list)
    images: list[ImageAcrossArms] = field(default_factory=list)
    image_seeds: dict[str, int] = field(default_factory=dict)
    false_positives: list[ArmFalsePositives] = field(default_factory=list)
    loss_figures: list[LossFigures] = field(default_factory=list)
    numbered: dict[int, str] = field(default_factory=dict)
    objects_per_class: dict[str, int] = field(default_factory=dict)
    detections_reason: list[str] = field(default_factory=list)
    images_reason: str = ""


def gather_evidence(comparison: Comparison, classes: Sequence[str]) -> Evidence:
    """Reads logs and detections of the drawn arms, and the test images where they are."""
    drawn, left_out = choose_arms(comparison)
    evidence = Evidence(line_styles([arm.label for arm in drawn]), left_out)
    for key, words in ((MEAN_AP, "evaluated mAP in points"), (TRAIN_LOSS, "training loss")):
        plot = plot_learning_curves(drawn, key, words, evidence.styles)
        evidence.learning += [plot.embedded()] if plot is not None else []
    with_ap = classes_with_ap(drawn, classes)
    if with_ap:
        evidence.class_ap = plot_class_ap(with_ap, drawn, evidence.styles).embedded()
    evidence.numbered = undrawable(classes)
    found = _add_curves(evidence, drawn)
    if found:
        _add_photographs(evidence, drawn, found)
    evidence.loss_figures = [figures for arm in drawn if (figures := _loss_figures(arm))]
    return evidence


def choose_arms(comparison: Comparison) -> tuple[list[Arm], list[str]]:
    """The baseline and the arms with the highest means, in the order of the sweep, and the labels of the rest."""
    results = [result for result in comparison.arms if result.values]
    ranked = sorted(results, key=lambda result: (result.arm.label != comparison.baseline, -result.summary.mean))
    kept = {result.arm.label for result in ranked[:MAX_DRAWN]}
    drawn = [result.arm for result in results if result.arm.label in kept]
    return drawn, [result.arm.label for result in comparison.arms if result.arm.label not in kept]


def classes_with_ap(arms: Sequence[Arm], classes: Sequence[str]) -> dict[int, str]:
    """Returns the classes, label to name, that some arm has an AP of: as many as a figure can show."""
    found = [
        (label, name) for label, name in enumerate(classes) if any(arm.values(f"{CLASS_AP}{name}") for arm in arms)
    ]
    return dict(found[:MAX_CLASSES_DRAWN])


def _add_curves(evidence: Evidence, drawn: Sequence[Arm]) -> dict[str, FoundObjects]:
    """Draws precision against recall; returns the detections of one trial an arm, the lowest seed common to all."""
    shared = set.intersection(*(set(arm.trials) for arm in drawn)) if drawn else set()
    overall: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    f1: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    by_class: dict[str, dict[str, list[NDArray[np.float64]]]] = defaultdict(lambda: defaultdict(list))
    labels: dict[str, int] = {}
    kept: dict[str, FoundObjects] = {}
    for arm in drawn:
        seed_shown = min(shared or arm.trials)
        for seed, trial in arm.trials.items():
            try:
                found = read_found_objects(trial.folder)
            except UnusableDetectionsError as fault:
                evidence.detections_reason.append(f"{arm.label}, seed {seed}: {fault}")
                continue
            mean = mean_over_classes(found.precision)
            if mean is not None:
                overall[arm.label].append(mean)
                f1[arm.label].append(found.f1)
            labels |= {name: label for label, name in enumerate(found.classes)}
            for name, curve in zip(found.classes, found.precision, strict=True):
                if not np.isnan(curve[0]):
                    by_class[name][arm.label].append(curve)
            if seed == seed_shown:
                kept[arm.label], evidence.image_seeds[arm.label] = found, seed
    if overall:
        title = "all classes, mean of their curves"
        evidence.precision_recall = plot_precision_recall(overall, title, evidence.styles).embedded()
        evidence.f1 = plot_f1(f1, evidence.styles).embedded()
    for name in list(by_class)[:MAX_CLASSES_DRAWN]:
        plot = plot_precision_recall(by_class[name], name, evidence.styles, label=labels[name])
        evidence.class_curves.append(plot.embedded())
    evidence.confusions = [_confusion(label, evidence.image_seeds[label], found) for label, found in kept.items()]
    if kept:
        first = next(iter(kept.values()))
        counts = first.assignment.num_objects.tolist()
        evidence.objects_per_class = dict(zip(first.classes, counts, strict=True))
    return kept


def _confusion(label: str, seed: int, found: FoundObjects) -> Confusion:
    """The confusion matrix; of more classes than can be shown, those that are confused most, and the others as one."""
    matrix, classes = found.confusion, found.classes
    if len(classes) > MAX_CLASSES_DRAWN:
        wrong = matrix - np.diag(np.diag(matrix))
        amount = (wrong.sum(axis=0) + wrong.sum(axis=1))[:-1]
        shown = np.sort(np.argsort(-amount, kind="stable")[:MAX_CLASSES_DRAWN])
        group = np.full(len(classes) + 1, MAX_CLASSES_DRAWN)
        group[shown], group[-1] = np.arange(MAX_CLASSES_DRAWN), MAX_CLASSES_DRAWN + 1
        merged = np.zeros((MAX_CLASSES_DRAWN + 2,) * 2, dtype=np.int64)
        np.add.at(merged, (group[:, None], group[None, :]), matrix)
        matrix, classes = merged, (*(classes[number] for number in shown.tolist()), "other classes")
    return Confusion(label, seed, classes, matrix)


def _add_photographs(evidence: Evidence, drawn: Sequence[Arm], found: Mapping[str, FoundObjects]) -> None:
    first_label, first = next(iter(found.items()))
    same = {label: one for label, one in found.items() if one.image_ids == first.image_ids}
    other = [label for label in found if label not in same]
    if other:
        evidence.detections_reason.append(f"{', '.join(other)}: evaluated on other images, so not drawn with the rest")
    trial = next(arm for arm in drawn if arm.label == first_label).trials[evidence.image_seeds[first_label]]
    images = None
    try:
        images = EvaluationImages(trial, first)
        evidence.images = images_across_arms(same, images)
    except UnavailableImagesError as fault:
        evidence.images_reason = str(fault)
    for label, one in same.items():
        rows = []
        for fp in one.worst_false_positives(NUM_FALSE_POSITIVES):
            crop = crop_false_positive(fp, one, images) if images is not None else None
            words = one.image_ids[fp.image], one.classes[fp.label], f"{fp.score:.2f}", fp.kind
            rows.append(FalsePositiveRow(*words, crop))
        evidence.false_positives.append(ArmFalsePositives(label, evidence.image_seeds[label], rows))


def _loss_figures(arm: Arm) -> LossFigures | None:
    """The figures of the arm's first trial that ``analyze`` was run on."""
    for trial in arm.trials.values():
        pictures = [
            picture
            for name, words in _LOSS_FIGURES.items()
            if (picture := _embed_png(TrialFolder(trial.folder).analysis / name, f"{words}: {arm.label}")) is not None
        ]
        if pictures:
            return LossFigures(trial.folder.name, arm.label, pictures)
    return None


def _embed_png(path: Path, alt: str) -> Picture | None:
    """A PNG file as it is; None for anything else, or a file too large for a page."""
    try:
        content = path.read_bytes() if path.is_file() and path.stat().st_size <= _MAX_PNG_BYTES else b""
    except OSError:
        return None
    if not content.startswith(_PNG_START) or len(content) < 33:
        return None
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    return Picture("data:image/png;base64," + base64.b64encode(content).decode(), alt, width, height)
