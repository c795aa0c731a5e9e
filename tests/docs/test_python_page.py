"""docs/python.md and docs/python.ipynb as a reader runs them: the same few trials, trained once and shortly."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import focalbench as fb

pytestmark = pytest.mark.slow

_DOCS = Path(__file__).parents[2] / "docs"
_CHEAPER = {
    "num_train=240": "num_train=12",
    "num_val=80": "num_val=6",
    '"steps": 240': '"steps": 4',
    '"seeds": 6': '"seeds": 1',
}


def _cheaper(source: str) -> str:
    for text, small in _CHEAPER.items():
        assert source.count(text) == 1, text
        source = source.replace(text, small)
    return source


@dataclass(frozen=True)
class Page:
    """The page after its blocks have run: their names, what they printed, and the folder they ran in."""

    names: dict[str, Any]
    printed: list[str]
    stderr: str
    folder: Path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, extra_pandas: None) -> Iterator[Page]:
    import contextlib
    import io

    text = (_DOCS / "python.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    folder, names, printed, stderr = tmp_path_factory.mktemp("page"), {}, [], io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in (_cheaper(first), *others):
            with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(stderr):
                exec(compile(block, "docs/python.md", "exec"), names)
            printed.append(stdout.getvalue())
        yield Page(names, printed, stderr.getvalue(), folder)


def test_every_block_runs_and_training_prints_nothing_on_stdout(page: Page) -> None:
    assert page.printed[0] == ""
    assert "2 of 2 done" in page.stderr
    assert [str(trial.state) for trial in page.names["sweep"].trials] == ["done"] * 2
    assert (page.folder / "arms.tex").read_text().count(r"\\") == 3


def test_what_the_blocks_print_is_what_the_page_says_of_it(page: Page) -> None:
    printed = "\n".join(page.printed)
    assert "val/mAP in points, differences from ce" in printed
    assert "val/mAP against ce, paired by seed. One seed, no claim: focal." in printed
    assert "{'ce': 'baseline'" in printed or "'ce': 'baseline'}" in printed


def test_a_row_a_trial_and_a_row_a_logged_step(page: Page) -> None:
    trials, steps = page.names["sweep"].to_dataframe(), page.names["curves"]
    assert list(trials["loss.name"]) == ["ce", "focal"]
    assert {"val/mAP", "AP/circle", "wall_s", "state"} <= set(trials.columns)
    assert list(steps.columns[:4]) == ["trial", "arm", "seed", "step"]
    assert not steps.duplicated(["trial", "step"]).any()
    assert steps.groupby("trial")["val/mAP"].last().notna().all()


def test_boxes_lie_in_their_image_by_falling_score(page: Page) -> None:
    for found in page.names["network"].predict(page.names["images"], score_thresh=0.0):
        assert len(found) > 0
        assert found.size == (96, 96)
        assert (found.scores[:-1] >= found.scores[1:]).all()
        assert ((found.boxes >= 0) & (found.boxes <= 96)).all()
        assert (found.voc_boxes[:, :2] == found.boxes[:, :2] + 1).all()
        assert list(found.to_dataframe().columns) == ["image", "class", "score", "x1", "y1", "x2", "y2"]


def test_the_same_call_again_trains_nothing_and_is_silent_when_told(
    page: Page, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(page.folder)
    again = fb.run(page.names["experiment"], progress=False)
    assert [trial.status for trial in again.trials] == [trial.status for trial in page.names["sweep"].trials]
    assert capfd.readouterr() == ("", "")


def test_the_notebook_runs_and_shows_the_verdict_as_a_table(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(_DOCS / "python.ipynb", as_version=4)
    nbformat.validate(notebook)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = _cheaper(first.source)
    options = {"resources": {"metadata": {"path": str(page.folder)}}, "shutdown_kernel": "immediate"}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", **options).execute()
    shown = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    (rows,) = [output for output in shown[0] if output.output_type == "display_data"]
    assert "2 of 2 done" in rows["data"]["text/plain"]
    (verdict,) = shown[1]
    assert "<table>" in verdict["data"]["text/html"]
    assert "one seed: no claim" in verdict["data"]["text/html"]


def test_the_notebook_is_stored_with_its_outputs_and_no_path_of_a_machine() -> None:
    import json

    text = (_DOCS / "python.ipynb").read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells)
    assert "<table>" in "".join(cells[1]["outputs"][0]["data"]["text/html"])
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/", text)
    assert len(text) < 60_000


def test_the_notebook_trains_what_the_page_trains() -> None:
    import json

    cells = json.loads((_DOCS / "python.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])
    assert f"```python\n{source}\n```" in (_DOCS / "python.md").read_text(encoding="utf-8")
