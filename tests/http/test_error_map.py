"""Which error a service means: the table of codes, words and statuses, and waits in every form."""

from __future__ import annotations

import json
import time
import tracemalloc
from email.utils import formatdate
from typing import Any, Literal

import pytest

from llmproviders import (
    AuthenticationError,
    BlockedError,
    ConnectionFailed,
    EmptyReplyError,
    FailoverClient,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OpenAICompatible,
    ProtocolError,
    ProviderTimeout,
    QuotaExceededError,
    RateLimitError,
    RefusedError,
    ServerError,
    UnsupportedError,
)
from llmproviders._http.error_map import (
    check_reply,
    class_of_status,
    error_of,
    find_wait,
    is_wrong_path,
    message_of,
    page_error,
    parse_reset,
    parse_wait,
    service_message,
)
from llmproviders._http.error_rules import RULES, STATUS_OF_CODE, Rule, names
from llmproviders._http.types import HTTPRequest
from llmproviders._redact import MASK, conceal
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.promise import read

NOW = 1_767_225_590.0
JSON = "application/json"


def openai(message: str, **fields: Any) -> dict[str, Any]:
    """An error in the shape of OpenAI's."""
    return {"error": {"message": message, **fields}}


def ids(rule: Rule) -> str:
    """How a row of the table is called."""
    return f"{rule.kind.__name__}-{rule.said[:20]}"


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "code"), [(rule, code) for rule in RULES for code in sorted(rule.codes)]
    )
    def test_a_code_decides(self, rule: Rule, code: str) -> None:
        """Each code of the table means its row, whatever the words, inside a reply with 200."""
        value: dict[str, Any] = openai("words that say nothing", code=code)
        if code.startswith("base_resp."):
            number = int(code.partition(".")[2])
            value = {"base_resp": {"status_code": number, "status_msg": "nothing"}}
        error = error_of(value)
        assert (type(error), error.status_code) == (rule.kind, rule.status)
        assert str(error).startswith(rule.said)

    @pytest.mark.parametrize("rule", RULES, ids=ids)
    def test_words_decide(self, rule: Rule) -> None:
        """Each example of the table is found by its own row and by none above it."""
        assert rule.examples
        for example in rule.examples:
            error = error_of(openai(example))
            assert (type(error), str(error)) == (rule.kind, f"{rule.said}: {example}")

    @pytest.mark.parametrize(("code", "status"), sorted(STATUS_OF_CODE.items()))
    def test_a_general_code_is_a_status(self, code: str, status: int) -> None:
        """A general code inside a reply with 200 means what its status means."""
        value: dict[str, Any] = openai("m", type=code)
        kind, _, number = code.partition(".")
        if kind == "grpc":
            value = {"error": {"grpcCode": int(number), "message": "m"}}
        elif number:
            value = {"base_resp": {"status_code": int(number), "status_msg": "m"}}
        error = error_of(value)
        assert (type(error), error.status_code) == (class_of_status(status), status)

    def test_codes_stand_apart(self) -> None:
        """White space of any kind, a line's end too, parts one code from the next."""
        assert names(" a_b\n  c.1 d ") == {"a_b", "c.1", "d"}

    def test_no_code_stands_twice(self) -> None:
        """A code means one row only."""
        codes = [code for rule in RULES for code in rule.codes] + list(STATUS_OF_CODE)
        assert len(codes) == len(set(codes))


