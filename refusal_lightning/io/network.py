"""Whether the Hugging Face Hub can be reached, asked once, before libraries try it for half a minute."""

from __future__ import annotations

import socket
import sys
import urllib.request
from functools import cache
from urllib.parse import urlsplit


@cache
def cut_off() -> bool:
    """Whether the Hub is found out of reach; its libraries are told so, and go to their caches at once.

    A connection that is slow says nothing, where a proxy is set the Hub is not for us to reach, and with
    HF_HUB_OFFLINE=1 nobody tries.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode() or urllib.request.getproxies():
        return False
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), 5).close()
    except TimeoutError:
        return False
    except OSError:  # no such name, no route, refused
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:  # it copied the setting when it was imported
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
        return True
    return False
