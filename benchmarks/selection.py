"""How much faster the scores of all candidates are than one plain forward pass per candidate and score.

    python benchmarks/selection.py [--data ../shared/dataset] [--n-train 128] [--n-val 32]

On the demo model, alternating in one run: `select` (staged, exhaustive) from a filled store, and a plain
implementation as one would write it: Hugging Face forward passes with ordinary hooks, batches of 32 in the given
order, left padding, logits at every position, each candidate and score one by one. The plain one is timed on every
``--every``-th candidate of each score and multiplied up. Every score that `select` computed is compared with the plain
one's where both are there, and with ../shared/oracle where that is there. `again` is `select` with another threshold,
in a new process, once all scores are there.

(Not `select.py`: a script's folder comes first on Python's path, and the standard library has a module of that name.)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from refusal_lightning.cli import main as refusal_lightning
from refusal_lightning.data import draw_instructions
from refusal_lightning.models import ChatModel, load_chat_model
from refusal_lightning.models.tokens import left_pad, prompt_hash
from refusal_lightning.store import ActivationStore

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODES = ("staged", "exhaustive")
NAMES = {"bypass": "refusal_score", "induce": "steering_score", "kl": "kl_div_score"}


class Plain:
    """The plain implementation."""

    def __init__(self, chat: ChatModel, harmful: list[list[int]], harmless: list[list[int]]) -> None:
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(chat.checkpoint.source, dtype=torch.float32).eval()
        self.refusal_ids, self.harmful, self.harmless = chat.refusal_ids, harmful, harmless
        self.baseline = self.logits(harmless)

    def logits(self, prompts: list[list[int]]) -> torch.Tensor:
        """[prompt, vocab] at the last position, after logits at every position."""
        out = []
        with torch.inference_mode():
            for start in range(0, len(prompts), 32):
                ids, mask = left_pad(prompts[start : start + 32])
                positions = (mask.cumsum(-1) - 1).clamp(min=0)
                out.append(self.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1])
        return torch.cat(out).double()

    def score(self, kind: str, direction: torch.Tensor, layer: int) -> float:
        """One score of one candidate: hooks at every block's input and every attention and MLP output."""
        unit = direction / (direction.norm() + 1e-8)

        def project(x: torch.Tensor) -> torch.Tensor:
            return x - (x @ unit).unsqueeze(-1) * unit

        blocks = self.model.model.layers
        if kind == "induce":
            handles = [blocks[layer].register_forward_pre_hook(lambda m, args: (args[0] + direction, *args[1:]))]
        else:
            handles = [b.register_forward_pre_hook(lambda m, args: (project(args[0]), *args[1:])) for b in blocks]
            for block in blocks:
                for part in (block.self_attn, block.mlp):
                    handles.append(
                        part.register_forward_hook(
                            lambda m, args, out: (project(out[0]), *out[1:]) if isinstance(out, tuple) else project(out)
                        )
                    )
        try:
            logits = self.logits(self.harmful if kind == "bypass" else self.harmless)
        finally:
            for handle in handles:
                handle.remove()
        if kind == "kl":
            p, q = torch.softmax(self.baseline, -1), torch.softmax(logits, -1)
            return float((p * (torch.log(p + 1e-6) - torch.log(q + 1e-6))).sum(-1).mean())
        p = torch.softmax(logits, -1)[:, self.refusal_ids].sum(-1)
        return float((torch.log(p + 1e-8) - torch.log(1 - p + 1e-8)).mean())


