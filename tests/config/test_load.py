"""Files and overrides to configurations and back."""

import string
from pathlib import PurePath

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from focalbench.config import sweep
from focalbench.config.dump import dump_yaml
from focalbench.config.edit import split_key
from focalbench.config.faults import check
from focalbench.config.identity import config_hash
from focalbench.config.load import load_config, load_mapping
from focalbench.config.loss import CrossEntropyConfig, FocalConfig
from focalbench.config.schema import ExperimentConfig
from focalbench.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text, name="exp.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def message(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    text = str(caught.value)
    assert len(text.splitlines()) <= 20
    return text


def test_file_name_is_the_default_name(write):
    assert load_config(write("seed: 1", "my sweep.yaml")).config.name == "my_sweep"
    assert load_config(write("name: other", "x.yaml")).config.name == "other"


def test_unknown_key_has_place_suggestion_and_line(write):
    path = write("name: a\nloss:\n  name: focal\n  gama: 2\n")
    assert message(path) == f"{path}:4:3: loss.gama: unknown key; did you mean 'gamma'?\n    gama: 2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gamma: 2", "gamma: unknown key here; did you mean 'loss.gamma'?"),
        ("lss: {name: focal}", "lss: unknown key; did you mean 'loss'?"),
        ("loss: {name: focl}", "loss.name: should be one of ce, "),
        ("loss: {name: focl}", "did you mean 'focal'?"),
        ("loss: {name: 3}", "loss.name: should be one of ce, "),
        ("loss: {name: ce, gamma: 2}", "loss.gamma: loss ce has no such key; it belongs to focal"),
        ("loss: focal", "loss: should be a mapping"),
        ("loss: [1]", "loss: should be a mapping"),
        ("loss: null", "loss: should be a mapping"),
        ("loss: {gamma: true}", "loss.gamma: should be a number, not true"),
        ("loss: {gamma: [0, 1, 2]}", "at: [...]}; to compare several: sweep: {grid: {loss.gamma: [0, 1, 2]}}"),
        ("model: {backbone: [tiny, vgg]}", '; to compare several: sweep: {grid: {model.backbone: ["tiny", "vgg"]}}'),
        (
            "seed: [0, 1, 2]",
            "seed: should be a whole number, not [0, 1, 2]; to compare several: sweep: {seeds: [0, 1, 2]}",
        ),
        ("sweep: {loss.gamma: [0, 1]}", "; values to compare go into sweep: {grid: {loss.gamma: [0, 1]}}"),
        ("seeds: 6", "seeds: unknown key here; did you mean 'sweep.seeds'?"),
        ("batch: 16", "batch: unknown key here; did you mean 'optim.batch_size'?"),
        ("imgsz: 320", "imgsz: unknown key here; did you mean 'data.image_size'?"),
        ("epochs: 3", "epochs: unknown key here; did you mean 'optim.epochs'?"),
        ("loss: {gamma: -1}", "loss.gamma: should be at least 0, not -1"),
        ("loss: {gamma: .nan}", "loss.gamma: should be a finite number"),
        ("loss: {gamma: {schedule: step, values: [1]}}", "loss.gamma: a step schedule needs at least two values"),
        ("loss: {gamma: {schedule: step, valuse: [1, 2], values: [1, 2]}}", "unknown key; did you mean 'values'?"),
        ("loss: {gamma: {schedule: setp, values: [1, 2]}}", "did you mean 'step'?"),
        ("loss: {alpha: [0.1, x]}", "loss.alpha[1]: should be a number, not 'x'"),
        ("optim: {lr: fast}", "optim.lr: should be a number, not 'fast'"),
        ('optim: {lr: "0.1"}', "optim.lr: should be a number, not '0.1'"),
        ("optim: {batch_size: 2.5}", "optim.batch_size: should be a whole number, not 2.5"),
        ("optim: {epochs: 1, steps: 1}", "optim.steps: cannot be combined with epochs"),
        ("optim: {momentum: 1}", "optim.momentum: should be below 1, not 1"),
        ("optim: {name: adamw, momentum: .9}", "optim.momentum: optim adamw has no such key; it belongs to sgd"),
        ("data: {image_size: large}", "data.image_size: should be a whole number or a list, not 'large'"),
        ("data: {image_size: [64, x]}", "data.image_size[1]: should be a whole number, not 'x'"),
        ("data: {train: 2007/trainval}", "data.train: should be a list, not '2007/trainval'"),
        ("data: {train: [trainval]}", "data.train[0]: should be YEAR/SPLIT"),
        ("data: {augment: {flip: 2}}", "data.augment.flip: should be at most 1, not 2"),
        ("data: {augment: {flop: 2}}", "data.augment.flop: unknown key; did you mean 'flip'?"),
        ("data: {name: synthetic, root: x}", "data.root: data synthetic has no such key; it belongs to voc"),
        ("data: {augment: {crop: no}}", "data.augment.crop: should be true or false, not 'no'"),
        (
            "model: {backbone: resnet81}",
            "model.backbone: should be one of tiny, efficientnet_lite0, resnet18, resnet34, resnet50, "
            "mobilenet_v3_large or timm/NAME, not 'resnet81'; did you mean 'resnet18'?",
        ),
        ("model: {backbone: 18}", "mobilenet_v3_large or timm/NAME, not 18"),
        ("model: {backbone: timm/}", "model.backbone: should match ^timm/"),
        (
            "model: {trainable_stages: 1}",
            "model.trainable_stages: 1 needs loaded weights: set weights to imagenet or a",
        ),
        (
            "model: {weights: imagenet, trainable_stages: 5}",
            "model.trainable_stages: should be at most 4, not 5",
        ),
        (
            "model: {name: yolov2, weights: a.weights, norm: frozen}",
            "model.norm: frozen is for efficientnet_lite0: leave it null for darknet19",
        ),
        (
            "model: {name: yolov2, norm: frozen, backbone: efficientnet_lite0}",
            "model.norm: frozen needs loaded weights",
        ),
        ("optim: {backbone_lr: 0}", "optim.backbone_lr: should be at least"),
        ("model: {name: yolov2, priors: [[1, 2], [3]]}", "model.priors[1]"),
        ("name: a/b", "name: should be letters"),
        ("name: 3", "name: should be text, not 3"),
        ("seed: 1.5", "seed: should be a whole number, not 1.5"),
        ("seed: -1", "seed: should be at least 0, not -1"),
        ("eval: 3", "eval: should be a mapping"),
        ("sweep: {random: {num: 3}}", "sweep.random.params: is missing"),
        ("sweep: {gird: {}}", "sweep.gird: unknown key; did you mean 'grid'?"),
        ("sweep: {grid: {}}", "sweep.grid"),
        ("sweep: {seeds: []}", "sweep.seeds: should be a whole number or a list of at least 1"),
        ("sweep: {seeds: 0}", "sweep.seeds: should be at least 1 or a list, not 0"),
        ("sweep: {seeds: true}", "sweep.seeds: should be a whole number or a list, not true"),
        ("sweep: {margin: 0}", "sweep.margin: should be above 0, not 0"),
        ("sweep: {margin: 1}", "sweep.margin: should be below 1, not 1"),
        ("sweep: {until: always}", "sweep.until: should be 'decided', not 'always'"),
        ("sweep: {until: decided, max_seeds: 5}", "sweep.max_seeds: should be at least 6, not 5"),
        ("sweep: {until: decided, seeds: 7, max_seeds: 6}", "sweep.max_seeds: should be at least the 7 seeds listed"),
        ("sweep: {until: decided, seeds: [0, 0]}", "sweep.seeds: should list each seed only once"),
        ("sweep: {until: decided}", "sweep.until: needs at least two arms"),
        (
            "sweep: {until: decided, search: {num: 2, params: {loss.gamma: {uniform: [0, 1]}}}}",
            "sweep.until: cannot be combined with sweep.search",
        ),
    ],
)
def test_every_fault_names_its_key_and_reason(write, text, expected):
    path = write(text)
    assert f"{path}:1:" in message(path)
    assert expected in message(path)


