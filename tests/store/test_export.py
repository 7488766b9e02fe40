"""Exports hold the selected values exactly, for readers that know no zarr."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from stores import LAYOUT, RAGGED, expected, filled, hashes, make, record, records

from refusal_lightning.cli import main
from refusal_lightning.errors import UserError
from refusal_lightning.store import Layout, export


def test_npz(tmp_path):
    filled(tmp_path / "s", range(40))
    out = tmp_path / "out.npz"
    assert export(tmp_path / "s", out, "npz", arrays=["attn_out"], layers=[2], label="harmless") == 20
    loaded = np.load(out, allow_pickle=False)
    numbers = range(1, 40, 2)
    np.testing.assert_array_equal(loaded["attn_out"], expected(LAYOUT, "attn_out", numbers)[:, [2]])
    assert loaded["hash"].tolist() == hashes(numbers) and set(loaded["label"]) == {"harmless"}
    assert loaded["layer"].tolist() == [2] and loaded["position"].tolist() == [-2, -1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.npz", "s"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_safetensors(dtype, compression, tmp_path):
    layout = Layout(("resid_pre",), (0, 1), (-1,), d_model=6, vocab_size=5, dtype=dtype)
    filled(tmp_path / "s", range(20), layout=layout, compression=compression)
    out = tmp_path / "out.safetensors"
    assert export(tmp_path / "s", out) == 20
    tensors = load_file(out)
    assert tensors["resid_pre"].dtype == getattr(torch, dtype)
    for name in layout.array_names:
        np.testing.assert_array_equal(tensors[name].float().numpy(), expected(layout, name, range(20)))
    with safe_open(out, "np") as file:
        about = file.metadata()
    assert [bytes(row).hex() for row in tensors["hash"]] == hashes(range(20))
    meanings = json.loads(about["label"])
    assert [meanings[number] for number in tensors["label"]] == [record(n).label for n in range(20)]
    assert json.loads(about["dataset"]) == ["made-up"] and not tensors["dataset"].any()
    assert json.loads(about["identity"])["model"] == "made-up"


def test_all_positions(tmp_path):
    filled(tmp_path / "s", range(20), layout=RAGGED)
    export(tmp_path / "s", tmp_path / "out.safetensors", label="harmful")
    tensors = load_file(tmp_path / "out.safetensors")
    numbers = range(0, 20, 2)
    np.testing.assert_array_equal(tensors["resid_pre"].numpy(), expected(RAGGED, "resid_pre", numbers))
    assert tensors["n_tokens"].tolist() == [record(n).n_tokens for n in numbers]


def test_mistakes(tmp_path):
    filled(tmp_path / "s", range(3))
    with pytest.raises(UserError, match="no complete prompts with"):
        export(tmp_path / "s", tmp_path / "out.npz", split="test")
    with pytest.raises(UserError, match="holds no 'mlp_out'"):
        export(tmp_path / "s", tmp_path / "out.safetensors", arrays=["mlp_out"])
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_file_is_what_its_suffix_says(tmp_path, capsys):
    filled(tmp_path / "s", range(3))
    assert main(["store", "export", str(tmp_path / "s"), "--out", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz", allow_pickle=False)["hash"].tolist() == hashes(range(3))
    assert main(["store", "export", str(tmp_path / "s"), "--out", str(tmp_path / "x.safetensors")]) == 0
    assert len(load_file(tmp_path / "x.safetensors")["hash"]) == 3
    capsys.readouterr()
    for name, more in (("y.npz", ["--format", "safetensors"]), ("y.csv", []), ("y", ["--format", "npz"])):
        assert main(["store", "export", str(tmp_path / "s"), "--out", str(tmp_path / name), *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert repr(name) in line and not (tmp_path / name).exists()


def test_a_million_prompts(tmp_path):
    """Time in proportion to the prompts, and a header that readers open (up to 100 MB), however many there are."""
    layout = Layout(("resid_pre",), (0,), (-1,), d_model=2, vocab_size=None)
    seconds, headers = [], []
    for count in (5_000, 40_000):
        folder = tmp_path / str(count)
        store = make(folder, layout=layout, compression="none", shard_bytes=None, planned=count)
        store.add_prompts(records(range(count)))
        for shard in store.pending():
            store.write_shard(shard.index, {"resid_pre": np.zeros((shard.n_rows, 1, 1, 2), np.float32)})
        tries = []
        for _ in range(3):  # the best of some: the collector of a long session's garbage may run within one
            started = time.process_time()
            assert export(folder, tmp_path / "out.safetensors") == count
            tries.append(time.process_time() - started)
        seconds.append(min(tries))
        with (tmp_path / "out.safetensors").open("rb") as file:
            headers.append(int.from_bytes(file.read(8), "little"))
    assert seconds[1] < 24 * seconds[0]  # 8 times the prompts; quadratic would be 64
    assert headers[1] + 1_000_000 * (headers[1] - headers[0]) / 35_000 < 10_000


def test_the_command_of_the_documentation(tmp_path):
    filled(tmp_path / "s", range(4))
    out = tmp_path / "out.npz"
    assert main(["store", "export", str(tmp_path / "s"), "--out", str(out), "--format", "npz", "--layers", "[2]"]) == 0
    assert np.load(out, allow_pickle=False)["layer"].tolist() == [2]