FROM_THE_WIRE: list[tuple[int, Any, type[LLMError], str]] = [
    # Spent quotas, with any status.
    (429, openai("You exceeded your current quota", code="insufficient_quota"),
     QuotaExceededError, "current quota"),
    (429, openai("Please recharge.", code="1113"), QuotaExceededError, "recharge"),
    (429, openai("5 小时的使用上限", code=1308), QuotaExceededError, "上限"),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None},
     QuotaExceededError, "balance"),
    (400, openai("Your credit balance is too low to access the API"), QuotaExceededError, "credit"),
    (400, {"code": "Arrearage", "message": "Access denied"}, QuotaExceededError, "denied"),
    (500, openai("Insufficient Balance"), QuotaExceededError, "Balance"),
    # A limit by the minute, in a quota's words.
    (429, openai("Quota exceeded for requests per minute", status="RESOURCE_EXHAUSTED"),
     RateLimitError, "per minute"),
    (429, openai("QUOTA EXCEEDED FOR REQUESTS PER MINUTE"), RateLimitError, "PER MINUTE"),
    (429, {"error": {"grpcCode": 8, "message": "quota limit exceeded: allowed 10 requests"}},
     RateLimitError, "allowed 10"),
    (429, openai("Rate limit reached on tokens per min (TPM): Limit 9, Used 9. Visit /billing",
                 code="rate_limit_exceeded"), RateLimitError, "TPM"),
    # Keys, with a 400 too.
    (400, openai("API key not valid. Please pass a valid API key.", status="INVALID_ARGUMENT"),
     AuthenticationError, "not valid"),
    (400, {"code": 4, "message": "Can't decode 'Authorization' header"},
     AuthenticationError, "decode"),
    (401, openai("Incorrect API key", type="invalid_request_error", code="invalid_api_key"),
     AuthenticationError, "Incorrect"),
    (403, openai("no", type="invalid_request_error"), AuthenticationError, "no"),
    # Filters.
    (400, openai("filtered", code="content_filter", innererror={"code": "x"}),
     RefusedError, "filtered"),
    (400, openai("Content Exists Risk", type="invalid_request_error"), RefusedError, "Risk"),
    (400, openai("不安全或敏感内容", code="1301"), RefusedError, "敏感"),
    (400, {"code": "DataInspectionFailed", "message": "bad input"}, RefusedError, "bad input"),
    # Prompts that are too long.
    (400, openai("This model's maximum context length is 4097 tokens"),
     InvalidRequestError, "shorten"),
    (500, openai("Context size has been exceeded.", code=500), InvalidRequestError, "shorten"),
    (400, {"object": "error", "message": "max ctx", "code": 400}, InvalidRequestError, "shorten"),
    (413, openai("too big", code="tokens_limit_reached"), InvalidRequestError, "shorten"),
    (413, openai("Request too large on tokens per minute (TPM): Limit 6000, Requested 7000",
                 type="tokens", code="rate_limit_exceeded"), InvalidRequestError, "shorten"),
    # What a server cannot do.
    (400, openai("gemma:2b does not support tools"), UnsupportedError, "tools"),
    (500, openai("image input is not supported - hint: mmproj", code=500),
     UnsupportedError, "image input"),
    (400, openai("Failed to deserialize: unknown variant `image_url`, expected `text`"),
     UnsupportedError, "image_url"),
    (400, openai("x is not a multimodal model"), UnsupportedError, "multimodal"),
    (404, openai("No endpoints found that support tool use.", code=404),
     UnsupportedError, "tool use"),
    (400, {"error": "this model does not support image input"}, UnsupportedError, "image input"),
    # What a request has wrong, as a server says it.
    (400, openai("Unsupported parameter: 'max_tokens' is not supported with this model.",
                 code="unsupported_parameter"), InvalidRequestError, "max_tokens"),
    (422, {"detail": [{"loc": ["body", "n"], "msg": "Extra inputs are not permitted"}]},
     InvalidRequestError, "body.n: Extra"),
    # 404: a model, a route, a wrong path.
    (404, openai("The model `x` does not exist"), ModelNotFoundError, "does not exist"),
    (404, openai("model 'llama3.2' not found, try pulling it first"), ModelNotFoundError, "pull"),
    (404, openai("The API deployment does not exist.", code="DeploymentNotFound"),
     ModelNotFoundError, "deployment"),
    (400, openai("Model Not Exist"), ModelNotFoundError, "Not Exist"),
    (400, openai("模型不存在", code="1211"), ModelNotFoundError, "模型"),
    (400, {"error": "Failed to parse model URI"}, ModelNotFoundError, "URI"),
    (404, openai("No providers fit your data policy", code=404), InvalidRequestError, "policy"),
    (404, {"detail": "Not Found"}, InvalidRequestError, "check base_url"),
    (404, {"timestamp": 1, "status": 404, "error": "Not Found", "path": "/v1/models"},
     InvalidRequestError, "check base_url"),
    (404, b"404 page not found\n", InvalidRequestError, "check base_url"),
    (404, b"<html><head><title>404 Not Found</title></head></html>",
     InvalidRequestError, "404 Not Found"),
    (404, b"", InvalidRequestError, "check base_url"),
    (405, {"detail": "Method Not Allowed"}, InvalidRequestError, "check base_url"),
    (404, b"/v1/models not found", InvalidRequestError, "/v1/models not found"),
    # Statuses, and statuses in bodies.
    (408, openai("slow"), ProviderTimeout, "slow"),
    (409, openai("busy"), ServerError, "busy"),
    (424, openai("failed behind"), ServerError, "failed behind"),
    (498, openai("flex is full"), RateLimitError, "flex is full"),
    (400, openai("later", code=429), RateLimitError, "later"),
    (503, {"error": {"grpcCode": 8, "httpCode": 429, "message": "many"}}, RateLimitError, "many"),
    (502, openai("bad gateway", type="server_error"), ServerError, "bad gateway"),
    # A model that is there and does not work now.
    (503, openai("The model is not available at the moment."), ServerError, "at the moment"),
    (503, openai("The model `x` is currently not available"), ServerError, "currently"),
    (502, openai("Model backend not available"), ServerError, "backend"),
    (500, openai("Invalid model output: could not parse the call"), ServerError, "output"),
    (503, openai("Model x is busy and not available"), ServerError, "busy"),
    # An account, or an address, that is no longer served, whatever for.
    (403, openai("Your account has been suspended for violating our usage policies"),
     AuthenticationError, "suspended"),
    (400, openai("This organization org-1 was disabled due to a violation of the policy"),
     AuthenticationError, "disabled"),
    (429, openai("Your account ak-1 is suspended, please check your plan and billing details"),
     QuotaExceededError, "suspended"),
    (403, openai("Your IP address was blocked by our security policy"), BlockedError, "IP"),
    (403, openai("The IP 203.0.113.7 has been banned"), BlockedError, "banned"),
    (400, openai("Content violates the IP policy"), RefusedError, "IP policy"),
    (400, openai("Your request was flagged; your account may be suspended"), RefusedError, "may"),
    # An address in the prompt is not that of the service.
    (400, openai("Invalid image URL: file not found"), InvalidRequestError, "as invalid"),
    (404, openai("Failed to download https://x.example/a.png: URL not found"),
     InvalidRequestError, "check model and"),
    # Others.
    (403, b"<!DOCTYPE html><title>Access Denied</title>", BlockedError, "Access Denied"),
    (403, b"error code: 1020", BlockedError, "1020"),
    (400, openai("User location is not supported for the API use."), BlockedError, "location"),
]  # fmt: skip


