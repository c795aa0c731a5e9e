"""The five ticked columns of HPARAMS: what varies, never a column with gaps."""

import pytest

from focalbench.board.ticked import NUM_TICKED, ticked_columns
from focalbench.config.dump import resolved
from focalbench.config.load import load_config
from focalbench.config.loss import FOCAL_FAMILY
from focalbench.config.schema import ExperimentConfig
from focalbench.losses import LOSSES
from focalbench.tracking.hparams import columns_of

FAMILY = "[{name: ce, loss: {name: ce}}, {name: b, loss: {name: balanced_ce}}, {name: f, loss: {name: focal}}]"
COLUMNS = columns_of(ExperimentConfig.model_json_schema())


@pytest.fixture
def ticked(write_config):
    def call(sweep):
        trials = load_config(write_config(f"sweep: {sweep}")).trials
        return set(ticked_columns([resolved(trial.config) for trial in trials], COLUMNS))

    return call


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        (f"{{seeds: [0, 1], list: {FAMILY}}}", {"loss.name", "loss.gamma", "loss.alpha", "seed", "optim.lr"}),
        ("{grid: {loss.gamma: [1, 2], loss.alpha: [0.25, auto]}}",
         {"loss.gamma", "loss.alpha", "seed", "loss.name", "optim.lr"}),
        ("{grid: {optim.lr: [1e-3, 2e-3]}}", {"optim.lr", "seed", "loss.name", "loss.gamma", "loss.alpha"}),
        ("{grid: {loss.gamma: [1, 2], loss.match_scale: [true, false], optim.lr: [1e-3, 1e-2], optim.steps: [4, 6]}}",
         {"loss.gamma", "loss.match_scale", "optim.lr", "optim.steps", "seed"}),
        # GHM has no gamma: a ticked column with a gap would take its trials off the page.
        ("{list: [{loss: {name: ghm}}, {loss: {name: focal}}]}",
         {"loss.name", "seed", "optim.lr", "model.name", "optim.batch_size"}),
        ("{list: [{loss: {name: ce}}, {loss: {name: focal, alpha: [0.1, 0.2, 0.3, 0.4]}}]}",
         {"loss.name", "loss.gamma", "seed", "optim.lr", "model.name"}),
        ("{grid: {loss.gamma: [2, {schedule: linear, values: [0, 2]}]}}",
         {"seed", "loss.name", "loss.alpha", "optim.lr", "model.name"}),
    ],
)  # fmt: skip
def test_what_varies_is_ticked_with_the_seed(ticked, sweep, expected):
    assert ticked(sweep) == expected
    assert len(expected) == NUM_TICKED


def test_without_any_trial_only_the_seed_is_known_to_vary():
    assert ticked_columns([], COLUMNS) == ["seed"]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_family_is_what_the_classes_say(name, build_loss):
    loss = build_loss(name)
    assert (loss.focal_form() is not None) == (name in FOCAL_FAMILY)


def test_what_there_is_to_know_of_a_focal_form(build_loss):
    assert build_loss("ce").focal_form() == (0, 0.5)
    assert build_loss("softmax_ce").focal_form() == (0, 0.5)
    assert build_loss("focal", gamma=1.5, alpha=0.25).focal_form() == (1.5, pytest.approx(0.25))
    assert build_loss("softmax_focal", gamma=1.0, alpha=0.25, alpha_on="background").focal_form() == (1, 0.75)
    assert build_loss("balanced_ce", alpha=0.75).focal_form() == (0, 0.75)
    assert build_loss("focal", alpha=[0.1, 0.2]).focal_form() is None  # a weight a class is no number


@pytest.fixture
def build_loss():
    from focalbench.losses.base import Counts

    return lambda name, **keywords: LOSSES[name](2, counts=Counts((3, 5), 90), **keywords)
