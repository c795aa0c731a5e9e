"""``bench``: what focalbench's parts cost against the public references, measured here and now, in one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from focalbench import console
from focalbench.cli.command import App
from focalbench.cli.completion import complete_device
from focalbench.cli.config import AsJson, TrainSplits, ValSplits
from focalbench.devices import num_gpus, why_no_gpu
from focalbench.errors import ConfigError
from focalbench.runtime import environment

bench_app = App(name="bench", help="Time the parts against the public references, in one run.", no_args_is_help=True)


@bench_app.command("loss")
def loss(
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: the CPU, and the GPU where there is one.")] = "auto",
    size: Annotated[str, typer.Option(help="small (96k x 20), large (786k x 20) or all.")] = "all",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; every contestant runs once in each.")] = 9,
    as_json: AsJson = False,
) -> None:
    """Time focal loss, forward and backward: against an MMDetection-style operation, torchvision's and a plain copy."""
    from focalbench.benchmarks.loss import SIZES, bench_loss

    if size != "all" and size not in SIZES:
        raise ConfigError(f"--size should be small, large or all, got {size!r}")
    results = []
    for name in _devices(device):
        sizes = None if name == "cuda" or size == "all" else {size: SIZES[size]}
        results.append(bench_loss(sizes=sizes, repeats=repeats, device=name))
    _show({"runs": results}, _print_loss, as_json)


def _show(result: dict[str, Any], print_result: Callable[[dict[str, Any]], None], as_json: bool) -> None:
    """Prints the figures and what they were measured on, as JSON or by ``print_result``."""
    facts = environment()
    if as_json:
        console.print_json(result | {"environment": facts})
        return
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "torchvision", "python"))
    hardware = f"{facts['processor']} ({facts['cpu']}), {console.counted(int(facts['cores']), 'core')}"
    console.print_text("; ".join([hardware, *([str(facts["gpu"])] if "gpu" in facts else []), versions]))
    print_result(result)


def _devices(device: str) -> list[str]:
    """The devices to measure on.

    Raises:
        ConfigError: an unknown device, or a GPU where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device should be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not num_gpus():
        raise ConfigError(
            f"--device cuda: torch sees no GPU on this machine: {why_no_gpu()}; --device cpu measures the CPU"
        )
    if device == "auto":
        return ["cpu", "cuda"] if num_gpus() else ["cpu"]
    return [device]


def _print_loss(document: dict[str, Any]) -> None:
    for result in document["runs"]:
        _print_loss_run(result)


def _print_loss_run(result: dict[str, Any]) -> None:
    console.print_text(
        f"{result['device']}, {console.counted(result['threads'], 'thread')}, load {result['load_average']:.1f}"
    )
    rows = []
    for case in result["cases"]:
        for contestant, milliseconds in case["ms"].items():
            ratio = case["ratios"].get(contestant)
            rows.append(
                (
                    f"{case['name']}: {case['anchors']} x {case['classes']} {case['dtype']}",
                    contestant,
                    f"{milliseconds:.2f}",
                    f"{milliseconds / case['ms']['copy']:.1f}",
                    "" if ratio is None else f"{ratio:.1f}",
                    f"{case['extra_memory'][contestant]:.2f}",
                )
            )
    console.print_table(["case", "", "ms", "x copy", "x focalbench", "extra memory / logits"], rows)
    for case in result["cases"]:
        wanted = case["wanted"].get("mmdetection style")
        if wanted is not None:
            console.print_text(
                f"{case['name']}: {case['ratios']['mmdetection style']:.1f}x the MMDetection style's speed "
                f"(wanted {wanted:g}), {case['extra_memory']['focalbench']:.2f} units of extra memory "
                f"(wanted at most {case['wanted']['extra_memory']:g})"
            )
        if "of_copy" in case["wanted"]:
            console.print_text(
                f"{case['name']}, {case['dtype']}: {case['ratios']['torchvision']:.1f}x the speed of torchvision's "
                f"operation (wanted {case['wanted']['torchvision']:g}), {case['of_copy']:.2f} of a copy (wanted at "
                f"most {case['wanted']['of_copy']:g}); as it is called {case['eager_ms']['focalbench']:.2f} ms"
            )
    if result["device"] == "cpu":
        console.print_text("GPU: not measured.")


@bench_app.command("evaluate")
def evaluate(
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; every evaluator runs once in each.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Time VOC mAP at the size of VOC07 test: against the classic loop (bit for bit) and faster-coco-eval."""
    from focalbench.benchmarks.evaluate import bench_evaluate

    _show(bench_evaluate(repeats=repeats), _print_evaluate, as_json)


