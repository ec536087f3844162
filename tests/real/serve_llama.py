"""Serves a llama model of random weights with llama.cpp: ``python serve_llama.py MODEL PORT``.

The model is written first, if it is not there. Its text is nonsense in three scripts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import gguf
import numpy

WORDS = (  # noqa: SIM905 - a sentence reads better
    "привет мир небо синее потому что свет рассеивается the sky is blue because light scatters "
    "天空 是 蓝色 的 hello world yes no one two three . , ! ?"
).split()

CALL = "<tool_call>\n"
"""A token of its own, which a caller can make likely: after it the grammar of a call holds."""

WIDTH = 64
LAYERS = 2
HEADS = 4
CONTEXT = 2048

# In the manner of Qwen and Hermes, whose calls llama.cpp parses.
_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {{- "# Tools\\n\\nYou may call one or more functions.\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n<tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <args>}" }}
    {{- "\\n</tool_call><|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def write_model(path: Path) -> None:
    """Write the model, half a megabyte, always the same one."""
    random = numpy.random.default_rng(7)
    kinds = gguf.TokenType
    letters = [f"<0x{byte:02X}>".encode() for byte in range(256)]
    words = [f"▁{word}".encode() for word in WORDS]
    tokens = [b"<unk>", b"<s>", b"</s>", *letters, *words, CALL.encode()]
    before = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    size, inner = len(tokens), 2 * WIDTH

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(words) + 1)])
    writer.add_token_types(
        [*before, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(words), kinds.USER_DEFINED]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_TEMPLATE)

    def tensor(name: str, *shape: int, scale: float = 0.3) -> None:
        weights = random.standard_normal(shape) * scale
        writer.add_tensor(name, weights.astype(numpy.float32))

    tensor("token_embd.weight", size, WIDTH, scale=1.0)
    output = random.standard_normal((size, WIDTH)).astype(numpy.float32)
    output[3:259] *= 0.02  # The model says words rather than bytes.
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", numpy.ones(WIDTH, numpy.float32))
    shapes = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH)),
        **dict.fromkeys(("ffn_gate", "ffn_up"), (inner, WIDTH)),
        "ffn_down": (WIDTH, inner),
    }
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            tensor(f"blk.{layer}.{name}.weight", *shape)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.ones(WIDTH, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(path: Path, port: int) -> None:
    """Serve until the process ends; two requests at a time."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"tiny"}
    params.n_ctx, params.n_parallel, params.port = CONTEXT, 2, port
    params.cpuparams.n_threads = 1
    params.use_jinja = True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201
    while True:
        time.sleep(60)


if __name__ == "__main__":
    model = Path(sys.argv[1])
    if not model.exists():
        write_model(model)
    serve(model, int(sys.argv[2]))