class TestWire:
    @pytest.mark.parametrize(("status", "body", "cls", "words"), FROM_THE_WIRE)
    def test_an_error_reply(
        self, raw_server: RawServerFactory, status: int, body: Any, cls: type[LLMError], words: str
    ) -> None:
        """The class follows code and words before the status; the words are told; what another
        try cannot mend is asked once, and the next provider answers."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "text/plain" if isinstance(body, bytes) else JSON
        server = raw_server(http_response(status, {"Content-Type": kind}, raw))
        with OpenAICompatible(base_url=f"{server.url}/v1", name="first") as first:
            error = read(first.stream("Hi")).error
            assert type(error) is cls
            assert error.status_code == status
            assert words in str(error)
            assert "no service answers" not in str(error)
            asked = len(server.requests)
            client = FailoverClient([first, ScriptedProvider(["second"])], attempts=2, wait=None)
            if not error.retryable:
                assert str(client.complete("Hi")) == "second"
                assert len(server.requests) == asked + 1

    def test_the_address_of_a_lost_connection(self) -> None:
        """An error of a connection names host and port, and no user or password."""
        with OpenAICompatible(base_url="http://me:hunter22@127.0.0.1:9/v1") as provider:
            error = read(provider.stream("Hi")).error
        assert "(at 127.0.0.1:9)" in str(error)
        assert "hunter22" not in str(error)

    def test_the_address_of_a_reply_that_breaks_off(self, raw_server: RawServerFactory) -> None:
        """So does an error in the middle of a reply."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\n"
        server = raw_server([head + b"data: "])
        with OpenAICompatible(base_url=f"{server.url}/v1") as provider:
            error = read(provider.stream("Hi")).error
        assert f"(at {server.url.removeprefix('http://')})" in str(error)


class TestInside:
    @pytest.mark.parametrize(
        ("value", "cls", "status"),
        [
            (openai("slow", type="rate_limit_error"), RateLimitError, 429),
            (openai("bad", type="authentication_error"), AuthenticationError, 401),
            (openai("too long", code="context_length_exceeded"), InvalidRequestError, 400),
            (openai("no", type="invalid_request_error"), InvalidRequestError, 400),
            (openai("m", type="overloaded_error"), ServerError, 503),
            (openai("Rate limit exceeded, slow down"), RateLimitError, 429),
            ({"error": "You exceeded your current quota"}, QuotaExceededError, 402),
            ({"error": "API key expired"}, AuthenticationError, 401),
            ({"status": 500, "message": "Internal"}, ServerError, 500),
            ({"error": {"grpcCode": 16, "message": "m"}}, AuthenticationError, 401),
            ({"code": 14, "message": "m", "details": []}, ServerError, 503),
            ({"base_resp": {"status_code": 1008, "status_msg": "m"}}, QuotaExceededError, 402),
            ({"base_resp": {"status_code": 1002, "status_msg": "m"}}, RateLimitError, 429),
            ({"error": "Unexpected endpoint or method. (POST /x)"}, InvalidRequestError, 404),
            ([{"error": {"code": 400, "message": "API key not valid."}}], AuthenticationError, 400),
            ({"error": {"code": 8, "message": "m"}}, ServerError, None),
            ({"error": {"code": True, "status": 1.5}}, ServerError, None),
        ],
    )
    def test_an_error_inside_a_reply(
        self, value: Any, cls: type[LLMError], status: int | None
    ) -> None:
        """An error inside a reply with 200 has the class of its words, and a status to go by."""
        error = error_of(value)
        assert (type(error), error.status_code) == (cls, status)

    def test_a_moment_inside_a_reply(self) -> None:
        """The moment that such an error names is one of this machine's clock."""
        moment = time.time() + 600
        error = error_of({"error": {"message": "slow down", "code": 429, "reset_at": moment}})
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 600

    @pytest.mark.parametrize(
        ("value", "cls"),
        [
            ({"message": '{"code": "1308"}'}, QuotaExceededError),
            ({"message": '[{"code": "1308"}]'}, QuotaExceededError),
            ({"message": '"code 1308"'}, ServerError),
            ({"raw": '{"code": "1308"}'}, QuotaExceededError),
            ({"raw": {"code": "1308"}}, ServerError),
            (openai("m", metadata={"raw": '{"code": "1308"}'}), QuotaExceededError),
            ({"error": [{"message": "m"}, {"code": "1308"}]}, QuotaExceededError),
            ({"error": {"base_resp": {"status_code": 1008}}}, QuotaExceededError),
            ({"base_resp": [{"status_code": 1008}]}, QuotaExceededError),
            ({"base_resp": '{"status_code": 1008}'}, QuotaExceededError),
            ({"base_resp": {"error": {"status_code": 1008}}}, QuotaExceededError),
            ({"base_resp": {"raw": '{"status_code": 1008}'}}, QuotaExceededError),
            ({"error": {"status_code": 1008}}, ServerError),
            ({"code": 16, "details": []}, AuthenticationError),
            ({"grpcCode": 16, "code": 3, "details": []}, AuthenticationError),
            ({"code": 16}, ServerError),
            ({"code": 16.0, "details": []}, ServerError),
            ({"code": 17, "details": []}, ServerError),
            ({"code": "4290"}, ServerError),
            ({"code": "1429"}, ServerError),
            ({"code": "x" * 100}, ServerError),
        ],
    )
    def test_where_a_code_stands(self, value: Any, cls: type[LLMError]) -> None:
        """A code counts in lists, in strings of JSON and in what a gateway passes on; a number of
        gRPC or of base_resp is none of another's."""
        assert type(error_of(value)) is cls

    def test_how_deep_a_code_may_stand(self) -> None:
        """A code inside of eight objects is found, deeper ones are not looked for."""
        value: dict[str, Any] = {"code": "1308"}
        found = []
        for _ in range(10):
            found.append(type(error_of(value)))
            value = {"error": value}
        assert found == [QuotaExceededError] * 8 + [ServerError] * 2

    def test_it_asks_to_wait(self) -> None:
        """A hint to wait counts inside a reply, too."""
        assert error_of(openai("Please try again in 7.66s.", code=429)).retry_after == 7.66

    def test_it_tells_the_words(self) -> None:
        """The service's words are in the message and in ``detail``; without any it says so."""
        error = error_of(openai("Something odd"))
        assert (str(error), error.detail) == (
            "the service reports an error: Something odd",
            "Something odd",
        )
        assert str(error_of({"error": {}})) == "the service reports an error"

    def test_it_asks_to_wait_until_a_moment(self) -> None:
        """A moment to wait for counts from the time that it is now."""
        value = {**openai("Slow down", code=429), "reset_at": NOW + 30}
        assert error_of(value, now=NOW).retry_after == 30.0
        assert error_of(value, now=NOW + 10).retry_after == 20.0


