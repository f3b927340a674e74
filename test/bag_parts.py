"""Bags taken apart into their messages, changed, and put together again in any storage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
MCAP_MAGIC = b'\x89MCAP0\r\n'


@dataclass(frozen=True)
class Recorded:
    """One message of a bag."""

    topic: str
    type: str
    log_ns: int
    message: Any


def take_apart(bag: Path) -> list[Recorded]:
    """All messages of a bag in the order recorded."""
    with AnyReader([bag]) as reader:
        return [
            Recorded(c.topic, c.msgtype, log_ns, reader.deserialize(raw, c.msgtype))
            for c, log_ns, raw in reader.messages()
        ]


def put_together(
    path: Path,
    messages: Iterable[Recorded],
    plugin: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """Write messages as a bag, compressed by zstd if at all; returns its path."""
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for m in messages:
            if m.topic not in connections:
                connections[m.topic] = writer.add_connection(m.topic, m.type, typestore=STORE)
            data = STORE.serialize_cdr(m.message, m.type)
            writer.write(connections[m.topic], m.log_ns, data)
    return path


def put_together_unchunked(path: Path, messages: Iterable[Recorded]) -> Path:
    """Write messages as an MCAP file without chunks or index, as the preset fastwrite does."""
    channels: dict[str, int] = {}
    with path.open('wb') as file:
        file.write(MCAP_MAGIC)
        _add(file, 0x01, _text('ros2') + _text(''))
        for m in messages:
            if m.topic not in channels:
                number = channels[m.topic] = len(channels) + 1
                definition, _ = STORE.generate_msgdef(m.type, ros_version=2)
                schema = _text(m.type) + _text('ros2msg') + _text(definition)
                _add(file, 0x03, _int(number, 2) + schema)
                channel = _text(m.topic) + _text('cdr') + _int(0, 4)
                _add(file, 0x04, 2 * _int(number, 2) + channel)
            times = 2 * _int(m.log_ns, 8)
            data = bytes(STORE.serialize_cdr(m.message, m.type))
            _add(file, 0x05, _int(channels[m.topic], 2) + _int(0, 4) + times + data)
        _add(file, 0x0F, _int(0, 4))
        _add(file, 0x02, _int(0, 20))
        file.write(MCAP_MAGIC)
    return path


def at(message: Any, stamp_ns: int) -> Any:
    """The message with another header stamp."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = replace(message.header.stamp, sec=seconds, nanosec=nanoseconds)
    return replace(message, header=replace(message.header, stamp=stamp))


def _int(value: int, size: int) -> bytes:
    return value.to_bytes(size, 'little')


def _text(text: str) -> bytes:
    return _int(len(text.encode()), 4) + text.encode()


def _add(file: Any, kind: int, record: bytes) -> None:
    file.write(_int(kind, 1) + _int(len(record), 8) + record)
