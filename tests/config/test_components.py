"""The schema against the parts it describes: what a file may say is what the code can build, and conversely."""

import inspect
from typing import get_args

import pytest

from focalbench.config.data import AugmentConfig
from focalbench.config.faults import variants
from focalbench.config.model import BackboneName
from focalbench.config.schema import ExperimentConfig
from focalbench.data.transforms import Augment
from focalbench.experiment.build_loss import keywords_among
from focalbench.losses import CRITERIA, LOSSES
from focalbench.losses.base import ClassificationLoss
from focalbench.losses.criterion import Criterion
from focalbench.models import MODELS
from focalbench.models.backbones import BACKBONES
from focalbench.models.detector import Detector


def keywords(function):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def test_a_section_names_classes_of_its_kind():
    assert set(variants("model")) == set(MODELS) == set(CRITERIA)
    assert set(variants("loss")) == set(LOSSES)
    assert all(issubclass(network, Detector) for network in MODELS.values())
    assert all(issubclass(criterion, Criterion) for criterion in CRITERIA.values())
    assert all(issubclass(loss, ClassificationLoss) for loss in LOSSES.values())


def test_every_backbone_can_be_named():
    assert set(get_args(BackboneName)) == set(BACKBONES)


@pytest.mark.parametrize("name", get_args(variants("model")["yolov2"].model_fields["backbone"].annotation))
def test_yolov2_builds_each_backbone(name):
    assert MODELS["yolov2"](num_classes=2, backbone=name).num_classes == 2


def test_augmentation_has_the_same_keys_and_defaults():
    expected = {name: default for name, default in keywords(Augment).items() if name != "dtype"}
    assert AugmentConfig().model_dump() == expected


@pytest.mark.parametrize("name", list(variants("loss")))
def test_keys_of_a_loss_are_the_keywords_of_its_class_with_the_same_defaults(name):
    theirs = {key: parameter.default for key, parameter in inspect.signature(LOSSES[name]).parameters.items()}
    del theirs["num_classes"], theirs["counts"]  # these are the data's
    fields = variants("loss")[name].model_fields
    own = fields.keys() - {"name", "weight", "match_scale", "apply_to"}
    assert {key: fields[key].default for key in own} == theirs


@pytest.mark.parametrize("name", list(variants("model")))
def test_each_key_of_a_model_reaches_the_network_or_the_criterion(name):
    section, parts = variants("model")[name], (MODELS[name], CRITERIA[name])
    reached = {key for part in parts for key in keywords_among(section.model_fields, part)}
    assert set(section.model_fields) - reached <= {"name", "multiscale", "multiscale_every"}  # those of the batches
    for part in parts:
        for key, default in keywords(part).items():
            assert section.model_fields[key].default == default if key in section.model_fields else True, key


def test_default_of_the_canvas_is_a_multiple_of_the_coarsest_stride():
    assert ExperimentConfig().data.image_size % 32 == 0