class TestPages:
    @pytest.mark.parametrize(
        ("page", "title"),
        [
            (b"<html><head><title>Sign in &amp; go</title></head></html>", "Sign in & go"),
            (b"<HTML><TITLE lang=en>\n Sign\n in </TITLE></HTML>", "Sign in"),
            (b"<html><title> </title><h1>Sign in</h1></html>", "Sign in"),
            (b"<error><message>No such host</message></error>", "No such host"),
            (b"<html><title>\xff</title></html>", "\ufffd"),
        ],
    )
    def test_its_title_is_told(self, page: bytes, title: str) -> None:
        """A web page with 200 is a protocol error with its title, whatever the title stands in."""
        error = page_error(page)
        assert (type(error), error.status_code, error.detail) == (ProtocolError, 200, title)
        assert str(error).endswith(f"check base_url (HTTP 200: {title})")

    def test_one_without_a_title(self) -> None:
        """Where there is none, nothing is told of it; a long one is told in short."""
        error = page_error(b"<html><body>Hi</body></html>")
        assert (error.detail, str(error)[-10:]) == (None, "(HTTP 200)")
        long = page_error(b"<title>" + b"x" * 1000 + b"</title>").detail
        assert long is not None
        assert long.startswith("x" * 250)
        assert len(long) <= 303

    def test_a_challenge(self) -> None:
        """A page that wants a browser is a block, with the status that it came with."""
        error = page_error(b"<html><head><TITLE>Just a moment...</TITLE></head></html>")
        assert (type(error), error.status_code) == (BlockedError, 200)
        assert "access-denied page" in str(error)

    @pytest.mark.parametrize(
        ("error", "is_wrong"),
        [
            (InvalidRequestError("no", status_code=404), True),
            (InvalidRequestError("no", status_code=405), True),
            (InvalidRequestError("no", status_code=404, detail="Not Found"), True),
            (InvalidRequestError("no", status_code=404, detail="no such prompt"), False),
            (InvalidRequestError("no", status_code=400), False),
            (ModelNotFoundError("no", status_code=404), False),
        ],
    )
    def test_an_address_where_nothing_is(self, error: LLMError, is_wrong: bool) -> None:
        """A 404 or 405 that speaks of nothing else says that the address is wrong."""
        assert is_wrong_path(error) is is_wrong

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (418, InvalidRequestError),
            (499, InvalidRequestError),
            (500, ServerError),
            (599, ServerError),
            (600, ProtocolError),
            (399, ProtocolError),
        ],
    )
    def test_statuses_that_nobody_registered(self, status: int, kind: type[LLMError]) -> None:
        """What stands in no table goes by its hundred."""
        assert issubclass(class_of_status(status), kind)


