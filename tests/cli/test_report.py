"""The command ``report``: where the page goes, and how it answers bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from focalbench import cli


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Two arms of two seeds, one trial of which failed."""
    run = tmp_path / "runs" / "pair"
    for arm in ("ce", "focal"):
        for seed in (0, 1):
            folder = run / f"{arm}-s{seed}-0badcafe"
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(yaml.safe_dump({"name": "pair", "seed": seed, "loss": {"name": arm}}))
            result = {"arm": arm, "seed": seed, "val/mAP": 0.5 + seed / 10, "AP": {"cat": 0.5}, "protocol": "voc07"}
            (folder / "result.json").write_text(json.dumps(result))
            (folder / "status.json").write_text(json.dumps({"state": "done"}))
    (run / "focal-s1-0badcafe" / "status.json").write_text('{"state": "failed", "step": 4, "error": "loss is nan"}')
    return run


def report(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["focalbench", "report", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_page_lies_in_the_run_and_its_path_is_printed(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert report(monkeypatch, run_folder) == 0
    out, err = capsys.readouterr()
    assert out == f"{run_folder / 'report.html'}\n"
    assert "3 trials in 2 arms, 1 not counted" in err
    assert "loss is nan" in (run_folder / "report.html").read_text()
    assert report(monkeypatch, run_folder) == 0  # the page in the run is no trial


def test_page_of_several_paths_and_with_a_name(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report(monkeypatch, *sorted(run_folder.iterdir())) == 0
    assert (tmp_path / "report.html").exists()
    assert report(monkeypatch, run_folder, "-o", "new/page.html", "--baseline", "focal") == 0
    assert "val/mAP against focal" in (tmp_path / "new" / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "no trials here"),
        (["runs/pair", "-o", "empty"], "-o empty: is a folder"),
        (["runs/pair", "--baseline", "fcal"], "did you mean 'focal'"),
        (["runs/pair/focal-s1-0badcafe"], "loss is nan"),
    ],
)
def test_bad_input_is_answered_in_words(
    arguments: list[str],
    words: str,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert report(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) <= 20
    assert "Traceback" not in err


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = "import sys, focalbench.cli.report; print({'torch', 'matplotlib', 'numpy', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_making_a_page_needs_no_torch(run_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from focalbench.report.html import write_report; "
        f"write_report([Path({str(run_folder)!r})], Path({str(run_folder / 'page.html')!r})); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_figures_for_a_paper_lie_where_it_says(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert report(monkeypatch, run_folder, "--figures", tmp_path / "figures") == 0
    page, *files = capsys.readouterr().out.splitlines()
    assert page == str(run_folder / "report.html")
    assert f"{tmp_path / 'figures' / 'verdicts.pdf'}" in files
    assert all(Path(file).stat().st_size > 1000 for file in files)
