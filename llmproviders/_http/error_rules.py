"""The codes, words and statuses with which services report errors, and their meaning."""

from __future__ import annotations

from typing import NamedTuple

from .. import errors


class Rule(NamedTuple):
    """What services say for one class of error.

    Attributes:
        kind: the class.
        status: the HTTP status that usually goes with it; an error that came inside a successful
            reply, without a number of its own, gets it.
        said: the description for the caller, and what to do.
        codes: values of ``code``, ``type``, ``status`` and ``reason`` in an error, in lower case.
            A number of ``base_resp`` or of gRPC has that as a prefix.
        words: a pattern for the service's message, or "".
        unless: a pattern for messages that mean something else, or "".
        examples: messages of real services that ``words`` finds.
    """

    kind: type[errors.LLMError]
    status: int
    said: str
    codes: frozenset[str] = frozenset()
    words: str = ""
    unless: str = ""
    examples: tuple[str, ...] = ()


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WRONG_PATH = Rule(
    errors.InvalidRequestError,
    404,
    "the service has nothing at this address; check base_url",
    words=(
        r"unexpected endpoint|404 page not found|invalid url \((post|get)|no route (matched|for)"
        r"|unknown (request )?(url|endpoint|route|path)|no such (route|endpoint|path|url)"
        r"|\b(route|endpoint|url|uri|path)\b.{0,80}\b(not found|not exist|wasn't found|unknown)"
        r"|cannot (post|get) /|no handler found|no static resource"
        r"|method not allowed|^(http )?(error )?(404:?\s*[-|]?\s*)?"
        r"((the )?(requested )?(page|file|resource) )?(was )?not found\b[.!]?($|\n| - )"
    ),
    # The address of something in the prompt.
    unless=(
        r"\b(image|audio|video|media|file|document|attachment)s?[ _]?ur[li]s?\b"
        r"|\b(download|fetch|retrieve)(ed|ing)?\b"
    ),
    examples=(
        "Unexpected endpoint or method. (POST /chat/completions)",
        "404 page not found",
        "404 Not Found",
        "Not Found",
        "Invalid URL (POST /chat/completions)",
        "Cannot POST /chat/completions",
        "no Route matched with those values",
        "File Not Found",
        "Resource not found",
        "The requested URL was not found on the server.",
        "Method Not Allowed",
    ),
)


_FROM_HERE = (
    r"\bip( address(es)?)?( \S{3,45})? (is|was|has been|are|were)"
    r" (permanently |temporarily )?(blocked|banned|blacklisted|denied|not allowed)"
)


