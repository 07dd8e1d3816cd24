"""Whether the Hugging Face Hub can be reached: asked once, before a client retries for a minute."""

import os
import socket
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
