"""PyTorch's files, read without PyTorch: the zip archives that `torch.save` has written since version 1.6.

An archive holds a pickle, which describes the tensors, and the bytes of each storage in a file of its own. A pickle is
a program: here it may name what builds tensors, all of it stand-ins that note what they are given, and nothing else
(`s5c.data.source.pickled`). So a checkpoint with other objects in it, a whole module or a training's arguments, is
refused by name.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from s5c.data.source.pickled import DAMAGE, OPERATIONS, check
from s5c.upstream.files import UnreadableError, head

TITLE = "a PyTorch file"

TYPES: dict[str, Any] = {
    **{"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16},
    **{"LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8},
    **{"ByteStorage": np.uint8, "BoolStorage": np.bool_},
    "BFloat16Storage": jnp.bfloat16,
    **{"ComplexFloatStorage": np.complex64, "ComplexDoubleStorage": np.complex128},
}
LARGEST_PICKLE = 2**26
MORE = frozenset({"BINPERSID", "BINFLOAT", "EMPTY_SET", "ADDITEMS", "LONG4", "FLOAT", "POP_MARK", "NEWOBJ"})
"""Operations of torch's pickles that those of arrays of bytes do not have."""


class _Fixed(type):
    """A class whose attributes a pickle cannot set."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise ValueError("it changes what builds tensors")


class _Storage(metaclass=_Fixed):
    """Stands for a type of storage."""

    dtype: Any = None


_STORAGES = {name: _Fixed(name, (_Storage,), {"dtype": dtype}) for name, dtype in TYPES.items()}


class _Bytes(metaclass=_Fixed):
    """Stands for one storage: its type and the name of its file."""

    def __init__(self, kind: Any, key: str) -> None:
        self.kind, self.key = kind, key


class _Tensor(metaclass=_Fixed):
    """Stands for `_rebuild_tensor_v2(storage, offset, size, stride, ...)`."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments


class _Parameter(metaclass=_Fixed):
    """Stands for `_rebuild_parameter(tensor, ...)`."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments


class _Ordered(dict[Any, Any], metaclass=_Fixed):
    """Stands for an ordered dictionary, whose attributes, such as versions of modules, are not looked at."""

    def __setstate__(self, state: Any) -> None:
        pass


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    **{("torch", name): kind for name, kind in _STORAGES.items()},
}


def holds(path: Path) -> bool:
    """Returns whether a file is a zip archive, or a pickle, which versions before 1.6 wrote, and others write."""
    start = head(path, 4) if path.is_file() else b""
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"))


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name; a dictionary inside of the dictionary is another part of the names.

    Raises:
        UnreadableError: it is damaged, names anything but tensors, or is of a version before 1.6.
    """
    if head(path, 2) != b"PK":
        raise UnreadableError(
            path,
            TITLE,
            "it is a bare pickle, a program that is not run; save it again with torch.save of version 1.6 on",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except UnreadableError:
        raise
    except (*DAMAGE, zipfile.BadZipFile, zlib.error, OSError, NotImplementedError) as error:
        raise UnreadableError(path, TITLE, error) from error


def _read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    sizes = {one.filename: one.file_size for one in archive.infolist()}
    pickles = [name for name in sizes if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError("there is no data.pkl in it")
    if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
        raise ValueError("its parts are compressed, as those of torch.save are not")
    if sizes[pickles[0]] > LARGEST_PICKLE:
        raise ValueError("its data.pkl is too large to describe tensors")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in sizes and archive.read(f"{root}byteorder") not in (b"little",):
        raise ValueError("its bytes are in the order of another machine")
    content = archive.read(pickles[0])
    check(content, OPERATIONS | MORE)
    found = _Unpickler(io.BytesIO(content)).load()
    if not isinstance(found, Mapping):
        raise ValueError("it holds no dictionary of tensors: save the state dict, module.state_dict()")
    tensors: dict[str, np.ndarray] = {}
    storages: dict[str, bytes] = {}
    _collect(found, "", tensors, lambda tensor: _array(tensor, archive, root, sizes, storages))
    return tensors


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise ValueError(f"it names {module}.{name}, which is no tensor: save the state dict alone")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, _ = pid
        if kind != "storage" or not (isinstance(storage, type) and issubclass(storage, _Storage)):
            raise ValueError("it refers to something else than the storage of a tensor")
        return _Bytes(storage, str(key))


def _collect(node: Mapping[Any, Any], prefix: str, found: dict[str, np.ndarray], made: Any) -> None:
    """Puts the tensors of a dictionary, and of those in it, into `found`; numbers and text are left out."""
    left = [(prefix, node)]
    while left:
        prefix, node = left.pop()
        for key, value in node.items():
            if isinstance(value, _Parameter):
                value = value.arguments[0]
            if isinstance(value, _Tensor):
                found[f"{prefix}{key}"] = made(value)
            elif isinstance(value, dict):
                left.append((f"{prefix}{key}.", value))


def _array(
    tensor: _Tensor, archive: zipfile.ZipFile, root: str, sizes: Mapping[str, int], storages: dict[str, bytes]
) -> np.ndarray:
    storage, offset, size, stride = tensor.arguments[:4]
    if not isinstance(storage, _Bytes):
        raise ValueError("it has a tensor without a storage")
    dtype, name = np.dtype(storage.kind.dtype), f"{root}data/{storage.key}"
    numbers = (offset, *size, *stride)
    if not all(type(one) is int and one >= 0 for one in numbers) or len(size) != len(stride):
        raise ValueError("it has a tensor whose shape is none")
    if name not in sizes:
        raise ValueError(f"the storage {storage.key} is missing")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if math.prod(size) else -1
    if (last + 1) * dtype.itemsize > sizes[name] or math.prod(size) * dtype.itemsize > sizes[name]:
        raise ValueError(f"the storage {storage.key} is smaller than its tensor")
    if storage.key not in storages:
        storages[storage.key] = archive.read(name)
    flat = np.frombuffer(storages[storage.key], dtype)
    if not math.prod(size):
        return np.zeros(size, dtype)
    steps = [step * dtype.itemsize for step in stride]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat[offset:], size, steps))
