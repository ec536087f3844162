"""Makes the pictures of the documentation: a timeline, a report, and screenshots of JupyterLab.

Run ``python -m docs.draw_pictures`` with the tests' requirements installed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from llmproviders import batch
from llmproviders.batch import BatchReport
from llmproviders.sandbox import Sandbox
from tests.support.lab import Lab, browser, jupyterlab, write_notebook

FOLDER = Path(__file__).parent / "_static"

STORY = """\
The sky is blue because air **scatters** light, and blue light more than red: as
$1/\\lambda^4$, so nearly ten times as much at 400 nm as at 700 nm.

| colour | wavelength | scattered |
| --- | --- | --- |
| violet | 400 nm | 9.4 |
| blue | 450 nm | 5.9 |
| red | 700 nm | 1.0 |

```python
def scattered(wavelength_nm: float) -> float:
    return (700 / wavelength_nm) ** 4
```

At sunset the light has come a longer way through the air, and lost its blue on it.
"""
CELLS = (
    "%load_ext llmproviders\n%llm_config -p openai -p chatglm -p flowgpt",
    "colour = 'blue'",
    "%%llm --as reply\nWhy is the sky {colour}?",
    "%%llm --no-stream --trace --as reply\nAnd with two providers in trouble?",
)


def main() -> None:
    """Write every picture."""
    draw_report()
    draw_timeline()
    for dark in (False, True):
        with Sandbox(reply=STORY, piece_delay_s=0.04) as sandbox:
            look_at(sandbox, dark=dark)


def draw_timeline() -> None:
    """Run one call that meets every outcome: it waits, starts again, gives up one service."""
    with Sandbox(piece_delay_s=0.03) as sandbox:
        sandbox.fail("gigachat", status=503)
        sandbox.fail("gigachat", cut_after=14)
        sandbox.fail("gigachat", status=402)
        client = sandbox.client("gigachat", "chatglm", on_interrupt="restart")
        *_, end = client.stream("Why is the sky blue?")
        assert len(end.attempts) == 4
        (FOLDER / "timeline.svg").write_text(end.attempts.to_svg() + "\n", encoding="utf-8")


def draw_report() -> None:
    """Run a batch during which a service is in trouble for a while, and picture its report."""
    lengths = Random(1)

    def reply(_: list[dict[str, str]]) -> str:
        return "word " * round(lengths.lognormvariate(2.5, 0.8))

    with Sandbox(reply=reply, piece_delay_s=0.01, gigachat_max_concurrency=10) as sandbox:
        client = sandbox.client("openai", "chatglm", attempts=2, cooldown=1)
        report = BatchReport("replies.jsonl")
        for number, result in enumerate(batch.run(client, map(str, range(1, 501)), workers=4)):
            if number in (150, 200):
                sandbox.fail("openai", status=503, times=20)
            if number == 200:
                sandbox.fail("chatglm", cut_after=4, times=8)
            report.add({"id": result.id, **batch.as_row(result.completion, result.error)})
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "report.html"
        page.write_text(report.to_html(), encoding="utf-8")
        with browser(Path(name) / "profile", scale=2) as driver:
            driver.set_window_size(980, 1200)
            for shade in ("light", "dark"):
                wanted = {"features": [{"name": "prefers-color-scheme", "value": shade}]}
                driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
                driver.get(page.as_uri())
                driver.save_screenshot(str(FOLDER / f"batch-report-{shade}.png"))


def look_at(sandbox: Sandbox, *, dark: bool) -> None:
    """Run the cells in JupyterLab, and save screenshots."""
    shade = "dark" if dark else "light"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "served").mkdir()
        write_notebook(folder / "served" / "sky.ipynb", CELLS)
        with (
            jupyterlab(folder / "served", sandbox.environ(), dark=dark) as url,
            browser(folder / "profile", scale=2) as driver,
        ):
            driver.set_window_size(1000, 760)
            lab = Lab(driver, url, "sky.ipynb")
            lab.run(0)
            lab.run(1)
            lab.start(2)
            lab.wait(lambda: "blue\t" in lab.output(2))
            lab.picture(FOLDER / f"notebook-grows-{shade}.png")
            lab.press_stop()
            lab.wait(lambda: "stopped after" in lab.output(2) and lab.idle)
            lab.picture(FOLDER / f"notebook-stopped-{shade}.png")
            sandbox.fail("openai", status=503, times=3)
            sandbox.fail("chatglm", cut_after=20, times=3)
            driver.set_window_size(1000, 1700)
            lab.run(3)
            lab.picture_of(3, FOLDER / f"notebook-attempts-{shade}.png")


if __name__ == "__main__":
    main()