def kept_prompts(chat: ChatModel, store: ActivationStore, instructions: list[str], harmful: bool) -> list[list[int]]:
    """Token ids of the validation prompts that pass the filter on the baseline's refusal score."""
    ids = [chat.encode(instruction) for instruction in instructions]
    logits = torch.from_numpy(store.read("next_token_logits", store.rows([prompt_hash(i) for i in ids]))).double()
    p = torch.softmax(logits, -1)[:, chat.refusal_ids].sum(-1)
    return [i for i, value in zip(ids, p.tolist(), strict=True) if (value > 0.5) == harmful]


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(SHARED / "dataset"), help="folder with splits/ (default: ../shared)")
    parser.add_argument("--n-train", type=int, default=128)
    parser.add_argument("--n-val", type=int, default=32)
    parser.add_argument("--kl-threshold", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=9, help="the plain one is timed on every so many candidates")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured (default 3)")
    parser.add_argument("--batch-size", type=int, default=32, help="rows of a pass (default 32)")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    args = parser.parse_args()
    if not (Path(args.data) / "splits").is_dir():
        raise SystemExit(f"no splits in {args.data}: the reference data are not here; try --data dataset/sample")
    times: dict[str, list[float]] = {name: [] for name in ("plain", *args.modes, "again")}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        config = {
            "model": {"name": "demo", "alias": "benchmark", "refusal_tokens": ["I"]},
            "data": {"root": args.data, "n_train": args.n_train, "n_val": args.n_val},
            "store": {"root": str(work / "store")},
            "trainer": {"accelerator": "cpu", "progress_bar": False},
            "select": {"kl_threshold": args.kl_threshold, "batch_size": args.batch_size},
        }
        path = work / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        assert refusal_lightning(["cache", "--config", str(path)]) == 0
        chat = load_chat_model("demo", refusal_tokens=["I"])
        (url,) = (work / "store").glob("*.zarr")
        store = ActivationStore.open(url)
        draw = draw_instructions(args.data, args.n_train, args.n_val, 42).sets()
        plain = Plain(
            chat,
            kept_prompts(chat, store, draw["harmful_val"], True),
            kept_prompts(chat, store, draw["harmless_val"], False),
        )
        plain_scores: dict[tuple[str, int, int], float] = {}
        places = [(pos, layer) for pos in range(-chat.n_positions, 0) for layer in range(chat.n_layers)]
        tables: dict[str, list[dict[str, Any]]] = {}
        chosen: dict[str, dict[str, int]] = {}
        for number in range(args.rounds):
            for mode in args.modes:
                for result in (url / "results").glob("scores-*"):
                    for file in sorted(result.rglob("*"), reverse=True):
                        file.rmdir() if file.is_dir() else file.unlink()
                    result.rmdir()
                runs = work / f"runs-{mode}"
                started = time.perf_counter()
                assert refusal_lightning(
                    ["select", "--config", str(path), "--select.mode", mode, "--runs.root", str(runs)]
                ) == 0  # fmt: skip
                times[mode].append(time.perf_counter() - started)
                folder = runs / "benchmark"
                tables[mode] = json.loads((folder / "select_direction/direction_evaluations.json").read_text())
                chosen[mode] = json.loads((folder / "direction_metadata.json").read_text())
                if mode == "exhaustive":  # all scores are there: other thresholds need a new process and no model
                    again = ["select", "--config", str(path), "--runs.root", str(work / "runs-again")]
                    again += ["--select.kl_threshold", str(1.1 * args.kl_threshold)]
                    started = time.perf_counter()
                    subprocess.run([sys.executable, "-m", "refusal_lightning", *again], check=True)
                    times["again"].append(time.perf_counter() - started)
            candidates = torch.load(folder / "generate_directions/mean_diffs.pt", weights_only=True).float()
            sample = places[number :: args.every]
            started = time.perf_counter()
            for kind in NAMES:
                for pos, layer in sample:
                    plain_scores[kind, pos, layer] = plain.score(kind, candidates[pos, layer], layer)
            times["plain"].append((time.perf_counter() - started) * len(places) / len(sample))
    reference = {}
    oracle = SHARED / "oracle" / "organism.json"
    if oracle.is_file() and args.data == str(SHARED / "dataset") and (args.n_train, args.n_val) == (128, 32):
        reference = {(r["position"], r["layer"]): r for r in json.loads(oracle.read_text())["rows"]}
    seconds = {name: statistics.median(values) for name, values in times.items() if values}
    print(f"{len(places)} candidates, 3 scores, {torch.get_num_threads()} threads; plain: every {args.every}th, scaled")
    for name, value in seconds.items():
        print(f"{name:<12} {value:8.1f} s ({min(times[name]):.1f}-{max(times[name]):.1f})")
    for mode in args.modes:
        got = {
            (kind, r["position"], r["layer"]): r[key]
            for r in tables[mode]
            for kind, key in NAMES.items()
            if r[key] is not None and not np.isnan(r[key])
        }
        for kind, pos, layer in sorted(got, key=lambda key: got[key])[:3]:  # beside those that were timed
            if (kind, pos, layer) not in plain_scores:
                plain_scores[kind, pos, layer] = plain.score(kind, candidates[pos, layer], layer)
        errors = [abs(got[key] - value) for key, value in plain_scores.items() if key in got]
        print(
            f"{mode}: plain / {mode} {seconds['plain'] / seconds[mode]:.1f}; selected {chosen[mode]}; {len(got)} scores"
        )
        print(f"  largest difference to the plain one's scores: {max(errors):.1e} ({len(errors)} compared)")
        if reference:
            worst = max(abs(value - reference[p, la][NAMES[kind]]) for (kind, p, la), value in got.items())
            print(f"  largest difference to ../shared/oracle: {worst:.1e} ({len(got)} compared)")


if __name__ == "__main__":
    main()
