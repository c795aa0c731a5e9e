"""Networks of timm's below a RetinaNet: the same as torchvision's with the same weights, and refused in words."""

import pytest
import torch
import torchvision

from focalbench.config.load import load_config
from focalbench.errors import ConfigError, DataError, InterruptedTrial
from focalbench.experiment.trial import run_trial
from focalbench.models.backbones import build_backbone
from focalbench.models.retinanet import RetinaNet
from focalbench.models.weights import load_backbone_weights
from focalbench.runtime import StopFlag, environment
from focalbench.training.checkpoint import load_newest

pytestmark = pytest.mark.usefixtures("extra_timm")

CANVAS = (64, 96)
HEAD = {"fpn_channels": 8, "head_convs": 1}


def classifier(name, **arguments):
    """timm's whole network, its batch norm no longer at 0 and 1."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model(name, **arguments)
    for key, value in net.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture
def saved(tmp_path):
    """Saves a classifier of timm's and returns it with the path."""

    def save(name, **arguments):
        net = classifier(name, **arguments)
        torch.save(net.state_dict(), tmp_path / "net.pth")
        return net, str(tmp_path / "net.pth")

    return save


def test_with_the_same_weights_it_is_torchvisions_network(tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    ours, theirs = (
        RetinaNet(num_classes=3, backbone=name, weights=str(tmp_path / "resnet18.pth"), canvas=(64, 64), **HEAD).eval()
        for name in ("resnet18", "timm/resnet18")
    )
    heads = {key: value for key, value in ours.state_dict().items() if not key.startswith("backbone.")}
    theirs.load_state_dict(heads, strict=False)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs(images).cls_logits, ours(images).cls_logits)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_mambaout", "test_coatnet"])
