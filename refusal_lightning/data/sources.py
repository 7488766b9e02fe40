"""The public sources of the paper's prompts, one entry each, and over-refusal sets by name; no text of theirs.

Every file is pinned by its SHA-256, and so is every set that is made of them: it equals the authors' or is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from refusal_lightning.data.hub import HubSet

_GITHUB = "https://raw.githubusercontent.com"
_AUTHORS = f"{_GITHUB}/andyrdt/refusal_direction/9d852fae1a9121c78b29142de733cb1340770cc3/dataset"
_HARMBENCH = f"{_GITHUB}/centerforaisafety/HarmBench/8e1604d1171fe8a48d8febecd22f600e462bdcdd/data/behavior_datasets"
_TDC = f"{_GITHUB}/centerforaisafety/tdc2023-starter-kit/main/red_teaming/data"

_STANDARD = MappingProxyType({"FunctionalCategory": "standard"})


@dataclass(frozen=True)
class RemoteFile:
    """A file as its publisher offers it."""

    path: str
    """Where it lies under the dataset folder, and in a mirror."""
    urls: tuple[str, ...]
    """Where to get it, tried in this order: the publisher's, then the copy in the paper's own repository."""
    sha256: str | None
    """Of the whole file (None: not known; the rows that it gives are checked)."""
    size: int | None = None
    """Bytes (None: not known beforehand)."""


@dataclass(frozen=True)
class Source:
    """A public set of prompts, and how its rows become ``processed/NAME.json``."""

    name: str
    title: str
    licence: str
    page: str
    """Where people read about it."""
    files: tuple[RemoteFile, ...]
    """Read one after the other, by their endings (see tables)."""
    sha256: str
    """Of processed/NAME.json: the same rows in the same order as the authors'."""
    count: int
    """Rows of processed/NAME.json."""
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Which columns are the instruction and the category."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Only rows whose columns have these values are taken."""
    hub: HubSet | None = None
    """The publisher's own dataset on the Hub, if any: tried before the files."""


@dataclass(frozen=True)
class NamedSet:
    """A set for evaluation, loaded from the Hub when it is asked for by name."""

    title: str
    licence: str
    page: str
    hub: HubSet
    columns: Mapping[str, str | None]
    where: Mapping[str, str] = field(default_factory=dict)


def _raw(name: str, sha256: str, size: int, *urls: str) -> RemoteFile:
    return RemoteFile(f"raw/{name}", (*urls, f"{_AUTHORS}/raw/{name}"), sha256, size)


