"""The demo model, for real: the rules of exactness on it, and the three stages on a few of the sample's prompts."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from refusal_lightning.cli import main
from refusal_lightning.data import load_dataset_split
from refusal_lightning.interventions import ablation, intervene, record_activations
from refusal_lightning.models import load_chat_model
from refusal_lightning.models.tokens import left_pad


@pytest.fixture(scope="module")
def chat(demo_folder):
    return load_chat_model("demo", refusal_tokens=["I"])


def test_prompts_of_the_demo_model(chat):
    instructions = load_dataset_split("harmless", "val", instructions_only=True)[:6]
    prompts = [chat.encode(i) for i in instructions]
    assert chat.n_positions == 6
    for prompt in prompts:
        assert prompt[-6:] == chat.eoi_ids
        assert prompt.count(chat.tokenizer.bos_token_id) == 3  # <|im_start|> opens each turn: system, user, answer
    engine = chat.engine("cpu")
    direction = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(0))
    unit = direction / direction.norm()
    ids, mask = left_pad(prompts)
    with torch.inference_mode():
        together = engine(ids, attention_mask=mask, logits_to_keep=1)[:, -1]
        for row, prompt in enumerate(prompts[:3]):
            ids_alone, mask_alone = left_pad([prompt])
            alone = engine(ids_alone, attention_mask=mask_alone, logits_to_keep=1)[0, -1]
            torch.testing.assert_close(together[row], alone, atol=2e-3, rtol=0)
        points = ("resid_pre", "resid_mid", "resid_post")
        with (
            intervene(engine, ablation(direction)),
            record_activations(engine, points, range(chat.n_layers), lambda x: x[:, -6:]) as captured,
        ):
            engine(ids, attention_mask=mask)
    for key, x in captured.items():
        assert (x @ unit).abs().max() <= 1e-6 * x.norm(dim=-1).max(), key
    assert engine.count_hooks() == 0


def test_three_stages(chat, tmp_path):
    """And `plan` says before how many bytes the store takes, compressed, within 2 %."""
    (tmp_path / "data" / "splits").mkdir(parents=True)
    for kind in ("harmful", "harmless"):
        for split, count in (("train", 16), ("val", 4), ("test", 6)):
            rows = load_dataset_split(kind, split)[:count]
            (tmp_path / "data" / "splits" / f"{kind}_{split}.json").write_text(json.dumps(rows))
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model": {"name": "demo"},  # its refusal tokens are found from the data
                "data": {"root": str(tmp_path / "data"), "n_train": 16, "n_val": 4},
                "store": {"root": str(tmp_path / "store")},
                "runs": {"root": str(tmp_path / "runs")},
                "trainer": {"accelerator": "cpu", "progress_bar": False},
                # The upper half only, to save time: the selected layer is there.
                "select": {"kl_threshold": 1.0, "prune_layers": 0.35},
                "evaluate": {"max_new_tokens": 12, "batch_size": 6},
            }
        )
    )
    assert main(["plan", "--config", str(config), "--plan.out", str(tmp_path / "plan.json")]) == 0
    assert main(["cache", "--config", str(config)]) == 0
    size = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert json.loads((tmp_path / "plan.json").read_text())["store"]["likely_bytes"] == pytest.approx(size, rel=0.02)
    for stage in ("select", "evaluate"):
        assert main([stage, "--config", str(config)]) == 0
    run = tmp_path / "runs" / "demo"
    (token,) = json.loads((run / "run.json").read_text())["select"]["refusal_tokens"]
    assert token["text"] == "I" and token["harmful"] > 0.5 > 0.25 > token["harmless"]
    complied = {
        (dataset, intervention): json.loads(
            (run / "completions" / f"{dataset}_{intervention}_evaluations.json").read_text()
        )["substring_matching_success_rate"]
        for dataset in ("harmful_test", "harmless_test")
        for intervention in ("baseline", "ablation", "actadd")
    }
    # It refuses; ablating or subtracting the direction makes it comply, adding it makes it refuse harmless requests.
    assert complied["harmful_test", "baseline"] <= 1 / 3
    assert complied["harmful_test", "ablation"] >= complied["harmful_test", "baseline"] + 1 / 3
    assert complied["harmful_test", "actadd"] >= complied["harmful_test", "baseline"] + 1 / 3
    assert complied["harmless_test", "baseline"] >= 2 / 3
    assert complied["harmless_test", "actadd"] <= complied["harmless_test", "baseline"] - 1 / 3
