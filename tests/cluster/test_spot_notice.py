"""A spot node's notice, as the clouds give it, drains the node."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import CalledProcessError, TimeoutExpired

import pytest

from raypref.cluster.spot_notice import AWS, GCP, watch

TOKEN = "a session's token"


class Metadata(BaseHTTPRequestHandler):
    """The metadata services of both clouds, for a node that is taken away in 90 seconds once `announced`."""

    announced = False
    asked = 0

    def do_PUT(self):
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self.answer(200, TOKEN)

    def do_GET(self):
        type(self).asked += 1
        if self.path == "/computeMetadata/v1/instance/preempted":
            right = self.headers.get("Metadata-Flavor") == "Google"
            self.answer(200 if right else 403, "TRUE" if self.announced else "FALSE")
        elif self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            self.answer(401, "")
        elif self.path == "/latest/meta-data/spot/instance-action" and self.announced:
            end = (datetime.now(UTC) + timedelta(seconds=90)).strftime("%Y-%m-%dT%H:%M:%SZ")
            self.answer(200, json.dumps({"action": "terminate", "time": end}))
        else:
            self.answer(404, "")

    def answer(self, code, text):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def metadata() -> Iterator[tuple[str, type[Metadata]]]:
    class Own(Metadata):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Own
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("cloud", [AWS, GCP])
def test_nothing_is_announced_until_it_is(metadata, cloud):
    host, service = metadata
    assert cloud(host).seconds_left() is None
    service.announced = True
    left = cloud(host).seconds_left()
    assert left == 30 if cloud is GCP else 85 < left <= 90


def test_a_notice_in_the_past_leaves_no_time(metadata, monkeypatch):
    host, service = metadata
    service.announced = True
    monkeypatch.setattr("raypref.cluster.spot_notice.datetime", Later)
    assert AWS(host).seconds_left() == 0


class Later(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(hours=1)


@pytest.mark.parametrize("cloud", [AWS, GCP])
def test_the_node_is_drained_once_the_notice_comes(metadata, cloud):
    host, service = metadata
    drained = []
    watcher = threading.Thread(target=watch, args=(cloud(host), drained.append, 0.01))
    watcher.start()
    while service.asked < 3:
        assert watcher.is_alive()
    assert not drained
    service.announced = True
    watcher.join(timeout=30)
    assert len(drained) == 1


def test_a_service_that_does_not_answer_is_asked_again(caplog):
    class Flaky(GCP):
        answers = iter([OSError("no route"), IncompleteRead(b"{"), ValueError("no JSON"), KeyError("time"), None, 30.0])

        def seconds_left(self):
            answer = next(self.answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

    drained = []
    watch(Flaky(), drained.append, 0.0)
    assert drained == [30.0]
    assert "no answer from the metadata service: OSError('no route')" in caplog.text


def test_a_head_that_cannot_be_told_at_once_is_told_again(caplog):
    class Going(GCP):
        left = iter([30.0, 25.0, 20.0])

        def seconds_left(self):
            return next(self.left)

    failures = iter([CalledProcessError(1, "ray"), TimeoutExpired("ray", 60.0)])
    drained = []

    def drain(seconds):
        for failure in failures:
            raise failure
        drained.append(seconds)

    watch(Going(), drain, 0.0)
    assert drained == [20.0]
    assert caplog.text.count("Ray could not be told") == 2
