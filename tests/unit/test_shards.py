import itertools

import pytest

from xrec_repro.errors import ConfigError
from xrec_repro.shards import WHOLE, Shard, shard_names


def test_names_are_read_as_they_are_written():
    assert shard_names(3) == ["1-of-3", "2-of-3", "3-of-3"]
    assert [str(Shard.parse(name)) for name in shard_names(12)] == shard_names(12)
    assert str(WHOLE) == "1-of-1"


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_every_batch_is_dealt_to_one_shard(count):
    batches = list("abcdefg")
    dealt = [Shard(number, count).deal(batches) for number in range(1, count + 1)]
    assert sorted(itertools.chain.from_iterable(dealt)) == batches
    assert all(part == sorted(part) for part in dealt)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("name", ["0-of-2", "3-of-2", "1-of-0", "2/5", "-1-of-2", "1-of-2x"])
def test_what_is_no_shard_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"^{name}: "):
        Shard.parse(name)
