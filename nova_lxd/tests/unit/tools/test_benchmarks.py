# SPDX-License-Identifier: Apache-2.0
"""The benchmark's client, its arithmetic and its pictures."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report, scale
from benchmarks.cases import CASES, WANTED
from benchmarks.client import BenchmarkError, Connection, WebSocket, multipart
from benchmarks.subject import Result

RESULTS = {
    "lxd": [
        Result("GET /1.0", "ms", [4.0, 2.0, 3.0]),
        Result("launch, 2 in parallel", "/s", [5.0], smaller_is_better=False),
        Result("nobody asked", "ms", [1.0]),
        Result("daemon idle: CPU", "%", [0.0]),
    ],
    "bundled": [
        Result("GET /1.0", "ms", [1.5]),
        Result("launch, 2 in parallel", "/s", [8.0], smaller_is_better=False),
        Result("nobody asked", "ms", [2.0]),
    ],
}


def test_rows_tell_ratio_and_whether_it_is_what_is_wanted() -> None:
    head, get, launches, unasked, idle = report.rows(RESULTS)
    assert head[-3:] == ["ratio", "wanted", "met"]
    assert get[-5:] == ["3.00", "1.50", "0.50", "≤ 0.7", "yes"]
    assert launches[-3:] == ["1.60", "≥ 2", "NO"]
    assert unasked[-3:] == ["2.00", "", ""]
    assert idle[-4:] == ["-", "-", "≤ 1", ""], "a ratio to nothing is none"


def test_one_daemon_alone_has_no_ratio() -> None:
    assert report.rows({"daemon": RESULTS["lxd"]})[0] == ["what", "unit", "samples", "daemon"]


@pytest.mark.parametrize("write", [report.markdown, report.rst])
def test_tables_hold_every_measurement(write: object) -> None:
    text = write(RESULTS)  # type: ignore[operator]
    assert all(each.name in text for each in RESULTS["lxd"])


def test_charts_are_xml() -> None:
    bars = ElementTree.fromstring(report.chart(RESULTS))
    labels = [each.text for each in bars.iter("{http://www.w3.org/2000/svg}text")]
    assert "GET /1.0" in labels and "0.50" in labels
    assert "0.62" in labels, "a rate is drawn as a cost"
    names = [*scale._SERIES, "count"]
    points = [dict.fromkeys(names, float(value)) for value in (1, 2)]
    assert ElementTree.fromstring(scale.chart(points)).tag.endswith("svg")


def test_what_is_wanted_is_measured() -> None:
    source = Path(report.__file__).with_name("cases.py").read_text(encoding="utf-8")
    told = source[: source.index("WANTED")]
    for name in WANTED:
        label, _comma, rest = name.rpartition(", ")
        found = name in told or (label in told and rest in told)
        assert found or name.startswith(("file ", "list, ")), name
    assert set(CASES) >= {"idle", "server", "events"}


def serve(path: Path, answers: list[bytes]) -> None:
    """Answer each chunk that comes with the next of the answers, byte by byte."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        peer, _address = listener.accept()
        with listener, peer:
            for answer in answers:
                peer.recv(65536)
                for byte in answer:
                    peer.sendall(bytes([byte]))

    threading.Thread(target=run, daemon=True).start()


def test_answers_of_known_length_and_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "s"
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    chunked = (
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    serve(path, [plain, chunked])
    with Connection(path) as api:
        assert api.request("GET", "/a") == (200, b"hello")
        assert api.length == len(plain)
        assert api.request("GET", "/b") == (404, b"abcde")
        assert api.length == len(chunked)


def test_refusal_is_told_in_the_daemons_words(tmp_path: Path) -> None:
    path = tmp_path / "s"
    body = b'{"error": "not found"}'
    serve(path, [b"HTTP/1.1 404 x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)])
    with Connection(path) as api, pytest.raises(BenchmarkError, match="not found"):
        api.get("/1.0/nothing")


def test_websocket_skips_pings_and_reads_long_frames(tmp_path: Path) -> None:
    path = tmp_path / "s"
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    frames = b"\x89\x00" + b"\x82\x01x" + b"\x81\x7e\x01\x00" + b"y" * 256 + b"\x88\x00"
    serve(path, [upgrade + frames])
    with WebSocket(path, "/1.0/events") as stream:
        assert stream.receive() == b"x"
        assert stream.receive() == b"y" * 256
        with pytest.raises(BenchmarkError, match="closed"):
            stream.receive()


def test_form_holds_the_files(tmp_path: Path) -> None:
    file = tmp_path / "rootfs.squashfs"
    file.write_bytes(b"\0\r\n--")
    body, header = multipart({"rootfs": file})
    boundary = header.split("boundary=")[1].strip()
    assert body.startswith(f"--{boundary}\r\n".encode())
    assert b'name="rootfs"; filename="rootfs.squashfs"' in body
    assert b"\r\n\r\n\0\r\n--\r\n" in body


def test_limits_of_the_host_are_told_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "_PROC_SYS", tmp_path)
    for name in scale._TAKEN_BY_SYSTEMD:
        path = tmp_path / name.replace(".", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("500\n")
    monkeypatch.setattr(scale, "_inotify_in_use", lambda: 7)
    assert scale.too_low(1000, "busybox") == []
    assert scale.too_low(1, "debian") == []
    monkeypatch.setattr("sys.argv", ["scale", "--count", "100", "--image", "debian"])
    with pytest.raises(SystemExit):
        scale.main()
    assert "sysctl -w fs.inotify.max_user_instances=607" in capsys.readouterr().err
