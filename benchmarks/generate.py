"""How much faster answers are generated than by Hugging Face's ``generate`` with ordinary hooks.

    python benchmarks/generate.py [--data ../shared/dataset] [--prompts 100] [--new-tokens 128] [--every 6]
    python benchmarks/generate.py --quick

On the demo model, harmful and harmless test prompts under baseline, ablation and activation addition, alternating in
one run: `evaluate`'s generation (Trainer, journal and all), and a plain implementation as one would write it, the
paper's way: ``generate`` in batches of 8 in the given order, left padding, three projections per block for ablation.
The direction is the difference of mean activations at the last position of `--layer`, unselected: speed does not
depend on which it is. The plain one is timed on every ``--every``-th of its batches, others in each round; ours on
everything. Tokens are counted after the prompt, the stop token left out. Texts are compared wherever the plain one has
them, and where they first differ, the two tokens' logits are told.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from refusal_lightning.config import TrainerConfig
from refusal_lightning.data import load_dataset
from refusal_lightning.inputs.prompts import PromptSet, prompt_set
from refusal_lightning.interventions import BASELINE, Intervention, ablation, addition, intervene, record_activations
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.tokens import left_pad
from refusal_lightning.stages.evaluate.completions import (
    Completion,
    CompletionSettings,
    CompletionTask,
    generate_answers,
)

SHARED = Path(__file__).resolve().parents[2] / "shared"
CPU = TrainerConfig(accelerator="cpu", progress_bar=False)
NAMES = ("baseline", "ablation", "actadd")


class Plain:
    """The plain implementation."""

    def __init__(self, chat: ChatModel, direction: torch.Tensor, layer: int, new_tokens: int) -> None:
        from transformers import AutoModelForCausalLM, GenerationConfig

        self.model: Any = AutoModelForCausalLM.from_pretrained(chat.checkpoint.source, dtype=torch.float32).eval()
        self.stop_ids, self.direction, self.layer = set(chat.stop_ids), direction, layer
        self.settings = GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, eos_token_id=sorted(chat.stop_ids), pad_token_id=0
        )

    def answers(self, prompts: list[list[int]], name: str, coefficient: float) -> list[list[int]]:
        """Token ids of the answers to a batch, without the stop token."""
        unit = self.direction / (self.direction.norm() + 1e-8)

        def project(x: torch.Tensor) -> torch.Tensor:
            return x - (x @ unit).unsqueeze(-1) * unit

        def on_input(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (project(args[0]), *args[1:])

        def on_output(module: Any, args: Any, out: Any) -> Any:
            return (project(out[0]), *out[1:]) if isinstance(out, tuple) else project(out)

        def add(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0] + coefficient * self.direction, *args[1:])

        handles = []
        if name == "actadd":
            handles.append(self.model.model.layers[self.layer].register_forward_pre_hook(add))
        if name == "ablation":
            for block in self.model.model.layers:
                handles.append(block.register_forward_pre_hook(on_input))
                handles += [part.register_forward_hook(on_output) for part in (block.self_attn, block.mlp)]
        ids, mask = left_pad(prompts)
        try:
            with torch.inference_mode():
                out = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=self.settings)
        finally:
            for handle in handles:
                handle.remove()
        return [self._until_stop(row) for row in out[:, ids.shape[1] :].tolist()]

    def _until_stop(self, tokens: list[int]) -> list[int]:
        return tokens[: next((i for i, token in enumerate(tokens) if token in self.stop_ids), len(tokens))]


def mean_difference(chat: ChatModel, sets: dict[str, PromptSet], layer: int) -> torch.Tensor:
    """Harmful minus harmless mean of ``resid_pre`` at the last position, float32."""
    engine = chat.engine("cpu")
    means = []
    for item in sets.values():
        total = torch.zeros(chat.d_model, dtype=torch.float64)
        with torch.inference_mode(), record_activations(engine, ["resid_pre"], [layer], lambda x: x[:, -1]) as captured:
            for ids in item.token_ids[:32]:
                engine.bridge(torch.tensor([ids]), use_cache=False, stop_at_layer=layer + 1, return_type=None)
                total += captured["resid_pre", layer][0].double()
        means.append(total / min(32, len(item)))
    return (means[0] - means[1]).float()


def logit_gap(
    chat: ChatModel, intervention: Intervention, prompt: list[int], ours: list[int], plain: list[int]
) -> float:
    """Difference between the logits of the two tokens where two answers part, 0 standing for a tie."""
    same = next(i for i, (a, b) in enumerate(zip([*ours, -1], [*plain, -1], strict=False)) if a != b)
    model = chat.fast_engine("cpu")
    with torch.inference_mode(), intervene(model, intervention):
        logits = model.model(input_ids=torch.tensor([prompt + ours[:same]]), logits_to_keep=1).logits[0, -1]
    best = logits.topk(2).values
    return float(best[0] - best[1])


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(SHARED / "dataset"), help="folder with splits/ (default: ../shared)")
    parser.add_argument("--prompts", type=int, default=100, help="of each kind (default 100)")
    parser.add_argument("--new-tokens", type=int, default=128, help="longest answer (default 128)")
    parser.add_argument("--layer", type=int, default=19, help="where the direction is taken and added (default 19)")
    parser.add_argument("--every", type=int, default=6, help="the plain one is timed on every so many batches")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured (default 3)")
    parser.add_argument("--batch-size", type=int, help="rows decoded at a time (default: evaluate's own choice)")
    parser.add_argument("--quick", action="store_true", help="8 prompts of each kind, 24 tokens, sample prompts")
    args = parser.parse_args()
    if args.quick:
        args.data, args.prompts, args.new_tokens, args.every = "dataset/sample", 8, 24, 1
    if not (Path(args.data) / "splits").is_dir():
        raise SystemExit(f"no splits in {args.data}: the reference data are not here; try --data dataset/sample")
    chat = load_chat_model("demo", refusal_tokens=["I"])
    sets = {}
    for name in ("harmful_test", "harmless_test"):
        sets[name] = prompt_set(name, load_dataset(name, instructions_only=True, root=args.data)[: args.prompts], chat)
    direction = mean_difference(chat, sets, args.layer)
    chat.fast_engine("cpu")
    plain = Plain(chat, direction, args.layer, args.new_tokens)
    coefficient = {"harmful_test": -1.0, "harmless_test": 1.0}
    acting = {
        (name, kind): {
            "baseline": BASELINE,
            "ablation": ablation(direction),
            "actadd": addition(direction, args.layer, coefficient[name]),
        }[kind]
        for name in sets
        for kind in NAMES
    }
    tasks = [
        CompletionTask(sets[name], intervention, f"{name}-{kind}") for (name, kind), intervention in acting.items()
    ]
    batches = [
        (name, kind, range(start, min(start + 8, len(sets[name]))))
        for name, kind in acting
        for start in range(0, len(sets[name]), 8)
    ]
    speeds: dict[str, list[float]] = {"plain": [], "ours": []}
    expected: dict[tuple[str, str, int], list[int]] = {}
    found: dict[tuple[str, str], list[Completion]] = {}
    for number in range(args.rounds):
        started, n_tokens = time.perf_counter(), 0
        for name, kind, index in batches[number % args.every :: args.every]:
            answers = plain.answers([sets[name].token_ids[i] for i in index], kind, coefficient[name])
            n_tokens += sum(map(len, answers))
            expected |= {(name, kind, i): answer for i, answer in zip(index, answers, strict=True)}
        speeds["plain"].append(n_tokens / (time.perf_counter() - started))
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            settings = CompletionSettings(args.new_tokens, args.batch_size)
            made, _ = generate_answers(chat, CPU, tasks, Path(folder), settings)
            seconds = time.perf_counter() - started
        found = dict(zip(acting, made, strict=True))
        speeds["ours"].append(sum(answer.n_tokens for each in made for answer in each) / seconds)
        print(f"round {number + 1}: " + ", ".join(f"{k} {v[-1]:.1f} tokens/s" for k, v in speeds.items()), flush=True)
    ratios = [ours / theirs for ours, theirs in zip(speeds["ours"], speeds["plain"], strict=True)]
    total = sum(answer.n_tokens for each in found.values() for answer in each)
    print(
        f"{len(acting) * args.prompts} answers of at most {args.new_tokens} tokens, {total} tokens, "
        f"{torch.get_num_threads()} threads; plain: every {args.every}th batch of 8; "
        f"ours: {chat.fast_engine('cpu').kind}"
    )
    for side, values in speeds.items():
        print(f"{side:<6} {statistics.median(values):8.1f} tokens/s ({min(values):.1f}-{max(values):.1f})")
    print(f"ours / plain {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    different = [
        key
        for key, tokens in expected.items()
        if chat.tokenizer.decode(tokens, skip_special_tokens=True).strip() != found[key[:2]][key[2]].response
    ]
    print(f"texts identical to plain: {len(expected) - len(different)} of {len(expected)}")
    for name, kind, i in different:
        ours = chat.tokenizer(found[name, kind][i].response, add_special_tokens=False)["input_ids"]
        gap = logit_gap(chat, acting[name, kind], sets[name].token_ids[i], ours, expected[name, kind, i])
        print(f"  {name} {kind} {i}: the best two logits are {gap:.1e} apart where the texts part")


if __name__ == "__main__":
    main()
