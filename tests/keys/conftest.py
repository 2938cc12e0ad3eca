"""Shared fixtures: a key file, its provider, a keyring, and the golden files with their generator and second reader."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider, generate_keyfile

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
ARCHIVE_ID = bytes(range(16))


def load(name: str) -> ModuleType:
    """Import a script of tests/vectors by file name."""
    import sys

    spec = importlib.util.spec_from_file_location(name, VECTORS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_vector_script() -> Callable[[str], ModuleType]:
    return load


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    generate_keyfile(path)
    return path


@pytest.fixture
def provider(keyfile: Path) -> KeyFileProvider:
    return KeyFileProvider(keyfile)


@pytest.fixture
def keyring(tmp_path: Path, provider: KeyFileProvider) -> Iterator[Keyring]:
    ring = Keyring.create(tmp_path / "keyring", provider, ARCHIVE_ID)
    yield ring
    ring.close()
