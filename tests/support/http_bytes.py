"""HTTP replies as bytes, from ``llmproviders.testing``."""

from __future__ import annotations

from llmproviders.testing import Body as Body
from llmproviders.testing import chunked as chunked
from llmproviders.testing import close_delimited as close_delimited
from llmproviders.testing import content_length as content_length
from llmproviders.testing import gzip_stream as gzip_stream
from llmproviders.testing import http_response as http_response
