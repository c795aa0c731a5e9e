"""scripts/gpu_figures.py does what it says, as far as a CPU can show."""

import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_figures
import pytest
import torch
from gpu_figures import CONTEXT_LOST, FIGURES, NOT_ALL, PARTS, Part, measured
from gpu_parts import __main__ as parts_main
from gpu_parts import kernels, steps, trainings
from gpu_parts.run import Run, watched

from focalbench.benchmarks.step import as_in_a_training
from focalbench.training.loop import Meter

SCRIPT = Path(gpu_figures.__file__)

# ------------------------------------------------------------------------------------------- parts and their schedule


@pytest.fixture
def schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Any]:
    """Runs parts that are given as Python code; returns exit code, figures of the file, and requests."""

    def run(parts: dict[str, str], *options: str, limit: float = 60.0) -> tuple[int, list[dict], list[dict]]:
        requests: list[dict] = []

        def command(part: Part, given: Any, work: Path, seconds: float, known: set[str]) -> list[str]:
            requests.append({"part": part.name, "seconds": seconds, "known": known})
            return [sys.executable, "-c", f"known = {known!r}\n{parts[part.name]}"]

        monkeypatch.setattr(gpu_figures, "_command", command)
        monkeypatch.setattr(gpu_figures, "PARTS", tuple(Part(name, 1, limit) for name in parts))
        code = gpu_figures.main(["--out", str(tmp_path), "--work", str(tmp_path / "work"), *options])
        said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        written = [json.loads(line) for line in (tmp_path / FIGURES).read_text().splitlines()]
        assert written[len(written) - len(said) :] == said
        return code, written, requests

    return run


def _says(*cases: str) -> str:
    return "".join(f'print(\'{{"part": "a", "case": "{case}", "ms": 1.0}}\', flush=True)\n' for case in cases)


def test_the_expected_seconds_of_both_calls_fit() -> None:
    first, second = (
        [
            part
            for part in PARTS
            if (part.name in ("sweep", "determinism", "side_by_side", "without_search", "variants")) == late
        ]
        for late in (False, True)
    )
    assert sum(part.expected_s for part in first) <= 7 * 60
    assert sum(part.expected_s for part in second) <= 4 * 60
    assert [*first, *second] == list(PARTS)
    assert all(part.expected_s < part.limit_s for part in PARTS)
    assert {part.name for part in PARTS} == set(parts_main.PARTS) - {"pacer"}


