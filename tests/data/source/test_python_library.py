"""The Python library's text: what is in it, what is left out, and identities that follow the contents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec


def test_documents_are_the_library_s_files() -> None:
    source = spec("data.source", "python_library", packages=["json"]).build(folder=".")
    (shard,) = source.shards()
    documents = {document.id: document.text for document in shard.read()}
    assert documents["json/decoder.py"] == (Path(json.__file__).parent / "decoder.py").read_text(encoding="utf-8")
    assert list(documents) == sorted(documents)
    assert [document.id for document in shard.read()] == list(documents), "reading again gives the same order"


def test_tests_and_installed_packages_are_left_out() -> None:
    source = spec("data.source", "python_library").build()
    shards = {shard.name: shard for shard in source.shards()}
    assert {"modules", "json", "email"} <= shards.keys()
    assert not {"test", "site-packages", "encodings"} & shards.keys()
    assert all("/test" not in f"/{document.id}" or "/tests/" not in document.id for document in shards["modules"].read())


def test_identity_follows_the_contents(tmp_path: Path) -> None:
    source = spec("data.source", "python_library").build()
    source.root = tmp_path
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "a.py").write_text("x = 1\n")
    (tmp_path / "one.py").write_text("y = 1\n")
    (tmp_path / "empty.py").write_text("")
    before = {shard.name: shard.identity for shard in source.shards()}
    assert before == {shard.name: shard.identity for shard in source.shards()}
    (tmp_path / "pack" / "a.py").write_text("x = 2\n")
    after = {shard.name: shard.identity for shard in source.shards()}
    assert after["modules"] == before["modules"] and after["pack"] != before["pack"]
    assert [document.id for shard in source.shards() for document in shard.read()] == ["one.py", "pack/a.py"]


def test_most_limits_every_package() -> None:
    source = spec("data.source", "python_library", packages=["json", "email"], most=2).build()
    assert [len(list(shard.read())) for shard in source.shards()] == [2, 2]


def test_an_unknown_package_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no package 'jason'"):
        spec("data.source", "python_library", packages=["jason"]).build().shards()
    source = spec("data.source", "python_library").build()
    source.root = tmp_path
    with pytest.raises(UserError, match="no source"):
        source.shards()
