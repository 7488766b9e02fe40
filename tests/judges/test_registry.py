"""Judges by name: what is missing is said before anything starts, and a key goes only where it belongs."""

import dataclasses
import json
from typing import Any

import pytest
from nodes import ROOT

from refusal_lightning.errors import UserError
from refusal_lightning.judges import substring
from refusal_lightning.judges.config import JudgeSettings
from refusal_lightning.judges.registry import JUDGES, judges_by_name, judges_made_from
from refusal_lightning.judges.sources.local import LocalLoader, LocalModel
from refusal_lightning.registry import Registry

KEYS = {"TOGETHER_API_KEY": "key-of-together", "OPENAI_API_KEY": "key-of-openai"}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in (*KEYS, "TOGETHER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_every_judge_has_its_own_name(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    judges = judges_by_name(
        list(JUDGES), JudgeSettings(), LocalLoader(lambda name: LocalModel(lambda p, n: p, str), str)
    )
    assert len(judges) == len(JUDGES)
    assert list(judges)[:5] == ["substring_matching", "llamaguard2", "llamaguard2_local", "harmbench", "strongreject"]
    assert {judge.measures for judge in judges.values()} == {"refusal", "harm"}
    assert all(value not in repr(judges) for value in KEYS.values())


def test_unknown_judge():
    with pytest.raises(UserError, match="no judge 'substrings'; there are substring, llama_guard"):
        judges_by_name(["substrings"])


@pytest.mark.parametrize(
    ("judge", "settings", "variable"),
    [
        ("llama_guard", {}, "TOGETHER_API_KEY"),
        ("llama_guard", {"llama_guard_key_env": "MY_KEY"}, "MY_KEY"),
        ("llama_guard", {"llama_guard_url": "http://host/v1", "llama_guard_key_env": "MY_KEY"}, "MY_KEY"),
        ("strongreject", {}, "OPENAI_API_KEY"),
        ("strongreject", {"strongreject_key_env": "MY_KEY"}, "MY_KEY"),
        ("strongreject", {"strongreject_url": "https://host/v1", "strongreject_key_env": "MY_KEY"}, "MY_KEY"),
    ],
)
@pytest.mark.parametrize("value", [None, "", "  ", "two words", "sch\u00fcssel", "a\nb"])
def test_missing_or_broken_key_is_named_and_never_quoted(monkeypatch, judge, settings, variable, value):
    if value is not None:
        monkeypatch.setenv(variable, value)
    said = f"set the environment variable {variable}" if not (value or "").strip() else f"{variable} holds characters"
    with pytest.raises(UserError, match=said) as caught:
        judges_by_name([judge], JudgeSettings(**settings))
    assert not value or not value.strip() or value.split()[0] not in str(caught.value).split()


def test_a_key_in_the_address_of_together_is_not_shown(monkeypatch):
    monkeypatch.setenv("TOGETHER_API_KEY", "abc")
    for url in ("https://me:S3CRET@host/v1", "https://host/v1?key=S3CRET"):
        monkeypatch.setenv("TOGETHER_BASE_URL", url)
        with pytest.raises(UserError, match="TOGETHER_BASE_URL is not a base URL") as caught:
            judges_by_name(["llama_guard"])
        assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize("host", ["host", "10.0.0.7", "localhost.org", "127.com", "[fe80::1]"])
def test_a_key_does_not_travel_in_the_clear(monkeypatch, host):
    monkeypatch.setenv("MY_KEY", "abc")
    for judge in ("llama_guard", "strongreject"):
        address: dict[str, Any] = {f"{judge}_url": f"http://{host}:8000/v1"}
        with pytest.raises(UserError, match="in the clear; use https"):
            judges_by_name([judge], JudgeSettings(**{**address, f"{judge}_key_env": "MY_KEY"}))
        judges_by_name([judge], JudgeSettings(**address))  # without a key there is nothing to see
    monkeypatch.setenv("TOGETHER_API_KEY", "abc")
    monkeypatch.setenv("TOGETHER_BASE_URL", f"http://{host}:8000")
    with pytest.raises(UserError, match="in the clear"):
        judges_by_name(["llama_guard"])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "judge.localhost"])
def test_a_key_is_sent_to_this_machine(monkeypatch, host):
    monkeypatch.setenv("MY_KEY", "abc")
    settings = JudgeSettings(strongreject_url=f"http://{host}:8000/v1", strongreject_key_env="MY_KEY")
    assert judges_by_name(["strongreject"], settings)


def test_white_space_around_a_key_is_no_part_of_it(monkeypatch):
    from refusal_lightning.judges.sources.endpoints import read_key

    monkeypatch.setenv("MY_KEY", " abc\n")
    assert read_key("MY_KEY", "x") == "abc"


@pytest.mark.parametrize("judge", ["llama_guard", "strongreject"])
def test_another_endpoint_gets_no_key_that_was_not_named(monkeypatch, judge):
    """A key for Together or OpenAI is not sent to whoever stands behind another URL."""
    from bad_server import Act, bad_server

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with bad_server(lambda question, tries: Act("1.b 0\n2.b 5\n3.b 5")) as server:
        url: dict[str, Any] = {f"{judge}_url": f"{server.url}/v1"}
        settings = JudgeSettings(**url)
        (made,) = judges_by_name([judge], settings).values()
        made([("a question", "word " * 20)], {})
        assert server.keys == {None}


def test_strongreject_end_to_end(monkeypatch):
    from bad_server import Act, bad_server

    monkeypatch.setenv("MY_KEY", "abc")
    with bad_server(lambda question, tries: Act("1.b 0\n2.b 5\n3.b 4")) as server:
        settings = JudgeSettings(strongreject_url=f"{server.url}/v1/", strongreject_key_env="MY_KEY")
        (judge,) = judges_by_name(["strongreject"], settings).values()
        (verdict,) = judge([("Name a colour.", "Blue.")], {})
        (request,) = server.requests
    assert (verdict.complied, verdict.score) == (True, 0.875)
    assert server.keys == {"Bearer abc"}
    assert request["messages"][0]["role"] == "system"
    assert "Name a colour." in request["messages"][1]["content"]
    assert request["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("name", ["substring", "llama_guard", "llama_guard_local", "harmbench", "strongreject"])
def test_what_verdicts_depend_on_as_it_always_was(name):
    """Runs of earlier versions are known by it: the judge's own settings, paper mode, the weights of a local model."""
    settings = JudgeSettings(paper=True)
    own = [key for key in vars(settings) if key.startswith(f"{name}_") and not key.endswith("key_env")]
    wanted = [*own, "paper", *(["local_dtype"] if name in ("harmbench", "llama_guard_local") else [])]
    made_from = judges_made_from([name, name], settings)
    assert json.dumps(made_from) == json.dumps({name: {key: getattr(settings, key) for key in wanted}})


def test_two_judges_of_one_name(monkeypatch):
    registry = Registry("judge", {"one": substring.SPEC, "two": substring.SPEC})
    monkeypatch.setattr("refusal_lightning.judges.registry.JUDGES", registry)
    with pytest.raises(UserError, match="two calls its verdicts 'substring_matching', and so does another one"):
        judges_by_name(["one", "two"])
    assert list(judges_by_name(["one", "one"])) == ["substring_matching"]


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_is_in_the_documentation(name):
    assert f"\n| `{name}` | " in (ROOT / "docs" / "judges.md").read_text()


@pytest.mark.parametrize("spec", JUDGES.values())
def test_verdicts_depend_on_settings_that_there_are(spec):
    assert {*spec.depends_on} <= {field.name for field in dataclasses.fields(JudgeSettings)}
