"""The preprocessing of every task, number by number, against the rules of the published code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest

from s5c.data import padding
from s5c.data.base import Dataset, Split, assign_splits, task_class
from s5c.data.decode import Windows, bit_reversal, luma
from s5c.data.pixels import random_split
from s5c.data.task.speech35 import WORDS
from s5c.data.tokenise import (
    Cut,
    byte_vocabulary,
    count_characters,
    encode_bytes,
    encode_characters,
    vocabulary,
    width_of,
)
from s5c.errors import UserError
from s5c.locations import data_dir
from s5c.pipeline.trained import from_checkpoint, input_spec
from s5c.training.checkpoint import Checkpoint
from s5c.training.facts import Facts


def load(name: str, folder: Path, **keys: Any) -> Dataset:
    """Loads a task from tiny files of the published layout."""
    raw = folder / "raw"
    if not raw.exists():
        layouts.FILES[name](raw)
    return task_class(name)(data_dir=str(raw), cache_dir=str(folder / "cache"), **keys).load()


def read(split: Split) -> np.ndarray:
    return split.read(np.arange(len(split)))


# ---- tokens


def test_the_vocabulary_is_the_specials_then_the_most_frequent_ties_in_order() -> None:
    assert vocabulary(count_characters(["banana", "bé"])) == ["<pad>", "<unk>", "<eos>", "a", "b", "n", "é"]
    assert vocabulary({"x": 14, "y": 15, "z": 16}, min_freq=15) == ["<pad>", "<unk>", "<eos>", "z", "y"]


def test_characters_get_their_id_unknown_ones_1_and_the_end_2() -> None:
    flat, lengths = encode_characters(["ab", "", "b?a"], vocabulary({"a": 2, "b": 1}))
    np.testing.assert_array_equal(flat, [3, 4, 2, 2, 4, 1, 3, 2])
    np.testing.assert_array_equal(lengths, [3, 1, 4])
    assert flat.dtype == np.uint8
    many = vocabulary({chr(i): 1 for i in range(1000, 1300)})
    assert encode_characters(["\u0510"], many)[0].tolist() == [many.index("\u0510"), 2]


def test_bytes_are_shifted_by_one_and_have_no_end() -> None:
    flat, lengths = encode_bytes(["aé", "\x00ÿ" * 3], 4)
    np.testing.assert_array_equal(flat, [98, 0xC3 + 1, 0xA9 + 1, 1, 0xC3 + 1, 0xBF + 1, 1])
    np.testing.assert_array_equal(lengths, [3, 4])
    assert len(byte_vocabulary()) == 257


def test_texts_are_cut_from_either_end() -> None:
    assert [Cut(3)("Abcde"), Cut(3, keep="last")("Abcde"), Cut(9, lower=True)("Abc")] == ["Abc", "cde", "abc"]
    with pytest.raises(UserError, match=r"task\.keep 'middle'"):
        Cut(3, keep="middle")


def test_the_width_is_the_published_one_unless_too_small() -> None:
    assert (width_of(["a", "b"], 135), width_of(["a", "b"], None)) == (135, 2)
    with pytest.raises(UserError, match=r"task\.width=1 is too small: the vocabulary has 2 ids"):
        width_of(["a", "b"], 1)


def test_buckets_are_a_quarter_half_and_all() -> None:
    found = [padding.chosen_lengths("bucket", most, np.array([1]), 1) for most in (4096, 2)]
    assert found == [(1024, 2048, 4096), (1, 2)]
    with pytest.raises(UserError, match=r"task\.pad 'half'"):
        padding.check("half", 10)


# ---- imdb


def test_imdb_is_characters_with_the_end_ordered_by_label_and_id(tmp_path: Path) -> None:
    dataset = load("imdb", tmp_path, min_freq=2)
    assert (len(dataset.train), len(dataset.test), dataset.validation) == (12, 12, None)
    assert (dataset.features, dataset.length, dataset.classes) == (135, 4096, 2)
    np.testing.assert_array_equal(dataset.train.labels, [0] * 6 + [1] * 6)
    tokens = dataset.vocabulary
    assert tokens is not None
    text = layouts.review("test", "pos", 5)  # the last one
    expected = [tokens.index(c) if c in tokens else 1 for c in text] + [2]
    last = read(dataset.test)[-1]
    np.testing.assert_array_equal(last[: len(expected)], expected)
    assert not last[len(expected) :].any()
    lengths = dataset.test.lengths
    assert lengths is not None and lengths[-1] == len(text) + 1
    assert "<br />" in text and "T" not in text and "é" in tokens


def test_imdb_counts_only_what_is_kept_of_the_training_reviews(tmp_path: Path) -> None:
    dataset = load("imdb", tmp_path, max_length=9, min_freq=1)
    assert dataset.vocabulary is not None
    assert set(dataset.vocabulary[3:]) == set("train ne" + "train po")
    np.testing.assert_array_equal(dataset.train.lengths, [9] * 12)
    assert (read(dataset.train)[:, -1] == 2).all(), "eight characters and the end"


def test_imdb_reads_bytes_as_the_arena_does(tmp_path: Path) -> None:
    dataset = load("imdb", tmp_path, level="bytes", width=None, max_length=1000)
    assert dataset.features == 257
    raw = layouts.review("train", "neg", 0).encode()
    np.testing.assert_array_equal(read(dataset.train)[0][: len(raw) + 1], [*(b + 1 for b in raw), 0])


def test_imdb_small_is_windows_over_the_end_of_the_lower_cased_review(tmp_path: Path) -> None:
    dataset = load("imdb_small", tmp_path, min_freq=1, max_length=8)
    ids = dataset.features // 4
    inputs = read(dataset.train)
    assert (inputs.shape, dataset.tokens) == ((12, 4, 4 * ids), False)
    plain = load("imdb_small", tmp_path, min_freq=1, max_length=8, window=1, stride=1)
    tokens = np.pad(read(plain.train), ((0, 0), (0, 2)))
    for step in range(4):
        for position in range(4):
            hot = inputs[:, step, position * ids : (position + 1) * ids]
            np.testing.assert_array_equal(hot.argmax(axis=1), tokens[:, 2 * step + position])
            np.testing.assert_array_equal(hot.sum(axis=1), 1)
    assert plain.vocabulary is not None
    assert "".join(plain.vocabulary[i] for i in tokens[0, :7]) == layouts.review("train", "neg", 0)[-7:].lower()
    np.testing.assert_array_equal(Windows(5, 4, 2).steps(np.array([1, 2, 3, 8])), [1, 1, 2, 4])


@pytest.mark.skipif(not (data_dir() / "aclImdb").is_dir(), reason="needs the official aclImdb in the data directory")
def test_the_official_imdb_has_134_ids() -> None:
    dataset = task_class("imdb")(download=False).load()
    assert dataset.source == "aclImdb v1.0 (files 9aab5254)"
    assert dataset.vocabulary is not None and len(dataset.vocabulary) == 134
    for split, mean in ((dataset.train, 1299.416), (dataset.test, 1270.991)):
        assert split.lengths is not None
        assert (len(split), split.lengths.max()) == (25_000, 4096)
        assert abs(split.lengths.mean() - mean) < 1e-3
        np.testing.assert_array_equal(np.bincount(split.labels), [12_500, 12_500])


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    dataset = load("imdb", tmp_path, min_freq=2)
    assert dataset.vocabulary is not None
    swapped = [*dataset.vocabulary[:5], dataset.vocabulary[6], dataset.vocabulary[5], *dataset.vocabulary[7:]]
    facts = {
        "model": {},
        "state_dims": [],
        "input_spec": list(input_spec(dataset)),
        "vocabulary": swapped,
        "source": "another copy",
    }
    splits = assign_splits(dataset, protocol="paper", validation_fraction=0.1, seed=0)
    with pytest.raises(UserError, match=r"another vocabulary: .* from id 5 on.*\[source=another copy\]"):
        from_checkpoint(Checkpoint({}, Facts(facts, tmp_path), 1, tmp_path), dataset, splits)


# ---- listops and retrieval


def test_listops_drops_parentheses_and_orders_symbols_by_frequency(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "listops-1000"
    folder.mkdir(parents=True)
    for name in ("train", "val", "test"):
        (folder / f"basic_{name}.tsv").write_text(
            "Source\tTarget\n( ( ( [MAX 2 ) 9 ) ] )\t9\n( ( ( ( [MED 1 ) 2 ) 9 ) ] )\t2\n7\t7\n"
        )
    dataset = load("listops", tmp_path)
    assert dataset.vocabulary == ["<pad>", "<unk>", "<eos>", "2", "9", "X", "1", "7", "[MAX", "[MED"]
    assert (dataset.features, dataset.length) == (20, 2048)
    np.testing.assert_array_equal(
        read(dataset.train)[:, :7], [[8, 3, 4, 5, 2, 0, 0], [9, 6, 3, 4, 5, 2, 0], [7, 2, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(dataset.test.lengths, [5, 6, 2])
    np.testing.assert_array_equal(dataset.train.labels, [9, 2, 7])
    cut = load("listops", tmp_path, max_length=4)
    assert cut.vocabulary == ["<pad>", "<unk>", "<eos>", "2", "1", "7", "9", "[MAX", "[MED"]
    np.testing.assert_array_equal(read(cut.train)[1], [8, 4, 3, 2])
    assert dataset.source.startswith("LRA listops-1000 (files ")


def test_listops_is_generated_where_there_are_no_files(tmp_path: Path) -> None:
    task = task_class("listops")(
        cache_dir=str(tmp_path), examples=[40, 5, 6], max_depth=4, max_args=5, tokens=[20, 100], max_length=100
    )
    dataset = task.load()
    assert dataset.source == "listops generated by s5c v1 seed 0"
    assert [len(split) for split in dataset.splits.values()] == [40, 5, 6]
    np.testing.assert_array_equal(
        np.sort(dataset.vocabulary),
        np.sort(["<pad>", "<unk>", "<eos>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "X"]),
    )


def test_retrieval_keeps_the_two_texts_of_a_row_together(tmp_path: Path) -> None:
    dataset = load("retrieval", tmp_path, max_length=20)
    tokens = dataset.vocabulary
    assert tokens is not None and dataset.pairs and dataset.features == len(tokens)
    np.testing.assert_array_equal(dataset.train.labels, [0, 1] * 4)
    inputs, lengths = read(dataset.train), dataset.train.lengths
    assert lengths is not None
    text = ["".join(tokens[i] for i in row[: n - 1]) for row, n in zip(inputs[1], lengths[1], strict=True)]
    assert text == ['train say "1"', "other other 1"]
    assert inputs[1, 0, lengths[1, 0] - 1] == 2 and not inputs[1, 0, lengths[1, 0] :].any()
    np.testing.assert_array_equal(inputs[7, 1, -1], 2)
    assert lengths[7, 1] == 20, "nineteen characters and the end"
    assert not set("vl") & set(tokens), "the other splits do not enter the vocabulary"


def texts_of(dataset: Dataset, split: Split) -> list[tuple[str, str]]:
    tokens = dataset.vocabulary
    assert tokens is not None and split.lengths is not None
    return [
        tuple("".join(tokens[i] for i in row[: n - 1]) for row, n in zip(pair, lengths, strict=True))
        for pair, lengths in zip(read(split), split.lengths, strict=True)
    ]


def film_and_rating(text: str) -> tuple[int, str]:
    split, rating, number = text.split()
    return (layouts.FILMS - 1) * (split == "test") + int(number) // 2, rating


def test_same_movie_pairs_reviews_and_gives_no_other_hint(tmp_path: Path) -> None:
    dataset = load("same_movie", tmp_path, min_freq=1)
    seen = []
    for split in dataset.splits.values():
        pairs = texts_of(dataset, split)
        of = [[tuple(map(film_and_rating, pair)) for pair in pairs[label::2]] for label in (0, 1)]  # 1, 0, 1, 0, ...
        np.testing.assert_array_equal(split.labels, np.tile([1, 0], len(pairs) // 2))
        assert all(a[0] == b[0] for a, b in of[0]) and all(a[0] != b[0] for a, b in of[1])
        assert len({frozenset(pair) for pair in pairs[::2]}) == len(pairs) // 2 > 20, "no pair twice"
        for kind in (
            lambda a, b: a,
            lambda a, b: b,
            lambda a, b: a[1] + b[1],
        ):
            assert sorted(kind(*pair) for pair in of[0]) == sorted(kind(*pair) for pair in of[1])
        seen.append({film for pair in of[0] for film, _ in pair})
    train, validation, test = seen
    assert len(validation) == layouts.FILMS // 10 and len(test) == layouts.FILMS - 1, "one film is in both splits"
    assert not (train & validation or train & test or validation & test)
    every = {text for split in dataset.splits.values() for pair in texts_of(dataset, split) for text in pair}
    assert "train neg 3" not in every, "a text that occurs twice"


def test_same_movie_draws_as_many_pairs_as_asked_for(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"min_freq": 1, "pairs": [120, 30, 60]}
    dataset = load("same_movie", tmp_path, **keys)
    again = task_class("same_movie")(data_dir=str(tmp_path / "raw"), cache_dir=str(tmp_path / "other"), **keys).load()
    other = load("same_movie", tmp_path, **keys, split_seed=1)
    assert [len(split) for split in dataset.splits.values()] == [240, 60, 120]
    assert dataset.fingerprint() == again.fingerprint() != other.fingerprint()
    with pytest.raises(UserError, match=r"task\.pairs=\[3, 0, 3\]: give three positive numbers"):
        load("same_movie", tmp_path, pairs=[3, 0, 3])


# ---- pixels


def test_bit_reversal_is_that_of_the_published_code() -> None:
    np.testing.assert_array_equal(bit_reversal(8), [0, 4, 2, 6, 1, 5, 3, 7])
    order = bit_reversal(784)
    np.testing.assert_array_equal(order[:8], [0, 512, 256, 768, 128, 640, 384, 64])  # 896 is left out
    by_text = [int(f"{i:010b}"[::-1], 2) for i in range(1024)]
    np.testing.assert_array_equal(order, [i for i in by_text if i < 784])


def test_mnist_is_scaled_and_no_more(tmp_path: Path) -> None:
    images, labels = layouts.idx_images()["t10k"]
    dataset, permuted = load("smnist", tmp_path), load("psmnist", tmp_path)
    np.testing.assert_array_equal(read(dataset.test), (images.reshape(-1, 784, 1) / np.float32(255)).astype(np.float32))
    np.testing.assert_array_equal(dataset.test.labels, labels)
    np.testing.assert_array_equal(read(permuted.test), read(dataset.test)[:, bit_reversal(784)])
    small = load("smnist_small", tmp_path)
    blocks = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196, 1) / 255
    np.testing.assert_allclose(read(small.test), blocks, rtol=1e-6)
    assert load("smnist_small", tmp_path, pool=4).length == 49


def test_the_parts_of_the_training_images_do_not_overlap(tmp_path: Path) -> None:
    dataset = load("smnist", tmp_path)
    assert dataset.validation is not None
    assert (len(dataset.train), len(dataset.validation)) == (36, 4)
    assert len(np.unique(np.concatenate([read(dataset.train), read(dataset.validation)]), axis=0)) == 40
    train, validation = random_split(60_000, 6_000, seed=42)
    assert (len(train), len(validation)) == (54_000, 6_000)
    parts = random_split(200_000, 20_000, 20_000, seed=42)
    assert [len(part) for part in parts] == [160_000, 20_000, 20_000]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(200_000))


def test_colours_are_weighed_as_pil_does() -> None:
    from PIL import Image

    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(luma(colours), np.asarray(Image.fromarray(colours).convert("L")))


def test_cifar_is_standardised_in_grey_and_in_colour(tmp_path: Path) -> None:
    rows = layouts.cifar_rows()[50:]
    planes = rows[:, 1:].reshape(20, 3, 1024).transpose(0, 2, 1)
    grey, colour = load("image", tmp_path), load("scifar", tmp_path)
    expected = (luma(planes)[..., None] / 255 - 122.6 / 255) / (61 / 255)
    np.testing.assert_allclose(read(grey.test), expected, rtol=0, atol=1e-6)
    expected = (planes / 255 - [0.4914, 0.4822, 0.4465]) / [0.247, 0.243, 0.261]
    np.testing.assert_allclose(read(colour.test), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(grey.test.labels, rows[:, 0])
    assert grey.fingerprint() != colour.fingerprint()


def test_grey_copies_of_cifar_are_named_and_have_no_colours(tmp_path: Path) -> None:
    layouts.cifar(tmp_path / "raw", grey=True)
    assert load("image", tmp_path).source.startswith("cifar10-grey-copy (files ")
    with pytest.raises(UserError, match="red, green and blue are equal in every image; task scifar needs colours"):
        load("scifar", tmp_path)


def test_pathfinder_is_between_minus_one_and_one(tmp_path: Path) -> None:
    from PIL import Image

    dataset = load("pathfinder", tmp_path)
    assert [len(split) for split in dataset.splits.values()] == [16, 2, 2]
    folder = tmp_path / "raw" / "pathfinder32" / "curv_contour_length_14" / "imgs"
    images = [np.asarray(Image.open(folder / str(p) / f"sample_{i}.png")) for p in range(2) for i in range(10)]
    expected = {
        ((image.ravel() / 255 - 0.5) / 0.5).astype(np.float32).round(4).tobytes(): i % 2
        for i, image in enumerate(images)
    }
    for split in dataset.splits.values():
        for x, label in zip(read(split), split.labels, strict=True):
            assert expected.pop(x[:, 0].round(4).tobytes()) == label
    assert not expected


# ---- sound


def test_speech_is_standardised_per_time_step_after_scaling_twice(tmp_path: Path) -> None:
    dataset = load("speech35", tmp_path)
    assert [len(split) for split in dataset.splits.values()] == [105, 35, 35]
    stored = dataset.train.inputs
    assert isinstance(stored, np.ndarray) and stored.dtype == np.int16
    raw = stored.astype(np.float64) / 2**15 / 2**15
    mean, std = raw.mean(axis=0), raw.std(axis=0, ddof=1)
    np.testing.assert_allclose(read(dataset.train)[..., 0], (raw - mean) / (std + 1e-5), rtol=1e-4, atol=1e-7)
    assert isinstance(dataset.test.inputs, np.ndarray)
    raw_test = dataset.test.inputs.astype(np.float64) / 2**30
    np.testing.assert_allclose(read(dataset.test)[..., 0], (raw_test - mean) / (std + 1e-5), rtol=1e-4, atol=1e-7)
    assert not read(dataset.train)[:, 50:].any(), "clips end in silence"
    np.testing.assert_array_equal(dataset.test.labels, np.arange(35))
    assert WORDS[:2] == ("bed", "cat") and WORDS[-1] == "zero"


def test_speech_can_be_scaled_once_and_read_at_half_the_rate(tmp_path: Path) -> None:
    once = load("speech35", tmp_path, scale_twice=False)
    x = read(once.train)[:, :50, 0]
    np.testing.assert_allclose([x.mean(axis=0), x.std(axis=0, ddof=1)], [np.zeros(50), np.ones(50)], atol=1e-3)
    half, whole = load("speech35", tmp_path, half_rate=True), load("speech35", tmp_path)
    np.testing.assert_array_equal(read(half.test), read(whole.test)[:, ::2])
    assert (half.length, half.step_rescale, whole.step_rescale) == (8000, 2.0, 1.0)


def test_spoken_digits_follow_the_official_split(tmp_path: Path) -> None:
    dataset = load("fsdd", tmp_path, max_length=85)
    assert (len(dataset.train), len(dataset.test)) == (40, 40)
    np.testing.assert_array_equal(dataset.train.lengths, [85, 85] * 20)  # of 90 and 100
    np.testing.assert_array_equal(dataset.test.lengths, [40, 80] * 20)
    x = read(dataset.test)
    assert np.abs(x).max() <= 9000 / 2**15 and np.abs(x).max() > 0.2
    assert not x[0, 40:].any()