RULES: tuple[Rule, ...] = (
    Rule(
        errors.QuotaExceededError,
        402,
        "the account's tokens are used up: there is no quota or credit left",
        codes=names(
            "insufficient_quota insufficient_balance insufficient_credits insufficient_funds"
            " insufficient_user_quota quota_exceeded quota_exhausted quotaexceeded"
            " billing_hard_limit_reached billing_not_active billing_error credit_balance_too_low"
            " payment_required exceeded_current_quota_error usage_limit_reached arrearage"
            " accountoverdueerror budget_exceeded credit_limit setlimitexceeded"
            " allocationquota.freetieronly 1113 1304 1308 1309 1310 30001 base_resp.1008"
            " base_resp.2056"
        ),
        words=(
            r"insufficient[ _](account |user |tokens? )?(balance|credits?|funds|quota)"
            r"|\b(balance|credits?|funds)\b.{0,40}\b(insufficient|too low|not enough|exhausted"
            r"|used up|depleted)|not enough (credits?|balance|funds)|out of credits?"
            r"|run out of (credits?|funds)|requires more credits|have any credits"
            r"|(exceed(ed|ing)|exhausted|reach(ed|ing)|used up|hit)\b.{0,40}\b(quota"
            r"|spend(ing)? (limit|cap)|usage limit|billing limit)\b"
            r"|\bquota\b.{0,40}\b(exceeded|exhausted|reached|used up|depleted|spent)"
            r"|payment required|billing hard limit|usage limit reached|over ?budget|overdue balance"
            r"|\b(credit|key) limit (exceeded|reached)|exceeded ?budget|budget has been exceeded"
            r"|\bfree (tier|trial|allocation|credits?|quota)\b.{0,40}(exhausted|used up|expired)"
            r"|(used up|exhausted)\b.{0,20}\bfree (tier|trial|allocation|credits?)"
            r"|out of .{0,20}\bquota|account( \S{1,40})? (is|was|has been)"
            r" (not active|suspended|in arrears|disabled)\b.{0,60}\b(billing|balance|credit"
            r"|payment)|account is in good standing|daily request limit"
            r"|reached the .{0,20}\blimit\b.{0,60}\bpaused"
            r"|余额不足|欠费|额度(不足|失败|已用尽|已用完)|使用上限"
        ),
        # A per-minute limit is worded like a quota but is over soon.
        unless=(
            r"\A(?![\s\S]*per[ _-]?(day|week|month))[\s\S]*(per[ _-]?(second|minute|min|hour)"
            r"(?![a-z])|perminute|allowed [0-9]+ requests|e\.g\. check quota"
            r"|(try again|retry) (in|after) [0-9](?!.{0,8}\bday))"
        ),
        examples=(
            "You exceeded your current quota, please check your plan and billing details.",
            "Insufficient Balance",
            "Insufficient balance or no resource package. Please recharge.",
            "Your credit balance is too low to access the API.",
            "This request requires more credits, or fewer max_tokens.",
            "You have exceeded your monthly included credits quota",
            "Quota exceeded for quota metric 'requests' per day",
            "Payment Required",
            "Account suspended due to reaching the monthly spending limit",
            "Your newly created team doesn't have any credits yet",
            "Sorry, your account balance is insufficient",
            "Your account is not active, please check your billing details on our website.",
            "Budget has been exceeded! Current cost: 1.2, Max budget: 1.0",
            "Credit limit exceeded, please navigate to the billing page",
            "The free tier of the model has been exhausted.",
            "you have used up your daily free allocation of 10,000 neurons",
            "Access denied, please make sure your account is in good standing.",
            "Out of call volume quota. Please retry after 5 days.",
        ),
    ),
    Rule(
        errors.AuthenticationError,
        401,
        "the service refused the key; check it",
        codes=names(
            "invalid_api_key incorrect_api_key api_key_invalid invalidapikey invalid_authentication"
            " invalid_authentication_error authentication_error authenticationerror"
            " authentication_failed invalid_token token_expired"
            " account_deactivated missing_api_key no_api_key 1000 1001 1002 1003 1004 1005"
            " 1110 1111 1112 1120 1121 base_resp.1004 base_resp.2049"
        ),
        words=(
            r"\b(api|access|auth\w*|subscription)[ _-]?(key|token)s?\b.{0,60}\b(not valid|invalid"
            r"|incorrect|wrong|expired|missing|not found|revoked|malformed|disabled|required"
            r"|not provided)"
            r"|\b(invalid|incorrect|wrong|expired|missing|unknown|unauthorized|revoked|no|bad"
            r"|provide an?)\b.{0,20}\b(api|access|auth\w*|bearer|subscription)[ _-]?"
            r"(keys?|tokens?|header|credentials?)\b"
            r"|(invalid|no auth) credentials|\bunauthorized\b|not authenticated|unauthenticated"
            r"|authentication (failed|fails|failure|required|error)"
            r"|\bauthorization['\"`]? (header|field)|token (has|is) expired|\blogin fail"
            r"|\b(account|organi[sz]ation|project|workspace|api key|your access)( \S{1,40})?"
            r" (is|was|has been) (permanently |temporarily )?"
            r"(suspended|banned|disabled|deactivated|terminated|revoked|locked|flagged|blocked)"
            r"|无效的令牌|令牌(已过期|状态不可用)|身份验证"
        ),
        examples=(
            "API key not valid. Please pass a valid API key.",
            "Incorrect API key provided: ***. You can find your API key at https://x.example.",
            "You didn't provide an API key.",
            "Authentication Fails (no such user)",
            "Can't decode 'Authorization' header",
            "Authorization header is missing",
            "Token has expired",
            "No auth credentials found",
            "Access denied due to invalid subscription key.",
            "Your account has been suspended for violating our usage policies",
            "This organization has been disabled.",
        ),
    ),
    Rule(
        errors.RefusedError,
        400,
        "a filter of the service refused the prompt or the reply",
        codes=names(
            "content_filter content_policy_violation responsibleaipolicyviolation contentfilter"
            " datainspectionfailed data_inspection_failed sensitive 1301 content_moderation"
            " moderation_blocked prompt_blocked safety sensitivecontentdetected"
            " inputtextsensitivecontentdetected outputtextsensitivecontentdetected invalid_prompt"
            " base_resp.1026 base_resp.1027"
        ),
        words=(
            r"content exists risk|content[ _-]?(filter|polic|moderation)|content management policy"
            r"|responsible ?ai|was filtered|\bflagged\b|requires moderation"
            r"|considered high risk|data may contain inappropriate|inappropriate content"
            r"|(violates?|violating|violation of)\b.{0,40}\b(policy|policies|guidelines|safety)"
            r"|rejected (by|as a result of) (our|the) safety|contains? sensitive"
            r"|(prohibited|nsfw) content"
            r"|violating regulations|limited access to this content"
            r"|(prompt|request|response|content) "
            r"(was|is|has been) blocked|blocked (by|due to|for) .{0,30}(safety|policy|moderation)"
            r"|敏感|不安全"
        ),
        unless=_FROM_HERE,
        examples=(
            "The prompt triggered Azure OpenAI's content management policy.",
            "Content Exists Risk",
            "Your input was flagged by the moderation endpoint.",
            "Input flagged",
            "Output data may contain inappropriate content.",
            "The request was rejected because it was considered high risk",
            "input contains sensitive words",
            "Content violates usage guidelines.",
        ),
    ),
    Rule(
        errors.InvalidRequestError,
        400,
        "the prompt is too long for this model; shorten it",
        codes=names(
            "context_length_exceeded exceed_context_size_error context_window_exceeded"
            " contextwindowexceedederror model_context_window_exceeded string_above_max_length"
            " request_too_large prompt_too_long tokens_limit_reached 1261 base_resp.1039"
        ),
        words=(
            r"(maximum|max) (context|model|prompt|input) (length|size)|\bmax ctx"
            r"|context (length|window|size)\b.{0,60}\b(exceed|too|limit|smaller|larger|greater)"
            r"|\b(exceeds?|exceeded|larger than|greater than|longer than|beyond)\b.{0,40}"
            r"\b(context|(maximum|max|input|prompt|token) (length|limit)|max_model_len)\b"
            r"|\b(prompt|input|messages?|conversation|text|request)\b.{0,30}\btoo"
            r" (long|many tokens)"
            r"|too many (input |prompt )?tokens\b:?(?!.{0,20}(wait|per))"
            r"|reduce the length of|range of input length|input token count"
            r"|shorter (input|prompt)\b|reached context length|context overflow"
            r"|max input characters|max_seq_len|\btokens\b.{0,20}\bexceeds? (the )?(max|model)"
            r"|\b(input|prompt|total|number of)\b.{0,20}\btokens\b.{0,40}"
            r"\b(exceeds?|exceeded|is less than)\b"
            r"|\binputs`? (tokens \+|must have less than)|超长"
        ),
        unless=r"per[ _-]?(minute|min|day|second)\b|\b[tr]p[md]\b|rate[ _-]?limit",
        examples=(
            "This model's maximum context length is 4097 tokens.",
            "the request exceeds the available context size",
            "Context size has been exceeded.",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "The input token count (1100000) exceeds the maximum number of tokens allowed",
            "The number of tokens to keep is greater than the context length.",
            "Range of input length should be [1, 30720]",
            "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens",
            "length of prompt_tokens (40000) must be less than max_seq_len (32768).",
            "Try to load the model with a larger context length, or provide a shorter input",
            "Prompt 超长",
            "Prompt has 9000 tokens which exceeds the max of 8192",
            "input tokens exceed the configured limit of 272000 tokens",
            "Please reduce the length of the messages or completion.",
        ),
    ),
    Rule(
        errors.UnsupportedError,
        400,
        "this server or model cannot do what was asked",
        codes=names("unsupported_content_type image_not_supported tools_not_supported"),
        words=(
            r"\b(does not|doesn't|do not|don't|cannot|can't|not|no longer) (currently )?"
            r"(support|accept|process|handle)s?\b.{0,20}\b(tools?|tool_choice|functions?"
            r"|function[ _]call\w*|images?|image_url|vision|audio|multi-?modal\w*|json_schema"
            r"|json_object|structured outputs?|response_format|system (messages?|prompts?|role)"
            r"|system(?='))\b"
            r"|\b(tools?|tool (use|calls?|calling|choice)|tool_choice|function calling|functions"
            r"|images?|image inputs?|image_url|vision|audio|json_schema|structured outputs?"
            r"|response_format|system (messages?|prompts?|role))\b.{0,40}"
            r"\b(not (currently )?(supported|available|enabled)|unsupported|unavailable"
            r"|only supported by)"
            r"|endpoints found that support|is not a (multi-?modal|vision)|not a multi-?modal"
            r"|unknown variant .?(image_url|image|input_audio|file|json_schema)\b"
            r"|at most 0 (images?|audio)|requires? (the )?--(jinja|enable-auto-tool-choice|mmproj)"
            r"|(tool|function) choice requires|missing data required for image"
            r"|image input modality|only (supports? )?text (input|content|messages)"
        ),
        examples=(
            "registry.example/gemma:2b does not support tools",
            "No endpoints found that support tool use.",
            "No endpoints found that support image input",
            "image input is not supported - hint: you may need to provide the mmproj",
            "Failed to deserialize: unknown variant `image_url`, expected `text`",
            "meta-llama/Llama-3-8B is not a multimodal model",
            "At most 0 image(s) may be provided in one request.",
            "Invalid content type. image_url is only supported by certain models.",
            '"auto" tool choice requires --enable-auto-tool-choice to be set',
            "tools param requires --jinja flag",
            "System role not supported",
            "Unsupported parameter: 'tools' is not supported with this model.",
            "'messages[0].role' does not support 'system' with this model.",
            "This response_format type is unavailable now",
        ),
    ),
    Rule(
        errors.ModelNotFoundError,
        404,
        "the service has no such model",
        codes=names(
            "model_not_found modelnotfound model_not_available model_not_supported unknown_model"
            " invalid_model model_decommissioned model_deprecated deploymentnotfound 1211"
            " invalidendpointormodel.notfound modelnotfounderror modelnotopen"
        ),
        words=(
            r"(?<![/\w])(models?|deployment)\b.{0,120}\b(not found|not exist|no longer (available"
            r"|supported|exists?)|(has been|have been|was) (deprecated|decommissioned|retired"
            r"|removed|shut ?down)|is deprecated|not available|not a valid|is unknown"
            r"|not deployed|identifier is invalid)|\bnot activated the model"
            r"|\bdoes not have (the )?model|\b(no such|unknown|invalid|not found the|could not find"
            r"( the| real)?) (model|deployment|modelid)|not a valid model|no models? (are )?loaded"
            r"|no endpoints found for|failed to (parse model uri|get (the )?model\b)"
            r"|unable to access model|^model: \S+($|\n)|\bmodel not supported|unsupported model\b"
            r"|not a supported model|model_not_found|no available channels? for model"
            r"|模型不存在|模型.{0,60}无可用渠道"
        ),
        # "The model ... in the context", "model is overloaded, not available right now".
        unless=(
            r"overloaded|temporarily|at capacity|currently loading|try again|\bbusy\b|maintenance"
            r"|at (the|this) (moment|time)|right now|currently (not available|unavailable)"
            r"|\bbackends?\b|model[ _](output|response|reply)"
        ),
        examples=(
            "The model `x` does not exist",
            "The model `gpt-9` does not exist or you do not have access to it.",
            "model 'llama3.2' not found, try pulling it first",
            "models/gemini-x is not found for API version v1main",
            "The API deployment for this resource does not exist.",
            "No such model",
            "Model Not Exist",
            "x is not a valid model ID",
            "Invalid model: x",
            "model: acme-9",
            "Failed to parse model URI",
            "Failed to get model gpt://b1g/x/latest",
            "No endpoints found for acme/x.",
            "The model `x` has been decommissioned and is no longer supported.",
            "No models loaded. Please load a model in the developer page.",
            "model 'x' was removed on September 15, 2025.",
            "The provided model identifier is invalid.",
            "Unsupported model: x",
            "Your account 21 has not activated the model x.",
            "当前分组 default 下对于模型 x 无可用渠道",
        ),
    ),
    WRONG_PATH,
    Rule(
        errors.BlockedError,
        403,
        "a gateway or firewall denies access from here; the key was not checked",
        codes=names("unsupported_country_region_territory"),
        words=(
            rf"country, region, or territory not supported|location is not supported|{_FROM_HERE}"
            r"|error code: 10(0[679]|1[0268]|20)\b"
        ),
        examples=(
            "Country, region, or territory not supported",
            "User location is not supported for the API use.",
            "error code: 1020",
            "Your IP address was blocked by our security policy",
        ),
    ),
    Rule(
        errors.RateLimitError,
        429,
        "too many requests; wait",
        codes=names(
            "rate_limit_exceeded rate_limit_error rate_limit_reached_error rate_limited ratelimit"
            " ratelimiterror ratelimitexceeded ratelimitreached too_many_requests toomanyrequests"
            " throttled throttling throttlingexception throttling.ratequota"
            " throttling.allocationquota limit_burst_rate engine_overloaded_error"
            " limit_requests 1302 1303 1305 1312 base_resp.1002 base_resp.1041 base_resp.2045"
        ),
        words=(
            r"rate[ _-]?limit|too many (concurrent )?requests|(requests|tokens) per (second|minute"
            r"|min|day)|throttl|concurren\w+.{0,40}(limit|exceed|too)|slow down"
            r"|\b(qps|rpm|tpm|rpd)\b.{0,20}\blimit|请求过多|速率限制|访问量过大"
        ),
        examples=(
            "Rate limit reached for requests",
            "upstream rate limited",
            "Too Many Requests",
            "Request was throttled. Expected available in 7 seconds.",
            "Concurrency limit exceeded",
        ),
    ),
)
"""Searched from the top, codes first and then words; the first matching row decides."""