def _print_evaluate(result: dict[str, Any]) -> None:
    case, ratios, wanted = result["case"], result["ratios"], result["wanted"]
    rows = [
        [name, f"{seconds:.3f}", *(f"{table[name]:.1f}" if name in table else "" for table in (ratios, wanted))]
        for name, seconds in result["seconds"].items()
    ]
    console.print_table(
        ["evaluator", "seconds", "x focalbench", "wanted at least"],
        rows,
        title=", ".join(f"{number} {name}" for name, number in case.items()),
        note="equal to the classic loop, bit for bit: " + ("yes" if result["equal_to_classic_loop"] else "NO"),
    )


@bench_app.command("step")
def step(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete_device)] = "auto",
    backbone: Annotated[
        str,
        typer.Option(help="resnet18 (compared with torchvision), tiny or efficientnet_lite0 (what makes it quick)."),
    ] = "resnet18",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; every contestant runs once in each.")] = 9,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Only focalbench: how step time grows with canvas, batch and classes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time a training step: against torchvision's RetinaNet, and the whole training against a static batch."""
    if backbone not in ("resnet18", "tiny", "efficientnet_lite0"):
        raise ConfigError(f"--backbone should be resnet18, tiny or efficientnet_lite0, got {backbone!r}")
    from focalbench.benchmarks.step import bench_growth, bench_step

    if backbone == "efficientnet_lite0" and not scaling:
        from focalbench.benchmarks.pretrained_step import bench_pretrained_step

        if device not in ("auto", "cpu"):
            raise ConfigError(f"--device: {device}: with --backbone efficientnet_lite0, only a CPU is measured")
        _show(bench_pretrained_step(repeats=repeats), _print_pretrained_step, as_json)
    elif scaling:
        _show(bench_growth(device=device, backbone=backbone, repeats=repeats), _print_growth, as_json)
    else:
        _show(bench_step(device=device, backbone=backbone, repeats=repeats), _print_step, as_json)


def _print_circumstances(result: dict[str, Any]) -> None:
    console.print_text(
        f"{result['device']}, {result['backbone']}, {result['precision']}, "
        f"{console.counted(result['threads'], 'thread')}, "
        f"load {result['load_average']:.1f}"
    )


def _print_growth(result: dict[str, Any]) -> None:
    _print_circumstances(result)
    base = ", ".join(f"{name} {value}" for name, value in result["base"].items())
    rows = [
        (axis, f"{value}", f"{ms:.1f}") for axis, grown in result["growth"].items() for value, ms in grown["ms"].items()
    ]
    console.print_table(["", "", "ms a step"], rows, title=f"one at a time; otherwise {base}")
    for axis, grown in result["growth"].items():
        what = "pixels" if axis == "canvas" else axis
        console.print_text(f"{axis}: time grows as {what} ^ {grown['exponent']:.2f}")


def _print_pretrained_step(result: dict[str, Any]) -> None:
    _print_circumstances(result)
    rows = [(name, f"{ms:.0f}", f"{result['images_per_s'][name]:.1f}") for name, ms in result["ms"].items()]
    console.print_table(
        ["", "ms a step", "images/s"], rows, title=f"batch {result['batch']}, {result['canvas']} px, on one batch"
    )


