"""An environment in which nothing of the user's own is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_PROXY_NAMES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_OTHER_NAMES = (
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NETRC",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "PYTHONUNBUFFERED",
)
_PREFIXES = (
    "DEEPSEEK_",
    "GIGACHAT_",
    "LLMPROVIDERS_",
    "OPENAI_",
    "YANDEX_",
    "YC_",
    "ZAI_",
    "ZHIPUAI_",
)
_XDG_FOLDERS = ("CONFIG", "CACHE", "STATE", "DATA")


def clean(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Take away proxies, trust, netrc and keys, and make ``home`` the home folder."""
    names = {*_PROXY_NAMES, *(name.upper() for name in _PROXY_NAMES), *_OTHER_NAMES}
    names |= {name for name in os.environ if name.startswith(_PREFIXES)}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for folder in _XDG_FOLDERS:
        monkeypatch.setenv(f"XDG_{folder}_HOME", str(home / folder.lower()))
