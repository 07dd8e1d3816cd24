"""Manners with Hugging Face's libraries: whether their Hub can be reached, and how much they say meanwhile."""

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator
from urllib.parse import urlsplit

TIMEOUT = 8.0  # seconds


def hub_host() -> str:
    """Host of the Hub, or of the mirror that HF_ENDPOINT names."""
    return urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or "huggingface.co"


def is_hub_reachable() -> bool:
    """Try to connect to the Hub; behind a proxy, and where HF_HUB_OFFLINE is set, its client decides by itself."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return True
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.create_connection((hub_host(), 443), timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from drawing bars and from telling what it thinks of a model; what matters is checked."""
    import transformers

    verbosity, was_shown = transformers.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's calls into transformers
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if was_shown:
            transformers.utils.logging.enable_progress_bar()
