"""Every column of the HPARAMS page holds one kind of value, whatever the sweep."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from focalbench.config.schema import ExperimentConfig
from focalbench.tracking.hparams import Column, columns_of, fit, flatten


class Schedule(BaseModel):
    schedule: Literal["step", "linear"]
    values: tuple[float, ...]


class Plain(BaseModel):
    name: Literal["ce"] = "ce"
    weight: float = Field(1.0, ge=0, le=10)


class Focal(BaseModel):
    name: Literal["focal"] = "focal"
    weight: float = Field(1.0, ge=0, le=20)
    gamma: Annotated[float, Field(ge=0)] | Schedule = 2.0
    alpha: float | Literal["auto"] | tuple[float, ...] | None = 0.25
    prior: float | None = None
    fixed: Literal[2, 4] = 2


class Experiment(BaseModel):
    seed: int = 0
    loss: Annotated[Plain | Focal, Field(discriminator="name")] = Plain()
    crop: bool = True
    size: int | tuple[int, int] = 320
    root: str | None = None
    sweep: Focal | None = None


@pytest.fixture(scope="module")
def columns():
    return columns_of(Experiment.model_json_schema())


def test_columns_are_the_union_of_all_branches(columns):
    assert columns == {
        "trial": Column("string"),
        "arm": Column("string"),
        "seed": Column("number"),
        "loss.name": Column("string", values=("ce", "focal")),
        "loss.weight": Column("number", minimum=0, maximum=20),
        "loss.gamma": Column("number", minimum=0),
        "loss.gamma.schedule": Column("string", values=("linear", "step")),
        "loss.gamma.values": Column("string"),
        "loss.alpha": Column("number"),
        "loss.alpha.text": Column("string"),
        "loss.prior": Column("number"),
        "loss.prior.text": Column("string", values=("none",)),
        "loss.fixed": Column("number", minimum=2, maximum=4),
        "crop": Column("bool"),
        "size": Column("number"),
        "size.text": Column("string"),
        "root": Column("string"),
    }


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Plain(), {"loss.name": "ce", "loss.weight": 1.0}),
        (Focal(), {"loss.gamma": 2.0, "loss.alpha": 0.25, "loss.prior.text": "none"}),
        (Focal(alpha="auto", prior=0.01), {"loss.alpha.text": "auto", "loss.prior": 0.01}),
        (Focal(alpha=None), {"loss.alpha.text": "none"}),
        (Focal(alpha=(0.25, 0.75)), {"loss.alpha.text": "[0.25, 0.75]"}),
        (
            Focal(gamma=Schedule(schedule="step", values=(0, 2))),
            {"loss.gamma.schedule": "step", "loss.gamma.values": "[0.0, 2.0]"},
        ),
    ],
)
def test_each_value_goes_to_a_column_of_its_kind(columns, loss, expected):
    fitted = fit(flatten(Experiment(loss=loss).model_dump(mode="json")), columns)
    assert expected.items() <= fitted.items()
    kinds = {"number": (int, float), "bool": bool, "string": str}
    for name, value in fitted.items():
        assert isinstance(value, kinds[columns[name].kind]), name
        assert isinstance(value, bool) == (columns[name].kind == "bool"), name


def test_keys_without_a_column_and_nan_are_left_out():
    columns = {"lr": Column("number"), "note": Column("string")}
    assert fit({"lr": float("nan"), "other": 1, "note": 3}, columns) == {"note": "3"}


def test_flatten_names_nested_keys():
    assert flatten({"a": {"b": {"c": 1}, "empty": {}}, "d": None, "e": [1, "x"], "f": False}) == {
        "a.b.c": 1,
        "d": "none",
        "e": '[1, "x"]',
        "f": False,
    }


def test_the_real_configuration_loses_no_key():
    columns = columns_of(ExperimentConfig.model_json_schema())
    values = flatten(ExperimentConfig().model_copy(update={"sweep": None}).model_dump(mode="json", exclude={"sweep"}))
    fitted = fit(values, columns)
    assert {name.removesuffix(".text") for name in fitted} == set(values)
    assert {"seed", "loss.name", "loss.gamma", "loss.alpha", "model.prior_prob", "optim.lr"} <= set(columns)
    assert not any(name.startswith(("sweep", "base")) for name in columns)
