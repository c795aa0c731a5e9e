"""Sweeps to trials: which ones, their names, their identity, and what is refused."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focalbench.config.identity import config_hash
from focalbench.config.load import load_config
from focalbench.config.loss import CrossEntropyConfig
from focalbench.config.optim import AdamWConfig
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import expand
from focalbench.errors import ConfigError


def trials_of(sweep, **sections):
    return expand(ExperimentConfig.model_validate_json(json.dumps({"sweep": sweep, **sections})))


def names(trials):
    return [trial.name.rpartition("-")[0] for trial in trials]


def faults(sweep, **sections):
    with pytest.raises(ConfigError) as caught:
        trials_of(sweep, **sections)
    assert len(str(caught.value).splitlines()) <= 20
    return str(caught.value)


def test_without_a_sweep_there_is_one_trial_named_by_its_loss():
    (trial,) = expand(ExperimentConfig(seed=3))
    assert trial.arm == "focal"
    assert trial.name == f"focal-s3-{trial.hash}"
    assert (trial.seed, trial.differs, trial.config.sweep) == (3, {}, None)
    assert config_hash(trial.config) == trial.hash


def test_grid_is_every_combination_and_each_arm_keeps_its_seeds_together():
    trials = trials_of({"seeds": [0, 1], "grid": {"loss.gamma": [0.5, 1], "optim.lr": [1e-3, 0.01]}})
    assert names(trials) == [
        f"gamma={gamma}-lr={lr}-s{seed}" for gamma in ("0.5", "1") for lr in ("0.001", "0.01") for seed in (0, 1)
    ]
    assert trials[0].differs == {"loss.gamma": 0.5, "optim.lr": 0.001}
    assert trials[3].config.loss.gamma == 0.5
    assert trials[3].config.optim.lr == 0.01
    assert trials[3].config.seed == 1


def test_name_is_arm_seed_and_hash():
    for trial in trials_of({"seeds": [0, 12], "grid": {"loss.gamma": [2]}}):
        assert re.fullmatch(r"gamma=2-s\d+-[0-9a-f]{8}", trial.name)
        assert trial.name == f"{trial.arm}-s{trial.seed}-{trial.hash}"
        assert trial.hash == config_hash(trial.config)


def test_zip_takes_values_side_by_side():
    trials = trials_of({"zip": {"loss.gamma": [2, 5], "loss.alpha": [0.25, 0.5]}})
    assert names(trials) == ["gamma=2-alpha=0.25-s0", "gamma=5-alpha=0.5-s0"]


def test_list_replaces_branches_sets_keys_and_names_arms():
    trials = trials_of(
        {
            "list": [
                {"name": "plain", "loss": {"name": "ce"}},
                {"loss.name": "balanced_ce", "loss.alpha": "auto"},
                {"loss": {"name": "focal", "gamma": {"schedule": "step", "values": [0, 2], "at": [0.5]}}},
            ]
        },
        loss={"name": "focal", "gamma": 3, "weight": 2},
    )
    assert [trial.arm for trial in trials][:2] == ["plain", "loss=balanced_ce-alpha=auto"]
    assert trials[0].config.loss == CrossEntropyConfig()  # the branch as written, nothing of the base left
    assert trials[1].config.loss.weight == 2
    assert trials[2].config.loss.gamma.values == (0, 2)
    assert trials[2].config.loss.weight == 1


def test_sweep_over_loss_names_needs_no_other_change():
    from focalbench.config.faults import variants

    every = list(variants("loss"))
    trials = trials_of({"grid": {"loss.name": every}}, loss={"name": "focal", "gamma": 3, "alpha": 0.4})
    assert [trial.arm for trial in trials] == [f"loss={name}" for name in every]
    assert [trial.config.loss.name for trial in trials] == every
    by_name = {trial.config.loss.name: trial.config.loss for trial in trials}
    assert by_name["softmax_focal"].gamma == 3


def test_sweep_over_models_and_optimizers():
    trials = trials_of(
        {"grid": {"model.name": ["retinanet", "yolov2"], "optim.name": ["sgd", "adamw"]}},
        model={"name": "retinanet", "backbone": "resnet50"},
        optim={"name": "sgd", "momentum": 0.5, "batch_size": 4},
    )
    assert names(trials)[0] == "model=retinanet-optim=sgd-s0"
    assert [trial.config.model.backbone for trial in trials] == ["resnet50", "resnet50", "darknet19", "darknet19"]
    assert trials[1].config.optim == AdamWConfig(batch_size=4)


def test_base_keeps_its_variant_when_it_was_built_in_python():
    base = ExperimentConfig(loss=CrossEntropyConfig(), sweep={"grid": {"optim.lr": [0.1]}})
    assert expand(base)[0].config.loss == CrossEntropyConfig()


def test_union_of_blocks_has_no_repeats():
    trials = trials_of(
        {
            "seeds": [0, 1, 1],
            "grid": {"loss.gamma": [1, 2, 2.0]},
            "zip": {"loss.gamma": [2, 5]},
            "list": [{"name": "again", "loss": {"name": "focal", "gamma": 5}}, {"name": "new", "loss": {"name": "ce"}}],
        }
    )
    assert len({trial.hash for trial in trials}) == len(trials) == 8
    assert list(dict.fromkeys(trial.arm for trial in trials)) == ["gamma=1", "gamma=2", "gamma=5", "new"]


def test_exclude_takes_out_what_agrees_with_all_its_keys():
    sweep = {"seeds": [0, 1], "grid": {"loss.gamma": [0.5, 1]}, "list": [{"name": "ce", "loss": {"name": "ce"}}]}
    everything = set(names(trials_of(sweep)))

    def left_out(*entries):
        return everything - set(names(trials_of({**sweep, "exclude": list(entries)})))

    assert left_out({"loss.gamma": 0.5, "seed": 1}) == {"gamma=0.5-s1"}
    assert left_out({"loss.gamma": 1.0}) == {"gamma=1-s0", "gamma=1-s1"}
    assert left_out({"seed": 0}, {"loss": {"name": "ce"}}) == {"gamma=0.5-s0", "gamma=1-s0", "ce-s0", "ce-s1"}
    assert left_out({"loss.gamma": 7}) == set()
    assert left_out({"loss.gamma": True}) == set()  # true is not 1


def test_larger_num_keeps_the_earlier_draws_and_a_new_key_the_values_of_the_others():
    params = {"optim.lr": {"log_uniform": [1e-4, 1e-1]}, "loss.gamma": {"uniform": [0, 5]}}
    few = trials_of({"random": {"num": 3, "seed": 7, "params": params}})
    many = trials_of({"random": {"num": 8, "seed": 7, "params": params}})
    assert [trial.name for trial in many[:3]] == [trial.name for trial in few]
    assert len({trial.hash for trial in many}) == 8
    wider = {**params, "optim.batch_size": {"choice": [8, 16]}}
    drawn = trials_of({"random": {"num": 3, "seed": 7, "params": wider}})
    assert [trial.config.optim.lr for trial in drawn] == [trial.config.optim.lr for trial in few]
    other = trials_of({"random": {"num": 3, "seed": 8, "params": params}})
    assert not {trial.config.optim.lr for trial in other} & {trial.config.optim.lr for trial in few}


def test_draws_stay_in_their_range_and_cover_it():
    params = {
        "optim.lr": {"log_uniform": [1e-4, 1e-1]},
        "loss.gamma": {"uniform": [1, 2]},
        "optim.batch_size": {"int_uniform": [2, 4]},
        "eval.protocol": {"choice": ["voc07", "voc12"]},
    }
    configs = [trial.config for trial in trials_of({"random": {"num": 200, "params": params}})]
    lrs = [config.optim.lr for config in configs]
    assert 1e-4 <= min(lrs) < 1e-3 < 1e-2 < max(lrs) <= 1e-1
    assert 60 < sum(lr < 10**-2.5 for lr in lrs) < 140  # half of a log-uniform draw lies below the geometric mean
    assert all(1 <= config.loss.gamma <= 2 for config in configs)
    assert {config.optim.batch_size for config in configs} == {2, 3, 4}
    assert {config.eval.protocol for config in configs} == {"voc07", "voc12"}


@pytest.mark.parametrize("kind", ["uniform", "log_uniform"])
def test_a_range_of_one_number_gives_that_number(kind):
    (trial,) = trials_of({"random": {"num": 1, "params": {"optim.lr": {kind: [0.25, 0.25]}}}})
    assert trial.config.optim.lr == 0.25


@pytest.mark.parametrize(("kind", "refused"), [("uniform", False), ("log_uniform", True)])
def test_only_a_logarithmic_range_may_not_begin_at_zero(kind, refused):
    sweep = {"random": {"num": 1, "params": {"loss.gamma": {kind: [0, 1]}}}}
    if refused:
        assert "sweep.random.params.loss.gamma.log_uniform: should be above 0 on a logarithmic scale" in faults(sweep)
    else:
        assert 0 <= trials_of(sweep)[0].config.loss.gamma <= 1


def test_draws_are_the_same_everywhere():
    """A frozen value: the draws may depend on nothing but seed, number and key."""
    (trial,) = trials_of({"random": {"num": 1, "seed": 7, "params": {"optim.lr": {"log_uniform": [1e-4, 1e-1]}}}})
    assert trial.config.optim.lr == 0.0102717


def test_short_keys_only_where_they_are_unambiguous():
    grid = {"loss.name": ["ghm"], "optim.momentum": [0.8], "loss.momentum": [0.5], "optim.batch_size": [8]}
    (trial,) = trials_of({"grid": grid})
    assert trial.arm == "loss=ghm-optim.momentum=0.8-loss.momentum=0.5-batch_size=8"


def test_names_may_be_in_any_script_and_fit_into_a_folders_name():
    names = ["日", "本", "größe", "हिन्दी", "фокал-2", "焦" * 200, "焦" * 199 + "点"]
    trials = trials_of({"list": [{"name": name, "loss.gamma": index} for index, name in enumerate(names)]})
    assert [trial.arm for trial in trials][:5] == names[:5]
    assert len({trial.arm for trial in trials}) == len(names)
    assert all(len(trial.name.encode()) < 255 for trial in trials)
    (decomposed,) = trials_of({"list": [{"name": "gro\u0308\u00dfe"}]})
    assert decomposed.arm == "größe"


def test_two_names_of_the_list_for_one_configuration_are_refused():
    with pytest.raises(ConfigError, match=r"sweep.list\[1\].name: is the arm 'ce' once more, key by key: .*leave one"):
        trials_of({"list": [{"name": "ce", "loss": {"name": "ce"}}, {"name": "ce-again", "loss": {"name": "ce"}}]})
    twice = [{"name": "ce", "loss": {"name": "ce"}}] * 2
    assert len(trials_of({"list": twice, "grid": {"loss.gamma": [1]}})) == 2


def test_names_are_safe_and_bounded_and_arms_stay_apart():
    trials = trials_of(
        {
            "list": [
                {"name": "a b/../c\x00", "loss.gamma": 1},
                {"name": "x" * 300, "loss.gamma": 2},
                {"name": "x" * 299 + "y", "loss.gamma": 3},
                {"name": "same", "loss.gamma": 4},
                {"name": "same", "loss.gamma": 5},
                {"name": "../..", "loss.gamma": 6},
                {"name": "-rf", "loss.gamma": 7},
            ]
        }
    )
    assert len({trial.arm for trial in trials}) == 7
    for trial in trials:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]*", trial.name), trial.name
        assert len(trial.name) <= 110


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e3) | st.integers(0, 50), min_size=1, max_size=6))
def test_arm_and_configuration_determine_each_other(gammas):
    trials = trials_of({"seeds": [0, 1], "grid": {"loss.gamma": gammas}})
    assert len({trial.name for trial in trials}) == len(trials) == 2 * len({float(gamma) for gamma in gammas})
    arms = {}
    for trial in trials:
        assert arms.setdefault(trial.arm, trial.config.loss.gamma) == trial.config.loss.gamma
    assert len(arms) == len(set(arms.values()))


def test_adding_seeds_and_values_keeps_every_earlier_name():
    before = {trial.name for trial in trials_of({"seeds": [0, 1], "grid": {"loss.gamma": [1, 2]}})}
    after = {trial.name for trial in trials_of({"seeds": [0, 1, 2], "grid": {"loss.gamma": [0.5, 1, 2, 5]}})}
    assert before < after


def test_entry_order_does_not_change_identity():
    one = trials_of({"grid": {"loss.gamma": [1], "optim.lr": [0.1]}})
    two = trials_of({"grid": {"optim.lr": [0.1], "loss.gamma": [1]}})
    assert one[0].hash == two[0].hash


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ({"grid": {"loss.gama": [1]}}, "sweep.grid.loss.gama: unknown key; did you mean 'gamma'?"),
        ({"grid": {"loss.gamma": [1, -1, 2, "x"]}}, "sweep.grid.loss.gamma[1]: should be at least 0, not -1"),
        ({"grid": {"loss.gamma": [1, -1, 2, "x"]}}, "sweep.grid.loss.gamma[3]"),
        ({"grid": {"foo.bar": [1]}}, "sweep.grid"),
        ({"grid": {"seed": [1]}}, "'seed' cannot be swept: use sweep.seeds"),
        ({"grid": {"run.retries": [1]}}, "'run.retries' cannot be swept"),
        ({"grid": {"name": ["x"]}}, "'name' cannot be swept"),
        ({"grid": {"data.cache": ["ram", "disk"]}}, "'data.cache' cannot be swept: it is the same for all trials"),
        ({"list": [{"data.cache_dir": "a"}]}, "'data.cache_dir' cannot be swept"),
        ({"zip": {"loss.gamma": [1, 2], "eval.batch_size": [1, 2]}}, "sweep.zip.eval.batch_size[1]: 'eval.batch_size'"),
        ({"search": {"num": 1, "params": {"eval.batch_size": {"choice": [1]}}}}, "'eval.batch_size' cannot be swept"),
        ({"grid": {"sweep.seeds": [[1]]}}, "cannot be swept"),
        ({"grid": {"loss.gamma.x": [1]}}, "sweep.grid"),
        ({"grid": {"": [1]}}, "sweep.grid"),
        ({"grid": {"loss.name": ["ce", "focal"], "loss.gamma": [1]}}, "loss ce has no such key"),
        ({"zip": {"loss.gamma": [1, 2], "loss.alpha": [0.1]}}, "equally many values for every key; loss.gamma has 2"),
        (
            {"list": [{"name": "x", "loss": {"name": "ce", "gamma": 1}}]},
            "sweep.list[0].loss.gamma: loss ce has no such",
        ),
        ({"list": [{"name": 3, "loss.gamma": 1}]}, "sweep.list[0].name: should be text"),
        ({"list": [{"loss": 3}]}, "sweep.list[0].loss: should be a mapping"),
        ({"list": [{"model.name": "yolov2", "data.image_size": 100}]}, "sweep.list[0].data.image_size"),
        (
            {"list": [{"optim.steps": 50}]},
            "sweep.list[0]: with optim.steps: 50: optim.warmup_steps: 100 should be below",
        ),
        ({"random": {"num": 1, "params": {"optim.lr": {"log_uniform": [0, 1]}}}}, "above 0 on a logarithmic scale"),
        ({"random": {"num": 1, "params": {"optim.lr": {"uniform": [2, 1]}}}}, "low at most high"),
        ({"random": {"num": 1, "params": {"optim.lr": {"uniform": [1]}}}}, "[low, high], two numbers"),
        ({"random": {"num": 1, "params": {"optim.lr": {"int_uniform": [1, 2.5]}}}}, "two whole numbers"),
        ({"random": {"num": 1, "params": {"optim.lr": {"choice": []}}}}, "at least one value"),
        ({"random": {"num": 1, "params": {"optim.lr": {"choice": [1, float("nan")]}}}}, "choice[1]: should be finite"),
        ({"random": {"num": 2, "params": {"optim.lr": {"uniform": [-2, -1]}}}}, "sweep.random.params.optim.lr"),
        ({"exclude": [{"loss.gammo": 1}]}, "sweep.exclude[0].loss.gammo: unknown key"),
        ({"exclude": [{"loss": {"alpha": [0.5, float("inf")]}}]}, "sweep.exclude[0].loss.alpha: should be finite"),
        ({"seeds": [0], "exclude": [{"seed": 0}]}, "no trial is left"),
        ({"seeds": list(range(200)), "grid": {"loss.gamma": list(range(100))}}, "more than 10000 trials"),
        (
            {
                "grid": {
                    key: list(range(1, 1000)) for key in ("loss.gamma", "optim.lr", "optim.steps", "optim.batch_size")
                }
            },
            "more than 10000 trials",
        ),
    ],
)
def test_faulty_sweeps(sweep, expected):
    assert expected in faults(sweep)


def test_faults_of_all_blocks_come_at_once():
    text = faults(
        {
            "grid": {"loss.gamma": [-1]},
            "list": [{"loss": {"name": "focl"}}],
            "random": {"num": 1, "params": {"optim.lr": {"log_uniform": [0, 1]}}},
            "exclude": [{"nope": 1}],
        }
    )
    for part in ("sweep.grid", "sweep.list[0]", "sweep.random", "sweep.exclude[0]"):
        assert part in text


def test_loading_checks_every_trial_and_names_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("sweep:\n  grid:\n    loss.gamma: [1, -1]\n  list:\n    - {name: x, loss: {name: ce, gamma: 1}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).splitlines() == [
        f"{path}:3:21: sweep.grid.loss.gamma[1]: should be at least 0, not -1",
        "    loss.gamma: [1, -1]",
        f"{path}:5:34: sweep.list[0].loss.gamma: loss ce has no such key; "
        "it belongs to focal, softmax_focal, focal_star, class_balanced, varifocal",
        "    - {name: x, loss: {name: ce, gamma: 1}}",
    ]


def test_sweep_from_an_override_names_the_argument(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 0")
    with pytest.raises(ConfigError, match=r"^-s sweep\.grid\.loss\.gamma=\[-1\]: sweep\.grid\.loss\.gamma\[0\]"):
        load_config(path, ["sweep.grid.loss.gamma=[-1]"])


def test_thousands_of_trials_expand():
    trials = trials_of({"seeds": list(range(50)), "grid": {"loss.gamma": [i / 10 for i in range(40)]}})
    assert len(trials) == 2000


def test_a_search_has_no_trials_before_it_proposes_and_keeps_those_of_other_blocks():
    search = {"num": 4, "params": {"loss.gamma": {"uniform": [0, 5]}}}
    assert trials_of({"search": search}) == ()
    assert names(trials_of({"search": search, "list": [{"name": "ce", "loss": {"name": "ce"}}]})) == ["ce-s0"]
    config = ExperimentConfig.model_validate_json(json.dumps({"sweep": {"search": search, "seeds": [0, 1]}}))
    assert names(expand(config, proposals=[{"loss.gamma": 0.5}])) == ["gamma=0.5-s0", "gamma=0.5-s1"]


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"params": {"loss.gama": {"uniform": [0, 1]}}}, "sweep.search.params.loss.gama"),
        ({"params": {"loss.gamma": {"uniform": [-1, 1]}}}, "at least 0"),
        ({"params": {"loss.gamma": {"uniform": [2, 1]}}}, "low at most high"),
        ({"params": {"optim.lr": {"log_uniform": [0, 1]}}}, "logarithmic"),
        ({"params": {"optim.name": {"choice": ["sgd", "adamm"]}}}, "adamw"),
        ({"params": {"optim.lr": {"normal": [0, 1]}}}, "log_uniform"),
        ({"params": {"seed": {"int_uniform": [0, 9]}}}, "use sweep.seeds"),
        ({"params": {"loss.gamma": {"uniform": [0, 1]}}, "num": 6_000}, "more than 10000 trials"),
        ({"params": {"loss.gamma": {"uniform": [0, 1]}}, "stop_at": 1.5}, "stop_at"),
        ({"params": {}}, "params"),
    ],
)
def test_faults_of_a_search_are_found_before_it_starts(tmp_path, search, words):
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps({"sweep": {"seeds": [0, 1], "search": {"num": 4} | search}}))
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) <= 20


def test_stopping_early_needs_an_evaluation_before_the_end():
    search = {"num": 4, "stop_at": 0.5, "params": {"loss.gamma": {"uniform": [0, 5]}}}
    assert trials_of({"search": search}) == ()
    assert "set eval.every" in faults({"search": search}, eval={"every": None})


def test_a_number_of_seeds_counts_from_zero():
    assert [trial.seed for trial in trials_of({"seeds": 3, "grid": {"loss.gamma": [2]}})] == [0, 1, 2]