def test_every_figure_is_in_the_file_as_soon_as_it_is_there(tmp_path: Path) -> None:
    """Also when the machine is taken away: here by a signal that nobody can handle."""
    code = (
        "import gpu_figures, sys, time\n"
        "gpu_figures.PARTS = (gpu_figures.Part('a', 1, 60),)\n"
        f"gpu_figures._command = lambda *_: [sys.executable, '-c', {_says('one') + 'import time; time.sleep(60)'!r}]\n"
        f"gpu_figures.main(['--out', {str(tmp_path)!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=SCRIPT.parent, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while time.monotonic() < until and not measured([tmp_path / FIGURES]):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert measured([tmp_path / FIGURES]) == {"a": {"one"}}


def test_what_is_measured_is_not_measured_again(schedule: Callable[..., Any], tmp_path: Path) -> None:
    broken = _says("one") + "import sys; sys.exit(1)"
    code, _, _ = schedule({"a": broken})
    assert code == 1
    code, figures, requests = schedule({"a": _says("two")})
    assert code == 0
    assert requests[0]["known"] == {"one"}
    assert [figure["case"] for figure in figures] == ["one", "end", "two", "end"]
    assert schedule({"a": _says("three")})[2] == []  # the part has ended well
    earlier = (tmp_path / FIGURES).rename(tmp_path / "earlier.jsonl")
    assert schedule({"a": "", "b": ""}, "--have", str(earlier))[2][0]["part"] == "b"


def test_half_lines_failures_and_what_was_left_out_are_no_figures(tmp_path: Path) -> None:
    file = tmp_path / FIGURES
    lines = [
        {"part": "a", "case": "good", "ms": 1},
        {"part": "a", "case": "bad", "failed": "RuntimeError: x"},
        {"part": "a", "case": "late", "left_out": "no time left"},
        {"part": "a", "case": "end", "ended": 1},
        {"part": "b", "case": "end", "ended": 0},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"part": "a", "case": "ha')
    assert measured([file, tmp_path / "missing"]) == {"a": {"good"}, "b": {"end"}}


def test_a_part_that_loses_the_gpu_goes_on_after_the_case_that_did_it(schedule: Callable[..., Any]) -> None:
    loses = _says("one", "two") + f"import sys; sys.exit({CONTEXT_LOST})"
    code, figures, requests = schedule({"a": f"if not known:\n {loses.replace(chr(10), chr(10) + ' ')}"})
    assert code == 0
    assert [request["known"] for request in requests] == [set(), {"one", "two"}]
    assert figures[-1]["ended"] == 0


def test_a_part_that_left_cases_out_is_no_fault_and_goes_on_next_time(schedule: Callable[..., Any]) -> None:
    assert schedule({"a": _says("one") + f"import sys; sys.exit({NOT_ALL})"})[0] == 0
    assert schedule({"a": ""})[2][0]["known"] == {"one"}


def test_a_part_that_takes_too_long_is_ended_and_the_next_one_begins(
    schedule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_figures, "LEAST_S", 0.0)
    code, figures, _ = schedule({"a": _says("one") + "import time; time.sleep(60)", "b": ""}, limit=1.5)
    assert code == 1
    assert [(figure["part"], figure["case"]) for figure in figures] == [("a", "one"), ("a", "end"), ("b", "end")]
    assert figures[1]["ended"] < 0
    assert figures[1]["part_s"] < 5


def test_no_part_begins_without_time(schedule: Callable[..., Any]) -> None:
    code, figures, requests = schedule({"a": "", "b": ""}, "--seconds", "5")
    assert code == 0
    assert requests == []
    assert {figure["left_out"] for figure in figures} == {"no time left"}


def test_parts_without_their_data_and_parts_left_out_do_not_begin(capsys: pytest.CaptureFixture) -> None:
    gpu_figures.main(["--list", "--sweep-data", "x", "--skip", "waits", "tests"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [
        *("machine", "step", "kernels", "graph", "cases", "sweep", "determinism", "side_by_side"),
        *("without_search", "variants", "all"),
    ]
    gpu_figures.main(["--list", "--data", "x", "--only", "training"])
    assert capsys.readouterr().out.split()[0] == "training"


def test_splits_that_are_not_there_are_told_before_any_part(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (lists := tmp_path / "VOC2007" / "ImageSets" / "Main").mkdir(parents=True)
    for name in ("train", "test"):
        (lists / f"{name}.txt").touch()
    data = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        gpu_figures.main(data)
    assert "trainval.txt: name splits that are there with --train and --val" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert gpu_figures.main([*data, "--train", "2007/train", "--only", "training", "--seconds", "1"]) == 0


def test_it_runs_from_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = (
        "import runpy, sys, json, gpu_figures\n"
        "sys.path[:] = [path for path in sys.path if 'focalbench' not in path]\n"
        "print(gpu_figures._environment()['PYTHONPATH'])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=SCRIPT.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr  # -S: no installed package is there, of focalbench or anyone
    assert done.stdout.strip().split(os.pathsep) == [str(SCRIPT.parent.parent), str(SCRIPT.parent)]


# ------------------------------------------------------------------------------------------------------ the parts


@pytest.fixture
def measure(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., dict[str, dict[str, Any]]]:
    """Runs a measurement on the CPU; returns its figures by case."""

    def run(work: Callable[[Run], None], **changes: Any) -> dict[str, dict[str, Any]]:
        (tmp_path / "runs").mkdir(exist_ok=True)
        request: dict[str, Any] = {
            "part": "a", "device": torch.device("cpu"), "work": tmp_path, "out": tmp_path, "known": frozenset(),
            "data": None, "train": ["2007/train"], "val": ["2007/val"], "sweep_data": None, "left": lambda: 600.0,
        }  # fmt: skip
        asked = Run(**{**request, **changes})
        work(asked)
        figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {figure["case"]: figure for figure in figures}

    return run


def test_the_step_is_raced_against_torchvisions(measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def bench(*, device: str, repeats: int, cases: object) -> dict[str, Any]:
        return {"device": device, "cases": [{"size": 64, "speedup": {"torchvision, tuned": 1.5}}]}

    monkeypatch.setattr(steps, "bench_step", bench)
    found = measure(steps.step)["bench step"]
    assert (found["size"], found["speedup"]) == (64, {"torchvision, tuned": 1.5})


def test_the_loss_is_raced_and_the_kernel_compared_with_float64(measure: Callable[..., Any]) -> None:
    assert all(case["of_copy"] > 0 for case in measure(kernels.loss)["bench loss"]["cases"])
    errors = {case: found["relative_error"] for case, found in measure(kernels.kernel).items()}
    assert len(errors) == 6
    assert all(error < (1e-6 if "float32" in case else 1e-2) for case, error in errors.items())


def test_matching_is_compared_with_the_cpu(measure: Callable[..., Any]) -> None:
    (found,) = measure(kernels.matching_of_anchors).values()
    assert found["equals_the_cpu"]


def test_the_places_where_a_step_waits_are_told_with_their_number(
    measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(meter: Meter, values: object) -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=2)

    assert [found["places"] for found in measure(steps.waits).values()] == [{}, {}]
    monkeypatch.setattr(Meter, "add", read)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of steps that are not watched
        waiting = measure(steps.waits)
    for found in waiting.values():
        ((place, number),) = found["places"].items()
        assert place.startswith("scripts/gpu_parts/steps.py:")
        assert number == 3


def test_recorded_steps_are_compared_with_plain_ones(measure: Callable[..., Any]) -> None:
    for found in measure(steps.graph).values():
        assert found["largest_difference"] == found["between_two_plain_runs"] == 0
        assert found["plain"][0] != found["plain"][1]


def test_a_pace_comes_with_and_without_data(measure: Callable[..., Any]) -> None:
    def one(run: Run) -> None:
        config = steps.step_config(run, "tiny", 64, 2)
        run.measure("one", lambda: steps.pace(run, config, record=False))

    found = measure(one)["one"]
    assert found["end_to_end"] == pytest.approx(found["static_ms"] / found["whole_ms"], rel=1e-3)
    assert found["images_per_s"] == pytest.approx(2e3 / found["whole_ms"], rel=1e-3)


def test_a_whole_training_brings_its_speed_and_map_and_is_evaluated(measure: Callable[..., Any], trained: Any) -> None:
    found = measure(trainings.training, data=str(trained.data_root), known=frozenset({"graph"}))["eager"]
    assert (found["steps"], found["trials"], found["train_images"]) == (3, 1, 12)
    assert found["images_per_s"] > 0
    evaluated = measure(trainings.evaluation)
    assert evaluated["first"]["mean_ap"] == evaluated["again"]["mean_ap"] == pytest.approx(found["val/mAP"], abs=1e-5)


def test_a_process_searches_algorithms_or_does_not(
    measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuDNN's answers are kept for the process, whether they were searched or not."""
    seen: list[bool] = []
    monkeypatch.setattr(steps, "pace", lambda *_, **__: seen.append(torch.backends.cudnn.benchmark) or {})
    with as_in_a_training():
        assert len(measure(steps.variants)) == len(seen)
        assert set(seen) == {True}
        seen.clear()
        assert len(measure(steps.without_search)) == len(seen) == 2
        assert set(seen) == {False}


def test_the_pace_of_a_training_is_also_told_without_its_start(tmp_path: Path) -> None:
    lines = [{"step": step, "perf/time_s": seconds} for step, seconds in ((50, 10.0), (100, 20.0), (200, 30.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    result = {"steps": 200, "train_s": 30.0, "images_per_s": 200 * 16 / 30}
    assert trainings._settled_pace(tmp_path, result) == pytest.approx(160)
    (tmp_path / "metrics.jsonl").write_text("")
    assert trainings._settled_pace(tmp_path, result) is None


def test_trainings_that_fail_are_no_figures_of_determinism(
    measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _stand_in(tmp_path, monkeypatch, "import sys\nsys.exit('no such device')\n")
    found = measure(trainings.determinism)
    assert list(found) == ["twice", "stopped and gone on with", "graph against eager"]
    assert "first: exit code 1: no such device" in found["twice"]["failed"]
    assert "stopped after step 0 of 12" in found["stopped and gone on with"]["failed"]


def _stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Makes ``code`` what ``python -m focalbench`` runs."""
    (package := folder / "stand-in" / "focalbench").mkdir(parents=True)
    (package / "__init__.py").touch()  # goes before one that is installed
    (package / "__main__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(trainings, "ROOT", package.parent)


def test_processes_side_by_side_are_asked_together(
    measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = "import sys\nprint('warm', flush=True)\nfor line in sys.stdin: print(3.0 + len(line), flush=True)"
    monkeypatch.setattr(steps, "PACER", [sys.executable, "-c", answers])
    found = measure(steps.side_by_side)
    assert {name: pace["images_per_s"] for name, pace in found.items()} == {
        "1 eager": 9.0, "2 eager": 18.0, "1 graph": 9.0, "2 graph": 18.0
    }  # fmt: skip
    assert measure(steps.side_by_side, known=frozenset(found)) == {}


def test_one_of_them_trains_when_it_is_asked(
    measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def pace(run: Run) -> None:
        steps.pace_on_demand(run)
        warm, *answers = capsys.readouterr().out.splitlines()
        assert warm == "warm"
        assert [float(answer) > 0 for answer in answers] == [True, True]

    monkeypatch.setattr(sys, "stdin", io.StringIO("eager\ngraph\n"))
    measure(pace)


def test_a_sweep_that_time_cuts_off_brings_what_is_done(
    measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "import json, pathlib, signal, sys, time\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1], 'one')\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "out.mkdir(parents=True)\n"
        "(out / 'result.json').write_text(json.dumps({'val/mAP': 0.5, 'device': 'cpu'}))\n"
        "time.sleep(60)\n"
    )
    _stand_in(tmp_path, monkeypatch, code)
    monkeypatch.setattr(trainings, "_STOPS_S", 598.5)

    def sweep(run: Run) -> None:
        run.measure("sweep", lambda: trainings.focalbench_run(run, "table", tmp_path / "x.yaml", []))

    found = measure(sweep)["sweep"]
    assert (found["trials"], found["val/mAP"], found["left_out"]) == (1, 0.5, "the rest: no time left")
    assert found["command_s"] < 10


def test_only_what_waits_for_the_gpu_is_noted(measure: Callable[..., Any]) -> None:
    def warn(run: Run) -> None:
        with watched(run) as caught:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("a prototype feature", stacklevel=1)
        assert [str(one.message) for one in caught] == ["called a synchronizing CUDA operation"]

    measure(warn)


def test_a_case_that_fails_leaves_its_reason_and_the_others_go_on(measure: Callable[..., Any]) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("out of memory")

    def both(run: Run) -> None:
        run.measure("bad", fail)
        run.measure("good", lambda: {"ms": 1.23456789})
        assert run.exit_code() == 1

    found = measure(both)
    assert found["bad"]["failed"] == "RuntimeError: out of memory"
    assert found["good"]["ms"] == 1.2346


def test_known_cases_and_cases_without_time_are_not_measured(measure: Callable[..., Any]) -> None:
    def two(run: Run) -> None:
        run.measure("known", pytest.fail)
        assert run.exit_code() == 0
        run.measure("late", pytest.fail, needs_s=5.0)
        assert run.exit_code() == NOT_ALL

    found = measure(two, known=frozenset({"known"}), left=lambda: 4.0)
    assert set(found) == {"late"}
    assert found["late"]["left_out"] == "no time left"


def test_two_curves_are_compared_step_by_step(tmp_path: Path) -> None:
    for name, values in (("one", [1.0, 2.0]), ("other", [1.0, 2.2])):
        folder = tmp_path / name / "trial"
        folder.mkdir(parents=True)
        lines = [json.dumps({"step": step, "train/loss": value}) for step, value in enumerate(values)]
        (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 2, "tra']))
        (folder / "result.json").write_text('{"val/mAP": 0.5}')
    found = trainings._same(tmp_path / "one", tmp_path / "other")
    assert found["largest_difference"] == pytest.approx(0.1)
    assert (found["steps_compared"], found["map"]) == (2, [0.5, 0.5])
