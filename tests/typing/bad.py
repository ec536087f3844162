"""Uses that a type checker has to refuse: each marked line, with the code that is named."""

from __future__ import annotations

from llmproviders import ChatGLM, FailoverClient, GigaChat
from llmproviders.batch import map, run, run_file, table
from llmproviders.notebook import show
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider

FailoverClient([ChatGLM])  # error: list-item
FailoverClient([ChatGLM()], on_interrupt="repeat")  # error: arg-type
FailoverClient([ChatGLM()], deadline="soon")  # error: arg-type
FailoverClient([ChatGLM()], 3)  # error: call-arg
FailoverClient([ChatGLM()], retries=3)  # error: call-arg
GigaChat("key")  # error: call-arg
ChatGLM(api_key="key")  # error: call-arg
text = ChatGLM().complete("Hi").txt  # error: attr-defined
ChatGLM().complete(17)  # error: arg-type
ChatGLM().stream("Hi", timeout="5")  # error: arg-type
ChatGLM().complete("Hi", temprature=1)  # error: call-arg
GigaChat().complete("Hi", temperature="hot")  # error: arg-type
FailoverClient([ChatGLM()]).complete("Hi", max_tokens="9")  # error: arg-type
ChatGLM().create_generator(None, "Hi", max_token=9)  # error: call-arg
ChatGLM().run("Hi", tools=[], seed="x")  # error: arg-type
count: int = ChatGLM().complete("Hi").text  # error: assignment
ChatGLM().complete("Hi").text = "other"  # error: misc
FailoverClient([ChatGLM()]).conversation().ask(["Hi"])  # error: list-item
ChatGLM().conversation(temprature=1)  # error: call-arg
ChatGLM().conversation().ask("Hi", temperature="hot")  # error: arg-type
ChatGLM().conversation().ask("Hi", stream=True)  # error: arg-type
ChatGLM().conversation().stream("Hi", max_token=9)  # error: call-arg
ChatGLM().conversation().run("Hi", tools=[], max_turn=9)  # error: call-arg
map(ChatGLM(), ["Hi"], temprature=1)  # error: call-arg
map(ChatGLM(), ["Hi"], timeout="5")  # error: arg-type
table(ChatGLM(), "{a}", None, seed="x")  # error: arg-type
show("Hi", ChatGLM(), temprature=1)  # error: call-arg
run(ChatGLM(), ["Hi"], 4)  # error: call-arg
run_file(ChatGLM(), "in.jsonl", "out.jsonl", worker=4)  # error: call-arg
rows = run_file(ChatGLM(), "in.jsonl", "out.jsonl").rows  # error: attr-defined
show("Hi", "GigaChat")  # error: arg-type
Sandbox(8123)  # error: call-arg
Sandbox().fail("gigachat", 503)  # error: call-arg
ScriptedProvider(["Hi"], error="down")  # error: arg-type