class TestWords:
    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ({"error": "plainly"}, "plainly"),
            ({"error": {"message": "m"}}, "m"),
            ({"error": [{"message": "m"}, {"message": "n"}]}, "m; n"),
            ({"error": ["m"]}, "m"),
            ([{"error": {"message": "m"}}], "m"),
            ({"errors": [{"message": "m"}]}, "m"),
            ({"errors": ["m", "n"]}, "m; n"),
            ({"detail": "m"}, "m"),
            ({"detail": {"url": "u", "error": {"status": 402, "message": "m"}}}, "m"),
            ({"detail": [{"loc": ["body", "x"], "msg": "m"}]}, "body.x: m"),
            ({"object": "error", "message": {"detail": [{"msg": "m"}]}}, "m"),
            ({"error": "invalid_client", "error_description": "m"}, "m"),
            ({"code": 422, "details": "m"}, "m"),
            ({"base_resp": {"status_code": 1, "status_msg": "m"}}, "m"),
            ({"error": {"grpcCode": 3, "httpCode": 400, "message": "m", "details": []}}, "m"),
            ({"status": 404, "error": "Not Found", "path": "/x"}, "Not Found"),
            ({"message": '{"error": {"message": "m"}}'}, "m"),
            ({"message": "{not json"}, "{not json"),
            (openai("Provider returned error", metadata={"raw": '{"error": "busy"}'}),
             "Provider returned error: busy"),
            ({"error": {"message": "two\nlines\x1b[31m\x07"}}, "two lines[31m"),
            ({"error": {}, "message": "m"}, "m"),
            ({"error": {"message": "m"}, "message": "outside"}, "m"),
            ({"errors": [{"message": "m"}], "message": "outside"}, "outside: m"),
            ({"error": "a_code", "message": "m"}, "m"),
            (openai("m", code="unsupported_value", param="seed"), "seed: m"),
            (openai("no seed", code="unsupported_value", param="seed"), "no seed"),
            (openai("m", code="unsupported_value", param=None), "m"),
            (openai("m", code="another", param="seed"), "m"),
            ({"Message": "m"}, "m"),
            ({"error_code": 18, "error_msg": "m"}, "m"),
            ({"Response": {"Error": {"Code": "x", "Message": "m"}}}, "m"),
            ({"fault": {"faultstring": "m", "detail": {"errorcode": "x"}}}, "m"),
            ({"errors": "m"}, "m"),
            ({"errors": {"model": ["a", "b"], "n": "c"}}, "model: a; b; n: c"),
            ({"errors": [{"model": ["m"]}]}, "model: m"),
            ({"error": {"model": ["m"]}}, "model: m"),
            ({"error": {"model": ["m"]}, "message": "outside"}, "outside: model: m"),
            ({"detail": {"model": "m"}}, "model: m"),
            ({"detail": {"model": {"code": "x", "message": "m"}}}, "model: m"),
            ({"error": {"messages": ["a", "b"]}}, "a; b"),
            ({"error": {"message": {"text": "m"}}}, "m"),
            ({"message": {"text": "m", "lang": "en"}}, "m; lang: en"),
            ({"message": "Invalid.", "errors": {"model": ["m"]}}, "Invalid: model: m"),
            ({"title": "Invalid.", "status": 400, "errors": {"Model": ["m"]}, "traceId": "00-1"},
             "Invalid: Model: m"),
            ({"title": "t", "invalid_params": [{"name": "n", "reason": "m"}]}, "t: m"),
            (openai("Denied", metadata={"reasons": ["sexual", "hate"]}), "Denied: sexual; hate"),
            (openai("m", details=[{"reason": "FOR_PROGRAMS"}]), "m"),
            ({"error": {"message": ""}}, None),
            ({"error": {"code": "x", "request_id": "r", "metadata": {"a": "b"}}}, None),
            ({"choices": []}, None),
            (None, None),
        ],
    )  # fmt: skip
    def test_shapes(self, value: Any, said: str | None) -> None:
        """The service's words are found in every shape, on one line, without control characters."""
        assert message_of(value) == said

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"<html><head><TITLE>\n502 Bad\nGateway</TITLE></head>", "502 Bad Gateway"),
            (b"<!doctype html><body><h1>Sorry &amp; bye</h1>", "Sorry & bye"),
            (b"<html><body>nothing</body>", None),
            (b"\n <html><body>nothing</body>", None),
            (b"<?xml version='1.0'?><Error><Message>no</Message></Error>", "no"),
            (b'data: {"error": {"message": "m"}}\n\n', "m"),
            (b'event: error\ndata: {"message": "m"}\n\n', "m"),
            (b'error: {"message": "m"}\n\n', "m"),
            (b"data: no object\n\n", "data: no object"),
            (b'\n\n{"error": "m"}', "m"),
            (b'{"error": {"code": "bad_thing"}}', "bad_thing"),
            (b'{"type": "error", "error": {"type": "bad_thing"}}', "bad_thing"),
            (b'{"error": {"code": 429}}', None),
            (b"\xef\xbb\xbf" + b'{"error": "m"}', "m"),
        ],
    )
    def test_bodies(self, body: bytes, said: str | None) -> None:
        """A body is read for what it is: JSON, a page, a stream of events, plain text."""
        assert service_message(body) == said

    def test_a_key_where_the_words_are_cut(self) -> None:
        """A key that a service echoes across the place where its words are cut is masked whole."""
        key = "sk-echoed-" + "k" * 60
        conceal(key)
        for length in range(430, 500, 7):
            said = message_of({"error": "x" * length + key})
            assert said is not None
            assert "sk-echoed" not in said
            assert MASK in said or len(said) == 500

    @pytest.mark.parametrize("before", ["no", "", "no" * 40_000])
    def test_a_key_where_a_long_text_is_cut(self, before: str) -> None:
        """Of a key across the place where a long text is cut, nothing is shown."""
        key = "sk-echoed-" + "k" * 60
        conceal(key)
        for length in range(2**16 - 70, 2**16, 7):
            code = before + " " * (length - len(before)) + key + "!"
            for value in ({"error": code}, {"code": code}):
                assert "sk-echoed" not in str(error_of(value))

    def test_long_texts(self) -> None:
        """A text of megabytes in an error costs little more memory, whatever stands in it."""
        many = "[" + "{}," * 2**20 + "{}]"
        tracemalloc.start()
        try:
            for value in (many, {"error": many}, {"message": {"text": many}, "code": many}):
                assert isinstance(error_of(value), ServerError)
            assert tracemalloc.get_traced_memory()[1] < 4 * len(many)
        finally:
            tracemalloc.stop()

    def test_errors_in_strings(self) -> None:
        """What gateways wrapped into strings is unwrapped a few times; then it is told as it is."""
        said, behind = [], []
        text = "m"
        for _ in range(6):
            said.append(message_of(text) == "m")
            behind.append(message_of(openai("P", metadata={"raw": text})) == "P: m")
            text = json.dumps([text])
        assert said == [True] * 5 + [False]
        assert behind == [True] * 4 + [False] * 2

    def test_deep_and_wide_bodies(self) -> None:
        """A body that nests or repeats without end costs no more than its beginning."""
        value: Any = "m"
        for _ in range(500):
            value = {"error": value, "message": [value]}
        assert isinstance(error_of(value), ServerError)
        assert isinstance(error_of({"errors": [{"message": "m"}] * 100_000}), LLMError)


