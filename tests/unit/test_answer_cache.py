"""Answers of chat models on disk: keys, and many writers of one folder."""

import json
import logging
import signal
import subprocess
import sys
import time

import pytest

from tests.fixed_model import END, fixed_model
from xrec_repro.errors import ConfigError, DataError, ModelError
from xrec_repro.profiles import cache
from xrec_repro.profiles.cache import AnswerCache, OneModel, answer_key, model_place
from xrec_repro.profiles.replies import Completion

ASKED = [{"role": "system", "content": "s"}, {"role": "user", "content": "m"}]
BASE = {
    "base_url": "http://node1:8000/v1",
    "model": "tiny",
    "revision": None,
    "temperature": 0.0,
    "max_new_tokens": 160,
    "attempts": 3,
    "concurrency": 1,
    "timeout_s": 5,
}


def key(messages=ASKED, seed=0, **changes):
    return answer_key(BASE | changes, messages, seed)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"revision": "abc"},
        {"temperature": 0.5},
        {"max_new_tokens": 80},
        {"base_url": "http://node2:8000/v1"},
        {"base_url": None},
        {"messages": [ASKED[0], {"role": "user", "content": "n"}]},
        {"messages": [{"role": "system", "content": "t"}, ASKED[1]]},
        {"messages": [*ASKED, *ASKED]},
    ],
)
def test_what_decides_an_answer_is_part_of_its_key(change):
    assert key(**change) != key()


@pytest.mark.parametrize(
    "change",
    [
        {"attempts": 9, "concurrency": 9, "timeout_s": 9},
        {"base_url": "http://me:secret@node1:8000/v1/?key=secret"},
        {"seed": 1},  # at temperature 0
    ],
)
def test_what_decides_nothing_is_no_part_of_the_key(change):
    assert key(**change) == key()


def test_the_seed_counts_where_something_is_drawn():
    assert len({key(temperature=0.5, seed=seed) for seed in (0, 1, 1, 2)}) == 3


def test_a_revision_stands_for_the_address():
    nodes = ("http://node1:8000/v1", "http://node2:9000/v1")
    assert len({key(base_url=node, revision="r1") for node in nodes}) == 1
    assert len({key(base_url=node, revision=revision) for node in nodes for revision in ("r1", "r2", None)}) == 4
    assert "secret" not in model_place(BASE | {"base_url": "https://me:secret@host/v1?key=secret"})


def test_a_folder_counts_by_its_content(tmp_path):
    one, same, other = (
        fixed_model(tmp_path / name, [said, END]) for name, said in (("a", "Yes."), ("b", "Yes."), ("c", "No."))
    )
    places = [model_place(BASE | {"base_url": None, "model": str(folder)}) for folder in (one, same, other)]
    assert places[0] == places[1] != places[2]
    (one / "model.safetensors").unlink()
    cache._digest_once.cache_clear()  # within one process a folder is read once
    with pytest.raises(ModelError, match=r"profiles\.chat\.model: .*a cannot be loaded \(.*no model weights"):
        key(base_url=None, model=str(one))


def test_an_address_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"^metrics\.gptscore\.base_url: not a URL"):
        answer_key(BASE | {"base_url": "localhost:8000"}, ASKED, section="metrics.gptscore")


# --- Files ----------------------------------------------------------------------------------------------------


def test_an_answer_is_a_file_and_comes_back_as_it_was(tmp_path):
    answer = Completion("Fans\u2028of é.\n", True, "tiny-1", "fp")
    cache = AnswerCache(tmp_path / "new")
    assert (cache.get("ab12"), len(cache)) == (None, 0)
    cache.add("ab12", answer)
    assert cache.get("ab12") == AnswerCache(tmp_path / "new").get("ab12") == answer
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["new/ab/ab12.json"]
    assert len(cache) == 1


def test_what_another_process_adds_is_seen(tmp_path):
    early, late = AnswerCache(tmp_path), AnswerCache(tmp_path)
    assert early.get("ab12") is None
    late.add("ab12", Completion("Yes.", False))
    assert early.get("ab12") == Completion("Yes.", False)


@pytest.mark.parametrize("content", ["", "[1]", '{"answer": "x"}', '{"text": 1', "[" * 100_000, "\ud800"])
def test_a_spoilt_file_is_named(tmp_path, content):
    path = tmp_path / "ab/ab12.json"
    path.parent.mkdir()
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=r"ab12\.json: not a cached answer \(\w+\); delete it$"):
        AnswerCache(tmp_path).get("ab12")


def test_answers_of_the_older_form_are_said_once_and_not_read(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="xrec_repro")
    (tmp_path / "answers.jsonl").write_text('{"key": "ab12", "answer": "Old."}\n')
    assert [AnswerCache(tmp_path).get("ab12") for _ in range(3)] == [None] * 3
    assert [r.message for r in caplog.records] == [
        f"{tmp_path / 'answers.jsonl'}: answers of an older version, which are not read; delete it"
    ]


WRITER = """
import sys
from xrec_repro.profiles import cache
from xrec_repro.profiles.cache import AnswerCache
from xrec_repro.profiles.replies import Completion
cache, who = AnswerCache(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for turn in range(int(sys.argv[3])):
    for number in range(20):
        cache.add(f"{number % 3:02d}shared{number}", Completion(f"answer {number} " * 2000, False, "tiny"))
    cache.add(f"own{who}-{turn}", Completion(f"own {who} {turn} " * 500, False, "tiny"))
"""


def writers(folder, count, turns):
    command = [sys.executable, "-c", WRITER, str(folder)]
    made = [subprocess.Popen([*command, str(n), str(turns)], stdout=subprocess.PIPE, text=True) for n in range(count)]
    for writer in made:
        assert writer.stdout.readline() == "ready\n"
    return made


def check(folder):
    """Every file that has an answer's name holds a whole answer."""
    found = sorted(folder.glob("??/*.json"))
    for path in found:
        answer = json.loads(path.read_text())
        assert AnswerCache(folder).get(path.stem) == Completion(**answer)
        assert len(answer["text"]) >= 4000 and answer["model"] == "tiny"
    return {path.stem for path in found}


def test_processes_that_write_the_same_answers_at_once_leave_whole_ones(tmp_path):
    for writer in writers(tmp_path, 3, 2):
        assert writer.wait(timeout=120) == 0
    shared = {f"{number % 3:02d}shared{number}" for number in range(20)}
    assert check(tmp_path) == shared | {f"own{who}-{turn}" for who in range(3) for turn in range(2)}
    assert not list(tmp_path.rglob("*.tmp"))


def test_writers_that_are_killed_leave_whole_answers_to_go_on_with(tmp_path):
    made = writers(tmp_path, 3, 10_000)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ow/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    for writer in made:
        writer.send_signal(signal.SIGKILL)
        assert writer.wait(timeout=30) == -signal.SIGKILL
    kept = check(tmp_path)
    assert len(kept) >= 23
    cache = AnswerCache(tmp_path)
    cache.add("00shared0", Completion("answer 0 " * 2000, False, "tiny"))
    assert check(tmp_path) == kept


def test_answers_of_two_models_are_an_error_and_silence_is_none():
    one = OneModel("profiles.chat")
    for name, fingerprint in (("", ""), ("tiny-1", "f1"), ("", "f2"), ("tiny-1", "f1")):
        one.note(Completion("x", False, name, fingerprint))
    assert (one.name, one.fingerprints) == ("tiny-1", {"f1", "f2"})
    with pytest.raises(ModelError, match=r"tiny-1 answered before, now tiny-2; one file must not mix models"):
        one.note(Completion("x", False, "tiny-2"))
