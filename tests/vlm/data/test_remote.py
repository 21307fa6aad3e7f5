"""Shards that lie on a server are fetched once, and train as local ones do."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm.data import remote
from vlm.data.shards import SUFFIXES, Shards, write_shards


class Server:
    """A folder over HTTP; `asked` are the paths that were fetched."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def fetched(self) -> list[str]:
        """Names of shards, in the order in which they were asked for."""
        names = [path.rpartition("/")[2] for path in self.asked if path.endswith(tuple(SUFFIXES.values()))]
        self.asked.clear()
        return names


@pytest.fixture
def server(garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "cache"))
    write_shards(garments, tmp_path / "there" / "tars", format="webdataset", shard_size=0.024)
    found = Server(tmp_path / "there")
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_a_folder_of_shards_is_fetched_once(server: Server, tmp_path: Path) -> None:
    local, away = Shards(tmp_path / "there" / "tars"), Shards(f"{server.address}/tars/")
    assert [record.id for record in away.records] == [record.id for record in local.records]
    assert [away.image_bytes(index) for index in range(14)] == [local.image_bytes(index) for index in range(14)]
    names = sorted(file.name for file in (tmp_path / "there" / "tars").glob("*.tar"))
    assert sorted(server.fetched()) == names and len(names) > 2
    Shards(f"{server.address}/tars/")
    assert server.fetched() == [], "what is here is not fetched again"


def test_what_has_changed_or_gone_there_does_so_here(server: Server, tmp_path: Path, garments: Path) -> None:
    there = tmp_path / "there" / "tars"
    folder = remote.fetched(f"{server.address}/tars/", [".tar"])
    first = sorted(there.glob("*.tar"))[0]
    (folder / first.name).write_bytes(b"")  # as after a crash that lost what was written
    (folder / f"{first.name}.version").unlink()
    Shards(f"{server.address}/tars/")
    assert server.fetched().count(first.name) == 2
    for file in there.iterdir():
        file.unlink()
    write_shards(garments, there, format="webdataset", shard_size=10)
    away = Shards(f"{server.address}/tars/")
    assert len(away.records) == 14
    assert sorted(file.name for file in folder.glob("*.tar")) == sorted(file.name for file in there.iterdir())


def test_one_shard(server: Server, tmp_path: Path) -> None:
    name = sorted((tmp_path / "there" / "tars").glob("*.tar"))[1].name
    away = Shards(f"{server.address}/tars/{name}")
    assert [record.id for record in away.records] == [
        record.id for record in Shards(tmp_path / "there" / "tars" / name).records
    ]


def test_what_is_not_there_is_named(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "empty").mkdir()
    for path, said in [("empty/", r"empty/: no .*\.tar files; expected shards"), ("nothing/", "nothing is there")]:
        with pytest.raises(FileNotFoundError, match=said):
            Shards(f"{server.address}/{path}")
    with pytest.raises(FileNotFoundError, match=r"train-00007-of-00009.tar is not there; check the address"):
        Shards(f"{server.address}/tars/train-00007-of-00009.tar")
    with pytest.raises(ValueError, match=r"nowhere://x: .*install what it names"):
        Shards("nowhere://x")


def test_a_bucket(garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """s3:// through s3fs, which speaks to a server on this machine."""
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "cache"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        here = tmp_path / "here"
        write_shards(garments, here, format="parquet", shard_size=0.024)
        bucket = s3fs.S3FileSystem()
        bucket.mkdir("clothes")
        bucket.put(str(here), "clothes/shards", recursive=True)
        local, away = Shards(here), Shards("s3://clothes/shards/")
        assert [record.id for record in away.records] == [record.id for record in local.records]
        assert [away.image_bytes(index) for index in range(14)] == [local.image_bytes(index) for index in range(14)]
    finally:
        server.stop()
