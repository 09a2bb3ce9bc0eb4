"""The small server for the built book."""

import http.client
import threading

import pytest

from mambaviz.book import serve


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "index.html").write_text("<p>landing</p>")
    (tmp_path / "404.html").write_text("<p>no such page</p>")
    (tmp_path / "code.js").write_text("1")
    return tmp_path


@pytest.fixture
def server(folder):
    server = serve.open_server(folder, port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(server, path, method="GET"):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_it_listens_to_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"


def test_pages_and_scripts_have_their_types(server):
    answer, body = get(server, "/")
    assert (answer.status, body) == (200, "<p>landing</p>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    answer, _ = get(server, "/code.js")
    assert answer.headers["Content-Type"].startswith("text/javascript")


def test_a_missing_page_is_answered_by_the_books_own(server):
    answer, body = get(server, "/gone.html")
    assert (answer.status, body) == (404, "<p>no such page</p>")
    answer, body = get(server, "/gone.html", method="HEAD")
    assert (answer.status, body) == (404, "")


def test_nothing_above_the_folder_is_served(server, folder):
    (folder.parent / "secret.txt").write_text("secret")
    for path in ("/../secret.txt", "/%2e%2e/secret.txt"):
        answer, body = get(server, path)
        assert answer.status == 404
        assert "secret" not in body


def test_the_next_free_port_is_taken(folder):
    first = serve.open_server(folder)
    second = serve.open_server(folder)
    try:
        ports = first.server_address[1], second.server_address[1]
        assert serve.FIRST_PORT <= ports[0] < ports[1]
    finally:
        first.server_close()
        second.server_close()


def test_a_port_that_was_named_is_not_replaced(server, folder, capsys):
    port = server.server_address[1]
    with pytest.raises(OSError, match=rf"port {port} .*make serve PORT="):
        serve.open_server(folder, port)
    assert serve.main([str(folder), str(port)]) == 1
    assert f"port {port}" in capsys.readouterr().err


def test_without_a_book_it_says_how_to_build_one(tmp_path, capsys):
    assert serve.main([str(tmp_path)]) == 1
    assert "make book" in capsys.readouterr().err
