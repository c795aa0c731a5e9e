"""Every focalbench command that a page shows is one that the command line takes, files and folders aside."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from focalbench.cli import app
from focalbench.config.load import load_config

_ROOT = Path(__file__).parents[2]
_PAGES = [
    *(_ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((_ROOT / "docs").glob("*.md")),
    _ROOT / "examples" / "README.md",
]
_COMMANDS = sorted(
    {
        (page.name, line.removeprefix("$ ").split(" #")[0].strip())
        for page in _PAGES
        for block in re.findall(r"^```(?:console|bash)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith("focalbench ")
    }
)


def test_commands_are_found() -> None:
    assert len(_COMMANDS) > 20
    assert {"README.md", "guide.md", "tutorial.md"} <= {page for page, _ in _COMMANDS}


@pytest.mark.parametrize(("page", "command"), _COMMANDS, ids=lambda value: value)
def test_the_command_line_takes_it(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    words = words[: next((i for i, word in enumerate(words) if word.startswith(("2>", ">", "|"))), len(words))]
    group = typer.main.get_command(app)
    context = group.make_context("focalbench", [], resilient_parsing=True)
    while hasattr(group, "commands") and words and not words[0].startswith("-"):
        group = group.commands[words.pop(0)]
        if hasattr(group, "commands"):
            context = group.make_context(group.name, [], parent=context, resilient_parsing=True)
    options = {name for parameter in group.params for name in parameter.opts}
    if words and words[0] in options and hasattr(group, "commands"):
        return  # an option of the program itself, such as --install-completion
    made = group.make_context(group.name, words, parent=context)  # an unknown option or a missing argument raises here
    assert made.command is group


def test_links_between_pages_lead_somewhere() -> None:
    for page in _PAGES:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target, place in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", prose):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            assert not place or place in _places(linked), f"{page.name}: {target}#{place}"


def _places(page: Path) -> set[str]:
    """What a link may name after #: each heading in small letters, spaces as hyphens, signs left out."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_configurations_on_a_page_are_valid(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (_ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    for block in blocks:
        path = tmp_path / "config.yaml"
        path.write_text(block, encoding="utf-8")
        experiment = load_config(path)
        assert experiment.config.sweep is not None
        assert experiment.trials