def _print_step(result: dict[str, Any]) -> None:
    _print_circumstances(result)
    rows = [
        (f"{case['size']} px, batch {case['batch']}", name, f"{ms:.1f}", f"{case['images_per_s'][name]:.1f}")
        for case in result["cases"]
        for name, ms in case["ms"].items()
    ]
    console.print_table(["case", "", "ms a step", "images/s"], rows)
    for case in result["cases"]:
        for name, ratio in case["speedup"].items():
            wanted = case["wanted_speedup"].get(name)
            console.print_text(
                f"{case['size']} px: {ratio:.2f}x {name}" + ("" if wanted is None else f" (wanted {wanted:g})")
            )
        console.print_text(
            f"{case['size']} px: end to end {case['end_to_end']:.2f} of the static step "
            f"(wanted {case['wanted_end_to_end']:.2f})"
        )
        console.print_text(
            f"{case['size']} px: {case['gflop']:.0f} Gflop a step, at {case['of_product_rate']:.2f} of the rate of a "
            "product of matrices"
        )


@bench_app.command("depthwise")
def depthwise(
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; both sides run every layer once in each.")] = 9,
    as_json: AsJson = False,
) -> None:
    """Time the depthwise convolutions of EfficientNet-Lite0 on a CPU, forward and backward: against torch's own."""
    from focalbench.benchmarks.depthwise import bench_depthwise

    _show(bench_depthwise(repeats=repeats), _print_depthwise, as_json)


def _print_depthwise(result: dict[str, Any]) -> None:
    console.print_text(
        f"{result['device']}, {result['precision']}, {console.counted(result['threads'], 'thread')}, load "
        f"{result['load_average']:.1f}"
    )
    rows = [
        (
            f"{layer['channels']} channels of {layer['side']} x {layer['side']}, kernel {layer['kernel']}, "
            f"stride {layer['stride']}",
            f"{layer['times']}",
            *(f"{ms:.1f}" for ms in layer["ms"].values()),
            f"{layer['ratio']:.2f}",
            f"{layer['max_difference']:.0e}",
        )
        for layer in result["layers"]
    ]
    rows.append(("all", "", *(f"{ms:.0f}" for ms in result["ms"].values()), f"{result['ratio']:.2f}", ""))
    console.print_table(
        ["layer", "times", *(f"{side}, ms" for side in result["ms"]), "x focalbench", "gradients differ by"],
        rows,
        title=f"batch {result['batch']}, {result['canvas']} px",
        note="gradients: the largest difference, in units of the largest gradient",
    )


@bench_app.command("sweep")
def sweep(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete_device)] = "auto",
    trials: Annotated[int, typer.Option(min=2, max=64, help="Trials of the sweep.")] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each trial.")] = 120,
    trials_per_device: Annotated[int, typer.Option(min=1, max=64, help="Trials that share a GPU.")] = 1,
    scaling: Annotated[bool, typer.Option("--scaling", help="Only the sweep, with 1, 2, 4 and 8 trials.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time a sweep against separate runs that decode their images: whole runs, process start and imports included."""
    from focalbench.benchmarks.sweep import bench_sweep, bench_trials

    if scaling:
        rows = bench_trials(device=device, steps=steps, trials_per_device=trials_per_device)
        _show({"scaling": rows}, lambda result: _print_scaling(result, steps), as_json)
    else:
        result = bench_sweep(device=device, num_trials=trials, steps=steps, trials_per_device=trials_per_device)
        _show(result, _print_sweep, as_json)


def _print_scaling(result: dict[str, Any], steps: int) -> None:
    cells = [(f"{r['trials']}", f"{r['seconds']:.1f}", f"{r['seconds_per_trial']:.1f}") for r in result["scaling"]]
    console.print_table(["trials", "seconds", "a trial"], cells, title=f"one sweep, {steps} steps a trial")


def _print_sweep(result: dict[str, Any]) -> None:
    case, wanted = result["case"], result["wanted"]
    console.print_text(
        f"{result['device']}, {result['precision']}, {console.counted(result['cores'], 'core')}, load "
        f"{result['load_average']:.1f}"
    )
    rows = [
        (
            name,
            f"{seconds:.1f}",
            f"{result['ratios'][name]:.2f}" if name in result["ratios"] else "",
            f"{wanted[name]:.1f}" if name in wanted else "",
            f"{result['step_seconds'][name]:.1f}",
            f"{result['step_ratios'][name]:.2f}" if name in result["step_ratios"] else "",
        )
        for name, seconds in result["seconds"].items()
    ]
    console.print_table(
        ["", "seconds", "x the sweep", "wanted at least", "of it in steps", "x the sweep"],
        rows,
        title=(
            f"{case['trials']} trials of {case['steps']} steps, batch {case['batch']}, {case['canvas']} px, "
            f"{case['images']} JPEG files of {case['image_side']} px; {case['side_by_side']} trials side by side"
        ),
        note="wall-clock time of whole runs: processes start, torch is imported, images are read; the sweep also "
        "checks the "
        "data set, fills an empty cache, evaluates and writes checkpoints",
    )


@bench_app.command("quality")
def quality(
    root: Annotated[
        Path | None,
        typer.Argument(metavar="[ROOT]", help="Folder that holds VOC2007, ...; without it a generated set."),
    ] = None,
    train: TrainSplits = None,
    val: ValSplits = None,
    levels: Annotated[
        str, typer.Option("--map", metavar="A,B,...", help="mAP values to reach, each above 0 and up to 1.")
    ] = "0.5,0.7,0.8",
    budget: Annotated[float, typer.Option(min=1, help="Seconds that the longest run of a contestant may take.")] = 300,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete_device)] = "auto",
    as_json: AsJson = False,
) -> None:
    """Time to train a detector to a given mAP: against torchvision's RetinaNet, tuned, and Ultralytics if installed.

    Without --train and --val: trainval and test, else train and test or train and val, as `focalbench init` finds them.
    """
    from focalbench.benchmarks.quality import bench_quality

    result = bench_quality(
        root,
        train=tuple(train or ()),
        val=tuple(val or ()),
        levels=_levels(levels),
        budget=budget,
        device=device,
        say=console.info,
    )
    _show(result, _print_quality, as_json)


