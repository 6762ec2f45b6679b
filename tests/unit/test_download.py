import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from xrec_repro.data.download import COLUMNS, fetch, read_manifest
from xrec_repro.errors import DataError
from xrec_repro.identity import sha256_file

BODY = b"0,1\n" * 112_500


class Server(ThreadingHTTPServer):
    """Answers each path with a list of planned answers, the last of them again and again."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plans: dict[str, list[str]] = {}
        self.requests: list[str] = []

    def url(self, path, *plan):
        self.plans[f"/{path}"] = list(plan)
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        plan = self.server.plans[self.path]
        answer = plan.pop(0) if len(plan) > 1 else plan[0]
        if answer.isdigit():
            self.send_error(int(answer))
            return
        body = BODY if answer != "wrong" else BODY[::-1]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if answer == "truncated" else body)

    def log_message(self, *arguments):
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def row(url, name="toy", file="edges.csv", sha256=None, size=450_000):
    digest = sha256 or hashlib.sha256(BODY).hexdigest()
    return [name, file, url, "v1", digest, str(size), "Apache-2.0", "edges"]


def write_manifest(tmp_path, *rows, columns=COLUMNS):
    path = tmp_path / "manifest.tsv"
    path.write_text("".join("\t".join(line) + "\n" for line in (columns, *rows)))
    return path


def get(manifest, tmp_path, name="toy", **options):
    return fetch(name, manifest, tmp_path / "data", wait_s=0.01, timeout_s=5, **options)


def test_files_are_fetched_once(server, tmp_path):
    manifest = write_manifest(
        tmp_path,
        row(server.url("a", "ok")),
        row(server.url("b", "ok"), file="deep/er.csv"),
        row(server.url("c", "ok"), name="other"),
    )
    first = get(manifest, tmp_path)
    assert {file: entry["status"] for file, entry in first.items()} == {
        "edges.csv": "downloaded",
        "deep/er.csv": "downloaded",
    }
    assert (tmp_path / "data/edges.csv").read_bytes() == (tmp_path / "data/deep/er.csv").read_bytes() == BODY
    second = get(manifest, tmp_path)
    assert {entry["status"] for entry in second.values()} == {"present"}
    assert server.requests == ["/a", "/b"]


def test_files_that_lie_somewhere_are_copied_if_they_are_the_right_ones(server, tmp_path):
    manifest = write_manifest(
        tmp_path, *(row(server.url(name, "ok"), file=f"{name}.csv") for name in ("here", "wrong", "nowhere"))
    )
    copies = [tmp_path / "absent", tmp_path / "copies"]
    copies[1].mkdir()
    (copies[1] / "here.csv").write_bytes(BODY)
    (copies[1] / "wrong.csv").write_bytes(BODY[:-1])
    found = get(manifest, tmp_path, copies=copies)
    statuses = {"here.csv": "copied", "wrong.csv": "downloaded", "nowhere.csv": "downloaded"}
    assert {file: entry["status"] for file, entry in found.items()} == statuses
    assert all((tmp_path / "data" / name).read_bytes() == BODY for name in statuses)
    assert server.requests == ["/wrong", "/nowhere"]


def test_file_with_wrong_hash_is_fetched_again(server, tmp_path):
    manifest = write_manifest(tmp_path, row(server.url("a", "ok")))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/edges.csv").write_text("old")
    assert get(manifest, tmp_path)["edges.csv"]["status"] == "downloaded"
    assert (tmp_path / "data/edges.csv").read_bytes() == BODY


@pytest.mark.parametrize("fault", ["500", "503", "429", "truncated"])
def test_passing_faults_are_tried_again(server, tmp_path, fault):
    manifest = write_manifest(tmp_path, row(server.url("a", fault, "ok")))
    get(manifest, tmp_path)
    assert (tmp_path / "data/edges.csv").read_bytes() == BODY
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["500", "truncated"])
def test_lasting_faults_end_in_an_error(server, tmp_path, fault):
    url = server.url("a", fault)
    with pytest.raises(DataError) as caught:
        get(write_manifest(tmp_path, row(url)), tmp_path, attempts=3)
    assert url in str(caught.value) and "3 attempts" in str(caught.value)
    assert len(server.requests) == 3
    assert list((tmp_path / "data").iterdir()) == []


def test_wrong_bytes_are_refused_and_the_old_file_stays(server, tmp_path):
    url = server.url("a", "wrong")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/edges.csv").write_text("old")
    with pytest.raises(DataError) as caught:
        get(write_manifest(tmp_path, row(url)), tmp_path)
    message = str(caught.value)
    assert url in message
    assert hashlib.sha256(BODY).hexdigest() in message and hashlib.sha256(BODY[::-1]).hexdigest() in message
    assert len(server.requests) == 1  # the same bytes would come again
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["edges.csv"]
    assert (tmp_path / "data/edges.csv").read_text() == "old"


def test_refusal_of_the_server_is_final(server, tmp_path):
    with pytest.raises(DataError, match="the server answers 404"):
        get(write_manifest(tmp_path, row(server.url("a", "404"))), tmp_path)
    assert len(server.requests) == 1


def test_server_that_is_not_there(tmp_path, server):
    port = server.server_port
    server.server_close()
    manifest = write_manifest(tmp_path, row(f"http://127.0.0.1:{port}/a"))
    with pytest.raises(DataError, match="not fetched in 2 attempts"):
        get(manifest, tmp_path, attempts=2)


def test_local_files_can_be_fetched(tmp_path):
    source = tmp_path / "source.csv"
    source.write_bytes(BODY)
    get(write_manifest(tmp_path, row(source.as_uri())), tmp_path)
    assert (tmp_path / "data/edges.csv").read_bytes() == BODY


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"file": "../escape.csv"}, "line 2: file '../escape.csv' must be a path inside the folder"),
        ({"file": "/etc/x"}, "must be a path inside the folder"),
        ({"file": ""}, "must be a path inside the folder"),
        ({"sha256": "abc"}, "line 2: sha256 'abc' is not 64 hex digits"),
        ({"size": "many"}, "line 2: bytes 'many' is not a number"),
        ({"url": "http://example.org/x"}, "must be https://"),
        ({"url": "ftp://example.org/x"}, "must be https://"),
    ],
)
def test_unusable_rows_are_named(tmp_path, changes, message):
    manifest = write_manifest(tmp_path, row(**({"url": "https://example.org/x"} | changes)))
    with pytest.raises(DataError, match=message):
        get(manifest, tmp_path)


def test_unknown_name_and_missing_column_are_named(tmp_path):
    manifest = write_manifest(tmp_path, row("https://example.org/x", name="xrec-yelp"))
    with pytest.raises(DataError, match="no entry 'xrec-yelpp'; did you mean 'xrec-yelp'"):
        get(manifest, tmp_path, name="xrec-yelpp")
    with pytest.raises(DataError, match="no entry 'zzz'; it has xrec-yelp"):
        get(manifest, tmp_path, name="zzz")
    with pytest.raises(DataError, match="column 'sha256' is missing"):
        get(write_manifest(tmp_path, columns=("name", "file", "url", "revision")), tmp_path)


@pytest.mark.parametrize("name", ["amazon", "yelp"])
def test_manifest_describes_the_data_at_hand(root, shared, name):
    folder = shared / "data/xrec" / name
    entries = {entry.file: entry for entry in read_manifest(f"xrec-{name}", root / "resources/manifest.tsv")}
    assert set(entries) == {path.name for path in folder.iterdir()}
    for file, entry in entries.items():
        assert (sha256_file(folder / file), (folder / file).stat().st_size) == (entry.sha256, entry.bytes)


@pytest.mark.parametrize("name", ["xrec-amazon", "xrec-yelp", "xrec-amazon-lfs", "xrec-yelp-lfs"])
def test_manifest_urls_are_pinned(root, name):
    for entry in read_manifest(name, root / "resources/manifest.tsv"):
        assert entry.url.endswith(f"/data/{name.split('-')[1]}/{entry.file}")
        assert any(len(part) == 40 for part in entry.url.split("/"))
