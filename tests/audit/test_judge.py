"""A judge behind a plain server that answers as it is told to."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kit.audit import endpoint
from kit.audit.judge import SYSTEM, kappa, verdict_of
from kit.errors import UserError
from kit.files import iter_json_lines, write_jsonl
from kit.model.load import load_processor

KEY = "sk-of-the-test-alone"


class Server:
    """``asked``: the bodies of requests; ``headers``: of the last. ``reply`` gives what to answer
    to a body: a text, a status, or seconds to wait."""

    def __init__(self, reply):
        self.asked, self.headers, self.reply = [], {}, reply
        own = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                own.asked.append(body)
                own.headers = dict(self.headers)
                found = own.reply(body)
                if isinstance(found, float):
                    time.sleep(found)
                status = found if isinstance(found, int) else 200
                content = {"choices": [{"message": {"content": found}}]}
                sent = b"<html>" if found == "garbage" else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def served(monkeypatch):
    """Starts servers."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    servers = []

    def start(reply) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for one in servers:
        one.server.shutdown()
        one.server.server_close()


def parts_of(body: dict) -> tuple[str, str, str]:
    """Question, gold answer and answer of a request."""
    lines = body["messages"][-1]["content"].splitlines()
    return tuple(line.partition(": ")[2] for line in lines[:3])


def by_words(body: dict) -> str:
    """A judge for whom an answer is right that is the gold answer in any case."""
    _, gold, answer = parts_of(body)
    return "CORRECT" if gold.lower() == answer.lower() else "This is INCORRECT."


@pytest.fixture
def file(asked, tmp_path):
    said = [a if n else "" for n, a in enumerate(asked.said)]
    rows = [{"qid": r.qid, "pred": a} for r, a in zip(asked.records, said, strict=True)]
    write_jsonl(tmp_path / "p.jsonl", rows)
    return tmp_path / "p.jsonl"


def test_verdicts_stand_beside_their_agreement(asked, audited, file, served, tmp_path, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)
    server = served(by_words)
    settings = {"judge": server.url, "judge_model": "m", "judge_key_variable": "THE_KEY"}
    found = audited(file, **settings)
    own = found["judge"]["systems"]["p"]
    records, said = asked.records[1:], asked.said[1:]
    right = [r.answer.lower() == a.lower() for r, a in zip(records, said, strict=True)]
    assert own["judge/all"] == pytest.approx(sum(right) / len(asked.records))
    assert own["judge/all/n"] == len(asked.records)  # the one without an answer is wrong
    assert own["agreement/n"] == len(records)
    assert own["agreement"] == pytest.approx(1.0)
    assert own["kappa"] == pytest.approx(1.0)
    assert {"agreement/low", "judge/all/low", "judge/open", "judge/closed"} <= own.keys()
    different = {(r.question, r.answer, a) for r, a in zip(records, said, strict=True)}
    assert {parts_of(body) for body in server.asked} == different
    assert len(server.asked) == len(different)
    assert all(body["temperature"] == 0 and body["model"] == "m" for body in server.asked)
    assert server.headers["Authorization"] == f"Bearer {KEY}"
    assert found["judge"]["prompt"]["system"] == SYSTEM
    for path in (tmp_path / "out").iterdir():
        assert KEY not in path.read_text()
    assert "kappa 1.000" in found["text"]
    again = audited(file, **settings)
    assert len(server.asked) == len(different)
    assert (again["judge"]["asked"], again["judge"]["from_cache"]) == (0, len(different))
    assert again["judge"]["systems"] == found["judge"]["systems"]


