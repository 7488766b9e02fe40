"""Direction: one file, there and back, and refused where it is not of the model."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from refusal_lightning.directions.direction import FORMAT, Direction
from refusal_lightning.errors import UserError

IDENTITY = {"model": {"weights_sha256": "ab" * 32}, "dtype": "float32", "eoi_token_ids": [6, 7]}


def direction(**changes: Any) -> Direction:
    given = {"layer": 2, "position": -1, "n_layers": 4, "model_name": "tiny", "identity": IDENTITY}
    return Direction(**{"vector": torch.linspace(-1, 2, 8, dtype=torch.float64), **given, **changes})


@dataclass
class Facts:
    name: str = "tiny"
    identity: dict[str, Any] = None  # type: ignore[assignment]
    n_layers: int = 4
    d_model: int = 8

    def __post_init__(self) -> None:
        self.identity = self.identity or {**IDENTITY, "dtype": "bfloat16"}


def about(one: Direction) -> dict[str, Any]:
    names = ("layer", "position", "n_layers", "model_name", "identity", "hook_point", "scores", "made_from")
    return {name: getattr(one, name) for name in names}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    sizes=st.tuples(st.integers(1, 200), st.integers(0, 10**6), st.integers(-50, -1)),
    name=st.text(max_size=30),
    identity=st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    made_from=st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    scores=st.dictionaries(st.text(max_size=8), st.none() | st.floats(allow_nan=False), max_size=3),
)
def test_there_and_back(tmp_path, values, sizes, name, identity, made_from, scores):
    n_layers, layer, position = sizes
    one = direction(
        vector=torch.tensor(values, dtype=torch.float64),
        n_layers=n_layers,
        layer=layer % n_layers,
        position=position,
        model_name=name,
        identity=identity,
        made_from=made_from,
        scores=scores,
    )
    path = one.save(tmp_path / "a.safetensors")
    back = Direction.load(path)
    assert back.vector.numpy().tobytes() == one.vector.numpy().tobytes()
    assert about(back) == about(one)
    assert back.save(tmp_path / "b.safetensors").read_bytes() == path.read_bytes()


def test_any_reader_of_safetensors_reads_it(tmp_path):
    one = direction()
    with safe_open(one.save(tmp_path / "d.safetensors"), framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("direction"), one.vector.numpy())
        assert file.metadata()["format"] == FORMAT
        assert json.loads(file.metadata()["layer"]) == 2


def test_what_it_says_of_itself():
    one = direction(vector=np.array([3.0, 4.0], dtype=np.float32))
    assert (one.norm, one.d_model, one.vector.dtype) == (5.0, 2, torch.float64)
    assert one.unit.tolist() == [0.6, 0.8]
    assert one.cosine(direction(vector=torch.tensor([-4.0, 3.0]))) == 0
    with pytest.raises(UserError, match="width 2 and 8"):
        one.cosine(direction())


def test_the_vector_is_its_own():
    vector = torch.ones(3, dtype=torch.float64)
    one = direction(vector=vector)
    vector += 1
    assert one.vector.tolist() == [1, 1, 1]


@pytest.mark.parametrize("vector", [torch.ones(2, 2), torch.tensor([1.0, float("nan")]), torch.ones(0)])
def test_a_vector_that_is_none(vector):
    with pytest.raises(UserError, match="a direction is a vector of finite numbers"):
        direction(vector=vector)


def test_a_layer_that_the_model_does_not_have():
    with pytest.raises(UserError, match="layer 4 is of no model with 4 layers"):
        direction(layer=4)


@pytest.mark.parametrize(
    "facts, said",
    [
        (Facts(d_model=16), "made for tiny: width 8; tiny has 16"),
        (Facts(n_layers=5, name="big"), "made for tiny: number of layers 4; big has 5"),
        (Facts(identity={"model": {"weights_sha256": "cd" * 32}}), r"made for tiny \(abababababab\), and the model is"),
        (
            Facts(name="org/x", identity={"model": {"name": "org/x", "commit": "12345678abcdef"}}),
            r"org/x \(12345678abcd",
        ),
    ],
)
def test_another_model_is_refused_by_name(facts, said):
    with pytest.raises(UserError, match=said):
        direction().require_fits(facts)


def test_the_same_weights_in_another_dtype_are_the_model():
    direction().require_fits(Facts())


def test_moved_to_another_model():
    other = Facts(name="tuned", identity={"model": {"weights_sha256": "cd" * 32}})
    moved = direction(scores={"kl": 0.1}).moved_to(other)
    moved.require_fits(other)
    assert moved.scores == {} and moved.made_from["moved_from"]["model_name"] == "tiny"
    with pytest.raises(UserError, match="width"):
        direction().moved_to(Facts(d_model=9))


def test_only_safetensors_is_written(tmp_path):
    with pytest.raises(UserError, match=r"'d.pt' must end in .safetensors"):
        direction().save(tmp_path / "d.pt")


def metadata_of(one: Direction, folder: Path) -> dict[str, str]:
    with safe_open(one.save(folder / "whole.safetensors"), framework="numpy") as file:
        return dict(file.metadata())


def test_files_that_are_no_direction_are_refused_by_name(tmp_path):
    whole = metadata_of(direction(), tmp_path)
    vector = torch.ones(8, dtype=torch.float64)
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps({"direction": 1}))
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    save_file({"direction": vector}, tmp_path / "bare.safetensors")
    save_file({"weights": vector}, tmp_path / "other.safetensors", whole)
    save_file({"direction": vector.float()}, tmp_path / "narrow.safetensors", whole)
    save_file({"direction": vector}, tmp_path / "newer.safetensors", {**whole, "version": "2"})
    save_file({"direction": vector.reshape(2, 4)}, tmp_path / "wide.safetensors", whole)
    for name, said in {
        "nothing": "there is no file",
        "pickle": "is no safetensors file",
        "empty": "is no safetensors file",
        "folder": "folder",
        "bare": "no direction that Direction.save wrote",
        "other": "holds other tensors",
        "narrow": "holds a tensor of torch.float32",
        "newer": "of version '2' of the format; this version of the package reads version 1",
        "wide": "a direction is a vector of finite numbers",
    }.items():
        with pytest.raises(UserError, match=said) as error:
            Direction.load(tmp_path / f"{name}.safetensors")
        assert f"{name}.safetensors" in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": "\"__import__('os').system('true')\""},
        {"layer": "true"},
        {"layer": "1e400"},
        {"layer": "-1"},
        {"layer": "[" * 100_000},
        {"layer": "9" * 5000},
        {"identity": "[]"},
        {"scores": '{"kl": "low"}'},
        {"made_from": "{"},
        {"position": "null"},
    ],
)
def test_hostile_metadata_stays_data(tmp_path, changes):
    metadata = {**metadata_of(direction(), tmp_path), **changes}
    save_file({"direction": torch.ones(8, dtype=torch.float64)}, tmp_path / "d.safetensors", metadata)
    with pytest.raises(UserError, match=r"d.safetensors is no direction that Direction.save wrote"):
        Direction.load(tmp_path / "d.safetensors")


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "d.safetensors"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match="more than 64 MB"):
        Direction.load(path)


def test_changes_make_a_new_one():
    one = direction()
    other = replace(one, scores={"kl": 0.2})
    assert one.scores == {} and other.scores == {"kl": 0.2}