def test_all_faults_at_once_in_the_order_of_the_file(write):
    path = write("seed: x\nloss: {gama: 1, gamma: -1}\noptim: {lr: 0}\nfoo: 1\n")
    lines = [line for line in message(path).splitlines() if line.startswith(str(path))]
    assert [line.split(":")[1] for line in lines] == ["1", "2", "2", "3", "4"]


def test_hundreds_of_faults_are_cut_to_twenty_lines(write):
    text = message(write("\n".join(f"key{i}: {i}" for i in range(300))))
    assert text.splitlines()[-1].startswith("... and ")


def test_overrides_use_the_files_grammar(write):
    path = write("loss: {name: focal, gamma: 1}\n")
    config = load_config(
        path, ["loss.gamma=5e-1", "optim.ema=null", "data.image_size=[96, 128]", "data.augment.crop=false"]
    ).config
    assert (config.loss.gamma, config.optim.ema, config.data.image_size) == (0.5, None, (96, 128))
    assert config.data.augment.crop is False
    assert load_config(path, ["name=a=b"]).config.name == "a=b"


def test_override_can_reach_into_sections_that_the_file_lacks(write):
    assert load_config(write("seed: 0"), ["model.backbone=tiny"]).config.model.backbone == "tiny"
    assert load_config(write("sweep: null"), ["sweep.seeds=[1,2]"]).config.sweep.seeds == (1, 2)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("los.name=ce", "-s los.name=ce: los: unknown key; did you mean 'loss'?"),
        ("loss.gama=1", "-s loss.gama=1: loss.gama: unknown key; did you mean 'gamma'?"),
        ("loss.gamma", "-s loss.gamma: should be KEY=VALUE"),
        ("=3", "-s =3: should be KEY=VALUE"),
        ("loss..gamma=3", "should be KEY=VALUE"),
        ("loss.gamma=[1", "-s loss.gamma=[1: loss.gamma: not YAML"),
        ("loss.gamma=!!python/name:os.system", "the tag"),
        ("seed.x=1", "-s seed.x=1: seed.x: 'seed' is a value, not a section"),
        ("loss=ce", "-s loss=ce: loss: should be a mapping"),
        ("loss.gamma={a: 1, a: 2}", "repeated key"),
        ("optim.lr=", "-s optim.lr=: optim.lr: should be a number, not null"),
        ("loss.gamma=0,1,2,3,4,5,6,7,8", "-s 'sweep.grid={loss.gamma: [0, 1, 2, 3, 4, 5, 6, 7, 8]}'"),
        ("loss.name=ce,focal", """-s 'sweep.grid={loss.name: ["ce", "focal"]}'"""),
        ("loss.gamma=.5,1,2", "; to compare several: -s 'sweep.grid={loss.gamma: [0.5, 1, 2]}'"),
        (
            "seed=0,1",
            "-s seed=0,1: seed: should be a whole number, not '0,1'; to compare several: -s 'sweep.seeds=[0, 1]'",
        ),
    ],
)
def test_faulty_override_names_the_argument(write, override, expected):
    text = message(write("seed: 0"), override)
    assert expected in text
    assert "exp.yaml" not in text


