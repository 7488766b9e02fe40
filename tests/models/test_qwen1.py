"""The first generation of Qwen: its forward pass and tokenizer against plain ones, written from their description."""

from __future__ import annotations

import base64
import json
import math
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from hypothesis import given
from hypothesis import strategies as st
from qwen1_checkpoint import CONFIG, _letters, random_weights, small_ranks, write_qwen1
from real_tokenizers import tokenizer_files
from torch import Tensor
from torch.nn.functional import silu

from refusal_lightning.cli import main
from refusal_lightning.errors import UserError
from refusal_lightning.interventions import ablation, intervene, record_activations
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.qwen1.tokenizer import fast_tokenizer, last_merge, qwen1_tokenizer
from refusal_lightning.models.tokens import left_pad
from runs import write_config, write_data


def plain_forward(config: dict[str, Any], weights: dict[str, Tensor], ids: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits ``[token, vocab]`` of a text of at most ``seq_length`` tokens, and the input of each block."""
    n, heads, size = len(ids), config["num_attention_heads"], config["kv_channels"]
    frequencies = config["rotary_emb_base"] ** (-torch.arange(0, size, 2) / size)
    angles = torch.outer(torch.arange(n), frequencies).repeat(1, 2)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config["layer_norm_epsilon"]).sqrt() * weight

    def rotated(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * angles.cos()[:, None] + torch.cat([-second, first], -1) * angles.sin()[:, None]

    stream = weights["transformer.wte.weight"][ids]
    inputs = []
    for layer in range(config["num_hidden_layers"]):
        inputs.append(stream)
        w = {name.partition(f"h.{layer}.")[2]: weight for name, weight in weights.items() if f".h.{layer}." in name}
        fused = norm(stream, w["ln_1.weight"]) @ w["attn.c_attn.weight"].T + w["attn.c_attn.bias"]
        q, k, v = (part.reshape(n, heads, size) for part in fused.split(heads * size, -1))
        scores = torch.einsum("qhd,khd->hqk", rotated(q), rotated(k)) / math.sqrt(size)
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(n, heads * size)
        stream = stream + mixed @ w["attn.c_proj.weight"].T
        x = norm(stream, w["ln_2.weight"])
        stream = stream + (x @ w["mlp.w1.weight"].T * silu(x @ w["mlp.w2.weight"].T)) @ w["mlp.c_proj.weight"].T
    return norm(stream, weights["transformer.ln_f.weight"]) @ weights["lm_head.weight"].T, inputs


def plain_encode(ranks: dict[bytes, int], text: str) -> list[int]:
    """Merging by rank, one pair at a time."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    ids = []
    for piece in regex.findall(pattern, unicodedata.normalize("NFC", text)):
        parts = [bytes([byte]) for byte in piece.encode()]
        while piece.encode() not in ranks and len(parts) > 1:
            rank, at = min((ranks.get(parts[i] + parts[i + 1], math.inf), i) for i in range(len(parts) - 1))
            if rank == math.inf:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[piece.encode()]] if piece.encode() in ranks else [ranks[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_qwen1(tmp_path_factory.mktemp("qwen") / "Qwen-1_8B-Chat")


@pytest.fixture(scope="module")
def chat(folder):
    return load_chat_model(str(folder), refusal_tokens=["I"])


INSTRUCTIONS = ("Name three birds", "What is it?", "Plan a walk.")


def test_token_facts(chat):
    assert chat.template.source == "family qwen"
    assert chat.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|extra_204|>"]) == [393, 394, 600]
    assert chat.encode("I")[0] == 394
    assert chat.tokenizer.decode(chat.eoi_ids) == "<|im_end|>\n<|im_start|>assistant\n"
    assert chat.stop_ids == [393, 395]
    assert (chat.n_layers, chat.d_model, chat.vocab_size, chat.context) == (3, 32, 640, 64)


def test_logits_and_residuals_are_those_of_the_original_forward_pass(chat):
    weights = random_weights(CONFIG)
    prompts = [chat.encode(instruction) for instruction in INSTRUCTIONS]
    ids, mask = left_pad(prompts)
    assert mask.min() == 0
    engine = chat.engine("cpu")
    assert next(engine.model.parameters()).dtype == torch.float32
    with torch.inference_mode(), record_activations(engine, ["resid_pre"], range(3), lambda x: x) as captured:
        logits = engine(ids, attention_mask=mask)
    for row, prompt in enumerate(prompts):
        expected, inputs = plain_forward(CONFIG, weights, prompt)
        assert expected.std() > 0.5
        torch.testing.assert_close(logits[row, -len(prompt) :], expected, atol=1e-5, rtol=0)
        for layer, resid_pre in enumerate(inputs):
            found = captured["resid_pre", layer][row, -len(prompt) :]
            torch.testing.assert_close(found, resid_pre, atol=1e-5, rtol=1e-5)


def test_up_to_the_whole_context(chat):
    ids = torch.randint(0, 393, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = chat.engine("cpu")(ids, attention_mask=torch.ones_like(ids))[0]
    torch.testing.assert_close(
        found, plain_forward(CONFIG, random_weights(CONFIG), ids[0].tolist())[0], atol=1e-5, rtol=0
    )
    with pytest.raises(UserError, match=r"context holds 64"):
        chat.encode("a walk in the garden " * 20)


def test_ablation_clears_the_stream(chat):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(2))
    engine = chat.engine("cpu")
    ids, mask = left_pad([chat.encode(INSTRUCTIONS[0])])
    with (
        torch.inference_mode(),
        intervene(engine, ablation(direction)),
        record_activations(engine, ["resid_mid", "resid_post"], range(3), lambda x: x) as captured,
    ):
        engine(ids, attention_mask=mask)
    for activation in captured.values():
        assert (activation @ (direction / direction.norm())).abs().max() < 1e-5


def test_other_dtypes_and_pytorch_files(tmp_path, chat):
    files = write_qwen1(tmp_path / "Qwen-1_8B-Chat", form="bin")
    ids, mask = left_pad([chat.encode(INSTRUCTIONS[0])])
    other = load_chat_model(str(files), refusal_tokens=["I"])
    half = load_chat_model(str(files), refusal_tokens=["I"], dtype="float16")
    with torch.inference_mode():
        logits = chat.engine("cpu")(ids, attention_mask=mask)
        assert torch.equal(other.engine("cpu")(ids, attention_mask=mask), logits)
        assert half.engine("cpu")(ids, attention_mask=mask).dtype == torch.float16
    assert half.engine("cpu").bridge.cfg.dtype == torch.float16


class _Intruder:
    def __reduce__(self):
        return os.mkdir, ("here-i-was",)


def test_what_is_no_plain_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(name: str, **changes: Any) -> None:
        load_chat_model(str(tmp_path / name), family="qwen", refusal_tokens=["I"]).engine("cpu")

    files = write_qwen1(tmp_path / "incomplete")
    (files / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks \d+ weights, '[\w.]+'"):
        load("incomplete")
    files = write_qwen1(tmp_path / "other", form="bin")
    torch.save({"transformer.visual.proj": torch.zeros(2)}, files / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(UserError, match=r"holds 'transformer.visual.proj'"):
        load("other")
    torch.save({"x": _Intruder()}, files / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(UserError, match=r"or more than weights"):
        load("other")
    assert not Path("here-i-was").exists()
    (files / "pytorch_model-00001-of-00002.bin").unlink()
    (files / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"holds no weights"):
        load("other")
    changes: tuple[dict[str, Any], ...] = (
        {"visual": {}},
        {"quantization_config": {}},
        {"no_bias": False},
        {"kv_channels": 16},
    )
    for change in changes:
        name = next(iter(change))
        write_qwen1(tmp_path / name, **change)
        with pytest.raises(UserError, match=rf"an unusual '{name}' in its config.json"):
            load(name)
    (files / "qwen.tiktoken").write_text("no base64 here\n")
    with pytest.raises(UserError, match=r"is no vocabulary"):
        load("other")
    (files / "qwen.tiktoken").write_text("YQ== 0\n")
    with pytest.raises(UserError, match=r"is no whole vocabulary"):
        load("other")
    (files / "qwen.tiktoken").unlink()
    with pytest.raises(UserError, match=r"cannot be read"):
        load("other")


def test_from_the_hub(tmp_path):
    """By its Hub name, from the Hub's cache: no code of the repository is wanted."""
    root = tmp_path / "models--Qwen--Qwen-1_8B-Chat"
    commit = "0123456789abcdef0123456789abcdef01234567"
    write_qwen1(root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    program = (
        "from refusal_lightning.models import load_chat_model\n"
        "chat = load_chat_model('Qwen/Qwen-1_8B-Chat', refusal_tokens=['I'])\n"
        "print(chat.identity['model']['commit'], chat.checkpoint.revision, chat.engine('cpu').n_layers)"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.stdout.split()[-3:] == [commit, commit, "3"], done.stderr


def test_a_run(tmp_path, folder):
    config = write_config(tmp_path, folder, write_data(tmp_path / "data"))
    for stage in ("cache", "select", "evaluate"):
        assert main([stage, "--config", config]) == 0
    assert (tmp_path / "runs" / "tiny" / "direction.pt").is_file()


RANKS = small_ranks()
TOKENIZER = fast_tokenizer(RANKS)
_TEXTS = st.text(st.sampled_from("aeinothrs lpdt.,'!?0129\n\té☂雨🙂e\u0301"), max_size=40)


@given(_TEXTS)
def test_ids_are_those_of_merging_by_rank(text):
    assert TOKENIZER(text)["input_ids"] == plain_encode(RANKS, text)
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == unicodedata.normalize("NFC", text)


def test_the_tokenizer_merges_at_all():
    text = "Tell me how to plan a walk in the forest"
    assert len(TOKENIZER(text)["input_ids"]) < len(text) / 2


def test_a_token_that_merging_does_not_reach():
    ranks = {bytes([b]): b for b in range(256)} | {b"bc": 256, b"ab": 257, b"abcd": 258}
    assert last_merge(b"abcd", ranks) is None
    assert fast_tokenizer(ranks)("abcd abcd")["input_ids"] == [258, *plain_encode(ranks, " abcd")]
    # Two ways to make it up of tokens: the lower rank comes first.
    ranks = {bytes([b]): b for b in range(256)} | {b"bc": 256, b"ab": 257, b"abc": 258}
    assert last_merge(b"abc", ranks) == (b"a", b"bc")


def test_special_tokens_are_read_in_text():
    ids = TOKENIZER("<|im_start|>user\nI<|im_end|>")["input_ids"]
    assert (ids[0], ids[-1]) == (394, 395)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "user\nI"


def test_the_real_vocabulary(tmp_path):
    """Qwen's later tokenizers have the same vocabulary, and merges of their own that ours can be compared with."""
    files = tokenizer_files("qwen3")
    model = json.loads((files / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    letters = {letter: byte for byte, letter in enumerate(_letters())}
    ranks = {bytes(letters[c] for c in token): i for token, i in model["vocab"].items()}
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items()))
    ours = qwen1_tokenizer(path)
    merges = json.loads(ours.backend_tokenizer.to_str())["model"]["merges"]
    assert [tuple(pair) for pair in merges] == [
        tuple(p.split(" ") if isinstance(p, str) else p) for p in model["merges"]
    ]
    assert ours.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", "<|extra_0|>"]) == [151643, 151645, 151646]
    for text in (
        "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n",
        "aaaaaaaaaaaaaaaaaaaa     ----------- 1234567 \n\n\n\t\tdef f(x):\n    return x",
        "Ünïcode, ☂ 雨 🙂 and e\u0301; it's WE'LL 'd",
    ):
        pieces = regex.split(r"(<\|\w+\|>)", text)
        special = {"<|im_start|>": [151644], "<|im_end|>": [151645]}
        assert ours(text)["input_ids"] == [i for p in pieces for i in special.get(p) or plain_encode(ranks, p)]
