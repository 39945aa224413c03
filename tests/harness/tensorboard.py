"""Reads what TensorBoard would show of a folder, by its file format and its rule of restarts.

https://github.com/tensorflow/tensorboard: tf.Event records, each with its length and checksums; a
session that starts at a step takes away what files before it hold of that step and later ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog


def scalars(folder: Path) -> dict[str, dict[int, list[float]]]:
    """Every curve: its values by step, oldest first; one value per step if nothing is wrong."""
    curves: dict[str, dict[int, list[float]]] = {}
    for path in sorted(folder.iterdir()):
        for event in _events(path.read_bytes()):
            if event.session_log.status == SessionLog.START:
                curves = {
                    name: {step: held for step, held in points.items() if step < event.step}
                    for name, points in curves.items()
                }
            for value in event.summary.value:
                points = curves.setdefault(value.tag, {})
                points.setdefault(event.step, []).append(value.simple_value)
    return curves


def _events(data: bytes) -> Iterator[Event]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        at += 12
        yield Event.FromString(data[at : at + length])
        at += length + 4
