"""Settings are checked by name; what may be a key by mistake is never quoted."""

from typing import Any

import pytest

from refusal_lightning.judges.config import JudgeConfig, JudgeSettings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"requests_per_minute": -1.0}, "requests_per_minute is -1.0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"deadline_s": -2}, "deadline_s is -2"),
    ],
)
def test_numbers(settings, said):
    with pytest.raises(ValueError, match=said):
        JudgeSettings(**settings)


@pytest.mark.parametrize("judge", ["llama_guard", "strongreject"])
def test_urls_and_keys(judge):
    def settings(key: str, value: Any) -> None:
        JudgeSettings(**{f"{judge}_{key}": value})

    for url in ("http://localhost:8000/v1", "https://api.host.ai/v1/", "https://host"):
        settings("url", url)
    for url in ("host/v1", "ftp://host", "https://me:secret@host/v1", "https://host/v1?key=secret", "https://h h"):
        with pytest.raises(ValueError, match=f"{judge}_url is not a base URL") as caught:
            settings("url", url)
        assert "secret" not in str(caught.value)
    for name in ("sk-proj-secret", "a1b2c3secret", "my key", ""):
        with pytest.raises(ValueError, match=f"{judge}_key_env is not the name") as caught:
            settings("key_env", name)
        assert "secret" not in str(caught.value)


def test_judge_command_needs_a_judge():
    with pytest.raises(ValueError, match="concurrency"):
        JudgeConfig(completions="a", out="b", concurrency=0)
    with pytest.raises(ValueError, match="judges"):
        JudgeConfig(completions="a", out="b", judges=[])


def test_every_key_is_explained():
    """The command line shows a line for each, those of the parent class included."""
    import dataclasses

    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_class_arguments(JudgeConfig, None, as_group=False)
    text = " ".join(parser.format_help().split())
    for field in dataclasses.fields(JudgeConfig):
        assert f"--{field.name}" in text
    assert text.count("(default: ") + text.count("(type: ") > 15
    assert "Requests under way at a time, per judge." in text
    assert "JSON file to write" in text
    command = ["--completions", "a.json", "--judges", "[substring]", "--out", "b.json", "--paper", "true"]
    config = parser.instantiate(parser.parse_args(command))
    assert JudgeConfig(**vars(config)) == JudgeConfig(completions="a.json", out="b.json", paper=True)