def test_a_network_trains_and_has_maps_of_the_three_strides(name):
    """A mobile one, one without batch norm, one with channels last, and a transformer made for one canvas."""
    torch.manual_seed(0)
    model = RetinaNet(num_classes=3, backbone=f"timm/{name}", canvas=CANVAS, **HEAD)
    features = model.backbone(torch.randn(2, 3, *CANVAS))
    assert [tuple(x.shape) for x in features] == [
        (2, width, 64 // stride, 96 // stride)
        for width, stride in zip(model.backbone.channels, (8, 16, 32), strict=True)
    ]
    torch.stack([x.square().mean() for x in features]).sum().backward()
    learning = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    assert learning
    assert all(parameter.grad is not None for parameter in learning)  # else several ranks would wait for it


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_timms_classifier_fills_the_backbone(tmp_path, name, suffix):
    from safetensors.torch import save_file

    net, path = classifier(name, num_classes=7), tmp_path / f"net.{suffix}"
    (torch.save if suffix == "pth" else save_file)(net.state_dict(), path)
    backbone = build_backbone(f"timm/{name}", "batch", CANVAS).eval()
    load_backbone_weights(backbone, f"timm/{name}", str(path))
    images = torch.randn(2, 3, *CANVAS)
    with torch.no_grad():
        expected = net.forward_intermediates(images, intermediates_only=True)[-3:]
        for found, wanted in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_tables_for_another_canvas_are_resized(saved):
    net, path = saved("test_coatnet")
    backbone = build_backbone("timm/test_coatnet", "batch", CANVAS)
    load_backbone_weights(backbone, "timm/test_coatnet", path)
    table = "blocks.0.attn.rel_pos.relative_position_bias_table"
    own = backbone.state_dict()[f"net.stages_3.{table}"].view(3, 5, -1)  # of 2x3 cells
    whole = net.state_dict()[f"stages.3.{table}"].view(9, 9, -1)  # of 5x5 cells
    torch.testing.assert_close(own[1, 2], whole[4, 4])  # no distance


def test_published_weights_that_timm_cannot_fit_to_the_canvas(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    save_file(classifier("visformer_tiny").state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda **_: str(tmp_path / "model.safetensors"))
    with pytest.raises(DataError, match=r"cannot fit timm/visformer_tiny.* set data\.image_size to 224x224"):
        RetinaNet(num_classes=2, backbone="timm/visformer_tiny", weights="imagenet", canvas=CANVAS)


def test_a_retinanet_of_ours_gives_its_backbone(tmp_path):
    first = RetinaNet(num_classes=3, backbone="timm/test_resnet", canvas=CANVAS, **HEAD)
    torch.save({"model": first.state_dict()}, tmp_path / "checkpoint.pt")
    path = str(tmp_path / "checkpoint.pt")
    second = RetinaNet(num_classes=2, backbone="timm/test_resnet", canvas=CANVAS, weights=path, **HEAD)
    expected = first.backbone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in second.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), r"1 missing \(layer1\.0\.conv1\.weight\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 not in this network \(extra\)"),
        (lambda state: state.update({"layer1.0.conv1.weight": torch.zeros(2, 2)}), "1 of another shape"),
        (lambda state: state["layer1.0.bn1.bias"].fill_(torch.nan), r"1 not finite \(net\.layer1\.0\.bn1\.bias\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(tmp_path, damage, reason):
    state = classifier("test_resnet").state_dict()
    damage(state)
    torch.save(state, tmp_path / "bad.pth")
    backbone = build_backbone("timm/test_resnet", "batch", CANVAS)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(DataError, match=reason):
        load_backbone_weights(backbone, "timm/test_resnet", str(tmp_path / "bad.pth"))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_a_damaged_safetensors_file(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}")
    with pytest.raises(DataError, match=r"net\.safetensors: not a safetensors file"):
        RetinaNet(num_classes=2, backbone="timm/test_resnet", weights=str(tmp_path / "net.safetensors"))


def test_imagenet_takes_what_timm_publishes(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    asked, net = [], classifier("test_resnet")
    save_file(net.state_dict(), tmp_path / "model.safetensors")

    def download(repo_id, filename, **_):
        asked.append((repo_id, filename))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    model = RetinaNet(num_classes=2, backbone="timm/test_resnet.r160_in1k", weights="imagenet", canvas=CANVAS)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    state = model.backbone.state_dict()
    assert all(torch.equal(state[f"net.{key}"], value) for key, value in net.state_dict().items() if "fc." not in key)


def test_a_failing_download_names_what_failed_and_the_way_out(monkeypatch):
    def refuse(**_):
        raise OSError("unreachable")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    with pytest.raises(
        DataError, match=r"cannot download timm/test_resnet\.r160_in1k \(unreachable\).* model\.weights"
    ):
        RetinaNet(num_classes=2, backbone="timm/test_resnet", weights="imagenet")


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet81", {}, "has no such network; did you mean resnet18"),
        ("resnet18.a9_in1k", {}, "no weights with that tag; did you mean resnet18.a"),
        ("test_vit", {}, "maps of strides 16, 16, 16, and RetinaNet needs 8, 16 and 32"),
        ("test_convnext", {"canvas": (75, 100)}, r"are 9x12, .* not 10x13, .*: make data\.image_size a multiple of 32"),
        (
            "test_mambaout",
            {"norm": "frozen"},
            r"model\.norm: frozen: timm/test_mambaout has no batch norm: use norm: batch",
        ),
        ("mvitv2_tiny", {"canvas": CANVAS}, "makes no feature maps from it for 64x96 px .* use another backbone"),
        (
            "ghostnet_050",
            {"weights": "imagenet", "canvas": CANVAS},
            "timm has no weights for ghostnet_050: use none or a file",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(name, options, reason):
    with pytest.raises(ConfigError, match=reason):
        RetinaNet(num_classes=2, backbone=f"timm/{name}", **options)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("focalbench.extras.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"timm/resnet18: timm is not installed: pip install 'focalbench\[timm\]'"):
        build_backbone("timm/resnet18", "batch")
    build_backbone("tiny", "batch")


def test_frozen_norm_neither_learns_nor_moves():
    backbone = build_backbone("timm/test_efficientnet", "frozen", CANVAS).train()
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    images = torch.randn(2, 3, *CANVAS)
    features = backbone(images)
    assert all(torch.equal(value, before[key]) for key, value in backbone.named_buffers())
    torch.testing.assert_close(features[-1][:1], backbone(images[:1])[-1])  # no statistics of the batch
    features[-1].sum().backward()
    assert backbone.net.conv_stem.weight.grad is not None
    assert backbone.net.bn1.weight.grad is None


def test_sync_norm_keeps_the_activation_inside():
    torch.manual_seed(0)
    plain = build_backbone("timm/test_efficientnet", "batch", CANVAS)
    synchronised = build_backbone("timm/test_efficientnet", "sync", CANVAS)
    synchronised.load_state_dict(plain.state_dict())
    norms = [m for m in synchronised.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    images = torch.randn(2, 3, *CANVAS)
    torch.testing.assert_close(synchronised(images)[-1], plain(images)[-1])


def test_stages_are_those_of_timm_and_the_stem_is_one_where_it_has_a_map():
    backbone = build_backbone("timm/test_resnet", "batch", CANVAS)
    assert backbone.num_stages == 5
    backbone.freeze(2)
    learning = {name.removeprefix("net.").split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning == {"layer3", "layer4"}
    images = torch.randn(2, 3, *CANVAS)
    maps = backbone(images)
    assert [x.requires_grad for x in maps] == [False, True, True]  # nothing is kept for the frozen ones


TRIAL = """\
name: small
data: {{name: synthetic, num_train: 8, num_val: 2, image_size: 64}}
model: {{backbone: timm/test_efficientnet, weights: "{path}", trainable_stages: 2, fpn_channels: 8, head_convs: 1}}
optim: {{name: adamw, steps: 4, batch_size: 4, warmup_steps: 1, weight_decay: 0.1, ema: 0.5}}
eval: {{every: null, score_thresh: 0.0}}
run: {{log_every: 1, checkpoint_every: 0.001}}
"""


def test_a_trial_leaves_frozen_stages_as_loaded_and_goes_on_after_a_stop(tmp_path, saved):
    net, path = saved("test_efficientnet")
    (tmp_path / "small.yaml").write_text(TRIAL.format(path=path))
    (trial,) = load_config(tmp_path / "small.yaml").trials

    def run(folder, stop_at=None):
        stop = StopFlag()

        def progress(step, steps, values):
            if step == stop_at:
                stop.request(15)

        return run_trial(trial, tmp_path / folder, device="cpu", stop=stop, progress=progress)

    result = run("unbroken")
    assert result.environment["timm"] == environment()["timm"]
    with pytest.raises(InterruptedTrial):
        run("stopped", stop_at=2)
    run("stopped")
    unbroken, resumed = (load_newest(tmp_path / folder / "checkpoints") for folder in ("unbroken", "stopped"))
    assert all(torch.equal(value, resumed["model"][key]) for key, value in unbroken["model"].items())
    frozen = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")
    for form in (unbroken["model"], unbroken["ema"]):
        found = {key.partition("net.")[2]: value for key, value in form.items() if ".net." in key}
        for key, value in net.state_dict().items():
            if key.startswith(frozen):
                assert torch.equal(found[key], value), key
    assert not torch.equal(unbroken["model"]["backbone.net.blocks.4.0.conv_pw.weight"], net.blocks[4][0].conv_pw.weight)
