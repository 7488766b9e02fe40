"""A machine without network says so at once, and goes on with what is in the caches."""

import socket
import urllib.request
from collections.abc import Iterator

import datasets
import pytest
from huggingface_hub import constants

from refusal_lightning.data.hub import HubSet, load_hub
from refusal_lightning.errors import UserError
from refusal_lightning.io.network import cut_off
from refusal_lightning.models import load_chat_model


@pytest.fixture(autouse=True)
def online(monkeypatch) -> Iterator[None]:
    """The libraries believe that there is a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    cut_off.cache_clear()
    yield
    cut_off.cache_clear()


def _answer(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def connect(*args: object, **kwargs: object) -> socket.socket:
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)


def test_without_network_there_is_one_try(monkeypatch):
    """The libraries would try six times and wait in between, for 25 seconds."""
    tries: list[float] = []
    monkeypatch.setattr("time.sleep", tries.append)
    _answer(monkeypatch, socket.gaierror(-3, "Temporary failure in name resolution"))
    with pytest.raises(UserError, match="'nobody/no-such-model' is no folder here and not in the cache, and the Hub"):
        load_chat_model("nobody/no-such-model")
    with pytest.raises(UserError, match="it is not in the cache, and the Hub cannot be reached"):
        load_hub(HubSet("nobody/no-such-set", None, "train"))
    assert tries == []


def test_a_slow_or_hidden_network_is_left_to_the_libraries(monkeypatch):
    _answer(monkeypatch, TimeoutError())
    assert not cut_off() and not constants.HF_HUB_OFFLINE
    cut_off.cache_clear()
    _answer(monkeypatch, socket.gaierror(-2, "Name or service not known"))
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert not cut_off() and not constants.HF_HUB_OFFLINE
