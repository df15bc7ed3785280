"""Downloads with the addresses, sizes and checksums that TFDS keeps, without TensorFlow.

Only the published archives are fetched, for s5c's own readers: TFDS (4.9.10) prepares none of the sets used here
without TensorFlow, its unpacking and its readers of images and sound call it.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock

from s5c.errors import UserError

log = logging.getLogger(__name__)

PROBE_SECONDS = 4.0


def fetch(name: str, root: Path) -> str | None:
    """Downloads what a data set of TFDS is made from into `<root>/downloads/<name>`.

    Args:
        name: name of the data set in TFDS.
        root: the data directory.

    Returns:
        None if all files are there, else why not.
    """
    folder = folder_of(name, root)
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        return _fetch(name, folder)


def _fetch(name: str, folder: Path) -> str | None:
    infos = url_infos(name)
    missing = {url: info for url, info in infos.items() if not (folder / _file_name(url)).exists()}
    if not missing:
        return None
    host = urlsplit(next(iter(missing))).hostname
    if (obstacle := probe(next(iter(missing)))) is not None:
        return obstacle
    size = sum(int(info.size) for info in missing.values()) / 1e6
    log.info("Downloading %s, %.0f MB from %s -> %s (task.download=false forbids it)", name, size, host, folder)
    import tensorflow_datasets as tfds  # 0.3 s, for those who need it

    manager = tfds.download.DownloadManager(
        download_dir=folder / "tfds", url_infos=infos, dataset_name=name, force_checksums_validation=True
    )
    try:
        for url, path in manager.download({url: url for url in missing}).items():
            shutil.move(Path(path), folder / _file_name(url))
    except Exception as error:  # requests', urllib3's and TFDS's own
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk; those of requests have no number
        raise UserError(
            f"The download of {name} failed: {error}\nThe same command tries again; finished files stay in {folder}."
        ) from error
    return None


def url_infos(name: str) -> Mapping[str, Any]:
    """Returns size and checksum by address of the files that a data set of TFDS is made from."""
    import tensorflow_datasets as tfds

    return tfds.builder_cls(name).url_infos


def folder_of(name: str, root: Path) -> Path:
    """Returns where `fetch` puts the files of a data set of TFDS."""
    return root / "downloads" / name


def probe(url: str) -> str | None:
    """Asks for the head of an address; returns None if it answers within 4 s, else why not.

    TFDS itself tries for about 200 s. The thread is needed because looking up a name has no time limit.
    """
    answers: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=lambda: answers.put(_head(url)), daemon=True).start()
    try:
        obstacle = answers.get(timeout=PROBE_SECONDS + 1)
    except queue.Empty:
        obstacle = f"no answer within {PROBE_SECONDS:.0f} s"
    return None if obstacle is None else f"{urlsplit(url).hostname} cannot be reached ({obstacle})."


def _head(url: str) -> str | None:
    import requests  # with TFDS

    try:
        status = requests.head(url, timeout=PROBE_SECONDS, allow_redirects=True).status_code
    except requests.RequestException as error:
        return type(error).__name__
    return None if status < 400 or status == 405 else f"status {status}"


def _file_name(url: str) -> str:
    return Path(urlsplit(url).path).name
