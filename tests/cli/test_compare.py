"""The command ``compare``: what it prints, and how it answers bad input."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from focalbench import cli
from focalbench.analysis import tables
from focalbench.analysis.comparison import compare_trials
from focalbench.config.identity import IDENTITY_VERSION
from focalbench.records.reader import read_trials

CE = [0.700, 0.705, 0.695, 0.702, 0.698, 0.701]


def write_trial(run: Path, arm: str, seed: int, value: float | None, loss: dict) -> Path:
    folder = run / f"{arm}-s{seed}-0badcafe"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "loss": loss, "optim": {"batch_size": 4}}))
    result = {"arm": arm, "seed": seed, "val/mAP": value, "AP": {"cat": value}, "protocol": "voc07", "steps": 9}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "status.json").write_text(json.dumps({"state": "done"}))
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """CE, focal on a 2 x 2 grid one point above it for each step, and one trial that failed."""
    run = tmp_path / "runs" / "grid"
    for seed, value in enumerate(CE):
        write_trial(run, "ce", seed, value, {"name": "ce"})
        for i, gamma in enumerate((1.0, 2.0)):
            for j, alpha in enumerate((0.25, 0.5)):
                loss = {"name": "focal", "gamma": gamma, "alpha": alpha}
                gain = 0.01 * (i + j) + 0.0006 * (seed % 2)
                write_trial(run, f"gamma={gamma:g}-alpha={alpha:g}", seed, value + gain, loss)
    write_trial(run, "late", 0, None, {"name": "ghm"})
    (run / "late-s0-0badcafe" / "status.json").write_text('{"state": "failed", "step": 4, "error": "loss is nan"}')
    return run


def compare(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["focalbench", "compare", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_table_verdicts_and_heat_map(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert compare(monkeypatch, run_folder) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "val/mAP in points, differences from ce"
    best = next(line for line in lines if line.startswith("gamma=2-alpha=0.5"))
    assert "better" in best
    assert "+2.03 " in best
    assert best.split()[2] == "72.05"  # of 0.7003 and the gain
    assert any(line.startswith("ce ") and line.endswith("baseline") for line in lines)
    assert "loss.alpha \\ loss.gamma" in out or "loss.gamma \\ loss.alpha" in out
    assert out.count("##") == 2  # the highest cell, and the legend
    assert "72.05 +-0.37 ##" in out
    assert out.count("+-: standard deviation over seeds") == 1
    assert "late-s0-0badcafe: failed at step 4: loss is nan" in out
    assert "Holm-corrected over 4 arms, p < 0.05" in out
    assert "seeds needed to find a true difference of 1 point in 8 of 10 sweeps: about " in out
    assert any(line.startswith("late ") and "unstable: failed 1 of 1 seeds" in line for line in lines)
    assert "test-set noise was not measured" in err
    assert compare(monkeypatch, run_folder, "--no-test-noise") == 0
    assert capsys.readouterr().err == ""


def test_arms_are_printed_from_the_best_mean_down_and_coloured_by_verdict(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert compare(monkeypatch, run_folder, "--csv", tmp_path / "arms.csv", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    with (tmp_path / "arms.csv").open(newline="") as opened:
        written = [row["arm"] for row in csv.DictReader(opened)]
    assert written == [arm["arm"] for arm in document["arms"]] + ["late"]
    assert document["arms"][0]["arm"] == "ce"  # the order of the sweep
    assert compare(monkeypatch, run_folder) == 0
    lines = capsys.readouterr().out.splitlines()[3:8]
    means = [float(line.split()[2]) for line in lines]
    assert means == sorted(means, reverse=True)
    assert lines[-1].split()[0] == "ce"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert compare(monkeypatch, run_folder, "--baseline", "gamma=1-alpha=0.5") == 0
    out = capsys.readouterr().out
    assert "\x1b[32mbetter" in out
    assert "\x1b[31mworse" in out
    assert "\x1b[1mbaseline" in out
    assert "\x1b[1mgamma=1-alpha=0.5" in out


def test_arms_of_a_metric_for_which_less_is_better_begin_with_the_least(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for number, folder in enumerate(sorted(run_folder.glob("*-s0-*"))):
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {"wall_s": 100 - number, "num_parameters": number}))
    assert compare(monkeypatch, run_folder, "--metric", "time") == 0
    times = [float(line.split()[2]) for line in capsys.readouterr().out.splitlines()[3:8]]
    assert times == sorted(times)
    assert times[0] < times[-1]
    assert compare(monkeypatch, run_folder, "--metric", "num_parameters") == 0  # neither: the order of the sweep
    arms = [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:8]]
    assert arms[0] == "ce"


def test_reproduction_card_has_both_p_and_says_when_values_are_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "runs" / "gamma"
    for seed, value in enumerate(CE):
        for gamma in (0.5, 1.0, 2.0):
            folder = write_trial(run, f"gamma={gamma:g}", seed, value + 0.05 * gamma, {"name": "focal", "gamma": gamma})
            config = yaml.safe_load((folder / "config.yaml").read_text()) | {"model": {"name": "retinanet"}}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert compare(monkeypatch, run) == 0
    card = capsys.readouterr().out.partition("Beside the published figures")[2]
    assert "p over seeds" in card
    assert "p over values" in card
    assert ".1667" in card
    assert "underpowered" in card
    assert "3 values are too few for a claim" in card
    assert compare(monkeypatch, run, "--json") == 0
    (document,) = json.loads(capsys.readouterr().out)["reproduction"]
    assert document["p_permutation"] == pytest.approx(1 / 6)


def test_json_is_one_document_and_nothing_else(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert compare(monkeypatch, run_folder, "--json", "--baseline", "gamma=1-alpha=0.25") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["baseline"] == "gamma=1-alpha=0.25"
    assert {"arm", "n", "mean", "sd", "seeds", "values"} <= document["arms"][0].keys()
    assert {"arm", "n", "difference", "ci", "p", "verdict"} <= document["comparisons"][0].keys()
    assert {entry["arm"]: entry["verdict"] for entry in document["comparisons"]}["gamma=2-alpha=0.5"] == "better"
    assert document["unfinished"][0]["reason"] == "failed at step 4: loss is nan"


def test_one_seed_in_json_has_nulls_for_what_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_trial(tmp_path / "r", "ce", 0, 0.5, {"name": "ce"})
    write_trial(tmp_path / "r", "focal", 0, 0.6, {"name": "focal"})
    assert compare(monkeypatch, tmp_path, "--json") == 0
    entry = json.loads(capsys.readouterr().out)["comparisons"][0]
    assert entry["verdict"] == "one seed: no claim"
    assert entry["p"] is None
    assert entry["ci"] == [None, None]
    assert compare(monkeypatch, tmp_path) == 0
    assert "one seed: no claim" in capsys.readouterr().out


def test_csv_has_one_row_an_arm(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "arms.csv"
    assert compare(monkeypatch, run_folder, "--csv", file) == 0
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert rows[0]["arm"] == "ce"
    assert len(rows) == 6
    assert rows[0]["verdict"] == ""
    assert (rows[-1]["arm"], rows[-1]["verdict"], rows[-1]["failed"]) == ("late", "unstable", "0")
    best = next(row for row in rows if row["arm"] == "gamma=2-alpha=0.5")
    assert float(best["ci_low"]) < float(best["difference"]) < float(best["ci_high"])
    assert (best["n"], best["pairs"], best["seeds"], best["verdict"]) == ("6", "6", "0 1 2 3 4 5", "better")


def test_arms_stopped_early_have_their_row_and_their_reason(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for seed in (0, 1):
        write_trial(run_folder, "given-up", seed, None, {"name": "ghm", "gamma": 9})
        folder = run_folder / f"given-up-s{seed}-0badcafe"
        (folder / "result.json").unlink()
        status = {"state": "stopped", "arm": "given-up", "step": 3, "steps": 9, "error": "by sweep.search"}
        (folder / "status.json").write_text(json.dumps(status))
    assert compare(monkeypatch, run_folder, "--csv", tmp_path / "arms.csv") == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("given-up "))
    assert row.split()[1:] == ["0", "not", "comparable"]
    assert "given-up is not comparable with ce: stopped at step 3 of 9: by sweep.search" in out
    with (tmp_path / "arms.csv").open(newline="") as opened:
        last = list(csv.DictReader(opened))[-1]
    assert (last["arm"], last["n"], last["mean"], last["verdict"]) == ("given-up", "0", "", "not comparable")


def test_a_sweep_under_way_is_a_line_not_a_list(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"name": f"later-s{seed}", "arm": "later", "seed": seed, "hash": f"{seed:08x}"} for seed in range(40)]
    (run_folder / "sweep.json").write_text(json.dumps({"trials": rows}))
    assert compare(monkeypatch, run_folder, run_folder) == 0
    out = capsys.readouterr().out
    assert "Not counted (41):\n  late-s0-0badcafe: failed at step 4: loss is nan\n  40 not started: " in out
    assert "later-s" not in out


def test_two_keys_changed_together_have_a_column_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for gamma, alpha in ((0.5, 0.5), (1, 0.25), (2, 0.25), (5, 0.25)):
        loss = {"name": "focal", "gamma": gamma, "alpha": alpha}
        write_trial(tmp_path / "r", f"gamma={gamma}", 0, gamma / 10, loss)
    assert compare(monkeypatch, tmp_path) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["loss.gamma", "loss.alpha", "mean", "sd", "n"] in lines
    assert ["5", "0.25", "50.00", "-", "1", "|" + "#" * 24] in lines


def test_other_metrics(run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert compare(monkeypatch, run_folder, "--metric", "AP/cat") == 0
    assert capsys.readouterr().out.startswith("AP/cat in points, differences from ce")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "missing: no such folder"),
        (["."], "no trials here"),
        (["runs", "--metric", "val/mAPP"], "did you mean 'val/mAP'"),
        (["runs", "--baseline", "cee"], "did you mean 'ce'"),
    ],
)
def test_bad_input_is_two_lines_and_exit_code_two(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    words: str,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path if arguments[0] == "runs" else tmp_path / "empty")
    assert compare(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 20


def test_comparing_loads_nothing_slow(run_folder: Path) -> None:
    code = (
        "import sys; from focalbench import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'scipy.stats', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", str(run_folder)], capture_output=True, text=True, timeout=120
    )
    assert "val/mAP" in done.stdout
    assert done.stderr.splitlines()[-1] == "set()"


def test_tables_for_papers_are_those_of_the_screen(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    files = [tmp_path / "arms.tex", tmp_path / "arms.md"]
    assert compare(monkeypatch, run_folder, "--latex", files[0], "--markdown", files[1]) == 0
    found = compare_trials(read_trials([run_folder]))
    assert [file.read_text(encoding="utf-8") for file in files] == [tables.latex(found), tables.markdown(found)]
    assert "better" in capsys.readouterr().out


def test_arms_that_differ_in_the_same_way_share_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "runs" / "mixed"
    for seed, value in enumerate(CE):
        write_trial(run, "ce", seed, value, {"name": "ce"})
        for number in range(10):
            folder = write_trial(run, f"longer-{number}", seed, value, {"name": "focal", "gamma": float(number)})
            result = json.loads((folder / "result.json").read_text()) | {"steps": 99}
            (folder / "result.json").write_text(json.dumps(result))
    assert compare(monkeypatch, run, "--baseline", "ce") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "not comparable with ce" in line]
    assert line.startswith("longer-0, longer-1, ")
    assert " and 2 more are not comparable with ce: " in line


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Two arms of six seeds as a table; the run beside it has the same values, but for one arm's."""
    lines = ["trial,arm,seed,config_hash,state,val/mAP"]
    for seed, value in enumerate(CE):
        for arm, shift in (("ce", 0.0), ("focal", 0.1)):
            lines.append(f"{arm}-s{seed},{arm},{seed},,done,{value + shift}")
            moved = shift - 0.05 if arm == "focal" else shift
            write_trial(tmp_path / "runs" / "again", arm, seed, value + moved + 0.001 * (seed % 2), {"name": arm})
    path = tmp_path / "kept.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_kept_table_is_compared_like_the_run_it_came_from(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert compare(monkeypatch, kept) == 0
    out, err = capsys.readouterr()
    assert "+10.00" in out
    assert "Beside" not in out
    assert "localhost" not in out  # there is nothing for TensorBoard to show
    assert "detections" not in err  # nor to resample


