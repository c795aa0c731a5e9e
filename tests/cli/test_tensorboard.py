"""``focalbench tensorboard``: one command to the pages, on this machine only, gone when it is stopped."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest

from focalbench.board.address import curves_address, page_addresses
from focalbench.cli.tensorboard import _port


def started(*arguments):
    command = [sys.executable, "-m", "focalbench", "tensorboard", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def get(port, path):
    with urllib.request.urlopen(f"http://localhost:{port}/data/{path}", timeout=20) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_it_starts_prints_where_to_look_and_ends_with_its_server(write_arms):
    run = write_arms({"ce": [0.5, 0.6], "focal": [0.6, 0.7]})
    process = started(run, "--no-open")
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        assert [line.split(":")[0] for line in lines] == ["curves", "margins", "verdict", "all trials"]
        port = int(re.search(r"localhost:(\d+)/", lines[0])[1])
        deadline = time.monotonic() + 60
        while "verdict" not in get(port, "plugin/text/tags") and time.monotonic() < deadline:
            time.sleep(0.2)
        assert "verdict" in get(port, "plugin/text/tags")  # written as it started: no process had
    finally:
        process.terminate()  # ^C comes to TensorBoard too; this does not
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    with socket.socket() as probe:
        assert probe.connect_ex(("localhost", port)) != 0


def test_a_missing_folder_is_named(focalbench):
    done = focalbench("tensorboard", "nowhere")
    assert done.code == 2
    assert done.err.startswith("nowhere: no such folder")


def test_a_port_that_is_taken_is_passed_over_unless_it_was_asked_for(focalbench, tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("focalbench.cli.tensorboard.DEFAULT_PORT", port)
        assert _port(None) not in (port, 0)
        done = focalbench("tensorboard", tmp_path, "--port", port)
    assert done.code == 2
    assert f"--port {port}: taken" in done.err


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(focalbench, tmp_path, port):
    assert focalbench("tensorboard", tmp_path, f"--port={port}").code == 2


def test_the_address_says_all_that_the_page_needs():
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(curves_address()).query)
    assert query["smoothing"] == ["0"]
    assert query["runFilter"] == ["arms/"]
    assert json.loads(query["pinnedCards"][0])[0] == {"plugin": "scalars", "tag": "val/mAP"}
    assert not set(curves_address()) & set(" \"'<>|\\^`{}()$")  # nothing that a terminal or a shell takes for its own


@pytest.mark.parametrize(
    ("run", "group"),
    [
        ("ce-s0-754a7108", ("", "ce")),
        ("arms/ce", ("", "ce")),
        ("gamma=2-alpha=0.25-s12-754a7108", ("", "gamma=2-alpha=0.25")),
        ("arms/gamma=2-alpha=0.25", ("", "gamma=2-alpha=0.25")),
        ("sweep/arms/ce", ("sweep/", "ce")),
        ("sweep/ce-s0-754a7108", ("sweep/", "ce")),
        ("farms/ce-s0-754a7108", ("farms/", "ce")),
    ],
)
def test_a_trial_has_the_colour_of_its_arm(run, group):
    """TensorBoard groups runs by what the parts in brackets match (JavaScript's and Python's rules agree here)."""
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(curves_address()).query)
    pattern = query["runColorGroup"][0].removeprefix("regex:")
    assert re.match(pattern, run).groups() == group


def test_every_page_has_an_address_on_the_port():
    assert all(address.startswith("http://localhost:7000/") for address in page_addresses(7000).values())
