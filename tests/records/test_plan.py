"""What a sweep declares is kept, and does not change once its arms have been looked at."""

import json
from pathlib import Path

import pytest

from focalbench.errors import ConfigError, DataError
from focalbench.records.plan import Look, SweepPlan
from focalbench.records.sweep import SweepFolder

LISTED = SweepPlan(seeds=(0, 1, 2, 3, 4, 5), margin=0.01)
DECIDED = SweepPlan(seeds=tuple(range(20)), until="decided", looks=(6, 8, 10, 12, 16, 20), margin=0.01, baseline="ce")
LOOK = Look(seeds=(0, 1, 2, 3, 4, 5), words={"focal": "undecided"})


def opened(tmp_path: Path, plan: SweepPlan | None = None, *looks: Look) -> SweepFolder:
    sweep = SweepFolder(tmp_path)
    sweep.open("test", ())
    if plan is not None:
        sweep.declare(plan)
    for look in looks:
        sweep.record_look(look)
    return sweep


def test_plan_and_looks_stay_when_the_list_is_written_again(tmp_path: Path) -> None:
    sweep = opened(tmp_path, DECIDED, LOOK)
    sweep.open("test", (), command="focalbench run x.yaml")
    assert sweep.plan() == DECIDED
    assert sweep.looks() == (LOOK,)
    assert sweep.command() == "focalbench run x.yaml"


def test_a_list_of_another_version_of_this_tool_has_no_plan_and_no_looks(tmp_path: Path) -> None:
    sweep = opened(tmp_path)
    assert sweep.plan() is None
    assert sweep.looks() == ()


def test_the_same_look_again_is_no_new_one_and_a_later_one_comes_last(tmp_path: Path) -> None:
    later = Look(seeds=tuple(range(8)), words={"focal": "worse"})
    sweep = opened(tmp_path, DECIDED, LOOK, later, LOOK)
    assert sweep.looks() == (LOOK, later)
    changed = Look(seeds=LOOK.seeds, words={"focal": "unstable"})  # a failed seed was trained again
    sweep.record_look(changed)
    assert sweep.looks() == (changed, later)


def test_a_look_of_an_older_version_is_not_noted_twice(tmp_path: Path) -> None:
    sweep = opened(tmp_path, DECIDED, LOOK)
    same = Look(seeds=LOOK.seeds, words=LOOK.words, margin=0.01)
    sweep.record_look(same)
    assert sweep.looks() == (same,)
    other = Look(seeds=LOOK.seeds, words=LOOK.words, margin=0.02)
    sweep.record_look(other)
    assert sweep.looks() == (same, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"margin": 0.02}, r"sweep.margin: 0.02: .*sweep.json declares 0.01"),
        (
            {"seeds": tuple(range(10)), "looks": (6, 8, 10)},
            r"sweep.seeds or sweep.max_seeds: 0, 1, 2, \.\.\. 9 \(10 in all\)",
        ),
        (
            {"looks": (8, 10, 12, 16, 20)},
            r"sweep.seeds: 8, 10, 12, \.\.\. 20 \(5 in all\): .* declares 6, 8, 10, \.\.\. 20 \(6 in all\)",
        ),
        ({"baseline": "focal"}, r"sweep.list \(the baseline\): focal: .* declares ce"),
    ],
)
def test_nothing_declared_changes_after_a_look(tmp_path: Path, change: dict, words: str) -> None:
    other = DECIDED.model_copy(update=change)
    sweep = opened(tmp_path, DECIDED)
    sweep.declare(other)  # nobody has looked yet
    assert sweep.plan() == other
    sweep.declare(DECIDED)
    sweep.record_look(LOOK)
    with pytest.raises(ConfigError, match=words) as caught:
        sweep.declare(other)
    assert "--fresh" in str(caught.value)
    assert sweep.plan() == DECIDED


def test_what_has_been_looked_at_cannot_become_a_sweep_that_ends_by_itself(tmp_path: Path) -> None:
    sweep = opened(tmp_path, LISTED, LOOK)
    with pytest.raises(ConfigError, match=r"sweep.until: decided: .* declares none"):
        sweep.require_plan(DECIDED)


def test_a_list_of_seeds_may_grow_and_the_look_keeps_what_was_declared(tmp_path: Path) -> None:
    sweep = opened(tmp_path, LISTED, LOOK)
    grown = SweepPlan(seeds=tuple(range(9)), margin=0.01)
    sweep.declare(grown)
    assert sweep.plan() == grown
    assert sweep.looks()[0].seeds == LISTED.seeds


def test_seeds_added_by_hand_leave_the_declared_plan_as_it_is(tmp_path: Path) -> None:
    sweep = opened(tmp_path, DECIDED, LOOK)
    sweep.declare(SweepPlan(seeds=tuple(range(30)), margin=0.01))
    assert sweep.plan() == DECIDED


def test_what_nobody_wrote_is_refused_by_its_name(tmp_path: Path) -> None:
    sweep = opened(tmp_path, DECIDED)
    path = tmp_path / "sweep.json"
    document = json.loads(path.read_text())
    document["plan"]["margin"] = "large"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"sweep.json: plan.margin: .*changed by hand"):
        sweep.require_plan(DECIDED)
