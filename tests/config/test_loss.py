"""The loss branch of the configuration: what is taken and how faults are told."""

from typing import Annotated, get_args

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from focalbench.config.loss import BuiltInLoss, FocalConfig

ADAPTER = TypeAdapter(Annotated[BuiltInLoss, Field(discriminator="name")])


def test_each_name_has_its_model_and_every_field_is_documented():
    for config in get_args(BuiltInLoss):
        loss = ADAPTER.validate_python({"name": config.model_fields["name"].default})
        assert type(loss) is config
        assert all(field.description for field in config.model_fields.values())


def test_the_focal_losss_defaults_are_the_papers():
    assert (FocalConfig().gamma, FocalConfig().alpha, FocalConfig().weight) == (2.0, 0.25, 1.0)


@pytest.mark.parametrize("alpha", [0.3, "auto", None, (0.1, 0.9), "2.5e-1"])
def test_alpha_takes_every_form(alpha):
    found = ADAPTER.validate_python({"name": "focal", "alpha": alpha}).alpha
    assert found == (0.25 if alpha == "2.5e-1" else alpha)


def test_schedules_are_read_and_dumped():
    written = {"schedule": "step", "values": [0, 1, 2], "at": [0.3, 0.6]}
    loss = ADAPTER.validate_python({"name": "focal", "gamma": written})
    assert loss.gamma.values == (0.0, 1.0, 2.0)
    assert ADAPTER.validate_python(loss.model_dump()) == loss
    assert ADAPTER.validate_json(loss.model_dump_json()) == loss


@pytest.mark.parametrize(
    ("fields", "where", "why"),
    [
        ({"gamma": -1}, ("focal", "gamma", "number"), "greater than or equal to 0"),
        ({"gamma": float("nan")}, ("focal", "gamma", "number"), "finite"),
        ({"gamma": None}, ("focal", "gamma"), "a number >= 0 or a schedule"),
        ({"gamma": {"schedule": "step", "values": [1]}}, ("focal", "gamma", "<schedule>"), "at least two"),
        ({"gamma": {"schedule": "constant", "values": [1, 2]}}, ("focal", "gamma", "<schedule>"), "one value"),
        (
            {"gamma": {"schedule": "linear", "values": [1, 2], "at": [0.5, 0.5]}},
            ("focal", "gamma", "<schedule>"),
            "rise",
        ),
        (
            {"gamma": {"schedule": "linear", "values": [1, 2], "at": [0.5]}},
            ("focal", "gamma", "<schedule>"),
            "2 fractions",
        ),
        (
            {"gamma": {"schedule": "step", "values": [1, 2, 3], "at": [0.5]}},
            ("focal", "gamma", "<schedule>"),
            "2 fractions",
        ),
        (
            {"gamma": {"schedule": "step", "values": [1, -2]}},
            ("focal", "gamma", "<schedule>", "values", 1),
            "greater than",
        ),
        ({"alpha": 2}, ("focal", "alpha", "number"), "less than or equal to 1"),
        ({"alpha": [0.5, 1.5]}, ("focal", "alpha", "per_class", 1), "less than or equal to 1"),
        ({"alpha": "automatic"}, ("focal", "alpha"), "`auto`, null or one number per class"),
        ({"gama": 1}, ("focal", "gama"), "not permitted"),
        ({"weight": 0}, ("focal", "weight"), "greater than 0"),
        ({"apply_to": "boxes"}, ("focal", "apply_to"), "class"),
    ],
)
def test_faults_name_the_key_and_the_reason(fields, where, why):
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python({"name": "focal", **fields})
    (fault,) = caught.value.errors()
    assert fault["loc"] == where
    assert why in fault["msg"]