_ALL = (
    Source(
        "advbench",
        "AdvBench",
        "MIT",
        "https://github.com/llm-attacks/llm-attacks",
        (
            _raw(
                "advbench.csv",
                "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
                82125,
                f"{_GITHUB}/llm-attacks/llm-attacks/098262edf85f807224e70ecd87b9d83716bf6b73"
                "/data/advbench/harmful_behaviors.csv",
            ),
        ),
        "545ba703b4ab982e79a4b232cf05a6f6cf9bd98956cb30a99be36e13475e9820",
        520,
        {"instruction": "goal"},
    ),
    Source(
        "malicious_instruct",
        "MaliciousInstruct",
        "none stated",
        "https://github.com/Princeton-SysML/Jailbreak_LLM",
        (
            _raw(
                "malicious_instruct.txt",
                "a64d69dd1004aac4a23aaff3748fb8f17161893f74db36f45b8bc849eb1bcce5",
                6269,
                f"{_GITHUB}/Princeton-SysML/Jailbreak_LLM/1e490531c0ef4bc13430178bf1fbc8f813e34b1a"
                "/data/MaliciousInstruct.txt",
            ),
        ),
        "a88fb4ab8958e93fc2c525125eb448e55026018748c0ec1388a296738e2fcacc",
        100,
    ),
    Source(
        "tdc2023",
        "TDC 2023, dev and test behaviors",
        "MIT",
        "https://github.com/centerforaisafety/tdc2023-starter-kit",
        (
            _raw(
                "tdc2023_dev_behaviors.json",
                "9392c63ad0193f0510f33812593f0dc71d13ae8b2ad93f64d670e9795deee1b0",
                4080,
                f"{_TDC}/dev/behaviors.json",
            ),
            _raw(
                "tdc2023_test_behaviors.json",
                "c4a630921005fd5e26dfe22dd720e411c8e7866c96f5b1a0ca2d46f0e1d1f8c2",
                3740,
                f"{_TDC}/test/behaviors.json",
            ),
        ),
        "4c9804f5fdf2a006477807a0c225ad438d6a693d7fa7c93097f866b8dc2e89b8",
        100,
    ),
    Source(
        "harmbench_val",
        "HarmBench, validation, standard behaviors",
        "MIT",
        "https://github.com/centerforaisafety/HarmBench",
        (
            _raw(
                "harmbench_val.csv",
                "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534",
                38024,
                f"{_HARMBENCH}/harmbench_behaviors_text_val.csv",
            ),
        ),
        "3e850f94d4462fd736505fa2653d72c02efd40c276f442580cab3a1a3a283c69",
        41,
        {"instruction": "Behavior", "category": "SemanticCategory"},
        _STANDARD,
    ),
    Source(
        "harmbench_test",
        "HarmBench, test, standard behaviors",
        "MIT",
        "https://github.com/centerforaisafety/HarmBench",
        (
            _raw(
                "harmbench_test.csv",
                "75d257b3e7428c52eb7b0154318f455af3e01b09a3794b5e2f3d36054f3c0e29",
                160828,
                f"{_HARMBENCH}/harmbench_behaviors_text_test.csv",
            ),
        ),
        "606bca20a5212e676840ca928070e0905486df1bcc1f5f0223e7a76d8be62fd5",
        159,
        {"instruction": "Behavior", "category": "SemanticCategory"},
        _STANDARD,
    ),
    Source(
        "jailbreakbench",
        "JailbreakBench, harmful behaviors",
        "MIT",
        "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
        (
            _raw(
                "jailbreakbench.csv",
                "45e9a8923b28f547bb372fbaa9af7df8b38c818a80ae50c3bab97704197ff516",
                23111,
            ),
        ),
        "3a5aefa80c4a35f75a5306303aa8e69801e4ca4584e1f598bd2ddcf3e7fbbcdd",
        100,
        {"instruction": "Goal", "category": "Category"},
        hub=HubSet("JailbreakBench/JBB-Behaviors", "behaviors", "harmful", "886acc352a31533ffbcf4ef22c744658688086fc"),
    ),
    Source(
        "strongreject",
        "StrongREJECT",
        "MIT",
        "https://github.com/alexandrasouly/strongreject",
        (
            _raw(
                "strongreject.csv",
                "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
                56359,
                f"{_GITHUB}/alexandrasouly/strongreject/f7cad6c17e624e21d8df2278e918ae1dddb4cb56"
                "/strongreject_dataset/strongreject_dataset.csv",
            ),
        ),
        "9786304587f3d860ab01d1dd2de4aff721ed7538ce4e2af715cbb74efe2a6f10",
        313,
        {"instruction": "forbidden_prompt", "category": "category"},
    ),
    Source(
        "alpaca",
        "Alpaca, instructions without input",
        "CC BY-NC 4.0",
        "https://huggingface.co/datasets/tatsu-lab/alpaca",
        (
            RemoteFile(
                "raw/alpaca_data.json",
                (f"{_GITHUB}/tatsu-lab/stanford_alpaca/761dc5bfbdeeffa89b8bff5d038781a4055f796a/alpaca_data.json",),
                "2eddafc6b977608d778aaab8dfc7e50e547b3af9826dfb9e909d9fc362e4a419",
            ),
        ),
        "c4ce1bdc5c9b92caabcb171c27c7ec1e79832836bae10291d7c8ab8c6245f600",
        31323,
        {"instruction": "instruction"},
        {"input": ""},
        HubSet("tatsu-lab/alpaca", None, "train", "dce01c9b08f87459cf36a430d809084718273017"),
    ),
)

SOURCES: Mapping[str, Source] = MappingProxyType({source.name: source for source in _ALL})

_XSTEST = HubSet("Paul/XSTest", None, "train", "f600c994b256f12867dfa5b3eb3d545a3e62f8b5")
_XSTEST_ABOUT = ("CC BY 4.0", "https://huggingface.co/datasets/Paul/XSTest")
_OR_BENCH = "bench-llm/or-bench"
_OR_BENCH_REVISION = "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272"
_OR_BENCH_ABOUT = ("CC BY 4.0", "https://huggingface.co/datasets/bench-llm/or-bench")
_XSTEST_COLUMNS = {"instruction": "prompt", "category": "type"}
_OR_BENCH_COLUMNS = {"instruction": "prompt", "category": "category"}

NAMED_SETS: Mapping[str, NamedSet] = MappingProxyType(
    {
        "xstest": NamedSet("XSTest, safe prompts", *_XSTEST_ABOUT, _XSTEST, _XSTEST_COLUMNS, {"label": "safe"}),
        "xstest_unsafe": NamedSet(
            "XSTest, unsafe contrasts", *_XSTEST_ABOUT, _XSTEST, _XSTEST_COLUMNS, {"label": "unsafe"}
        ),
        "or_bench_hard": NamedSet(
            "OR-Bench, hard safe prompts",
            *_OR_BENCH_ABOUT,
            HubSet(_OR_BENCH, "or-bench-hard-1k", "train", _OR_BENCH_REVISION),
            _OR_BENCH_COLUMNS,
        ),
        "or_bench_toxic": NamedSet(
            "OR-Bench, toxic prompts",
            *_OR_BENCH_ABOUT,
            HubSet(_OR_BENCH, "or-bench-toxic", "train", _OR_BENCH_REVISION),
            _OR_BENCH_COLUMNS,
        ),
    }
)
