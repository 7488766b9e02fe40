"""The typed configuration: one dataclass per section, one line of documentation per key.

A stage reads its own section and the ones it shares; below the stages only plain arguments travel.
Every value that can be judged without a model is judged in ``__post_init__``, with the key's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

Dtype = Literal["float32", "bfloat16", "float16"]
HookPoint = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
LossMask = Literal["answer", "paper"]
Compression = Literal["lz4", "zstd", "none"]


_CREDENTIAL_NAME = re.compile(
    r"secret|passw|passphrase|token|credential|connection_?string|signature|(^|_)(key|pkey|sas|username)$"
    r"|(access|account|api|customer|private|shared)_?key",
    re.IGNORECASE,
)
"""Names under which obstore and the packages behind fsspec take credentials, as a part of any key of theirs."""
_CREDENTIAL_VALUE = re.compile(r"://[^/\s@]*:[^/\s@]*@|(AccountKey|SharedAccessSignature)=|[?&]sig=", re.IGNORECASE)
"""URLs and connection strings that hold credentials."""

_TRAINER_EXTRA = (
    "benchmark",
    "default_root_dir",
    "detect_anomaly",
    "deterministic",
    "enable_model_summary",
    "profiler",
)
"""Arguments of `lightning.Trainer` that change neither what is computed nor how much of it."""
_INSTEAD = {
    "accelerator": "trainer.accelerator says it",
    "barebones": "it is for measuring Lightning itself",
    "devices": "trainer.devices says it",
    "enable_progress_bar": "trainer.progress_bar says it",
    "fast_dev_run": "work would be left out; draw fewer prompts (data.n_train, data.n_val, evaluate.n_test)",
    "limit_predict_batches": "work would be left out; draw fewer prompts (data.n_train, data.n_val, evaluate.n_test)",
    "logger": "trainer.logger says it",
    "max_time": "work would be left out; a job that is stopped continues with the same command",
    "num_nodes": "trainer.num_nodes says it",
    "precision": "numbers would change that stores and results do not know of; model.dtype says it",
    "strategy": "trainer.strategy says it",
}


def _require(condition: bool, key: str, value: object, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{key} is {value!r}; it must be {wanted}")


def _positive(key: str, value: int | None) -> None:
    _require(value is None or value > 0, key, value, "a positive whole number")


@dataclass
class ModelConfig:
    """Which chat model, and how it is spoken to."""

    name: str = "demo"
    """Hub name (org/model), local folder, or a demo model (`demo`, `smollm2-135m-instruct`)."""
    alias: str | None = None
    """Folder name under `runs/` and start of the store's name (default: the last part of the model's name)."""
    revision: str | None = None
    """Hub revision: branch, tag or commit (default: the main branch)."""
    family: str = "auto"
    """Model family that gives the template: llama2, llama3, gemma, qwen, yi, legacy_llama3 (the malformed template of
    the authors' published Llama-3 results), or `tokenizer` (the tokenizer's own chat template); `auto` picks the family
    from the model's name, else the tokenizer's own template."""
    system_prompt: str | None = None
    """System message (default: none is given; a tokenizer's own template may add its default one)."""
    answer_prefix: str | None = None
    """Text that every answer begins with, put after the template: e.g. an empty thought for a model that thinks before
    it answers, so that first-token scores are about the answer (default: none)."""
    template_options: dict[str, Any] = field(default_factory=dict)
    """Settings that the tokenizer's own chat template knows, e.g. {reasoning_effort: low}; thinking is off
    (enable_thinking: false) unless it is switched on here."""
    refusal_tokens: list[int | str] | Literal["auto"] | None = None
    """First tokens of a refusal, as token ids or as texts that are one token each; `auto`: `select` finds those that
    are much likelier on harmful than on harmless training prompts, and says so (default: the family's, else auto)."""
    stop_tokens: list[int | str] | None = None
    """Further tokens that end an answer, beside the model's own and the family's (default: none)."""
    dtype: Dtype = "float32"
    """Weights and activations: float32, bfloat16 or float16 (scores are always computed in float64)."""
    trust_remote_code: bool = False
    """Run the Python code that a model repository ships. Leave it off unless you have read that code; on the command
    line only, no configuration file can turn it on."""
    device_map: Literal["auto"] | dict[str, int | str] | None = None
    """Spread one copy of the model, in one process: `auto` (over the GPUs), or the device of each part by its name: a
    GPU's number, `cpu` or `disk` (default: whole, on the process's device)."""
    offload_folder: str | None = None
    """Folder for the weights that `device_map` puts on disk (default: a temporary one)."""

    def __post_init__(self) -> None:
        _require(bool(self.name.strip()), "model.name", self.name, "a model's name or folder")
        if self.alias is not None:
            plain = bool(self.alias) and not set(self.alias) & set("/\\\0") and self.alias not in (".", "..")
            _require(plain, "model.alias", self.alias, "a plain folder name")
        if self.refusal_tokens not in (None, "auto"):
            _require(bool(self.refusal_tokens), "model.refusal_tokens", self.refusal_tokens, "a non-empty list")
        if isinstance(self.device_map, dict):
            places = set(self.device_map.values())
            memory = bool(places) and places <= {"cpu", "disk"}
            gpus = bool(places) and all(isinstance(p, int) or re.fullmatch(r"cuda:\d+", p) for p in places)
            _require(memory or gpus, "model.device_map", self.device_map, "a map to GPU numbers, or to cpu and disk")


@dataclass
class SetConfig:
    """Where one set of prompts comes from."""

    source: str
    """A file, `hub:org/name:config:split`, or any other set by its name."""
    columns: dict[str, str] | None = None
    """Its columns, where they are not those of `data.columns`: of instruction and category; for `evaluate.losses` of
    text, or of instruction and response."""
    where: dict[str, str | int | bool] | None = None
    """Only the rows whose columns have all these values, e.g. {kind: honest, label: 1}. Not for `evaluate.losses`."""

    def __post_init__(self) -> None:
        _columns("data.sets", self.columns, ("instruction", "category", "text", "response"))


def _columns(key: str, columns: dict[str, str] | None, known: tuple[str, ...]) -> None:
    _require(not set(columns or {}) - set(known), f"{key}.columns", columns, f"a mapping of {' and '.join(known)}")


@dataclass
class DataConfig:
    """Which instructions, and how many are drawn."""

    root: str = "dataset/sample"
    """Folder with `splits/{harmful,harmless}_{train,val,test}.json` and, if any, `processed/NAME.json`."""
    labels: list[str] = field(default_factory=lambda: ["harmful", "harmless"])
    """The two kinds of prompts by the names of their splits: those in the place of harmful first."""
    sets: dict[str, str | SetConfig] = field(default_factory=dict)
    """Where sets come from if not from the root, by name: {harmful_train: own.csv}, or with columns and rows of its own
    {harmful_train: {source: own.csv, columns: {instruction: prompt}, where: {kind: honest}}}."""
    columns: dict[str, str] | None = None
    """Columns of your own files and Hub datasets, e.g. {instruction: prompt, category: topic} (default: the same
    names)."""
    n_train: int = 128
    """Training instructions drawn of each kind (the candidates are made from them)."""
    n_val: int = 32
    """Validation instructions drawn of each kind (the candidates are scored on them)."""
    seed: int = 42
    """Seed of the draw; with the same data it gives the same instructions everywhere."""

    def __post_init__(self) -> None:
        plain = len(set(self.labels)) == len(self.labels) == 2 and all(label.isidentifier() for label in self.labels)
        _require(plain, "data.labels", self.labels, "two different words of letters, digits and underscores")
        _columns("data", self.columns, ("instruction", "category"))
        for name in self.sets:
            _require(name.replace("-", "_").isidentifier(), "data.sets", name, "a mapping of plain names to sets")
        for given in self.sets.values():
            # On the command line the parser takes a mapping that it does not understand for one long text.
            is_name = not isinstance(given, str) or not given.lstrip().startswith("{")
            _require(is_name, "data.sets", given, "{SET: FILE} or {SET: {source: FILE, columns: {…}, where: {…}}}")
        _positive("data.n_train", self.n_train)
        _positive("data.n_val", self.n_val)


@dataclass
class StoreConfig:
    """Where and how the activation store is kept."""

    root: str = "activation_store"
    """Folder or URL (s3://bucket/folder, ...) of the stores; each store's name is derived from its identity."""
    compression: Compression = "lz4"
    """lz4 (fast, nearly the smallest), zstd (slow, the smallest) or none; all keep every bit."""
    shard_mb: float | None = None
    """Uncompressed MB of a shard, the unit that is written whole (default: 8 to 512, by the planned total)."""
    options: dict[str, Any] = field(default_factory=dict)
    """What obstore is told about a URL, e.g. {endpoint: "http://host:9000", region: eu-west-1} for s3; credentials come
    from the environment only."""

    def __post_init__(self) -> None:
        _require(self.shard_mb is None or self.shard_mb > 0, "store.shard_mb", self.shard_mb, "above 0")
        # The value is not quoted: it is what must not be seen.
        where = _credential(self.options, "store.options")
        if where is None and _CREDENTIAL_VALUE.search(self.root):
            where = "store.root"
        if where is not None:
            raise ValueError(
                f"{where} holds a key or password: give credentials in the environment (AWS_ACCESS_KEY_ID ...), so "
                "that they are in no file"
            )


def _credential(value: object, where: str) -> str | None:
    """The dotted name of the first credential in a mapping, however deep."""
    if isinstance(value, dict):
        for name, below in value.items():
            if _CREDENTIAL_NAME.search(str(name)):
                return f"{where}.{name}"
            if found := _credential(below, f"{where}.{name}"):
                return found
    elif isinstance(value, (list, tuple)):
        return next((found for below in value if (found := _credential(below, where))), None)
    return where if isinstance(value, str) and _CREDENTIAL_VALUE.search(value) else None


@dataclass
class TrainerConfig:
    """Arguments of the Lightning Trainer that runs every predict loop."""

    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu, gpu, ..."""
    devices: int | str = 1
    """Devices (processes) per node: a number or `auto`."""
    num_nodes: int = 1
    """Number of machines (nodes) that the processes run on."""
    strategy: Literal["auto", "ddp", "device_map"] = "auto"
    """ddp (one process and one copy of the model per device), device_map (one process per node, with one copy over all
    its devices), or auto (ddp where there are several devices or nodes)."""
    progress_bar: bool = True
    """Show progress bars."""
    logger: list[str] = field(default_factory=list)
    """Loggers that get rates, scores, losses, figures and prompts/s of every stage: csv, tensorboard, wandb, or
    registered ones of your own; their files are in `runs/<alias>/logs` (default: none)."""
    timeout_minutes: float = 10080.0
    """How long a process waits for the slowest one, in minutes."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `lightning.Trainer`, by name: benchmark, default_root_dir, detect_anomaly, deterministic,
    enable_model_summary, profiler. Those that change numbers or leave work out are refused."""

    def __post_init__(self) -> None:
        for name, value in self.extra.items():
            plain = value is None or isinstance(value, bool | int | float | str)
            _require(plain, f"trainer.extra.{name}", value, "a number, a text, true, false or null")
            if name not in _TRAINER_EXTRA:
                reason = _INSTEAD.get(name, f"it may be one of {', '.join(_TRAINER_EXTRA)}")
                raise ValueError(f"trainer.extra.{name} is not taken: {reason}")
        if isinstance(self.devices, int):
            _positive("trainer.devices", self.devices)
        _positive("trainer.num_nodes", self.num_nodes)
        _require(len(set(self.logger)) == len(self.logger), "trainer.logger", self.logger, "different loggers")
        _require(self.timeout_minutes > 0, "trainer.timeout_minutes", self.timeout_minutes, "above 0")


@dataclass
class CacheConfig:
    """The cache stage: activations off the model, once."""

    batch_size: int = 32
    """Prompts per forward pass. Batches are fixed by the store's shards, not by the number of processes."""
    hook_points: list[HookPoint] = field(default_factory=lambda: ["resid_pre"])
    """What to keep of every block: resid_pre, resid_mid, resid_post, attn_out, mlp_out (`select` needs resid_pre)."""
    positions: Literal["eoi", "all"] | int = "eoi"
    """Of which tokens: `eoi` (those of the template after the instruction), the last so many, or `all` of a prompt
    (`select` and `analyze` need at least the eoi tokens)."""
    layers: list[int] | None = None
    """Of which blocks, from 0 (default: all; `select` and `analyze` need all)."""
    datasets: list[str] = field(default_factory=list)
    """Further instructions to cache whole: splits such as harmful_test, names under `processed/`, files, Hub
    datasets."""

    def __post_init__(self) -> None:
        _positive("cache.batch_size", self.batch_size)
        different = len(set(self.hook_points)) == len(self.hook_points) > 0
        _require(different, "cache.hook_points", self.hook_points, "one or more different hook points")
        if not isinstance(self.positions, str):
            _positive("cache.positions", self.positions)
        if self.layers is not None:
            ascending = self.layers == sorted(set(self.layers)) and bool(self.layers) and self.layers[0] >= 0
            _require(ascending, "cache.layers", self.layers, "a list of different layers from 0 up, ascending")


@dataclass
class SelectConfig:
    """The select stage: filter the prompts, score the candidates, choose the direction."""

    mode: Literal["staged", "exhaustive"] = "staged"
    """staged: a score is computed only where the rules before it leave a candidate standing (same choice, far less
    work); exhaustive: all three scores of every candidate (for the plots)."""
    estimators: list[str] = field(default_factory=lambda: ["mean_difference"])
    """Ways to draw a direction from the activations, each scored and chosen from (docs/selection.md has the list,
    docs/plugins.md says how to add your own). The first one's is evaluated."""
    batch_size: int = 32
    """Rows (prompts x candidates) per forward pass."""
    harmful_threshold: float | None = 0.0
    """Harmful prompts are kept when their refusal score is above this (log-odds); null keeps all."""
    harmless_threshold: float | None = 0.0
    """Harmless prompts are kept when their refusal score is below this (log-odds); null keeps all."""
    kl_threshold: float | None = 0.1
    """Candidates with a larger KL score (nats) are dropped; null switches the rule off."""
    induce_threshold: float | None = 0.0
    """Candidates with a smaller induce score (log-odds) are dropped; null switches the rule off."""
    prune_layers: float | None = 0.2
    """Share of the last layers whose candidates are dropped; null switches the rule off."""
    position: int | None = None
    """Choose the candidate at this position by hand, with select.layer: from -1, the last token before the answer, down
    (default: the rules choose)."""
    layer: int | None = None
    """Choose the candidate of this layer by hand, with select.position, from 0 (default: the rules choose)."""
    answer_kl_tokens: int = 0
    """For the five best candidates, report the KL (nats) over the first so many tokens of the baseline's own answers
    too, since one token can hide damage; 0: do not."""

    def __post_init__(self) -> None:
        _positive("select.batch_size", self.batch_size)
        by_hand = [self.position, self.layer]
        _require(
            (None in by_hand) == (by_hand == [None, None]), "select.position, select.layer", by_hand, "both or none"
        )
        _require(self.position is None or self.position < 0, "select.position", self.position, "negative")
        _require(self.layer is None or self.layer >= 0, "select.layer", self.layer, "0 or more")
        _require(self.answer_kl_tokens >= 0, "select.answer_kl_tokens", self.answer_kl_tokens, "0 or more")
        different = len(set(self.estimators)) == len(self.estimators) > 0
        _require(different, "select.estimators", self.estimators, "one or more different estimators")
        _require(
            self.prune_layers is None or 0 <= self.prune_layers < 1,
            "select.prune_layers",
            self.prune_layers,
            "from 0 to below 1",
        )


@dataclass
class SamplingConfig:
    """Answers drawn at random instead of greedy ones."""

    temperature: float = 1.0
    """Logits are divided by it, above 0: the lower, the closer to greedy."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that make up this share of the probability, above 0, at most 1."""
    seed: int = 42
    """Each prompt under each intervention has random numbers of its own, made from this, so that its text does not
    depend on the batch it was in."""

    def __post_init__(self) -> None:
        _require(self.temperature > 0, "evaluate.sampling.temperature", self.temperature, "above 0")
        _require(0 < self.top_p <= 1, "evaluate.sampling.top_p", self.top_p, "above 0 and at most 1")


@dataclass
class EvaluateConfig:
    """The evaluate stage: answers and loss under baseline, ablation and activation addition."""

    harmful: list[str] | None = None
    """Sets of harmful instructions to answer: splits, names under `processed/`, files, Hub datasets (default: the test
    split, harmful_test)."""
    harmless: list[str] | None = None
    """Sets of harmless instructions to answer; the loss is measured on the baseline's answers to them (default: the
    test split, harmless_test)."""
    n_test: int | None = 100
    """At most this many instructions of each harmless set, split or other, drawn in the order of the list (after the
    training ones, same seed); null: all. Harmful sets are answered whole."""
    interventions: list[str] = field(default_factory=lambda: ["baseline", "ablation", "actadd"])
    """Which to run: baseline, ablation, actadd (activation addition: -1 on harmful, +1 on harmless), or registered
    ones of your own."""
    max_new_tokens: int = 512
    """Longest answer, in tokens."""
    batch_size: int | None = None
    """Rows (prompts x interventions) that are decoded at a time (default: as many as memory holds, up to where more
    bring nothing)."""
    sampling: SamplingConfig | None = None
    """Draw answers at random: {temperature: 1.0, top_p: 1.0, seed: 42} or some of these; null: the likeliest tokens."""
    judges: list[str] = field(default_factory=lambda: ["substring"])
    """Judges of the answers, side by side: substring (the paper's refusal phrases), llama_guard, strongreject (asked
    over the network), llama_guard_local, harmbench (run here), or registered ones of your own."""
    losses: list[str] = field(default_factory=lambda: ["alpaca_custom_completions"])
    """Texts whose cross-entropy loss is measured: alpaca_custom_completions (the baseline's own answers to the harmless
    sets), pile and alpaca (the paper's), files or Hub datasets with a text, or an instruction and its response."""
    loss_batch_size: int = 2
    """Texts per forward pass of the loss."""
    loss_n_batches: int = 2048
    """At most so many batches of each set: its first loss_batch_size x loss_n_batches texts."""
    loss_max_tokens: int = 256
    """Longest plain text, in tokens; the rest of it is cut off. Answers are scored whole."""
    loss_mask: LossMask = "answer"
    """Which tokens of an answer count in the loss: `answer`, all that hold some of its text; `paper`, all behind the
    template, as the authors count: a first token that the tokenizer makes of the template's end and the answer's start
    (Llama-2's) does not."""

    def __post_init__(self) -> None:
        for key in ("n_test", "max_new_tokens", "batch_size", "loss_batch_size", "loss_n_batches", "loss_max_tokens"):
            _positive(f"evaluate.{key}", getattr(self, key))
        _require(bool(self.interventions), "evaluate.interventions", self.interventions, "a non-empty list")


@dataclass
class CapabilityConfig:
    """The capability stage: tasks of lm-evaluation-harness on the intervened model."""

    tasks: list[str] = field(default_factory=lambda: ["everyday_facts"])
    """Tasks by their names in the harness (mmlu, arc_challenge, ...) or in your own files."""
    include_path: str | None = "dataset/sample/tasks"
    """Folder with task files of your own, relative to the folder one works in; null: none."""
    trust_task_code: bool = False
    """Run Python that task files of your own name (`!function`), and metrics that come from the Hub as code. Leave it
    off unless you have read that code; on the command line only, no configuration file can turn it on."""
    interventions: list[str] = field(default_factory=lambda: ["baseline", "ablation", "actadd"])
    """Which to run: baseline, ablation, actadd (activation addition: -1), or registered ones of your own."""
    num_fewshot: int | None = None
    """Examples before each question (default: each task's own number)."""
    limit: int | None = None
    """At most so many questions of each task (default: all)."""
    batch_size: int = 8
    """Questions per forward pass."""
    chat_template: bool = False
    """Put questions into the tokenizer's own chat template."""

    def __post_init__(self) -> None:
        _require(bool(self.tasks), "capability.tasks", self.tasks, "one or more tasks")
        _require(bool(self.interventions), "capability.interventions", self.interventions, "a non-empty list")
        _require(self.num_fewshot is None or self.num_fewshot >= 0, "capability.num_fewshot", self.num_fewshot, ">= 0")
        _positive("capability.limit", self.limit)
        _positive("capability.batch_size", self.batch_size)


@dataclass
class AnalyzeConfig:
    """The analyze stage: what the store tells about the candidates, without the model."""

    analyses: list[str] = field(default_factory=lambda: ["separability", "similarity", "stability", "projection"])
    """Which: separability (AUROC of every candidate), similarity (cosines between candidates), stability (cosines when
    training prompts are resampled or fewer), projection (of every cached prompt on the selected direction), or
    registered ones of your own."""
    bootstrap: int = 200
    """Resamples of the prompts behind each interval, and draws of each number of training prompts."""
    seed: int = 42
    """Seed of the resamples; the same seed gives the same files, byte for byte."""
    confidence: float = 0.95
    """Share of the resamples within an interval, above 0 and below 1."""

    def __post_init__(self) -> None:
        different = len(set(self.analyses)) == len(self.analyses) > 0
        _require(different, "analyze.analyses", self.analyses, "one or more different analyses")
        _positive("analyze.bootstrap", self.bootstrap)
        _require(self.seed >= 0, "analyze.seed", self.seed, "0 or a positive whole number")
        _require(0 < self.confidence < 1, "analyze.confidence", self.confidence, "above 0 and below 1")


@dataclass
class DoctorConfig:
    """The doctor: checks of the model before any number is reported."""

    n_prompts: int = 8
    """Training instructions of each kind (harmful, harmless) to check with, the first ones drawn."""
    out: str | None = None
    """JSON file to write the findings to (default: none is written)."""

    def __post_init__(self) -> None:
        _positive("doctor.n_prompts", self.n_prompts)
        _require(self.out is None or bool(self.out.strip()), "doctor.out", self.out, "a file's name")


@dataclass
class PlanConfig:
    """The plan: what a run will take, before it is started."""

    device_memory_gb: float | None = None
    """Memory of a device in GB (default: that of this machine's GPU, or its main memory)."""
    tflops: float | None = None
    """Arithmetic that a device really does, in 10^12 operations per second; a GPU reaches about half of what its maker
    says (default: measured on CPUs, 100 of a GPU)."""
    gb_per_s: float | None = None
    """Memory that a device really reads, in GB per second: decoding reads all weights for every token of a batch
    (default: measured on CPUs, 2,000 of a GPU)."""
    n_prompts: int | None = None
    """Plan `cache` for so many prompts, of plan.prompt_tokens each, and not for the configured sets."""
    prompt_tokens: int = 64
    """Tokens of such a prompt, its template included."""
    out: str | None = None
    """JSON file to write the plan to (default: none is written)."""

    def __post_init__(self) -> None:
        for key in ("device_memory_gb", "tflops", "gb_per_s"):
            value = getattr(self, key)
            _require(value is None or value > 0, f"plan.{key}", value, "above 0")
        _positive("plan.n_prompts", self.n_prompts)
        _positive("plan.prompt_tokens", self.prompt_tokens)


@dataclass
class RunsConfig:
    """Where results are written."""

    root: str = "runs"
    """Folder of the runs; a run's folder is named by the model's alias."""
    replace: bool = False
    """Let `select` move the run of another model with the same alias aside, into `stale/` in its folder (default: it
    refuses)."""
