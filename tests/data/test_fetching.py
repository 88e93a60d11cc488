"""Downloads from a server on this machine that breaks off, forgets, and changes its mind."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hamward.cli.app import main
from hamward.data.fetching import fetch, file_name
from hamward.errors import ArtifactError, ConfigError, DataError

CONTENT = np.random.default_rng(1).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(ThreadingHTTPServer):
    content = CONTENT
    etag: str | None = '"one"'
    cut: int | None = None  # bytes after which the connection is closed
    ranges = True
    lie = 0  # added to the first byte of a Content-Range
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        if self.path != "/files/set.zip":
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header(
                "Content-Range",
                f"bytes {start + server.lie}-{len(server.content) - 1}/{len(server.content)}",
            )
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/files/set.zip"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_comes_whole_and_is_checked(server, address, tmp_path):
    file = tmp_path / "new" / "set.zip"
    assert fetch(address, file, md5=MD5.upper()) == MD5
    assert file.read_bytes() == CONTENT and names(file.parent) == ["set.zip"]
    assert fetch(address, file, md5=MD5) == MD5 and len(server.asked) == 1  # it is there
    with pytest.raises(ArtifactError, match="is there already with MD5"):
        fetch(address, file, md5="0" * 32)


def test_a_broken_download_goes_on_where_it_stopped(server, address, tmp_path):
    file = tmp_path / "set.zip"
    server.cut = 1_500_000
    with pytest.raises(DataError, match=r"the same command goes on after them"):
        fetch(address, file, md5=MD5)
    have = (tmp_path / "set.zip.part").stat().st_size
    assert 0 < have <= 1_500_000 and not file.exists()
    server.cut = None
    assert fetch(address, file, md5=MD5) == MD5
    assert server.asked == [None, f"bytes={have}-"]
    assert file.read_bytes() == CONTENT and names(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("change", ["etag", "ranges", "address"])
def test_what_belongs_to_another_file_is_not_continued(server, address, tmp_path, change):
    server.cut = 1_500_000
    with pytest.raises(DataError):
        fetch(address, tmp_path / "set.zip")
    server.cut = None
    if change == "etag":
        server.etag, server.content = '"two"', CONTENT[::-1]
    elif change == "ranges":
        server.ranges = False
    else:
        address += "?other"
        server.RequestHandlerClass.do_GET = _any_path(server.RequestHandlerClass.do_GET)
    try:
        fetch(address, tmp_path / "set.zip")
    finally:
        if change == "address":
            Handler.do_GET = Handler.do_GET.__wrapped__
    assert (tmp_path / "set.zip").read_bytes() == server.content
    if change == "address":
        assert server.asked[-1] is None


def _any_path(get):
    def answer(self):
        self.path = self.path.partition("?")[0]
        get(self)

    answer.__wrapped__ = get
    return answer


def test_a_server_without_versions_starts_over(server, address, tmp_path):
    server.etag, server.cut = None, 1_500_000
    with pytest.raises(DataError):
        fetch(address, tmp_path / "set.zip")
    server.cut = None
    assert fetch(address, tmp_path / "set.zip") == MD5
    assert server.asked == [None, None]


def test_a_wrong_file_is_removed_and_a_wrong_part_refused(server, address, tmp_path):
    with pytest.raises(DataError, match=f"has MD5 {MD5}, expected {'0' * 32}"):
        fetch(address, tmp_path / "set.zip", md5="0" * 32)
    assert names(tmp_path) == []
    server.cut = 1_500_000
    with pytest.raises(DataError):
        fetch(address, tmp_path / "set.zip")
    server.cut, server.lie = None, 7
    with pytest.raises(DataError, match="another part than bytes"):
        fetch(address, tmp_path / "set.zip")
    with pytest.raises(DataError, match=r"Not Found; 0 bytes are kept"):
        fetch(address.replace("set", "no"), tmp_path / "no.zip")


def test_addresses_are_http_and_end_in_a_file():
    assert file_name("https://a.example/x/my%20set.zip?download=1") == "my set.zip"
    for wrong in ("file:///etc/passwd", "/tmp/set.zip", "http://a.example/x/", "https:///a.zip"):
        with pytest.raises(ConfigError, match="is no address of a file"):
            file_name(wrong)


def test_the_command_downloads_only_with_yes(server, address, tmp_path, capsys):
    arguments = ["data", "fetch", "mirflickr", "--from", address, "--out", str(tmp_path / "a")]

    def run(*more: str) -> int:
        try:
            main([*arguments, *more])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    assert run() == 0 and not (tmp_path / "a").exists() and not server.asked
    assert "add --yes" in capsys.readouterr().out
    assert run("--yes", "--md5", "1" * 32) == 2
    assert f"expected {'1' * 32}" in capsys.readouterr().err
    assert run("--yes", "--md5", MD5) == 0
    printed = capsys.readouterr()
    assert f"3,000,000 bytes, MD5 {MD5} as expected" in printed.out
    assert "none of the archives of mirflickr: mirflickr25k.zip" in printed.err
    assert run("--from", address, "--md5", MD5) == 2
    assert "one file, got 2 addresses" in capsys.readouterr().err