def _levels(text: str) -> tuple[float, ...]:
    """The numbers in a list with commas.

    Raises:
        ConfigError: when one is not in (0, 1].
    """
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        levels = ()
    if not levels or not all(0 < level <= 1 for level in levels):
        raise ConfigError(f"--map should be a list such as 0.5,0.7 of mAP above 0 and up to 1, got {text!r}")
    return levels


def _print_quality(result: dict[str, Any]) -> None:
    data, levels, contestants = result["data"], result["levels"], result["contestants"]
    console.print_text(
        f"{result['device']}, {result['precision']}, {console.counted(result['threads'], 'thread')}, load "
        f"{result['load_average']:.1f}"
    )
    trainings = [
        (entry["name"], f"{one['steps']}", f"{one['seconds']:.0f}", f"{100 * one['mean_ap']:.1f}")
        for entry in contestants
        for one in entry["trainings"]
    ]
    console.print_table(["", "steps", "seconds", "mAP"], trainings, title="whole training runs, each by itself")
    console.print_table(
        ["", *(f"mAP {100 * level:g}" for level in levels)],
        [(entry["name"], *_times(entry, result["budget"])) for entry in contestants],
        title=(
            f"seconds from nothing to an mAP ({data['protocol']}) on {data['val_images']} images; "
            f"{data['train_images']} to train on, {data['classes']} classes, "
            f"{data['canvas'][1]} x {data['canvas'][0]} px"
        ),
        note="of the shortest training run on the ladder that reached it, from the start of its process to the end of "
        "training; only focalbench's holds its evaluation too",
    )
    for level, found in zip(levels, result["ratios"], strict=True):
        if found is not None:
            console.print_text(f"mAP {100 * level:g}: {found['ratio']:.1f}x the speed of the next, {found['peer']}")
    for entry in contestants:
        if entry["failed"]:
            console.print_text(f"{entry['name']}: {entry['failed']}")


def _times(entry: dict[str, Any], budget: float) -> list[str]:
    """A contestant's seconds to each level, or what there is instead."""
    best = max(entry["trainings"], key=lambda one: one["mean_ap"], default=None)
    tried = "" if best is None else f" (best {100 * best['mean_ap']:.1f} after {best['seconds']:.0f} s)"
    missed = f"not within {budget:g} s{tried}"
    return [missed if seconds is None else f"{seconds:.0f}" for seconds in entry["seconds_to"]]
