"""Keywords are held to the types of the configuration's keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from refusal_lightning.api.settings import section
from refusal_lightning.config import DataConfig, EvaluateConfig, ModelConfig, SamplingConfig, SelectConfig, SetConfig
from refusal_lightning.errors import UserError


def test_values_become_what_a_configuration_gives():
    made = section(
        DataConfig, {"sets": {"a": "x.csv", "b": {"source": "y.csv", "where": {"kind": 1}}}, "n_train": 4}, "data"
    )
    assert made.sets == {"a": "x.csv", "b": SetConfig("y.csv", where={"kind": 1})}
    select = section(SelectConfig, {"kl_threshold": 1, "estimators": ("mean_difference",)}, "select")
    assert (select.kl_threshold, type(select.kl_threshold), select.estimators) == (1.0, float, ["mean_difference"])
    assert section(ModelConfig, {"name": Path("x")}, "model").name == "x"
    evaluate = section(EvaluateConfig, {"sampling": {"temperature": 0.5}}, "evaluate")
    assert evaluate.sampling == SamplingConfig(temperature=0.5)
    assert section(ModelConfig, {"refusal_tokens": ["I", 5]}, "model").refusal_tokens == ["I", 5]


@pytest.mark.parametrize(
    "kind, values, said",
    [
        (ModelConfig, {"dtyp": "float32"}, "model has no key 'dtyp'; did you mean dtype"),
        (ModelConfig, {"zzz": 1}, "model has no key 'zzz'; there are name, alias"),
        (ModelConfig, {"dtype": "float8"}, "model.dtype is 'float8'; it must be 'float32', 'bfloat16', 'float16'"),
        (ModelConfig, {"name": 3}, "model.name is 3; it must be a text"),
        (DataConfig, {"n_train": "5"}, "data.n_train is '5'; it must be a whole number"),
        (DataConfig, {"n_train": True}, "data.n_train is True; it must be a whole number"),
        (DataConfig, {"n_train": 0}, "data.n_train is 0; it must be a positive whole number"),
        (DataConfig, {"sets": {"a": {"source": "x", "colums": {}}}}, "data.sets.a"),
        (SelectConfig, {"kl_threshold": "low"}, "select.kl_threshold is 'low'; it must be a number or None"),
        (SelectConfig, {"estimators": "lda"}, "select.estimators is 'lda'; it must be a list"),
        (EvaluateConfig, {"sampling": {"temperature": -1}}, "sampling.temperature is -1.0; it must be above 0"),
    ],
)
def test_what_a_configuration_would_refuse_is_refused(kind, values, said):
    with pytest.raises(UserError) as error:
        section(kind, values, "model" if kind is ModelConfig else kind.__name__.removesuffix("Config").lower())
    assert said in str(error.value)
