"""The verdict's text, read as TensorBoard shows it: its own markdown is the oracle."""

import html
import re
import warnings

import pytest

from focalbench.analysis.comparison import compare_trials
from focalbench.board.verdict import verdict_text
from focalbench.records.reader import read_trials

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what TensorBoard brings along
    from tensorboard.plugin_util import markdown_to_safe_html

CE = [0.700, 0.705, 0.695, 0.702, 0.698, 0.701]
FOCAL = [0.720, 0.722, 0.719, 0.723, 0.716, 0.724]


def shown(folder, differs, command="", *, none_yet=False):
    trials = read_trials([folder])
    comparison = None if none_yet else compare_trials(trials, with_test_set_noise=False)
    return markdown_to_safe_html(verdict_text(folder.name, trials, comparison, differs, command))


def rows(page, table=0):
    body = page.split("<table>")[table + 1].split("</table>")[0]
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.S) for row in body.split("<tr>")[1:]]
    return [[html.unescape(re.sub("<.*?>", "", cell)) for cell in row] for row in cells]


def test_the_table_is_compares_best_first(write_arms):
    page = shown(write_arms({"ce": CE, "focal": FOCAL}), {"ce": {}, "focal": {"loss.gamma": 2.0}})
    header, best, second = rows(page)
    assert header == ["arm", "n", "mean mAP in points (sd)", "minus ce", "95 % interval", "p (Holm)", "verdict"]
    assert best[:3] == ["focal", "6", "72.07 (0.29)"]
    assert best[3] == "+2.05"
    assert best[-1] == "better"
    assert "<strong>better</strong>" in page
    assert second[0] == "ce"
    assert second[-1] == "baseline"
    assert "p < 0.05" in html.unescape(page)
    assert rows(page, 1) == [["arm", "what it sets"], ["ce", "nothing is swept"], ["focal", "loss.gamma=2.0"]]


def test_a_sweep_under_way_says_so_far(write_trial, tmp_path):
    write_trial("r/a-s0", arm="a", seed=0)
    write_trial("r/a-s1", arm="a", seed=1, status={"state": "running"})
    write_trial("r/b-s0", arm="b", seed=0, status={"state": "failed", "error": "the *loss* is_not_finite"})
    page = shown(tmp_path / "r", {"a": {}, "b": {}})
    assert "<h1>r: so far</h1>" in page
    assert "1 of 3 trials done, 1 failed, 1 running." in page
    assert "b-s0" in page
    assert "the *loss* is_not_finite" in page


def test_before_anything_has_finished(write_trial, tmp_path):
    write_trial("r/a-s0", arm="a", seed=0, status={"state": "running"})
    page = shown(tmp_path / "r", {"a": {}}, none_yet=True)
    assert "No trial has finished yet." in page
    assert "0 of 1 trial done" in page


def test_how_to_repeat_is_code_to_copy(write_arms):
    command = "focalbench run x.yaml -s 'loss.alpha=[0.1, 0.2]' -s data.name=*_*"
    page = shown(write_arms({"ce": CE}), {"ce": {}}, command)
    code = html.unescape(page.split("<pre>")[1].split("</pre>")[0])
    assert re.sub("<.*?>", "", code).splitlines()[0] == command
    assert "focalbench compare" in code


@pytest.mark.parametrize(
    "name", ["a_b_c", "x|y", "<script>alert(1)</script>", "`tick`", "猫", "**bold**", "[a](http://b)"]
)
def test_names_are_text_whatever_they_hold(write_trial, tmp_path, name):
    write_trial("r/t-s0", arm=name, seed=0, loss={"name": "focal"})
    write_trial("r/u-s0", arm="ce", seed=0)
    page = shown(tmp_path / "r", {name: {"loss.name": name}, "ce": {}})
    expected = name.replace("|", "/").replace("`", "'")
    assert expected in [row[0] for row in rows(page)]
    assert [expected, f"loss.name={expected}"] in rows(page, 1)
    assert "<script" not in page
    assert "<a " not in page


def test_what_cannot_be_compared_is_named(write_trial, tmp_path):
    write_trial("r/a-s0", arm="ce", seed=0)
    write_trial("r/b-s0", arm="b", seed=0, result={"split": ["2007/other"]})
    page = shown(tmp_path / "r", {"ce": {}, "b": {}})
    assert any("not comparable: split (2007/other against" in row[-1] for row in rows(page))


def test_classes_that_no_font_can_write_are_named_by_their_numbers(write_trial, tmp_path, monkeypatch):
    monkeypatch.setattr("focalbench.board.verdict.undrawable", lambda classes: {1: classes[1]})
    write_trial("r/a-s0", arm="ce", seed=0, result={"classes": ["Häuser", "猫_犬"]})
    page = shown(tmp_path / "r", {"ce": {}})
    assert "<li><code>#1</code> is 猫_犬</li>" in page
    assert "Häuser" not in page
