"""What `cache` can be told to keep, where, and what it says before it starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from refusal_lightning.cli import main
from refusal_lightning.config import CacheConfig, DataConfig, StoreConfig, TrainerConfig
from refusal_lightning.data import load_dataset
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.tokens import prompt_hash
from refusal_lightning.stages.cache.inputs import CacheInputs
from refusal_lightning.stages.cache.stage import cache_activations
from refusal_lightning.store import ActivationStore, verify
from runs import store_files, write_config, write_data

POINTS = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "made-up", train=8, val=3, test=3)


@pytest.fixture
def run(tmp_path, tiny_llama_folder, data):
    """``run(name, cache={...})``: the store of a cache run, and the configuration."""

    def cached(name: str, **changes: dict) -> tuple[ActivationStore, str]:
        folder = tmp_path / name
        folder.mkdir()
        changes["data"] = {"n_train": 6, "n_val": 2, **changes.get("data", {})}
        config = write_config(folder, tiny_llama_folder, data, **changes)
        assert main(["cache", "--config", config]) == 0
        (url,) = (folder / "store").glob("*.zarr")
        return ActivationStore.open(url), config

    return cached


def _fails(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return str(line)


def test_every_hook_point_position_and_layer(run, tiny_llama_folder, data):
    """Each number equals what the model gives for the prompt alone."""
    whole, _ = run("all", cache={"hook_points": POINTS, "positions": "all", "datasets": ["harmful_test"]})
    last, _ = run("last", cache={"hook_points": ["mlp_out"], "positions": 3, "layers": [1, 2]})
    chat = load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"])
    engine = chat.engine("cpu")
    (chosen,) = {last.layout.positions}
    assert chosen == (-3, -2, -1) and last.layout.layers == (1, 2)
    for instruction in load_dataset("harmful_test", instructions_only=True, root=data):
        ids = chat.encode(instruction)
        rows = whole.rows([prompt_hash(ids)])
        _, alone = engine.bridge.run_with_cache(torch.tensor([ids]))
        for point in POINTS:
            stored = whole.read(point, rows)
            assert len(stored) == len(ids)
            for layer in range(chat.n_layers):
                expected = alone[f"blocks.{layer}.hook_{point}"][0].numpy()
                np.testing.assert_allclose(stored[:, layer], expected, atol=2e-5, rtol=1e-4)
    hashes = last.prompts.hashes()
    assert hashes
    from_all = whole.read("mlp_out", whole.rows(hashes), layers=[1, 2], positions=[-3, -2, -1])
    np.testing.assert_allclose(last.read("mlp_out", last.rows(hashes)), from_all, atol=2e-5, rtol=1e-4)


def test_selection_does_not_depend_on_what_else_is_kept(run, tmp_path):
    """The same candidates come from a store of the eoi positions, of more positions, and of all tokens."""
    chosen = {}
    for name, positions in (("eoi", "eoi"), ("ten", 10), ("all", "all")):
        _, config = run(name, cache={"positions": positions})
        assert main(["select", "--config", config]) == 0
        selected = tmp_path / name / "runs" / "tiny"
        chosen[name] = torch.load(selected / "generate_directions" / "mean_diffs.pt", weights_only=True)
        assert (selected / "direction.pt").is_file()
    assert torch.allclose(chosen["eoi"], chosen["ten"], atol=1e-6)
    assert torch.allclose(chosen["eoi"], chosen["all"], atol=1e-6)


def test_stores_of_different_contents_stand_beside_each_other(run, tmp_path):
    _, config = run("one")
    assert main(["cache", "--config", config, "--cache.positions", "2"]) == 0
    assert len(list((tmp_path / "one" / "store").glob("*.zarr"))) == 2


def test_adding_a_dataset_runs_only_what_is_lacking(run, capsys):
    store, config = run("one")
    before = store_files(Path(store.url).parent)
    capsys.readouterr()
    assert main(["cache", "--config", config, "--cache.datasets", '["harmless_test", "harmful_train"]']) == 0
    said = capsys.readouterr().out
    lacking = int(re.findall(r"cache: (\d+) of \d+ prompts to run", said)[0])
    assert lacking == 3 + (8 - 6)  # the test split, and the two training prompts that were not drawn
    after = store_files(Path(store.url).parent)
    data_files = [name for name in before if name.startswith(("resid_pre/c.", "next_token_logits/c."))]
    assert data_files and all(after[name] == before[name] for name in data_files)
    assert len(store.prompts) == 16 + lacking


def test_what_made_it_is_in_the_manifest(run):
    store, _ = run("one")
    (segment,) = store.manifest["segments"]
    assert segment["made_with"]["packages"]["torch"] == torch.__version__
    assert segment["made_with"]["datasets"]["harmful_train"]["prompts"] == 6
    assert set(store.identity) >= {"model", "dtype", "tokenizer_sha256", "template", "system_prompt", "eoi_token_ids"}


@pytest.mark.parametrize("positions", ["eoi", "all"])
def test_the_estimate_holds(run, capsys, positions):
    """Bytes and files that are said before the work starts bound what is there after it, closely."""
    store, _ = run("one", cache={"positions": positions}, store={"compression": "none"})
    said = capsys.readouterr().out
    most, files = re.findall(r"\(at most ([\d,]+) MB\) in (\d+) files", said)[0]
    there = [p for p in Path(store.url).rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in there)
    assert size <= (float(most.replace(",", "")) + 0.5) * 1e6
    assert len(there) <= int(files) <= 2 * len(there)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cache.layers", "[99]"], "cache.layers names layer 99"),
        (["--cache.layers", "[2, 1]"], "cache.layers"),
        (["--cache.positions", "500"], "cache.positions is 500 and the shortest prompt has"),
        (["--cache.positions", "0"], "cache.positions"),
        (["--cache.positions", "some"], "cache.positions"),
        (["--cache.hook_points", "[]"], "cache.hook_points"),
        (["--cache.hook_points", '["resid"]'], "cache.hook_points"),
        (
            ["--store.options", '{"secret": "abc"}'],
            "store.options.secret holds a key or password: give",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_mistakes(tmp_path, tiny_llama_folder, data, capsys, arguments, says):
    config = write_config(tmp_path, tiny_llama_folder, data, data={"n_train": 6, "n_val": 2})
    line = _fails(capsys, "cache", "--config", config, *arguments)
    assert says in line and "abc" not in line
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"hook_points": ["mlp_out"]}, "candidates are made from resid_pre"),
        ({"layers": [0, 1]}, "candidates are made from all layers"),
        ({"positions": 1}, "end-of-instruction tokens"),
    ],
    ids=["hook points", "layers", "positions"],
)
def test_select_says_what_it_needs(run, capsys, changed, says):
    _, config = run("one", cache=changed)
    assert says in _fails(capsys, "select", "--config", config)


def test_no_room(run, capsys, monkeypatch, tmp_path):
    """Refused before the model is loaded; the store still opens, and a later run with room fills it."""
    from refusal_lightning.store.backend.local import LocalBackend

    store, config = run("one")
    monkeypatch.setattr(LocalBackend, "free_bytes", lambda self: 10_000)
    more = ["--cache.datasets", '["harmful_test"]']
    assert re.search(
        r"needs about .* GB more and its disk has .* GB free", _fails(capsys, "cache", "--config", config, *more)
    )
    monkeypatch.undo()
    assert len(ActivationStore.open(store.url).prompts) == 16
    assert main(["cache", "--config", config, *more]) == 0


def test_a_disk_that_fills_up(small_disk, tiny_llama_folder, data, capsys, monkeypatch):
    """One line and exit 1; what was complete stays, and with more room the next start does the rest."""
    from refusal_lightning.store.backend.local import LocalBackend

    sizes = {"n_train": 6, "n_val": 2}
    (small_disk / "rest").write_bytes(bytes(2_700_000))
    config = write_config(
        small_disk, tiny_llama_folder, data, data=sizes, cache={"positions": "all", "hook_points": POINTS}
    )
    monkeypatch.setattr(LocalBackend, "free_bytes", lambda self: None)
    assert main(["cache", "--config", config]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the disk is full" in line
    (url,) = (small_disk / "store").glob("*.zarr")
    assert [problem for problem in verify(url) if not problem.missing] == []
    assert 0 < len(ActivationStore.open(url).pending()) < len(ActivationStore.open(url).shards)
    (small_disk / "rest").unlink()
    assert main(["cache", "--config", config]) == 0
    assert verify(url) == []


def test_dtype_is_kept(run):
    """The numbers in the store are the model's own, of its own type."""
    store, _ = run("half", model={"dtype": "bfloat16"})
    values = store.read("resid_pre")
    assert store.layout.dtype == "bfloat16"
    assert not (values.view(np.uint32) & 0xFFFF).any() and values.any()
    assert json.loads((Path(store.url) / "resid_pre" / "zarr.json").read_text())["data_type"] == "float32"


