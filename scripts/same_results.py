"""Whether two checkouts write the same results: every file of their stores, runs and journals, byte for byte.

    python scripts/same_results.py BEFORE AFTER [--cases demo two-processes s3] [--tiny]

Each case runs `cache`, `select`, `evaluate` and `analyze` of both checkouts on the same configuration, with the Python
that runs this and one thread per process (more threads add in another order): `demo` in one process, `two-processes`
in two that Lightning starts, `s3` with the store on an S3 server of this machine (moto). ``--tiny`` takes a random
model of four layers and made-up prompts instead of the demo model. Prints a table, and the names of what differs; ends
with 1 where something does.

Names are compared as the bytes are: the store's name and the journals' names say what their content depends on. A
journal is deleted once its content is kept elsewhere, so a copy is made at that moment (`kept`). Left out is only what
two runs of the same code do not share: ``RECORD_KEYS`` of run.json, ``RESULT_KEYS`` of the results kept in a store, and
the fresh name that each version of such a result has.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

STAGES = ("cache", "select", "evaluate", "analyze")
CASES = ("demo", "two-processes", "s3")
FOLDERS = ("store", "runs", "kept")
BUCKET = "bucket"

RECORD_KEYS = ("timings", "versions")
"""Keys of run.json: how long each stage took, and the packages' versions."""
RESULT_KEYS = ("saved", "version", "digest")
"""Keys of a result in a store (results/NAME/zarr.json): when it was saved, under which fresh name, their digest."""
_VERSION = re.compile(r"(/results/[^/]+/)v[0-9a-f]{32}/")

# Python runs this first in every process of a case: a journal's file that is deleted is copied to where $KEPT says.
_KEEP_JOURNALS = """
import os, shutil, sys
def keep(event, arguments):
    if event == "os.remove":
        name = os.path.relpath(os.fsdecode(arguments[0]))
        if "/.journal/" in name:
            kept = os.path.join(os.environ["KEPT"], name)
            os.makedirs(os.path.dirname(kept), exist_ok=True)
            shutil.copyfile(name, kept)
sys.addaudithook(keep)
"""


def main() -> int:
    """Run the cases, print the table; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="which cases (default: all)")
    parser.add_argument("--tiny", action="store_true", help="a random model of four layers instead of the demo model")
    parser.add_argument("--keep", type=Path, help="a new folder for what is compared (default: deleted at the end)")
    args = parser.parse_args()
    checkouts = {"before": args.before.resolve(), "after": args.after.resolve()}
    for checkout in checkouts.values():
        if not (checkout / "refusal_lightning").is_dir():
            parser.error(f"{checkout} is no checkout: it has no folder refusal_lightning")
    equal = True
    with tempfile.TemporaryDirectory(prefix="same-results-") as temporary:
        work = args.keep.resolve() if args.keep else Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        config = write_tiny_inputs(work / "inputs") if args.tiny else write_demo_inputs(work / "inputs", args.before)
        for case in args.cases:
            found = {}
            for side, checkout in checkouts.items():
                folder = work / case / side
                shutil.copytree(work / "inputs", folder)
                run_case(case, checkout, folder, config)
                found[side] = results(folder)
            equal &= tell(case, found["before"], found["after"])
    return 0 if equal else 1


def tell(case: str, before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """Print a case's line and the names of what differs. Whether nothing does."""
    names = before.keys() | after.keys()
    differing = sorted(name for name in names if before.get(name) != after.get(name))
    kinds = Counter(name.partition("/")[0] for name in names)
    counts = ", ".join(f"{kinds[kind]} in {kind}" for kind in FOLDERS)
    print(f"{case:14} {len(names):5} files ({counts}): {len(names) - len(differing)} equal, {len(differing)} differ")
    for name in differing:
        where = "differs" if name in before and name in after else f"only {'before' if name in before else 'after'}"
        print(f"{'':14} {where}: {name}", flush=True)
    return not differing and bool(names)


