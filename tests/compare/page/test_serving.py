"""The page as it answers the network: by hand-made requests, none of which a browser would send."""

from __future__ import annotations

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import numpy as np
import psutil
import pytest
from PIL import Image

from lightning_arrcoc.compare.page.pictures import png_url
from lightning_arrcoc.data.images import allowed_formats
from lightning_arrcoc.memory.readings import MIB

from .conftest import MOST_MB, Server
from .test_pictures import url_of

QUESTION = "Which digit is red?"
JOIN = "/gradio_api/queue/join"
AT_ONCE = 50


@pytest.fixture
def picture(image: Image.Image) -> str:
    return png_url(image)


def raw(server: Server, path: str) -> int:
    """A path as it is: no client tidies it up."""
    where = urlparse(server.url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("host", where.netloc)
    connection.endheaders()
    return connection.getresponse().status


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    addresses = {
        connection.laddr.ip for connection in psutil.Process(server.process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }  # fmt: skip
    assert addresses == {"127.0.0.1"}


def test_a_question_is_answered(server: Server, picture: str) -> None:
    status, told = server.question("plain", picture, QUESTION, ["full", "core"], 50)
    assert status == 200
    assert '"success":true' in told.replace(" ", "")
    assert 'id=\\"asked-picture\\"' in told


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/gradio_api/file=../../../../etc/passwd",
     "/gradio_api/file={folder}/core.ckpt", "/gradio_api/file/{folder}/core.ckpt",
     "/assets/../../../../../../etc/passwd", "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
     "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/assets/%252e%252e/etc/passwd",
     "/gradio_api/proxy=http://127.0.0.1/", "/../../etc/passwd", "//etc/passwd",
     "/gradio_api/custom_component/1/client/component/..%2f..%2fetc%2fpasswd",
     "/gradio_api/stream/a/1/1/../../etc/passwd", "/gradio_api/info", "/openapi.json", "/docs"],
)  # fmt: skip
def test_no_path_leads_to_a_file(path: str, server: Server) -> None:
    assert raw(server, path.format(folder=server.folder)) in (400, 404)


def test_what_the_page_is_made_of_is_there(server: Server) -> None:
    page = server.ask("/")
    assert page.status == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert str(server.folder) not in page.body.decode()
    config = json.loads(server.ask("/config").body)
    assert config["analytics_enabled"] is False
    assert all(one["api_visibility"] == "private" for one in config["dependencies"])
    first = config["dependencies"][0]
    assert (len(first["inputs"]), len(first["outputs"])) == (4, 7)  # what `Server.question` asks


@pytest.mark.parametrize(
    "names", [["../../etc/passwd"], ["/etc/passwd"], ["core.ckpt"], ["core/../core"], [None]]
)
def test_a_checkpoint_is_asked_by_a_registered_name_or_not_at_all(
    names: list[str], server: Server, picture: str
) -> None:
    _, told = server.question("names", picture, QUESTION, names, 50)
    assert "is not in the list of choices" in told or "There is no checkpoint" in told or (
        '"success":false' in told.replace(" ", "")
    )  # fmt: skip
    assert "data-name" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "sent",
    [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
     {"path": "/etc/passwd", "url": "http://127.0.0.1:1/"}, "/etc/passwd",
     "file:///etc/passwd", "data:image/png;base64,AAAA", "data:image/png;base64,"],
)  # fmt: skip
def test_a_picture_is_what_was_sent_and_no_file_of_this_machine(
    sent: object, server: Server
) -> None:
    _, told = server.question("files", sent, QUESTION, ["full"], 50)
    assert "data-name" not in told
    assert "root:" not in told


def test_a_corrupt_upload_is_refused_in_words(server: Server, picture: str) -> None:
    head = len("data:image/png;base64,")
    _, told = server.question(
        "corrupt", picture[: head + len(picture) // 8 * 4], QUESTION, ["full"], 50
    )
    assert "cannot be read as PNG" in told
    assert 'role=\\"alert\\"' in told


@pytest.mark.parametrize("called", ["jpeg", "png", "webp"])
def test_a_planted_jpeg_reaches_no_unsafe_decoder(
    called: str, server: Server, image: Image.Image
) -> None:
    before = server.notes.read_text()
    _, told = server.question("jpeg", url_of(image, "JPEG", called), QUESTION, ["full"], 50)
    if "JPEG" in allowed_formats():  # then it is let in by itself
        assert "data-name" in told
    else:
        assert "JPEG is refused" in told
        assert server.notes.read_text() == before == ""


def test_nothing_can_be_uploaded_past_that(server: Server) -> None:
    form = (
        b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
        b"\xff\xd8\xff\r\n--x--\r\n"
    )
    reply = server.ask("/gradio_api/upload", form, content_type="multipart/form-data; boundary=x")
    assert reply.status == 404


def test_a_request_that_is_too_large_is_not_read(server: Server) -> None:
    where = urlparse(server.url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
    connection.putrequest("POST", JOIN)
    connection.putheader("content-length", str(MOST_MB * MIB + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_another_sites_page_cannot_ask(server: Server) -> None:
    assert server.ask("/", host="evil.example").status == 421
    assert server.ask(JOIN, b"{}", origin="http://evil.example").status == 403


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data": 1}', b'{"fn_index": 999}', b"\x80"])
def test_nonsense_is_refused_and_nothing_breaks(body: bytes, server: Server) -> None:
    assert 400 <= server.ask(JOIN, body).status < 500 or body == b'{"fn_index": 999}'
    assert server.ask("/config").status == 200


def test_a_checkpoint_that_is_deleted_while_in_use_is_missed_in_words(
    server: Server, picture: str
) -> None:
    path = server.folder / "unsure.ckpt"
    names = ["unsure", "full"]
    _, told = server.question("deleted", picture, QUESTION, names, 50)
    assert "is gone" not in told
    content = path.read_bytes()
    path.unlink()
    try:
        _, told = server.question("deleted", picture, QUESTION, names, 50)
    finally:
        path.write_bytes(content)
    assert "is gone. Choose another" in told
    assert "of 12 tokens" in told  # the other one answered
    assert str(server.folder) not in told


def test_fifty_at_once_are_answered_or_turned_away_and_memory_has_an_end(server: Server) -> None:
    noise = np.random.default_rng(0).integers(256, size=(420, 420, 3), dtype=np.uint8)
    heavy = png_url(Image.fromarray(noise))
    assert len(heavy) > MIB / 2
    process = psutil.Process(server.process.pid)
    server.question("warm", heavy, QUESTION, ["full"], 10)
    before, readings, done = process.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            readings.append(process.memory_info().rss)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(AT_ONCE) as visitors:
            replies = list(visitors.map(
                lambda number: server.question(f"visitor{number}", heavy, QUESTION, ["full"], 10),
                range(AT_ONCE),
            ))  # fmt: skip
    finally:
        done.set()
        watcher.join()
    answered = [told for status, told in replies if status == 200]
    turned_away = [told for status, told in replies if status == 503]
    assert len(answered) + len(turned_away) == AT_ONCE
    assert len(answered) >= 4
    assert all("data-name" in told for told in answered)
    # A request is held a few times over: as text, as JSON, as pixels. Fifty of them without a
    # limit would be as much again for each that is turned away here.
    assert max(readings) - before < 400 * MIB
    assert server.ask("/config").status == 200