def test_faults_of_file_and_overrides_come_together(write):
    text = message(write("seed: x"), "nonsense", "optim.lr=fast")
    assert "seed: should be" in text
    assert "-s nonsense" in text
    assert "-s optim.lr=fast" in text


def test_a_file_may_build_on_another(write):
    write(
        "name: common\nmodel: {backbone: tiny, fpn_channels: 32}\nsweep: {seeds: 3, grid: {loss.gamma: [1, 2]}}",
        "b.yaml",
    )
    write(
        "base: b.yaml\noptim: {name: adamw, steps: 10, lr: 1e-3}\nloss: {gamma: {schedule: linear, values: [0, 2]}}",
        "c.yaml",
    )
    path = write(
        "base: c.yaml\noptim: {epochs: 2}\nmodel: {backbone: resnet18}\nsweep: {grid: {optim.lr: [.1]}}", "own.yaml"
    )
    experiment = load_config(path, ["model.fpn_channels=64"])
    config = experiment.config
    assert (config.name, config.model.backbone, config.model.fpn_channels) == ("own", "resnet18", 64)
    assert (config.optim.name, config.optim.lr, config.optim.epochs, config.optim.steps) == ("adamw", 1e-3, 2, None)
    assert config.loss.gamma.values == (0, 2)
    assert (len(config.sweep.seeds), config.sweep.grid) == (3, {"optim.lr": (0.1,)})
    again = load_mapping(yaml.safe_load(experiment.written.text), experiment.written.overrides)
    assert [trial.hash for trial in again.trials] == [trial.hash for trial in experiment.trials]


