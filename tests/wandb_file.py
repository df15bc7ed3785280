"""Reads what Weights & Biases keeps of an offline run, without its servers and without its own reader."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def wandb_records(directory: Path) -> list[Any]:
    """Decodes the only `.wandb` file under `directory`: a LevelDB log of protobuf records after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = directory.glob("wandb/*run-*/run-*.wandb")
    data, block, header = path.read_bytes(), 32768, 7
    assert data[:4] == b":W&B"
    records, payload, at = [], b"", header
    while at + header <= len(data):
        if block - at % block < header:  # the rest of a block too short for a header is padding
            at += block - at % block
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        payload += data[at + header : at + header + size]
        at += header + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            records.append(Record.FromString(payload))
            payload = b""
    return records


def only(records: list[Any], kind: str) -> list[Any]:
    """Returns the records of one kind."""
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def items(entries: Any) -> dict[str, Any]:
    """Returns key-value entries as a dictionary; nested keys are joined with slashes."""
    return {"/".join(entry.nested_key) or entry.key: json.loads(entry.value_json) for entry in entries}


def models(records: list[Any]) -> list[Any]:
    """Returns the model artifacts, inputs and outputs, in the order recorded."""
    return [record for record in only(records, "artifact") if record.type == "model"]