BY_STATUS: dict[int, type[errors.LLMError]] = {
    400: errors.InvalidRequestError,
    401: errors.AuthenticationError,
    402: errors.QuotaExceededError,
    403: errors.AuthenticationError,
    404: errors.InvalidRequestError,
    407: errors.ConnectionFailed,
    408: errors.ProviderTimeout,
    409: errors.ServerError,
    413: errors.InvalidRequestError,
    422: errors.InvalidRequestError,
    424: errors.ServerError,
    425: errors.ServerError,
    429: errors.RateLimitError,
    498: errors.RateLimitError,
}
"""Used if neither codes nor words decide."""


SAID_BY_STATUS = {
    400: "the service rejected the request as invalid",
    401: "the service refused the key; check it",
    402: "the account's tokens are used up: there is no quota or credit left",
    403: "the service denies access; check the key and its rights",
    404: "the service found nothing for this request; check model and base_url",
    407: "the proxy requires a user and password; put them in its URL",
    408: "the service timed out waiting for the request",
    413: "the request is too large for the service; shorten the prompt",
    422: "the service rejected the request as invalid",
    429: "too many requests; wait",
    498: "the service has no capacity left; wait",
}


STATUS_OF_CODE: dict[str, int] = {
    **dict.fromkeys(
        names(
            "invalid_request_error invalid_request badrequesterror bad_request invalid_argument"
            " invalidargument invalidparameter invalid_parameter invalid_parameter_error"
            " validation_error unprocessable_entity_error failed_precondition unsupported_parameter"
            " unsupported_value invalid_value validation 1210 1212 1213 1214 1215 base_resp.1042"
            " base_resp.2013 grpc.3 grpc.9 grpc.11"
        ),
        400,
    ),
    **dict.fromkeys(["not_found", "not_found_error", "notfounderror", "grpc.5"], 404),
    **dict.fromkeys(
        names(
            "server_error internal_server_error internalservererror internal_error api_error"
            " internal base_resp.1000 base_resp.1013 1234 grpc.2 grpc.13"
        ),
        500,
    ),
    **dict.fromkeys(
        names(
            "overloaded_error overloaded unavailable service_unavailable service_unavailable_error"
            " grpc.14"
        ),
        503,
    ),
    **dict.fromkeys(names("timeout timeout_error deadline_exceeded base_resp.1001 grpc.4"), 504),
    **dict.fromkeys(["unauthorized", "unauthenticated", "grpc.16"], 401),
    **dict.fromkeys(
        names(
            "permission_denied permission_error permissiondeniederror access_denied forbidden"
            " grpc.7"
        ),
        403,
    ),
    **dict.fromkeys(["resource_exhausted", "grpc.8"], 429),
    "grpc.10": 409,
    "grpc.12": 501,
}
"""Words for a status, used if the reply's own status says nothing: 200 or 5xx."""


def is_challenge(page: bytes) -> bool:
    """Whether a page is a browser challenge that only a person can pass."""
    head = page[:_HEAD].lower()
    return any(mark in head for mark in _CHALLENGES)


_HEAD = 8192
_CHALLENGES = (b"<title>just a moment...", b"<title>attention required! | cloudflare")


NOTHING_LISTENS = "; nothing listens there: is the program still running?"
"""The end of the message of a connection that this machine refused to itself."""

UNKNOWN_AUTHORITY = "; pass the file of its authority with ca_bundle="

CERTIFICATE_HINTS = {
    9: "; check this machine's clock",
    10: "; the server has to renew it, or this machine's clock is wrong",
    62: "; check base_url",
    64: "; check base_url",
}
"""What to do about a certificate, by OpenSSL's codes; with others its authority is unknown."""