def test_a_plugins_loss_may_replace_a_built_in_one_of_the_base(write):
    write("loss: {name: focal, alpha: 0.3, gamma: 3, weight: 2}", "b.yaml")
    plugin = write(
        "import focalbench as fb\n"
        "@fb.loss('mine')\n"
        "def mine(logits, targets, *, epsilon: float = 1.0):\n"
        "    return logits * targets\n",
        "mine.py",
    )
    config = load_config(write(f"base: b.yaml\nplugins: ['{plugin}']\nloss: {{name: mine, epsilon: 2}}")).config
    assert (config.loss.name, config.loss.epsilon, config.loss.weight) == ("mine", 2, 2)


@pytest.mark.parametrize("override", ["eval.batch_size=8,16", "data.cache=ram,disk"])
def test_no_hint_at_a_sweep_for_what_cannot_be_swept(write, override):
    assert "to compare several" not in message(write("seed: 0"), override)


def test_a_fault_without_a_key_has_no_hint():
    with pytest.raises(ConfigError):
        load_mapping({"data": {"name": "voc", "root": "/x/\udcff"}, "name": "a"})


def test_what_is_wrong_is_named_in_the_file_where_it_stands(write):
    write("loss: {gama: 1}\noptim: {lr: fast}", "b.yaml")
    text = message(write("base: b.yaml\noptim: {lr: slow}"))
    assert "b.yaml:1:8: loss.gama: unknown key" in text
    assert "exp.yaml:2:13: optim.lr: should be a number, not 'slow'" in text
    assert "fast" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: none.yaml", "none.yaml: no such file"),
        ("base: exp.yaml", "exp.yaml:1:7: base: "),
        ("base: exp.yaml", "builds on itself"),
        ("base: [a]", "base: should be the path of a file, not ['a']"),
    ],
)
def test_a_base_that_cannot_be_built_on_is_refused(write, text, expected):
    assert expected in message(write(text))


def test_a_base_on_the_command_line_is_refused(write):
    assert "base: is read from the file only" in message(write("seed: 0"), "base=x.yaml")


def test_variables_of_the_environment_stand_in_paths(write, monkeypatch):
    monkeypatch.setenv("SETS", "/data/sets")
    path = write("data: {root: $SETS/VOCdevkit, cache_dir: '${SETS}/cache'}\nname: $SETS_is_text\n")
    with pytest.raises(ConfigError, match="name: should be letters"):
        load_config(path)
    experiment = load_config(path, ["name=x", "model.weights=$SETS/a.pth"])
    config = experiment.config
    assert (config.data.root, config.data.cache_dir) == ("/data/sets/VOCdevkit", "/data/sets/cache")
    assert config.model.weights == "/data/sets/a.pth"
    assert "$SETS/VOCdevkit" in experiment.written.text  # the file that is kept is the file as written