class TestWaits:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("2s", 2.0),
            ("1m30s", 90.0),
            ("6m0s", 360.0),
            ("1h2m3s", 3723.0),
            ("500ms", 0.5),
            ("20 milliseconds", 0.02),
            ("34.074824224s", 34.074824224),
            ("20 seconds", 20.0),
            ("PT1M30S", 90.0),
            ("00:01:30", 90.0),
            ("00:61:30", None),
            ("2 minutes and 3 seconds", 123.0),
            ("2025-12-31T23:59:55Z", 5.0),
            ("2025-12-31T23:59:55.500Z", 5.5),
            ("2025-12-31T23:59:55.123456789+00:00", 5.123456),
            ("2026-01-01 02:59:55+0300", 5.0),
            (formatdate(NOW + 9, usegmt=True), 9.0),
            (str(int(NOW) + 9), 9.0),
            (str((int(NOW) + 9) * 1000), 9.0),
            (str(int(NOW) - 9), None),
            ("5x", None),
            ("1e3", None),
            ("-3s", None),
            ("2025-13-31T23:59:55Z", None),
            ("1d" * 9, None),
            ("8d", 7 * 24 * 3600.0),
            ("", None),
            (None, None),
        ],
    )
    def test_one_value(self, value: str | None, seconds: float | None) -> None:
        """Numbers, durations, dates and moments are read; nonsense and what is past are not."""
        found = parse_wait(value, now=NOW)
        assert found == (None if seconds is None else pytest.approx(seconds, abs=1e-3))

    @pytest.mark.parametrize(
        ("words", "seconds"),
        [
            ("Rate limit reached. Please try again in 7.66s. Visit", 7.66),
            ("Please try again in 1m30.5s.", 90.5),
            ("Please try again in 20ms.", 0.02),
            ("exceeded token rate limit. Please retry after 6 seconds.", 6.0),
            ("Please retry in 34.07s.", 34.07),
            ("Your limit will reset at 2026-01-01 08:00:00", 10.0),
            ("您的限额将在 2026-01-01 08:00:00 重置。", 10.0),
            ("Please try again at 2026-01-01T00:00:00Z.", 10.0),
            ("RETRY IN 5 SECONDS", 5.0),
            ("TRY AGAIN AT 2026-01-01 00:00:00 UTC", 10.0),
            ("请在 30 秒后重试", 30.0),
            ("请 2 分钟后再试", 120.0),
            ("Try again later, 5 models are busy", None),
            ("Limit 3s", None),
        ],
    )
    def test_sentences(self, words: str, seconds: float | None) -> None:
        """A sentence that names a time to wait is understood; other numbers are not."""
        assert find_wait(words, now=NOW) == seconds

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"X-RateLimit-Reset": "30"}, 30.0),
            ({"x-ratelimit-reset": str((int(NOW) + 9) * 1000)}, 9.0),
            ({"RateLimit-Reset": "7"}, 7.0),
            ({"RateLimit": "limit=10, remaining=0, reset=5"}, 5.0),
            ({"RateLimit": '"default";r=0;t=5'}, 5.0),
            ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
            (
                {
                    "x-ratelimit-reset-requests": "2m59.56s",
                    "x-ratelimit-remaining-requests": "14370",
                    "x-ratelimit-reset-tokens": "7.66s",
                    "x-ratelimit-remaining-tokens": "0",
                },
                7.66,
            ),
            ({"anthropic-ratelimit-tokens-reset": "2025-12-31T23:59:55Z"}, 5.0),
            ({"x-rate-limit-reset": "6"}, 6.0),
            ({"x-cache-reset": "6"}, None),
            ({"x-ratelimit-limit": "30"}, None),
            (
                {
                    "ratelimit": "limit=10, remaining=3, reset=50",
                    "x-ratelimit-reset-tokens": "9",
                    "x-ratelimit-remaining-tokens": " 0",
                },
                9.0,
            ),
        ],
    )
    def test_limits_that_are_reset(self, headers: dict[str, str], seconds: float | None) -> None:
        """Of several limits the one that is spent counts, else the one that takes longest."""
        assert parse_reset(headers, now=NOW) == seconds

    @pytest.mark.parametrize(
        ("status", "headers", "body", "seconds"),
        [
            (429, {"Retry-After": "2s"}, openai("m"), 2.0),
            (429, {"X-RateLimit-Reset-Requests": "1m30s"}, openai("m"), 90.0),
            (429, {"Retry-After": "3", "x-ratelimit-reset": "30"}, openai("try in 9s"), 3.0),
            (503, {"x-ratelimit-reset": "30"}, openai("m"), None),
            (503, {}, {"error": "Model x is currently loading", "estimated_time": 20.0}, 20.0),
            (429, {}, openai("Please try again in 7.66s."), 7.66),
            (429, {}, openai("m", details=[{"@type": "x.RetryInfo", "retryDelay": "34.5s"}]), 34.5),
            (429, {}, openai("m", metadata={"headers": {"X-RateLimit-Reset": "12"}}), 12.0),
            (429, {}, {"message": "m", "retry_after": 1.5}, 1.5),
            (429, {}, {"message": "m", "retry-after": "4s"}, 4.0),
            (429, {}, openai("m", retry_after_ms=1500), 1.5),
            (429, {}, openai("m", metadata={"headers": {"Retry-After": "9"}}), 9.0),
            (429, {"x-ms-retry-after-ms": "700"}, openai("m"), 0.7),
        ],
    )
    def test_on_the_wire(
        self,
        raw_server: RawServerFactory,
        status: int,
        headers: dict[str, str],
        body: Any,
        seconds: float | None,
    ) -> None:
        """A wait is taken from the header for it, else from the body, else from the limits."""
        reply = http_response(status, {"Content-Type": JSON, **headers}, json.dumps(body).encode())
        with OpenAICompatible(base_url=f"{raw_server(reply).url}/v1") as provider:
            error = read(provider.stream("Hi")).error
        assert error.retry_after == seconds

    @pytest.mark.parametrize(
        ("quota", "cls"),
        [
            ("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", RateLimitError),
            ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", QuotaExceededError),
        ],
    )
    def test_a_quota_by_the_minute_or_by_the_day(self, quota: str, cls: type[LLMError]) -> None:
        """Gemini words both alike: what is over in a minute is worth a wait, a spent day is not."""
        error = error_of(
            openai(
                "You exceeded your current quota, please check your plan. Please retry in 34.07s.",
                code=429,
                status="RESOURCE_EXHAUSTED",
                details=[{"violations": [{"quotaId": quota}]}, {"retryDelay": "34s"}],
            )
        )
        assert (type(error), error.retry_after) == (cls, 34.0)


