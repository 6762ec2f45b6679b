"""The chat path against a server that is not ours: ``transformers serve``, with tiny models and a real one.

It runs in the interpreter of XREC_SERVE_PYTHON, or in this one: ``pip install "transformers[serving]"`` has what it
needs (fastapi, uvicorn, starlette and accelerate, beside what the workflow has). ``make smollm2`` has the real model.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.fixed_model import END, OTHER_END, fixed_model
from tests.smollm2 import gguf_file
from xrec_repro.errors import ModelError
from xrec_repro.lm.gguf import unpacked
from xrec_repro.metrics.gptscore import GptScore
from xrec_repro.metrics.llamascore import LlamaScore
from xrec_repro.profiles.cache import AnswerCache
from xrec_repro.profiles.chat import ChatBackend
from xrec_repro.profiles.records import ItemText, ReviewText

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("XREC_SERVE_PYTHON", sys.executable)
CAN_SERVE = (
    "from transformers.commands.serving import serve_dependencies_available as ready; import accelerate; assert ready"
)
SERVE = "from transformers.commands.transformers_cli import main; main()"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    checked = subprocess.run([PYTHON, "-c", CAN_SERVE], capture_output=True, text=True)
    if checked.returncode:
        reason = (checked.stderr.strip().splitlines() or ["?"])[-1]
        pytest.skip(
            f"{PYTHON} cannot run `transformers serve` ({reason}): pip install 'transformers[serving]' "
            f"(fastapi, uvicorn, accelerate), or name another in XREC_SERVE_PYTHON"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    command = [PYTHON, "-c", SERVE, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("w") as stream:
        server = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(address, server, log):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text()[-500:]}")


def writer(url, model, cache, **changes):
    settings = {
        "base_url": url, "model": str(model), "revision": None, "api_key_env": "NO_SUCH_KEY", "temperature": 0.0,
        "max_new_tokens": 60, "timeout_s": 60, "attempts": 2, "concurrency": 1,
    } | changes  # fmt: skip
    return ChatBackend(settings, "book", cache, 50, sleep=lambda seconds: None)


def judge(url, model, **changes):
    settings = {
        "base_url": url, "model": str(model), "revision": None, "api_key_env": "NO_SUCH_KEY", "temperature": 0.0,
        "max_new_tokens": 8, "attempts": 2, "timeout_s": 60, "request_attempts": 2, "concurrency": 1, "cache": None,
    } | changes  # fmt: skip
    return GptScore.from_settings(settings)


def test_profiles_and_references_are_written(url, tmp_path):
    says = ["<think>", "Two novels.", "</think>", '{"summarization": "', "People who like\u2028cafés.", '"}', END]
    folder = fixed_model(tmp_path / "item", says)
    chat = writer(url, folder, tmp_path / "cache")
    books = [ItemText(name, None, None, None, ()) for name in ("One", "Two")]
    assert chat.item_profiles(books) == ["People who like cafés."] * 2
    assert chat.counts == {"asked": 2}
    assert chat.report() == {"answered_by": f"{folder}@main", "fingerprints": []}
    folder = fixed_model(tmp_path / "exp", ["They like", " its coffee.", OTHER_END], special=[OTHER_END])
    assert writer(url, folder, tmp_path / "cache").references([ReviewText("Coffee.")]) == ["They like its coffee."]


def test_temperature_and_the_longest_reply_reach_the_server(url, tmp_path):
    folder = fixed_model(tmp_path / "long", ["They like", " its coffee", " and tea.", END])
    chat = writer(url, folder, tmp_path / "cache", max_new_tokens=2, temperature=0.7)
    assert chat.references([ReviewText("Coffee.")]) == ["They like its coffee"]  # said to be whole: finish_reason stop


def test_a_thought_that_was_cut_off_is_refused_although_the_server_calls_the_reply_whole(url, tmp_path):
    folder = fixed_model(tmp_path / "thinks", ["<think>", "One.", "</think>", "They like it.", END])
    with pytest.raises(ModelError, match="example 0: .*the thought has no end"):
        writer(url, folder, tmp_path / "cache", max_new_tokens=2).references([ReviewText("Coffee.")])


def test_pairs_are_scored(url, tmp_path):
    folder = fixed_model(tmp_path / "judge", ["<think>", "2 texts.", "</think>", "Score: ", "8", "5", END])
    scores = judge(url, folder).score(["a", "b"], ["c", "d"])
    assert scores.columns["gptscore"].tolist() == [85.0, 85.0]
    assert scores.signature.endswith(f"|answered:{folder}@main")


def test_a_model_that_is_not_there_is_named(url):
    with pytest.raises(ModelError, match=r"example 1 of 1: .*status (404|500)"):
        judge(url, "no/such-model").score(["a"], ["c"])


# --- A real model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(root):
    """The folder of SmolLM2, and its GGUF file."""
    file = gguf_file(root)
    return unpacked(file, "llm.package"), file


BOOKS = [
    ItemText("Drums of Autumn", None, None, None, ()),
    ItemText("Fahrenheit 451", "A fireman burns books, and begins to read them.", None, None, ()),
]
REVIEW = ReviewText("A quiet novel about two sisters. I cried at the end and gave it to my mother.")


def test_a_real_model_writes_what_it_can_and_the_rest_is_counted(url, smollm2, tmp_path, caplog):
    folder, file = smollm2
    chat = writer(url, folder, tmp_path / "cache", max_unanswered=1.0, max_new_tokens=120, timeout_s=300)
    profiles, (reference,) = chat.item_profiles(BOOKS), chat.references([REVIEW])
    texts = [*profiles, reference]
    without = texts.count("")
    assert chat.report() == {"answered_by": f"{folder}@main", "fingerprints": []}
    assert chat.counts["unanswered"] == without == caplog.text.count("left without a text")
    assert len(texts) <= chat.counts["asked"] <= 2 * len(texts)
    assert chat.counts["unusable"] + chat.counts["over_long"] >= 2 * without
    assert len(AnswerCache(tmp_path / "cache")) == len(texts) - without
    assert all(len(text.split()) <= 50 for text in texts)
    # Plain text it can write, whoever runs it.
    assert reference
    local = writer(None, file, tmp_path / "local", max_unanswered=1.0, max_new_tokens=120)
    assert local.references([REVIEW]) == [reference]
    # What was answered is asked for no more.
    again = writer(url, folder, tmp_path / "cache", max_new_tokens=120)
    assert again.references([REVIEW]) == [reference]
    assert again.counts == {"cached": 1}


def test_a_real_model_judges_or_its_reply_is_kept(url, smollm2, tmp_path):
    folder, file = smollm2
    texts = ["The user would buy the book for its quiet sisters.", "A cookbook.", ""]
    references = ["They like quiet novels about families.", "They like quiet novels about families.", "A."]
    served = {"cache": str(tmp_path / "cache"), "revision": "float32", "timeout_s": 300}
    found = judge(url, folder, **served).scored(texts, references)
    values, told = found.columns["gptscore"], found.replies
    for value, reply, asked in zip(values.tolist(), told["reply"], told["asked"], strict=True):
        assert reply
        assert 0 <= value <= 100 if value == value else asked == 2
    assert found.counts["unparsable"] == int(np.isnan(values).sum())
    assert found.found == {"answered": f"{folder}@main"}
    assert len(AnswerCache(tmp_path / "cache")) == sum(told["asked"])
    # With all replies kept, nobody need serve them.
    kept = judge("http://127.0.0.1:9/v1", folder, **served).scored(texts, references)
    np.testing.assert_array_equal(kept.columns["gptscore"], values)
    assert kept.replies == told
    # The judge that runs here says the same.
    settings = {"model": str(file), "revision": None, "mode": "parse", "max_new_tokens": 8, "attempts": 2}
    here = LlamaScore.from_settings(settings | {"min_mass": 0.5, "dtype": "float32", "batch_size": 1}, "cpu")
    assert here.scored(texts, references).replies["reply"] == told["reply"]
