"""A configuration on its way to another process of this Coffer.

Rule: both ends are the same version, and the sender has checked the values: nothing is checked again.
"""

from pathlib import Path
from typing import Any

import msgspec

from coffer.server.config.settings import Config

__all__ = ["decode_config", "encode_config"]


def encode_config(config: Config) -> bytes:
    """A configuration as JSON, for `decode_config`."""
    return msgspec.json.encode(config, enc_hook=str)


def decode_config(data: bytes) -> Config:
    """The configuration that `encode_config` encoded."""
    return msgspec.json.decode(data, type=Config, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    return kind(value) if issubclass(kind, Path) else value