class Answered:
    """What is looked at of a reply; counts how often its body is read."""

    def __init__(
        self,
        status: int,
        body: bytes | LLMError = b"",
        content_type: str = JSON,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers or {}
        self.request_id = "r-1"
        self.read_up_to: list[int] = []

    def read_error(self, limit: int) -> bytes:
        """The beginning of the body."""
        self.read_up_to.append(limit)
        if isinstance(self.body, LLMError):
            raise self.body
        return self.body[:limit]


def check(reply: Answered, accept: Literal["any", "html"] = "any") -> LLMError | None:
    """The error for a reply, or None."""
    call = HTTPRequest("GET", "http://service.invalid", accept=accept)
    try:
        check_reply(reply, call, now=NOW, most=2000)  # type: ignore[arg-type]
    except LLMError as error:
        return error
    return None


HTML = "text/html"
PAGE = b"<html><title>Hello</title></html>"


class TestReplies:
    @pytest.mark.parametrize(
        ("status", "content_type", "accept"),
        [
            (200, JSON, "any"),
            (200, "", "any"),
            (200, HTML, "html"),
            *((status, kind, "any") for status in (201, 202, 206, 299) for kind in (JSON, HTML)),
        ],
    )
    def test_a_success(
        self, status: int, content_type: str, accept: Literal["any", "html"]
    ) -> None:
        """A success is no error, but for a page that nobody asked for; its body is left alone."""
        reply = Answered(status, PAGE, content_type)
        assert check(reply, accept) is None
        assert reply.read_up_to == []

    @pytest.mark.parametrize(
        ("status", "content_type", "body", "cls", "words"),
        [
            (200, HTML, PAGE, ProtocolError, "check base_url (HTTP 200: Hello)"),
            (200, HTML, b"<p>Hello</p>", ProtocolError, "check base_url (HTTP 200: <p>Hello</p>)"),
            (200, HTML, b"<title>Just a moment...", BlockedError, "access-denied page"),
            (503, JSON, b"<html><title>Just a moment...", BlockedError, "access-denied page"),
            (503, HTML, PAGE, ServerError, "the service answered 503 (HTTP 503: Hello)"),
            (403, JSON, PAGE, BlockedError, "access-denied page"),
            (403, HTML, b"<p>no</p>", BlockedError, "access-denied page"),
            (403, HTML, b"no", AuthenticationError, "(HTTP 403: no)"),
            (403, JSON, b'{"error": "<p>no</p>"}', AuthenticationError, "(HTTP 403: <p>no</p>)"),
            (404, HTML, b"a < b", InvalidRequestError, "(HTTP 404: a < b)"),
            (404, HTML, PAGE, InvalidRequestError, "check base_url (HTTP 404: Hello)"),
            (405, JSON, b"", InvalidRequestError, "check base_url (HTTP 405)"),
            (404, JSON, b'{"error": "m"}', InvalidRequestError, "base_url (HTTP 404: m)"),
            (406, HTML, PAGE, InvalidRequestError, "answered 406 (HTTP 406: Hello)"),
            (300, JSON, b"", ProtocolError, "(HTTP 300)"),
            (400, JSON, b'{"error": "m"}', InvalidRequestError, "(HTTP 400: m)"),
            (400, JSON, b"", InvalidRequestError, "(HTTP 400)"),
            (408, JSON, b"", ProviderTimeout, "(HTTP 408)"),
        ],
    )
    def test_a_failure(
        self, status: int, content_type: str, body: bytes, cls: type[LLMError], words: str
    ) -> None:
        """The error has the reply's status, words and id; a page counts as one whatever it is
        called, and no more of the body is read than is allowed."""
        reply = Answered(status, body, content_type)
        error = check(reply)
        assert type(error) is cls
        assert words in str(error)
        assert str(error).endswith(")")
        assert (error.status_code, error.request_id) == (status, "r-1")
        assert error.retryable is cls("m").retryable
        assert reply.read_up_to == [2000]

    @pytest.mark.parametrize(
        ("status", "code", "cls"),
        [
            (401, "1000", AuthenticationError),
            (400, "1000", AuthenticationError),
            (500, "1000", ServerError),
            (502, "1110", ServerError),
            (500, "invalid_api_key", AuthenticationError),
            (429, "1000", RateLimitError),
            (429, "1112", AuthenticationError),
            (429, "1308", QuotaExceededError),
            (500, "1308", QuotaExceededError),
        ],
    )
    def test_numbers_that_two_services_use(
        self, status: int, code: str, cls: type[LLMError]
    ) -> None:
        """With a server's failure or a rate limit, a number of one service for a refused key is
        another's for its trouble; that of a locked account, and what is no key's, is not."""
        body = json.dumps(openai("m", code=code)).encode()
        assert type(check(Answered(status, body))) is cls

    @pytest.mark.parametrize(
        ("status", "code", "cls"),
        [
            (500, "not_found", InvalidRequestError),
            (500, "permission_denied", AuthenticationError),
            (422, "permission_denied", InvalidRequestError),
            (499, "permission_denied", InvalidRequestError),
            (422, "overloaded", InvalidRequestError),
            (500, "429", RateLimitError),
            (422, "429", RateLimitError),
        ],
    )
    def test_a_general_code_beside_a_status(
        self, status: int, code: str, cls: type[LLMError]
    ) -> None:
        """A general code counts where the status is only a server's failure, a number always."""
        body = json.dumps(openai("m", code=code)).encode()
        assert type(check(Answered(status, body))) is cls

    @pytest.mark.parametrize("status", [101, 199, 204, 205, 304])
    def test_a_reply_that_has_no_body(self, status: int) -> None:
        """What comes after it is another's: it is not read, and not told."""
        reply = Answered(status, b"m")
        error = check(reply)
        assert type(error) is (EmptyReplyError if status in (204, 205) else ProtocolError)
        assert (str(error)[-11:], error.detail) == (f" (HTTP {status})", None)
        assert reply.read_up_to == []

    def test_a_proxy_that_wants_a_password(self) -> None:
        """Another try would not bring one."""
        error = check(Answered(407, b"m"))
        assert type(error) is ConnectionFailed
        assert not error.retryable

    @pytest.mark.parametrize(
        ("status", "headers", "body", "seconds"),
        [
            (429, {"retry-after": formatdate(NOW + 9, usegmt=True)}, b"", 9.0),
            (429, {"x-ratelimit-reset": str(int(NOW) + 9)}, b"", 9.0),
            (429, {}, b'{"reset_at": %d}' % (NOW + 9), 9.0),
            (429, {}, b"Try again at 2026-01-01T00:00:00Z", 10.0),
            (503, {}, b'{"estimated_time": %d}' % (NOW + 9), 9.0),
            (429, {}, b'{"headers": {"X-Rate-Limit-Reset": "%d"}}' % (NOW + 9), 9.0),
            (429, {"x-ratelimit-reset": "7"}, b"again in 9s", 9.0),
            (429, {"retry-after": "5", "x-ratelimit-reset": "7"}, b"again in 9s", 5.0),
            (500, {"retry-after": "5"}, b"", 5.0),
            (500, {"x-ratelimit-reset": "7"}, b"", None),
        ],
    )
    def test_moments_count_from_now(
        self, status: int, headers: dict[str, str], body: bytes, seconds: float | None
    ) -> None:
        """A moment to wait for, in a header or in the body, counts from the time that it is."""
        error = check(Answered(status, body, headers=headers))
        assert error is not None
        assert error.retry_after == seconds


def test_a_web_page_with_200_is_told_apart(raw_server: RawServerFactory) -> None:
    """A page in place of a reply says to look at the address."""
    page = http_response(200, {"Content-Type": "text/html"}, b"<html><title>Hello</title></html>")
    with OpenAICompatible(base_url=f"{raw_server(page).url}/v1") as provider:
        error = read(provider.stream("Hi")).error
    assert isinstance(error, ProtocolError)
    assert "check base_url (HTTP 200: Hello)" in str(error)