def test_a_store_in_an_object_store(run, s3, monkeypatch, capsys, tmp_path):
    """cache and select against a real S3 API, credentials from the environment: the same bytes as on a disk."""
    local, config = run("one")
    root = f"s3://bucket/{tmp_path.name}"
    options = json.dumps({"client_kwargs": s3["client_kwargs"]})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3["secret"])
    there = ["--store.root", root, "--store.options", options]
    assert main(["cache", "--config", config, *there]) == 0
    url = re.findall(r"to (s3://\S+)", capsys.readouterr().out)[0]
    remote = ActivationStore.open(url, json.loads(options))
    hashes = local.prompts.hashes(complete=True)
    assert sorted(remote.prompts.hashes(complete=True)) == sorted(hashes)
    for name in ("resid_pre", "next_token_logits"):
        assert np.array_equal(remote.read(name, remote.rows(hashes)), local.read(name, local.rows(hashes)))
    assert main(["select", "--config", config, *there]) == 0
    assert main(["store", "verify", url, "--options", options]) == 0
    assert f"{url} is sound" in capsys.readouterr().out


def test_no_such_bucket(run, s3, monkeypatch, capsys):
    _, config = run("one")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3["secret"])
    options = json.dumps({"client_kwargs": s3["client_kwargs"]})
    line = _fails(
        capsys, "cache", "--config", config, "--store.root", "s3://no-such-bucket/x", "--store.options", options
    )
    assert "does the bucket exist?" in line


def test_from_python(tmp_path, tiny_llama_folder, data, capsys):
    """What the command does, as a value: nothing is printed, and the second time nothing is computed."""
    trainer, cache = TrainerConfig(accelerator="cpu", progress_bar=False), CacheConfig(datasets=["harmful_test"])
    sections = (
        load_chat_model(str(tiny_llama_folder), refusal_tokens=["I"]),
        DataConfig(str(data), n_train=6, n_val=2),
        StoreConfig(str(tmp_path / "store")),
        cache,
    )
    inputs = CacheInputs.open(*sections)
    capsys.readouterr()
    done = cache_activations(inputs, trainer, cache.batch_size)
    assert (done.prompts, done.computed) == (19, 19) and done.seconds > 0
    assert capsys.readouterr().out == ""
    arrays = [path for name in ("resid_pre", "next_token_logits") for path in (Path(done.url) / name).rglob("*")]
    assert done.bytes == sum(p.stat().st_size for p in arrays if p.is_file() and p.name != "zarr.json") > 0
    again = cache_activations(CacheInputs.open(*sections), trainer, cache.batch_size)
    assert (again.prompts, again.computed, again.seconds, again.bytes) == (19, 0, 0.0, done.bytes)