def test_what_an_override_replaces_needs_no_variable_and_values_are_taken_as_they_are(write, monkeypatch):
    monkeypatch.delenv("NOBODY", raising=False)
    monkeypatch.setenv("ODD", "/mnt/$x")
    path = write("data: {root: $NOBODY}")
    assert load_config(path, ["data.root=$ODD/a"]).config.data.root == "/mnt/$x/a"
    assert load_config(path, ["data.name=synthetic"]).config.data.name == "synthetic"


def test_variables_stand_in_paths_that_a_sweep_sets(write, monkeypatch):
    monkeypatch.setenv("SETS", "/data")
    text = "sweep: {grid: {data.root: [$SETS/a, b]}, list: [{data.root: $SETS/c}, {data: {name: voc, root: $SETS/d}}]}"
    roots = [trial.config.data.root for trial in load_config(write(text)).trials]
    assert roots == ["/data/a", "b", "/data/c", "/data/d"]


def test_a_variable_that_is_not_set_is_named(write, monkeypatch):
    monkeypatch.delenv("NOBODY", raising=False)
    text = message(write("data: {root: $NOBODY/x}"))
    assert "exp.yaml:1:14: data.root: the environment variable NOBODY is not set" in text
    assert text.count("NOBODY is not set") == 1
    assert "-s plugins" in message(write("seed: 0"), "plugins=[$NOBODY/a.py]")


def test_new_variant_keeps_the_keys_it_also_has(write):
    path = write("loss: {name: focal, gamma: 3, alpha: 0.4, weight: 2, match_scale: true}")
    loss = load_config(path, ["loss.name=softmax_focal"]).config.loss
    assert (loss.gamma, loss.alpha, loss.weight, loss.match_scale) == (3, 0.4, 2, True)
    loss = load_config(path, ["loss.name=ce"]).config.loss
    assert (type(loss), loss.weight, loss.match_scale) == (CrossEntropyConfig, 2, True)


def test_new_variant_drops_values_that_it_does_not_take(write):
    path = write("model: {name: retinanet, backbone: resnet50, prior_prob: 0.02}")
    model = load_config(path, ["model.name=yolov2"]).config.model
    assert (model.backbone, model.prior_prob) == ("darknet19", 0.02)


def test_explicit_keys_win_over_the_variant_whatever_their_order(write):
    path = write("loss: {name: ce}")
    for overrides in (["loss.name=focal", "loss.gamma=5"], ["loss.gamma=5", "loss.name=focal"]):
        assert load_config(path, overrides).config.loss == FocalConfig(gamma=5)
    assert "loss.gamma: loss ce has no such key" in message(write("seed: 0"), "loss.gamma=1", "loss.name=ce")


def test_typing_error_is_reported_even_when_the_variant_changes(write):
    assert "unknown key; did you mean 'gamma'?" in message(
        write("loss: {name: focal, gama: 1}"), "loss.name=softmax_focal"
    )


def test_whole_branch_is_replaced(write):
    path = write("loss: {name: focal, gamma: 5, weight: 3}")
    assert load_config(path, ["loss={name: ce}"]).config.loss == CrossEntropyConfig()


def test_steps_and_epochs_let_go_of_each_other(write):
    path = write("optim: {epochs: 3}")
    assert load_config(path, ["optim.steps=200"]).config.optim.epochs is None
    assert load_config(write("optim: {steps: 200}"), ["optim.epochs=2"]).config.optim.steps is None


def test_whole_numbers_may_be_written_with_an_exponent(write):
    assert load_config(write("optim: {steps: 1e3}")).config.optim.steps == 1000