def test_an_audit_that_was_interrupted_asks_nothing_twice(audited, file, served, monkeypatch):
    from kit.audit import judge

    monkeypatch.setattr(judge, "CHUNK", 4)
    server = served(by_words)
    settings = {"judge": server.url, "judge_model": "m", "judge_parallel": 1}
    server.reply = lambda body: by_words(body) if len(server.asked) <= 9 else 401
    with pytest.raises(UserError, match="refuses: HTTP 401"):
        audited(file, **settings)
    server.reply = by_words
    first = {parts_of(body) for body in server.asked[:8]}  # two chunks
    del server.asked[:]
    audited(file, **settings)
    assert not first & {parts_of(body) for body in server.asked}
    assert server.asked


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (429, "HTTP 429"), (503, "HTTP 503"), (0.6, "timeout"), (418, "HTTP 418"),
        ("garbage", "the reply is not of the protocol"), ("Perhaps.", "the reply is no verdict"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_what_is_not_judged_is_told_and_counts_nowhere(
    trouble, reason, audited, file, served, monkeypatch
):
    """Every answer "CT" makes trouble, others do not."""
    monkeypatch.setattr(endpoint, "TRIES", 2)
    server = served(lambda body: trouble if parts_of(body)[2] == "CT" else by_words(body))
    timeout = 0.3 if trouble == 0.6 else 30.0
    found = audited(file, judge=server.url, judge_model="m", judge_timeout=timeout)
    own, lost = found["judge"]["systems"]["p"], found["judge"]["not_judged"]
    troubled = {parts_of(body) for body in server.asked if parts_of(body)[2] == "CT"}
    assert lost == {reason: len(troubled)}
    assert own["not_judged"] >= len(troubled) > 0
    assert own["judge/all/n"] == own["agreement/n"] + 1
    assert f"not judged ({reason} {len(troubled)})" in found["text"]
    tries = sum(parts_of(body) in troubled for body in server.asked)
    again = 2 if trouble in (429, 503) else 1
    assert trouble == 0.6 or tries == again * len(troubled)


@pytest.mark.slow
def test_a_server_that_recovers_is_asked_again(audited, file, served):
    seen = set()

    def reply(body):
        key = parts_of(body)
        if key in seen:
            return by_words(body)
        seen.add(key)
        return 500

    found = audited(file, judge=served(reply).url, judge_model="m", judge_parallel=8)
    assert found["judge"]["not_judged"] == {}
    assert found["judge"]["systems"]["p"]["not_judged"] == 0


@pytest.mark.parametrize(("status", "fix"), [(401, "judge_key_variable"), (404, "/v1")])
def test_a_judge_that_refuses(status, fix, audited, file, served):
    with pytest.raises(UserError, match=f"HTTP {status}") as raised:
        audited(file, judge=served(lambda _: status).url, judge_model="m")
    assert fix in raised.value.fix


def test_a_judge_that_is_not_there(audited, file, served):
    server = served(by_words)
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(UserError, match="cannot be reached") as raised:
        audited(file, judge=server.url, judge_model="m")
    assert "--judge" in raised.value.fix


def test_a_local_model_judges_too(audited, file, tmp_path, monkeypatch):
    """One that is not trained: its replies are no verdicts, which is told."""
    monkeypatch.setattr("kit.audit.local_judge.MAX_TOKENS", 4)
    tokenizer = load_processor("tiny").tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    found = audited(file, judge=str(tmp_path / "judge"))
    assert found["judge"]["not_judged"] == {"the reply is no verdict": found["judge"]["asked"]}
    assert "agreement" not in found["judge"]["systems"]["p"]
    assert "Of p nothing was judged." in found["text"]
    cached = [row for _, row in iter_json_lines(tmp_path / "out" / "judge_cache.jsonl")]
    assert len(cached) == found["judge"]["asked"]
    assert audited(file, judge=str(tmp_path / "judge"))["judge"]["asked"] == 0
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot load the judge"):
        audited(file, judge=str(tmp_path / "empty"))


def test_kappa_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        said, exact = rng.integers(0, 2, (2, 30))
        times = rng.integers(0, 3, (4, 30))
        found = kappa(said, exact, times)
        for weights, value in zip(times, found, strict=True):
            theirs = metrics.cohen_kappa_score(said, exact, sample_weight=weights)
            assert value == pytest.approx(theirs)
    assert np.isnan(kappa(np.ones(3), np.ones(3), np.ones((1, 3)))[0])


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("CORRECT", 1.0), ("**Incorrect**", 0.0), ("It is correct.", 1.0),
        ("<think>It could be INCORRECT.</think>\nCORRECT", 1.0), ("INCORRECT", 0.0),
    ],
)  # fmt: skip
def test_a_verdict_is_the_last_word(reply, verdict):
    assert verdict_of(reply) == verdict
