"""The authors' own files, served from a loopback server, give the authors' sets and splits.

These files hold offensive text: only digests, counts and booleans are compared, so that no message can show any.
"""

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from refusal_lightning.data import prepare

AUTHORS = Path(__file__).parents[2].parent / "shared" / "dataset"
SPLITS = [f"{kind}_{split}" for kind in ("harmful", "harmless") for split in ("train", "val", "test")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder that `data prepare` makes of the authors' files, through HTTP."""
    if not AUTHORS.is_dir():
        pytest.skip("needs the authors' files in ../shared/dataset, which is not here")
    from moody_server import MoodyServer

    server = MoodyServer(AUTHORS)
    out = tmp_path_factory.mktemp("authors")
    try:
        counts = prepare.prepare(out, server.url, progress=False)
    finally:
        server.stop()
    return out, counts


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def texts(path):
    return {hashlib.sha256(row["instruction"].encode()).digest() for row in json.loads(path.read_bytes())}


def test_processed_and_raw_are_the_authors(prepared):
    out, _ = prepared
    for folder in ("raw", "processed"):
        theirs = {path.name: digest(path) for path in (AUTHORS / folder).iterdir()}
        ours = {path.name: digest(path) for path in (out / folder).iterdir()}
        assert ours == theirs


def test_splits_are_as_large_as_the_authors_and_disjoint(prepared):
    out, counts = prepared
    for name in SPLITS:
        ours, theirs = (json.loads((root / "splits" / f"{name}.json").read_bytes()) for root in (out, AUTHORS))
        assert counts[name] == len(ours) == len(theirs)
        assert all(set(row) == {"instruction", "category"} for row in ours)
    held = {name: texts(out / "splits" / f"{name}.json") for name in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert held[one].isdisjoint(held[other])


def test_all_splits_but_the_unseeded_one_are_the_authors(prepared):
    out, _ = prepared
    for name in SPLITS:
        ours, theirs = out / "splits" / f"{name}.json", AUTHORS / "splits" / f"{name}.json"
        assert (digest(ours) == digest(theirs)) == (name != "harmful_train")
    drawn = {name: texts(root / "splits" / "harmful_train.json") for name, root in (("o", out), ("t", AUTHORS))}
    adv = texts(out / "processed" / "advbench.json")
    assert len(drawn["o"] & adv) == len(drawn["t"] & adv) == 117
    assert drawn["o"] - adv == drawn["t"] - adv


def test_given_splits_are_taken_as_they_are(prepared):
    out, _ = prepared
    before = digest(out / "splits" / "harmful_train.json")
    prepare.prepare(out, AUTHORS, splits=AUTHORS / "splits", progress=False)
    assert all(digest(out / "splits" / f"{n}.json") == digest(AUTHORS / "splits" / f"{n}.json") for n in SPLITS)
    prepare.prepare(out, AUTHORS, progress=False)
    assert digest(out / "splits" / "harmful_train.json") == before