def test_keys_of_a_grid_keep_their_dots():
    assert split_key("sweep.grid.loss.gamma") == ("sweep", "grid", "loss.gamma")
    assert split_key("sweep.random.params.optim.lr") == ("sweep", "random", "params", "optim.lr")
    assert split_key("sweep.seeds") == ("sweep", "seeds")
    assert split_key("data.augment.flip") == ("data", "augment", "flip")


SWEEP = """
loss: {name: focal, gamma: 3}
sweep:
  seeds: [0, 1]
  grid: {loss.name: [focal, balanced_ce, ce], optim.lr: [1e-3, 1e-2]}
  list: [{name: x, loss: {name: ohem}}]
  random: {num: 2, params: {optim.weight_decay: {uniform: [0, 0.1]}}}
  exclude: [{loss.name: ce, seed: 1}]
"""


def test_dump_is_read_back_to_the_same_configuration_and_trials(write):
    experiment = load_config(write(SWEEP))
    assert load_config(write(dump_yaml(experiment.config), "exp2.yaml")) == experiment
    for trial in experiment.trials:
        back = load_config(write(dump_yaml(trial.config), "trial.yaml")).config
        assert back == trial.config
        assert config_hash(back) == trial.hash


def test_dump_spells_out_every_default():
    data = yaml.safe_load(dump_yaml(ExperimentConfig()))
    assert data["optim"]["epochs"] == 12
    assert data["loss"]["alpha"] == 0.25
    assert next(iter(data["loss"])) == "name"
    assert "sweep" not in data


def test_every_arm_is_validated_once(write, monkeypatch):
    validated = []
    monkeypatch.setattr(sweep, "check", lambda document: validated.append(document) or check(document))
    experiment = load_config(write("sweep: {seeds: [0, 1, 2, 3, 4], grid: {loss.gamma: [0, 1, 2]}}"))
    assert (len(experiment.trials), len(validated)) == (15, 3)


SWEEP = """
sweep: {list: [{name: ce, loss: {name: ce}, optim.lr: 1}, {name: focal, loss: {name: focal, gamma: 1}, optim.lr: 2}]}
"""


@pytest.mark.parametrize(
    ("override", "has_effect"),
    [
        ("loss.gamma=5", False),
        ("loss.gamma=1", True),
        ("loss={name: focal, gamma: 5, alpha: 0.25}", True),
        ("loss={name: focal, gamma: 5}", True),  # its name is
        ("loss={name: ghm}", False),
        ("loss={name: ghm, momentum: 0.5}", False),
        ("loss={}", True),
        ("optim.lr=3", False),
        ("optim.lr=1e0", True),
        ("model.backbone=resnet18", True),
        ("eval.top_k=7", True),
        ("run.retries=3", True),
        ("seed=4", True),
        ("sweep.seeds=4", True),
        ("name=other", True),
    ],
)
def test_an_override_that_no_trial_would_have_is_refused(write, override, has_effect):
    others = [] if has_effect else ["optim.batch_size=8"]
    path = write("loss: {name: focal}" + SWEEP)
    if has_effect:
        assert load_config(path, [override]).trials
        return
    with pytest.raises(ConfigError) as fault:
        load_config(path, [*others, override])
    assert str(fault.value).startswith(f"-s {override}: no trial has it: every arm of the sweep sets it otherwise")
    assert "batch_size" not in str(fault.value)


def test_an_override_may_be_for_the_arms_that_a_search_proposes(write):
    search = "search: {num: 3, params: {loss.gamma: {uniform: [0, 2]}}}"
    path = write(f"loss: {{name: focal}}\nsweep: {{list: [{{name: ce, loss: {{name: ce}}}}], {search}}}")
    assert load_config(path, ["loss.alpha=0.5"])
    with pytest.raises(ConfigError, match=r"-s loss.gamma=5: no trial has it"):
        load_config(path, ["loss.gamma=5"])


