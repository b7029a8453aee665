"""A judge behind an OpenAI-compatible endpoint (vLLM, llama.cpp, Ollama, or a company's), asked by
plain HTTP."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from kit.audit.judge import NotJudged
from kit.errors import UserError

TRIES = 4
FIRST_WAIT = 0.5  # seconds before the second try; twice as long before each one after it
LONGEST_WAIT = 30.0
MOST_BYTES = 1_000_000  # of a reply
MAX_TOKENS = 512  # some think before they judge
REFUSALS = {
    401: "set the key in the environment variable that --judge_key_variable names",
    403: "set the key in the environment variable that --judge_key_variable names",
    404: "check the address (it often ends in /v1) and --judge_model",
    400: "check --judge_model, and that the model takes a system message",
    422: "check --judge_model, and that the model takes a system message",
}


@dataclass(frozen=True)
class Endpoint:
    """``key_variable`` names the environment variable of the key, which is read for each request
    and stored nowhere."""

    url: str
    model: str
    key_variable: str
    timeout: float

    def __call__(self, messages: list[dict]) -> str:
        """The reply at temperature 0, tried again when the server is busy, broken or slow.

        Raises:
            NotJudged: it still is, or replies something else.
            UserError: nobody answers there, or the request is refused for good.
        """
        request = self._request(messages)
        wait, reason = FIRST_WAIT, ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(wait)
                wait *= 2
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return _content(response.read(MOST_BYTES))
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}"
                if error.code in REFUSALS:
                    what = f"the judge refuses: HTTP {error.code} {_said(error)}".rstrip()
                    fix = REFUSALS[error.code]
                    raise UserError(what, where=self.url, fix=fix) from error
                if error.code != 429 and error.code < 500:
                    break
                wait = min(LONGEST_WAIT, max(wait, _retry_after(error)))
            except TimeoutError:
                reason = "timeout"
            except urllib.error.URLError as error:
                if isinstance(error.reason, TimeoutError):
                    reason = "timeout"
                    continue
                fix = "start it, or check the address given as --judge"
                what = f"the judge cannot be reached: {error.reason}"
                raise UserError(what, where=self.url, fix=fix) from error
            except (ConnectionError, http.client.HTTPException):
                reason = "the connection broke"
        raise NotJudged(reason)

    def _request(self, messages: list[dict]) -> urllib.request.Request:
        body = {
            "model": self.model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS,
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        url = self.url.rstrip("/")
        if not url.endswith("/chat/completions"):
            url += "/chat/completions"
        return urllib.request.Request(url, json.dumps(body).encode(), headers)


def _content(body: bytes) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise NotJudged("the reply is not of the protocol") from error
    if not isinstance(content, str):
        raise NotJudged("the reply is not of the protocol")
    return content


def _said(error: urllib.error.HTTPError) -> str:
    """What a refusal says, in short."""
    try:
        return " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
    except OSError:
        return ""


def _retry_after(error: urllib.error.HTTPError) -> float:
    try:
        return float(error.headers.get("Retry-After", 0))
    except ValueError:  # a date
        return 0.0
