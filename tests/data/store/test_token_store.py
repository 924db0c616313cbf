from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingot.data.store.token_store import TokenStore
from ingot.data.store.writer import ShardWriter, token_dtype


def write(folder: Path, sizes: list[list[int]]) -> tuple[list[Path], np.ndarray]:
    """Shards of documents of given sizes (end token included), with running ids."""
    folders, documents = [], []
    for index, shard in enumerate(sizes):
        writer = ShardWriter(folder / f"{index}", np.dtype(np.uint16), 9)
        arrays = [np.arange(size - 1) + 100 * index for size in shard]
        writer.add("train", arrays, [0] * len(arrays))
        writer.commit(tokenizer="t")
        folders.append(folder / f"{index}")
        documents += [np.append(array, 9) for array in arrays]
    return folders, np.concatenate(documents) if documents else np.zeros(0, np.uint16)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.lists(st.integers(1, 12), max_size=5), min_size=1, max_size=6), data=st.data())
def test_windows_and_spans_equal_the_concatenation(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], data: st.DataObject
) -> None:
    folders, flat = write(tmp_path_factory.mktemp("store"), sizes)
    store = TokenStore.open(folders)
    assert store.total == len(flat) and store.documents == sum(map(len, sizes))
    if not len(flat):
        return
    length = data.draw(st.integers(1, len(flat)))
    starts = np.array(data.draw(st.lists(st.integers(0, len(flat) - length), min_size=1, max_size=8)))
    assert np.array_equal(store.windows(starts, length), np.stack([flat[start : start + length] for start in starts]))
    lengths = np.array([data.draw(st.integers(0, len(flat) - int(start))) for start in starts])
    assert np.array_equal(store.gather(starts, lengths), np.concatenate([flat[s : s + n] for s, n in zip(starts, lengths)]))
    whole = [size for shard in sizes for size in shard]
    assert np.concatenate(list(store.lengths.chunks())).tolist() == whole
    assert [store.document_at(token) for token in range(len(flat))] == np.repeat(np.arange(len(whole)), whole).tolist()


def test_narrow_ids_where_they_fit() -> None:
    assert token_dtype(65_536) == np.uint16 and token_dtype(65_537) == np.uint32


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from ingot.core.resolve import spec
from ingot.data.store.token_store import TokenStore
from ingot.data.stream import Stream
from ingot.data.text_rows import TextRows
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before = anonymous()
store = TokenStore.open(sorted(Path(sys.argv[1]).iterdir()))
rows = TextRows(store, spec("data.pack", "stream").build(lengths=store.lengths, sequence=512), sequence=512, end=9, pad=9)
stream = Stream({"a": rows}, 0)
for start in range(0, 20_000, 50):
    stream.batch(start, 50)
print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_anonymous_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    used = []
    for times in (1, 100):
        folder = tmp_path / str(times)
        for index in range(max(1, times // 10)):
            writer = ShardWriter(folder / f"{index:03}", np.dtype(np.uint16), 9)
            for _ in range(min(10, times)):
                writer.add("train", [np.arange(99, dtype=np.uint16)] * 8_000, [99] * 8_000)
            writer.commit(tokenizer="t")
        used.append(
            int(subprocess.run([sys.executable, "-c", MEMORY, str(folder)], check=True, capture_output=True, text=True, timeout=120).stdout)
        )
    assert used[1] - used[0] < 4_000, f"{used} KiB for 1.6 MB and 160 MB of tokens"


MANY = """
import resource, sys
from pathlib import Path
from ingot.data.store.token_store import TokenStore
resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
print(TokenStore.open(sorted(Path(sys.argv[1]).iterdir())).documents)
"""


def test_more_shards_than_files_may_be_open_at_first(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    write(tmp_path, [[3]] * 60)
    done = subprocess.run([sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "60", done.stderr