@pytest.mark.parametrize(
    ("stem", "name"), [("日本", "日本"), ("größe 2", "größe_2"), ("-+x", "x"), ("िx", "x"), ("%%", "experiment")]
)
def test_a_file_in_any_script_names_its_experiment(tmp_path, stem, name):
    (tmp_path / f"{stem}.yaml").write_text("loss: {name: ce}")
    assert load_config(tmp_path / f"{stem}.yaml").config.name == name


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", "x" * 101, "焦" * 61, "a\u0308", "a:b"])
def test_a_name_that_no_folder_should_have_is_refused(write, name):
    with pytest.raises(ConfigError, match=r"name: .*should be letters, digits and"):
        load_config(write(f"name: {yaml.safe_dump(name, default_style=chr(34))}"))


TRAPS = st.sampled_from(
    ["no", "1e-3", "1:30", "null", "~", "0x1f", "=", "<<", "true", "2007-01-01", "1_0", "a: b", "#x", " a"]
)


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(
        TRAPS | st.text(string.printable[:95].replace("/", "").replace("\\", ""), min_size=1, max_size=12),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    # What stands for something else is filled in when a file is read.
    root=(TRAPS | st.text(min_size=1, max_size=10)).filter(lambda text: text.isprintable() and not set(text) & {*"$~"}),
    lr=st.floats(1e-12, 100),
    gamma=st.floats(0, 1e6) | st.integers(0, 100),
    size=st.integers(32, 4096) | st.tuples(st.integers(32, 4096), st.integers(32, 4096)),
)
def test_any_configuration_survives_the_round_trip(tmp_path_factory, classes, root, lr, gamma, size):
    config = ExperimentConfig.model_validate(
        {
            "data": {"name": "voc", "classes": classes, "root": root, "image_size": size},
            "loss": {"name": "focal", "gamma": gamma},
            "optim": {"name": "sgd", "lr": lr},
        }
    )
    path = tmp_path_factory.mktemp("round") / "a.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(path).config == config
    assert yaml.safe_load(dump_yaml(config))["data"]["classes"] == list(classes)  # YAML 1.1 readers see the same text


def test_reading_a_configuration_loads_no_torch(write):
    """The launcher's parent process and every quick command depend on it."""
    import subprocess
    import sys

    code = (
        "import sys\nfrom focalbench.config.load import load_config\n"
        f"load_config({str(write('seed: 0'))!r})\n"
        "print([name for name in ('torch', 'numpy', 'rich', 'typer') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_mapping_means_what_its_yaml_means(write):
    text = """
name: same
data: {name: voc, root: some/where, classes: [a, b], image_size: [64, 96]}
optim: {lr: 1e-3, steps: 600}
sweep: {seeds: [0, 1], grid: {loss.gamma: [0, 2]}}
"""
    mapping = yaml.safe_load(text)
    mapping["data"] |= {"root": PurePath("some/where"), "classes": ("a", "b")}
    mapping["optim"] = {"lr": np.float64(0.001), "steps": np.int64(600)}
    loaded, read = load_mapping(mapping), load_config(write(text))
    assert loaded.trials == read.trials
    assert load_mapping({"seed": 1}, ["seed=2"]).config.model_dump()["name"] == "experiment"


def test_values_that_no_file_could_hold_are_named_by_their_keys():
    with pytest.raises(ConfigError) as caught:
        load_mapping({"loss": {"gamma": object()}, "sweep": {"list": [{3: 4}]}, "data": {"classes": {"a"}}})
    assert sorted(str(caught.value).splitlines()) == [
        "data.classes: a configuration cannot hold a value of type set",
        "loss.gamma: a configuration cannot hold a value of type object",
        "sweep.list[0]: a key should be text, not 3",
    ]
    endless: dict[str, object] = {}
    endless["loss"] = endless
    with pytest.raises(ConfigError, match="nested more than 40 levels deep"):
        load_mapping(endless)
