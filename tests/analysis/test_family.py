"""What a comparison belongs to: the whole sweep, what it declared, and the looks that were taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.analysis.comparison_document import comparison_document
from focalbench.analysis.formats import verdict_words
from focalbench.analysis.look_record import record_look
from focalbench.config.identity import IDENTITY_VERSION
from focalbench.records.plan import Look, SweepPlan
from focalbench.records.reader import read_trials
from focalbench.records.sweep import SweepFolder
from focalbench.statistics.verdict import Plan, Runs, judge

Write = Callable[..., Any]
RNG = np.random.default_rng(5)
CE = (0.70 + 0.01 * RNG.normal(size=20)).tolist()
ARMS = {"ce": CE} | {f"arm{i}": (np.array(CE) + 0.004 * i + 0.01 * RNG.normal(size=20)).tolist() for i in range(5)}
DECIDED = SweepPlan(seeds=tuple(range(20)), until="decided", looks=(6, 8, 10, 12, 16, 20), margin=0.01, baseline="ce")


def listed(run: Path, arms: dict[str, Any], plan: SweepPlan | None = None, looks: tuple[Look, ...] = ()) -> Path:
    """The list that ``run`` leaves beside the trials."""
    trials = [
        {
            "name": f"{number}-{arm}-s{seed}-0000000{seed}",
            "arm": arm,
            "seed": seed,
            "hash": f"{arm}{seed}",
            "differs": {},
        }
        for number, (arm, values) in enumerate(arms.items())
        for seed in range(len(values))
    ]
    document: dict[str, Any] = {"name": "test", "identity": IDENTITY_VERSION, "trials": trials}
    if plan is not None:
        document["plan"] = plan.model_dump(mode="json")
    document["looks"] = [look.model_dump(mode="json") for look in looks]
    (run / "sweep.json").write_text(json.dumps(document))
    return run


def first(n: int) -> dict[str, list[float]]:
    return {arm: values[:n] for arm, values in ARMS.items()}


def compared(*paths: Path, **keywords: Any) -> Comparison:
    return compare_trials(read_trials(paths), with_test_set_noise=False, **keywords)


def figures(comparison: Comparison, arm: str) -> Any:
    return next(entry for entry in comparison.comparisons if entry.arm == arm).judgement


def test_an_arm_has_one_p_whichever_folders_are_named(write_arms: Write) -> None:
    run = listed(write_arms(first(6)), first(6))
    whole = compared(run)
    part = compared(*sorted(run.glob("*-ce-*")), *sorted(run.glob("*-arm4-*")))
    own, among_all = figures(part, "arm4"), figures(whole, "arm4")
    assert own.word == among_all.word
    assert own.p_corrected == pytest.approx(among_all.p_corrected, rel=1e-9)
    assert own.ci == pytest.approx(among_all.ci, rel=1e-9)
    assert own.p_exact == among_all.p_exact
    assert part.num_arms == whole.num_arms == 5
    assert [result.arm.label for result in part.arms] == ["ce", "arm4"]
    assert part.warnings == (
        "arm0, arm1, arm2, arm3: arms of the same sweep that were not named; p, intervals and verdicts are corrected "
        "for the whole sweep",
    )


def test_without_a_list_only_what_is_named_is_the_family(write_arms: Write) -> None:
    run = write_arms(first(6))
    part = compared(*sorted(run.glob("*-ce-*")), *sorted(run.glob("*-arm4-*")))
    assert part.num_arms == 1
    assert part.warnings == ()


def test_a_look_is_noted_once_and_seeds_added_later_are_named(write_arms: Write, write_trial: Write) -> None:
    run = listed(write_arms(first(6)), first(6), SweepPlan(seeds=tuple(range(6)), margin=0.01))
    for _ in range(2):
        comparison = compared(run)
        record_look(comparison, read_trials([run]))
    (look,) = SweepFolder(run).looks()
    assert look.seeds == (0, 1, 2, 3, 4, 5)
    assert look.words == {entry.arm: entry.verdict for entry in comparison.comparisons}
    assert comparison.added_seeds == ()
    for number, arm in enumerate(ARMS):
        loss = {"name": "ce"} if arm == "ce" else {"name": "focal", "label": number}
        write_trial(f"runs/test/{number}-{arm}-s6-00000006", arm=arm, seed=6, value=ARMS[arm][6], loss=loss)
    grown = compared(run)
    assert grown.added_seeds == (6,)
    assert any(
        text.startswith("seed 6: added by hand after the arms had been looked at with 6 seeds (arm0: ")
        for text in grown.warnings
    )
    assert comparison_document(grown)["added_seeds"] == [6]


def test_a_margin_that_is_changed_after_a_look_is_told(write_arms: Write) -> None:
    run = listed(write_arms(first(6)), first(6), SweepPlan(seeds=tuple(range(6)), margin=0.01))
    record_look(compared(run), read_trials([run]))
    assert compared(run).warnings == ()
    SweepFolder(run).declare(SweepPlan(seeds=tuple(range(6)), margin=0.02))
    changed = compared(run)
    record_look(changed, read_trials([run]))
    assert [look.margin for look in SweepFolder(run).looks()] == [0.01, 0.02]
    (text,) = compared(run).warnings
    assert text.startswith("sweep.margin: 0.02, but 0.01 when the arms were looked at with 6 seeds (arm0: ")


def test_seeds_that_were_declared_before_the_look_are_not_added(write_arms: Write) -> None:
    looks = (Look(seeds=tuple(range(8)), words={"arm0": "undecided"}),)
    run = listed(write_arms(first(8)), first(8), SweepPlan(seeds=tuple(range(8)), margin=0.01), looks)
    assert compared(run).added_seeds == ()


def test_no_look_is_noted_of_few_seeds_or_where_nothing_can_be_written(
    write_arms: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = listed(write_arms(first(5)), first(5), SweepPlan(seeds=tuple(range(5)), margin=0.01))
    record_look(compared(run), read_trials([run]))
    assert SweepFolder(run).looks() == ()
    (run / "sweep.json").write_text("{}")
    record_look(compared(run), read_trials([run]))  # no list of focalbench's: nothing happens
    assert (run / "sweep.json").read_text() == "{}"


def test_the_sweeps_own_margin_counts(write_arms: Write) -> None:
    run = listed(write_arms(first(6)), first(6), SweepPlan(seeds=tuple(range(6)), margin=0.05))
    entries = compared(run).comparisons
    assert verdict_words(entries[0], "val/mAP", 0.05) == "no practical difference within 5 points"


def look(size: int) -> Look:
    return Look(seeds=tuple(range(size)), words={})


def test_a_sweep_that_ends_by_itself_is_judged_as_of_its_looks(write_arms: Write) -> None:
    run = listed(write_arms(first(9)), first(9), DECIDED, (look(6), look(8)))
    found = compared(run)
    plan = Plan((frozenset(range(6)), frozenset(range(8))), (0.3, 0.4), 5)
    runs = {arm: Runs(dict(enumerate(values[:9]))) for arm, values in ARMS.items()}
    expected = judge(runs.pop("ce"), runs, plan, margin=0.01)
    assert {entry.arm: entry.judgement for entry in found.comparisons} == expected.arms
    assert [result.summary.n for result in found.arms] == [9] * 6  # the means have every seed
    assert found.rule.startswith("better / worse: paired t test over seeds")
    assert "with a level for each look" in found.rule
    assert found.seeds_needed is None
    assert comparison_document(found)["looks"] == [list(range(6)), list(range(8))]


def test_before_the_first_look_nothing_is_said(write_arms: Write) -> None:
    found = compared(listed(write_arms(first(7)), first(7), DECIDED))
    assert {entry.verdict for entry in found.comparisons} == {"not enough seeds"}


def test_another_question_than_the_declared_one_is_named(write_arms: Write) -> None:
    run = listed(write_arms(first(8)), first(8), DECIDED, (look(6), look(8)))
    for found in (compared(run, metric="AP/cat"), compared(run, baseline="arm0")):
        assert any(
            text.startswith("this sweep gave its arms seeds by their val/mAP against ce") for text in found.warnings
        )
        assert found.rule.count("p < 0.05") == 1


def test_seeds_beyond_the_declared_ones_do_not_change_a_word(write_arms: Write) -> None:
    plan = SweepPlan(seeds=tuple(range(6)), until="decided", looks=(6,), margin=0.01, baseline="ce")
    run = listed(write_arms(first(8)), first(8), plan, (look(6),))
    found = compared(run)
    assert found.added_seeds == (6, 7)
    assert {entry.judgement.n for entry in found.comparisons} == {6}
    assert any(
        text.startswith("seeds 6, 7: added by hand to a sweep that declared 6 seeds at most") for text in found.warnings
    )


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("plan", {"seeds": [0, 1], "margin": 2.0}, "plan.margin: Input should be less than 1"),
        ("plan", {"seeds": [0, 0], "margin": 0.01}, "plan: seeds: lists one twice"),
        ("plan", {"seeds": [], "margin": 0.01}, "plan.seeds: "),
        ("plan", DECIDED.model_dump() | {"looks": [8, 6, 20]}, "plan: looks: should be in rising order"),
        ("plan", DECIDED.model_dump() | {"looks": [6, 8]}, "plan: looks: the last one should be at all seeds"),
        ("plan", DECIDED.model_dump() | {"looks": [3, 20]}, "plan.looks.0: "),
        ("plan", "decided", "plan: "),
        ("looks", {"a": 1}, "looks: should be a list"),
        ("looks", [{"seeds": "all"}], "looks.0.seeds: "),
    ],
)
def test_a_list_edited_by_hand_is_named_and_nothing_is_lost(
    write_arms: Write, entry: str, value: Any, words: str
) -> None:
    run = listed(write_arms(first(6)), first(6))
    document = json.loads((run / "sweep.json").read_text()) | {entry: value}
    (run / "sweep.json").write_text(json.dumps(document))
    found = compared(run)
    assert len(found.comparisons) == 5
    (warning,) = found.warnings
    assert words in warning
    assert "changed by hand" in warning
    assert warning.endswith("judged as if their seeds had all been declared at once")


def test_what_an_older_version_listed_is_one_family_too(write_arms: Write) -> None:
    run = listed(write_arms(first(6)), first(6))
    document = json.loads((run / "sweep.json").read_text())
    (run / "sweep.json").write_text(json.dumps(document | {"identity": IDENTITY_VERSION - 1}))
    part = compared(*sorted(run.glob("*-ce-*")), *sorted(run.glob("*-arm4-*")))
    assert part.num_arms == 5
    assert [text for text in part.warnings if "another version" in text] == []
