"""What the tasks of pixels have in common: where MNIST's and CIFAR-10's files come from, and how they are split."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from s5c.data.base import Dataset, Split
from s5c.data.cache import Entry, Writer
from s5c.data.decode import Decode, Pixels
from s5c.data.origin import Located, Origin
from s5c.data.source import cifar, idx, keras, prepared
from s5c.errors import UserError

VERSION = 1
"""Of the stored images; they are decoded when read."""


def random_split(n: int, *sizes: int, seed: int) -> list[np.ndarray]:
    """Returns the rows of a first part, then of parts of the given sizes, at random.

    The published code draws them with torch's generator; the same seed here gives parts of the same sizes, not the
    same rows.
    """
    order = np.random.default_rng(seed).permutation(n)
    return np.split(order, np.cumsum([n - sum(sizes), *sizes[:-1]]))


def mnist(task: str, located: Located, decode: Pixels, *, split_seed: int, fashion: bool = False) -> Dataset:
    """Returns MNIST or Fashion-MNIST: 54,000, 6,000 and 10,000 images of the full set."""
    name = "fashion_mnist" if fashion else "mnist"
    folders = ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST") if fashion else ("MNIST/raw", "mnist", "MNIST")
    title = "Fashion-MNIST" if fashion else "MNIST"
    files = Origin(
        "files",
        f"the IDX files of {title} (folder {folders[0]} with train-images-idx3-ubyte, ...)",
        partial(idx.build, title=title),
        partial(idx.find, names=folders),
        names=idx.files,
        tfds=name,
    )
    as_keras = Origin("files", f"Keras's {keras.FILE}", keras.build, keras.find, names=(keras.FILE,))
    origins = [files] if fashion else [files, as_keras]
    return _dataset(task, located, name, origins, decode, split_seed, (idx.SIDE, idx.SIDE, 1))


def cifar10(task: str, located: Located, decode: Pixels, *, split_seed: int) -> Dataset:
    """Returns CIFAR-10: 45,000, 5,000 and 10,000 images of the full set.

    Raises:
        UserError: colour is asked for, and the images have none.
    """
    files = Origin(
        "files",
        f"CIFAR-10's binary version (folder {cifar.FOLDER}) or its Python version (folder {cifar.PYTHON_FOLDER})",
        cifar.build,
        cifar.find,
        names=cifar.FILES,
        archives=cifar.ARCHIVES,
        tfds="cifar10",
    )
    return _dataset(task, located, "cifar10", [files], decode, split_seed, (32, 32, 3))


def _dataset(
    task: str,
    located: Located,
    name: str,
    files: list[Origin],
    decode: Pixels,
    split_seed: int,
    shape: tuple[int, int, int],
) -> Dataset:
    build, find = partial(_from_tfds, shape=shape), partial(prepared.find, name=name)
    ready_made = Origin("tfds", f"{name} as TFDS prepares it", build, find, tfds=name)
    entry = located.obtain(task, (name, VERSION, {}), [*files, ready_made])
    if (found := entry.array("train.inputs").shape[1:3]) != shape[:2]:
        raise UserError(f"{entry.source}: images of {found[0]} x {found[1]} pixels are not those of {name}.")
    if len(decode.mean) == 3 and entry.facts.get("grey"):
        raise UserError(f"{entry.source}: red, green and blue are equal in every image; task {task} needs colours.")
    whole, test = (part(entry, split, decode) for split in ("train", "test"))
    train, validation = random_split(len(whole), len(whole) // 10, seed=split_seed)
    return Dataset(
        name=task,
        source=entry.source,
        train=whole.take(train),
        validation=whole.take(validation),
        test=test,
        features=len(decode.mean),
        classes=10,
        checksum=entry.checksum,
    )


def part(entry: Entry, name: str, decode: Decode) -> Split:
    """Returns the stored examples of a split whose inputs all have one shape."""
    return Split(entry.array(f"{name}.inputs"), entry.labels(name), decode=decode)


def _from_tfds(place: Path, writer: Writer, *, shape: tuple[int, int, int]) -> str:
    for split in ("train", "test"):
        images, labels = [], []
        for example in prepared.read(place, split, {"image": np.ndarray, "label": int}):
            image = example["image"]
            if image.shape != shape or image.dtype != np.uint8:
                raise UserError(f"{place}: {split} has an image of {image.dtype} {image.shape}, not uint8 {shape}.")
            images.append(image[..., 0] if shape[-1] == 1 else image)
            labels.append(int(example["label"]))
        if not images:
            raise UserError(f"{place}: {split} holds no images. Prepare the set with TFDS again.")
        stacked = np.stack(images)
        writer.raw.update(stacked.data)
        writer.add(f"{split}.inputs", stacked)
        writer.labels(split, labels, classes=10, where=place)
    return prepared.title(place)