def test_a_run_beside_a_kept_table_says_whether_they_agree(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "runs" / "again"
    assert compare(monkeypatch, run, kept) == 0
    out = capsys.readouterr().out
    assert "Beside" in out
    (focal,) = re.findall(r"^focal .*disagrees$", out, re.MULTILINE)
    assert "-5.00" in focal
    assert re.search(r"^ce \(own mean\) .*agrees$", out, re.MULTILINE)
    assert "The two disagree on focal." in out
    assert compare(monkeypatch, run, kept, "--json") == 0
    document = json.loads(capsys.readouterr().out)["agreement"]
    assert document["word"] == "disagrees"
    assert [entry["arm"] for entry in document["arms"]] == ["ce", "focal"]


def test_two_tables_are_held_against_each_other_and_more_are_refused(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    again = tmp_path / "again.csv"
    again.write_bytes(kept.read_bytes())
    assert compare(monkeypatch, kept, again) == 0
    assert "all values of the 2 arms that both have (12) are the same" in capsys.readouterr().out
    assert compare(monkeypatch, kept, again, tmp_path / "third.csv") == 2
    assert "too many tables" in capsys.readouterr().err


def test_what_cannot_be_held_against_a_table_is_compared_all_the_same(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "runs" / "again"
    assert compare(monkeypatch, run, kept, "--baseline", "focal", "--metric", "AP/cat") == 2
    out, err = capsys.readouterr()
    assert "differences from focal" in out
    assert "kept.csv: nothing can be held against it: --metric AP/cat: no such metric" in err
    kept.write_text(kept.read_text().replace(",ce,", ",other,"))
    assert compare(monkeypatch, run, kept) == 2
    assert "kept.csv: nothing can be held against it: no arm 'ce' to start from" in capsys.readouterr().err


def test_a_file_that_is_no_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("a,b\n1,2\n")
    assert compare(monkeypatch, path) == 2
    assert "notes.csv: no column trial, arm, seed, state, val/mAP" in capsys.readouterr().err


def test_no_table_is_written_over_what_is_compared_or_over_another(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = kept.read_bytes()
    for option in ("--csv", "--latex", "--markdown"):
        assert compare(monkeypatch, kept, option, tmp_path / "." / kept.name) == 2
        assert "kept.csv: is what is compared; name another file" in capsys.readouterr().err
    assert kept.read_bytes() == before
    assert compare(monkeypatch, kept, "--latex", tmp_path / "a", "--markdown", tmp_path / "a") == 2
    assert "a: is to hold another table already" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert compare(monkeypatch, kept, "--latex", "/dev/null", "--markdown", "/dev/null") == 0
    run = next(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    trial = next(path for path in run.iterdir() if path.is_dir())
    for file, reason in (
        (run / "results.csv", "is what is compared"),
        (run / "sweep.json", "is what is compared"),
        (trial / "result.json", "lies in the folder of a trial"),
    ):
        assert compare(monkeypatch, run, "--csv", file) == 2
        assert f"{file}: {reason}; name another file" in capsys.readouterr().err


def test_a_folder_of_which_only_the_table_was_kept_names_it(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (folder := tmp_path / "kept").mkdir()
    (folder / "results.csv").write_bytes(kept.read_bytes())
    row = {"name": "ce-s0-aa", "arm": "ce", "seed": 0, "hash": "aa", "differs": {}}
    (folder / "sweep.json").write_text(json.dumps({"identity": IDENTITY_VERSION, "trials": [row]}))
    assert compare(monkeypatch, folder) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"what was kept of it is read from the table: focalbench compare {folder}/results.csv"