def write_demo_inputs(folder: Path, checkout: Path) -> dict[str, Any]:
    """The demo's configuration with a few of the sample's prompts; its texts are beside it."""
    config: dict[str, Any] = yaml.safe_load((checkout / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    shutil.copytree(checkout / "dataset" / "sample", folder / "dataset" / "sample")
    for path in (folder / "dataset" / "sample" / "splits").glob("*.json"):
        count = {"train": 16, "val": 4, "test": 4}[path.stem.rpartition("_")[2]]
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))[:count]), encoding="utf-8")
    config["data"] |= {"n_train": 16, "n_val": 4}
    # Of so few prompts, and in the upper layers only: less to score, and the selected one is there.
    config["select"] |= {"kl_threshold": 1.0, "prune_layers": 0.35, "answer_kl_tokens": 2}
    config["evaluate"] |= {"max_new_tokens": 8, "loss_n_batches": 1}
    return config


def write_tiny_inputs(folder: Path) -> dict[str, Any]:
    """A tiny model and made-up prompts of tests/helpers, and what more there is to do with so little."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
    from tiny_models import save_tiny_model

    from runs import write_config, write_data

    write_data(folder / "data", train=12, val=4, test=4)
    save_tiny_model("llama", folder / "model")
    path = write_config(
        folder,
        Path("model"),
        Path("data"),
        data={"n_train": 10, "n_val": 4},
        store={"root": "store"},
        runs={"root": "runs"},
        select={"mode": "exhaustive", "estimators": ["mean_difference", "lda"], "answer_kl_tokens": 2},
        evaluate={"n_test": 4, "judges": ["substring", "harmbench"]},
        judging={"harmbench_model": "model", "local_dtype": "float32"},
        analyze={"bootstrap": 20},
    )
    config: dict[str, Any] = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return config


def run_case(case: str, checkout: Path, folder: Path, config: dict[str, Any]) -> None:
    """Every stage of a checkout, in a folder that has its inputs: `store` and `runs` are there at the end."""
    more: dict[str, Any] = {"store": {"root": "store"}, "runs": {"root": "runs"}}
    more["trainer"] = {"accelerator": "cpu", "progress_bar": False}
    if case == "two-processes":
        more["trainer"] |= {"devices": 2, "strategy": "ddp"}
    if case != "s3":
        run_stages(checkout, folder, config, more)
        return
    with s3_server() as address:
        more["store"] = {"root": f"s3://{BUCKET}/store", "options": {"endpoint_url": address}}
        run_stages(checkout, folder, config, more)
        download(address, folder)


def run_stages(checkout: Path, folder: Path, config: dict[str, Any], more: dict[str, Any]) -> None:
    """Each stage as a command of its own. Ends this program where one fails."""
    merged = {name: {**config.get(name, {}), **more.get(name, {})} for name in config.keys() | more.keys()}
    (folder / "config.yaml").write_text(yaml.safe_dump(merged), encoding="utf-8")
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_KEEP_JOURNALS, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{site}:{checkout}", "KEPT": str(folder / "kept")}
    environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for stage in STAGES:
        # `-P`: the folder that this runs in is not where packages are looked for.
        command = [sys.executable, "-P", "-m", "refusal_lightning", stage, "--config", "config.yaml"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{stage} of {checkout} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def results(folder: Path) -> dict[str, bytes]:
    """Every file of store, run and journals by its name, without what no two runs share."""
    found = {}
    for kind in FOLDERS:
        for path in sorted((folder / kind).rglob("*")):
            if path.is_file():
                name = _VERSION.sub(r"\1VERSION/", str(path.relative_to(folder)))
                found[name] = shared_content(name, path.read_bytes())
    return found


def shared_content(name: str, content: bytes) -> bytes:
    """A file's bytes, for two kinds of files those of the keys that two runs share."""
    if name.startswith("runs/") and name.endswith("/run.json"):
        return json.dumps(without(json.loads(content), RECORD_KEYS)).encode()
    if re.fullmatch(r"store/.*/results/[^/]+/zarr\.json", name):
        node = json.loads(content)
        node["attributes"] = without(node["attributes"], RESULT_KEYS)
        return json.dumps(node).encode()
    return content


def without(value: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """A mapping without some of its keys."""
    return {key: item for key, item in value.items() if key not in keys}


@cache
def free_port() -> int:
    """A port for the S3 server, the same one each time: results may hold its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of an S3 server with an empty bucket."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=5)
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    sys.exit("the S3 server does not start; pip install 'moto[s3]' flask flask-cors")
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def download(address: str, folder: Path) -> None:
    """Copy every object of the bucket into a folder, by its name."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            path = folder / entry["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())


if __name__ == "__main__":
    sys.exit(main())
