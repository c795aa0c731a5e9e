"""The command line as a whole: quick to start, right exit codes, short messages, no traceback."""

import json
import os
import subprocess
import sys

import pytest
import typer

from focalbench import __version__, cli
from focalbench.errors import ConfigError, DivergedError

HEAVY = ("torch", "torchvision", "numpy", "scipy", "pydantic", "PIL", "matplotlib", "tensorboard")


def focalbench(*arguments, stdout=subprocess.PIPE, **environment):
    return subprocess.run(
        [sys.executable, "-m", "focalbench", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "80", **environment},
        check=False,
    )


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "sys.argv = ['focalbench', '--help']\n"
        "from focalbench.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Commands" in done.stdout


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("focalbench com", "compare"),
        ("focalbench data an", "anchors"),
        ("focalbench run --dr", "--dry-run"),
        ("focalbench run x.yaml -s optim.l", "optim.lr="),
        ("focalbench run x.yaml --device c", "cuda"),
        ("focalbench compare RUN --baseline fo", "focal-matched"),
        ("focalbench compare RUN --metric AP/d", "AP/dog"),
        ("focalbench compare RUN/kept.csv --baseline gh", "ghm"),
    ],
)
def test_the_shell_completes_commands_options_and_their_values(typed, expected, write_trial):
    trial = write_trial("runs/x/ce-s0-1")
    row = {"name": "f", "arm": "focal-matched", "seed": 0, "hash": "1", "differs": {}}
    (trial.parent / "sweep.json").write_text(json.dumps({"trials": [row]}))
    (trial.parent / "kept.csv").write_text("trial,arm,seed,config_hash,state,val/mAP\nghm-s0,ghm,0,1,done,0.5\n")
    typed = typed.replace("RUN", str(trial.parent))
    code = "import sys; sys.argv = ['focalbench']; from focalbench.cli import main; main()"
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    environment = {**os.environ, "_FOCALBENCH_COMPLETE": "complete_bash", **words}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert expected in done.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["run", "a.yaml", "optim.steps=30"], "Did you mean -s optim.steps=30?"),
        (["validate", "a.yaml", "--loss.gamma=3"], "Did you mean -s loss.gamma=3?"),
        (["run", "a.yaml", "--out=x", "--fesh"], ""),
        (["validate", "-s", "seed=1"], ""),
        (["compare", "runs/x", "seed=1", "--nope"], ""),
    ],
)
def test_a_setting_without_its_option_is_seen(arguments, hint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["focalbench", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    text = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert (hint in text) if hint else ("-s" not in text.replace("-s seed=1", ""))


def test_version_and_usage():
    done = focalbench("--version")
    assert (done.returncode, done.stdout) == (0, f"focalbench {__version__}\n")
    for arguments in (["nonsense"], ["validate"], ["show", "--nope"], ["validate", "a.yaml", "b.yaml"]):
        done = focalbench(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert 0 < len(done.stderr.splitlines()) <= 20


def test_user_fault_ends_with_2_on_stderr_without_a_traceback(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("loss: {gama: 1}")
    done = focalbench("validate", path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{path}:1:8: loss.gama: unknown key; did you mean 'gamma'?")
    assert "Traceback" not in done.stderr
    assert "Traceback" in focalbench("validate", path, FOCALBENCH_DEBUG="1").stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["schema", "validate"])  # more than a buffer holds, and less
def test_full_disk_behind_stdout(tmp_path, command):
    (tmp_path / "a.yaml").write_text("name: a")
    arguments = [tmp_path / "a.yaml"] if command == "validate" else []
    with open("/dev/full", "w") as full:
        done = focalbench(command, *arguments, stdout=full)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_reader_that_goes_away_is_no_fault():
    command = f"{sys.executable} -m focalbench schema | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["{", "0"]
    assert done.stderr == ""


def test_closed_streams():
    command = f"{sys.executable} -m focalbench schema >&- 2>&- <&-; echo $?"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_terminal_that_cannot_show_a_character(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: {classes: [é]}", encoding="utf-8")
    done = focalbench("show", path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert r'classes: ["\xE9"]' in done.stdout  # as YAML writes it; a "?" would be another class


def raising(monkeypatch, error):
    def app():
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.delenv("FOCALBENCH_DEBUG", raising=False)
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_exit_codes_follow_the_error(monkeypatch, capsys):
    assert raising(monkeypatch, ConfigError("key: reason")) == 2
    assert capsys.readouterr().err == "key: reason\n"
    assert raising(monkeypatch, DivergedError("step 3")) == 3
    assert raising(monkeypatch, PermissionError(13, "Permission denied", "/x/y")) == 2
    assert "/x/y: Permission denied" in capsys.readouterr().err


def test_long_messages_are_cut_to_twenty_lines(monkeypatch, capsys):
    raising(monkeypatch, ConfigError("\n".join(f"line {i}" for i in range(50))))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20
    assert lines[-1] == "... and 31 more lines"


def test_fault_of_focalbench_ends_with_1_and_says_how_to_see_more(monkeypatch, capsys):
    assert raising(monkeypatch, ZeroDivisionError("by zero")) == 1
    text = capsys.readouterr().err
    assert "ZeroDivisionError: by zero" in text
    assert "FOCALBENCH_DEBUG=1" in text
    assert "Traceback" not in text


def test_memory_and_a_gpu_that_give_out_are_no_fault_of_focalbench(monkeypatch, capsys):
    free = "GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free."
    assert raising(monkeypatch, RuntimeError(f"CUDA out of memory. Tried to allocate 2.00 GiB. {free}")) == 2
    assert raising(monkeypatch, MemoryError()) == 2
    assert raising(monkeypatch, RuntimeError("CUDA error: device-side assert triggered")) == 3
    lines = capsys.readouterr().err.splitlines()
    way_out = "close what else is using it (nvidia-smi shows what is on a GPU), or use --device cpu or another GPU"
    assert lines[:2] == [
        f"the GPU is out of memory: 2.00 GiB requested, and 1.0 of 8.0 GiB were free; {way_out}",
        f"this machine is out of memory: MemoryError; {way_out}",
    ]
    assert lines[2].startswith("the GPU is lost to this process: CUDA error: device-side assert triggered; ")


def test_every_command_is_documented():
    commands = typer.main.get_command(cli.app).commands
    assert {"run", "compare", "report", "data", "init", "validate", "show", "schema", "doctor"} <= set(commands)
    for name, command in commands.items():
        assert command.help, name
