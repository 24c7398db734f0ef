"""Adapters are found by name; a name that is wrong is told the right one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sitebus.errors import EX_CONFIG, ServerNotInstalled, UnknownServer
from sitebus.servers import find
from sitebus.servers.cheroot import CherootServer


def test_cheroot_is_found_without_any_metadata() -> None:
    """In a directory where nothing was installed."""
    assert find("cheroot") is CherootServer


def test_a_third_partys_adapter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its distribution says where it is."""
    (tmp_path / "shelfserver.py").write_text(
        "from sitebus.servers import ServerAdapter\nclass Shelf(ServerAdapter): pass\n"
    )
    info = tmp_path / "shelfserver-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: shelfserver\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[sitebus.servers]\nshelf = shelfserver:Shelf\ngone = not_there_at_all:Adapter\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    assert find("shelf").__name__ == "Shelf"
    with pytest.raises(ServerNotInstalled, match="needs not_there_at_all, which is not installed"):
        find("gone")


def test_an_unknown_name_is_told_the_nearest() -> None:
    """With the status of a wrong configuration."""
    with pytest.raises(UnknownServer, match="named 'cherot'; did you mean 'cheroot'") as caught:
        find("cherot")
    assert caught.value.status == EX_CONFIG
    with pytest.raises(UnknownServer, match=r"there is .*cheroot"):
        find("zzz")


def test_a_missing_library_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is bound."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerNotInstalled, match=r"run: pip install 'sitebus\[cheroot\]'"):
        find("cheroot")
