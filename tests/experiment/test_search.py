"""What a search proposes: a function of its seed and of the arms so far, and better than chance."""

import math
import sys
from pathlib import Path

import pytest

from focalbench.config.schema import SearchConfig
from focalbench.errors import ConfigError
from focalbench.experiment.search import ArmScore, propose, require_optuna, score_at, space_of
from focalbench.records.trial import TrialFolder
from focalbench.storage import write_json

_PARAMS = {
    "loss.gamma": {"uniform": [0, 5]},
    "optim.lr": {"log_uniform": [1e-4, 1e-1]},
    "optim.batch_size": {"int_uniform": [2, 4]},
    "loss.alpha": {"choice": [None, 0.25, {"schedule": "step", "values": [0, 1], "at": [0.5]}]},
}


def _search(**keys: object) -> SearchConfig:
    return SearchConfig.model_validate({"num": 24, "params": _PARAMS} | keys)


def _goodness(values: dict) -> float:
    """Highest at gamma 2 and learning rate .01, whatever the rest."""
    return 1 - abs(values["loss.gamma"] - 2) / 5 - abs(math.log10(values["optim.lr"]) + 2) / 4


def _run(search: SearchConfig, num: int) -> list[ArmScore]:
    history: list[ArmScore] = []
    while len(history) < num:
        history += [ArmScore(values, _goodness(values)) for values in propose(search, history)]
    return history


@pytest.mark.usefixtures("extra_search")
def test_proposals_lie_within_their_ranges() -> None:
    for arm in _run(_search(), 24):
        assert list(arm.values) == list(_PARAMS)
        assert 0 <= arm.values["loss.gamma"] <= 5
        assert 1e-4 <= arm.values["optim.lr"] <= 1e-1
        assert arm.values["optim.batch_size"] in (2, 3, 4)
        assert arm.values["loss.alpha"] in _PARAMS["loss.alpha"]["choice"]


@pytest.mark.usefixtures("extra_search")
def test_they_follow_from_seed_and_results_alone() -> None:
    history = _run(_search(), 12)
    assert propose(_search(), history) == propose(_search(), history)
    assert propose(_search(), history) != propose(_search(seed=1), history)
    worse = [ArmScore(arm.values, -(arm.score or 0)) for arm in history]
    assert propose(_search(), history) != propose(_search(), worse)
    # Before results count they change nothing.
    assert propose(_search(), history[:4]) == propose(_search(), worse[:4])


def test_a_larger_num_or_early_stopping_is_the_same_search() -> None:
    assert space_of(_search()) == space_of(_search(num=99, stop_at=0.5))
    assert len({space_of(_search(**keys)) for keys in ({}, {"seed": 1}, {"batch": 2}, {"startup": 2})}) == 4


@pytest.mark.usefixtures("extra_search")
def test_later_arms_are_better_than_random_ones() -> None:
    arms = [arm.score for seed in range(4) for arm in _run(_search(seed=seed), 32)[8:]]
    random = [arm.score for seed in range(4) for arm in _run(_search(seed=seed, startup=99), 32)[8:]]
    assert sum(arms) / len(arms) > sum(random) / len(random) + 0.1


@pytest.mark.usefixtures("extra_search")
def test_arms_that_failed_or_were_stopped_count_as_worse_than_any_that_ended() -> None:
    search = _search(params={"loss.gamma": {"uniform": [0, 5]}}, startup=1, batch=2)
    ended = [ArmScore({"loss.gamma": 4 + i / 40}, 0.1 + i / 100) for i in range(20)]

    def share_near(*others: ArmScore) -> float:
        """Share of proposals on the side of the arms that came to their end with a poor score."""
        searches = [search.model_copy(update={"seed": seed}) for seed in range(4)]
        asked = [values["loss.gamma"] for one in searches for values in propose(one, [*others, *ended])]
        return sum(gamma > 2.5 for gamma in asked) / len(asked)

    gammas = [1 + i / 40 for i in range(20)]
    assert share_near(*(ArmScore({"loss.gamma": gamma}, 0.9, stopped=True) for gamma in gammas)) > 0.9
    assert share_near(*(ArmScore({"loss.gamma": gamma}, None) for gamma in gammas)) > 0.9
    assert share_near(*(ArmScore({"loss.gamma": gamma}, 0.9) for gamma in gammas)) < 0.1


def test_without_optuna_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    for asked in (require_optuna, lambda: propose(_search(), [])):
        with pytest.raises(ConfigError, match=r"focalbench\[search\]"):
            asked()


def test_the_score_at_a_share_is_that_of_the_first_evaluation_after_it(tmp_path: Path) -> None:
    lines = ['{"step": 3, "val/mAP": 0.1}', '{"step": 4, "train/loss": 1}', '{"step": 6, "val/mAP": 0.2}']
    (tmp_path / "metrics.jsonl").write_text("".join(line + "\n" for line in [*lines, '{"step": 9, "val/mAP": null}']))
    assert score_at(TrialFolder(tmp_path), 0.5) is None  # how long the training is, is not known
    write_json(tmp_path / "status.json", {"state": "running", "step": 9, "steps": 12})
    assert [score_at(TrialFolder(tmp_path), share) for share in (0.1, 0.25, 0.3, 0.5)] == [0.1, 0.1, 0.2, 0.2]
    assert math.isnan(score_at(TrialFolder(tmp_path), 0.6) or 0)
    assert score_at(TrialFolder(tmp_path), 0.8) is None
