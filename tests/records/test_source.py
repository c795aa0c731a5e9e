"""What a sweep was started from: files as written, commands, versions, the commit."""

import subprocess
from pathlib import Path

import pytest

from focalbench.config.load import Written, load_config, load_mapping
from focalbench.records.source import FOLDER, keep_source, read_commands
from focalbench.version import __version__

TEXT = "# a remark\nname: x\nloss: {gamma: 2.0}\n"


def test_a_file_is_kept_as_it_was_written_and_each_command_once(tmp_path: Path) -> None:
    sweep, written = tmp_path / "runs" / "x", Written(TEXT, ("sweep.seeds=2",))
    for _ in range(2):
        keep_source(sweep, written, "focalbench run x.yaml -s sweep.seeds=2")
    (found,) = read_commands(sweep)
    assert (found.command, found.overrides) == ("focalbench run x.yaml -s sweep.seeds=2", ["sweep.seeds=2"])
    assert found.versions["focalbench"] == __version__
    assert found.versions.keys() == {"focalbench", "torch", "torchvision"}
    assert (sweep / FOLDER / found.file).read_text() == TEXT


def test_a_changed_file_stands_beside_the_old_one(tmp_path: Path) -> None:
    texts = (TEXT, TEXT + "seed: 1\n", TEXT)
    for text in texts:
        keep_source(tmp_path, Written(text), "focalbench run x.yaml")
    files = [entry.file for entry in read_commands(tmp_path)]
    assert files[0] == files[2] != files[1]
    assert tuple((tmp_path / FOLDER / file).read_text() for file in files) == texts


def test_the_kept_file_and_overrides_make_the_same_trials(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT)
    overrides = ["loss.gamma=1.5", "sweep.seeds=[0,3]"]
    for experiment in (load_config(path, overrides), load_mapping({"name": "x", "loss": {"gamma": 2}}, overrides)):
        keep_source(tmp_path / "run", experiment.written, "")
        entry = read_commands(tmp_path / "run")[-1]
        again = load_config(tmp_path / "run" / FOLDER / entry.file, entry.overrides)
        assert [trial.name for trial in again.trials] == [trial.name for trial in experiment.trials]


def test_the_commit_is_noted_and_nothing_that_the_repository_names_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    (tmp_path / "x.yaml").write_text(TEXT)
    git("init", "-q")
    git("add", "x.yaml")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git("config", "core.fsmonitor", str(hook))
    git("config", "filter.x.clean", str(hook))
    (tmp_path / ".gitattributes").write_text("*.yaml filter=x\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    keep_source(tmp_path / "run", load_config(tmp_path / "x.yaml").written, "")
    assert [entry.commit for entry in read_commands(tmp_path / "run")] == [commit]
    assert not (tmp_path / "ran").exists()
    keep_source(tmp_path / "other", Written(TEXT), "")
    assert read_commands(tmp_path / "other")[0].commit == ""


@pytest.mark.parametrize("content", ["{", "[]", '{"commands": [{"file": 3}, 4]}', '{"commands": 3}'])
def test_what_cannot_be_read_counts_as_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "commands.json").write_text(content)
    assert read_commands(tmp_path) == []
