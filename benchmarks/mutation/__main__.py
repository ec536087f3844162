"""Mutation testing: ``python -m benchmarks.mutation [OPTION ...] [MODULE ...]``.

Needs mutmut beside the library. Each module is mutated in a copy of the checkout and tested with
its own tests; survivors are listed. Mutants that only change the wording of a message or of the
log, or the case of a header's name or of SQL, are recognized and not counted.

``--short`` only mutates the module of lines. ``--limit-s N`` ends a module's run after that many
seconds and counts the mutants tried until then. ``--folder F`` keeps the copy and the outcomes
there: the next run makes a new copy and only tries the mutants of changed functions, and those that
have not been killed yet.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from configparser import RawConfigParser
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_CALLS = (
    *(
        f"tests/failover/test_failover.py::{name}"
        for name in (
            *("TestOrder", "TestInterruption", "TestAccept", "TestFallThrough", "TestModels"),
            *("TestNested", "TestLedger"),
        )
    ),
    "tests/failover/test_retry.py::TestWaits",
    "tests/failover/test_retry.py::TestPredicates::test_the_deadline_holds_all_the_same",
    "tests/failover/test_retry.py::TestPredicates::test_interrupts_are_never_asked_about",
    "tests/failover/test_retry.py::TestTable::test_a_protocol_error_is_tried_twice",
    "tests/failover/test_retry_budget.py::TestRecovery",
    "tests/failover/test_retry_budget.py::TestWhatAProviderCannotDo",
    "tests/http/test_retry_after.py::TestWaiting",
    "tests/failover/test_health.py::TestInCalls",
    "tests/failover/test_health.py::TestProbe::test_a_probe_that_is_closed_late",
    "tests/failover/test_hedge.py",
    "tests/failover/test_report.py",
    "tests/failover/test_call_arguments.py::TestAccept",
    "tests/failover/test_call_arguments.py::TestDeadline",
    "tests/failover/test_call_arguments.py::TestOnLength",
    "tests/http/test_deadline.py::TestClock",
    "tests/http/test_deadline.py::TestFirstChunk",
    "tests/providers/test_thoughts.py::TestItems",
    "tests/providers/test_thoughts.py::TestSignOfLife",
    "tests/providers/test_thoughts.py::TestFailures",
)
_PARSERS = (
    "tests/http/test_frame.py",
    "tests/providers/test_chatglm.py",
    "tests/providers/test_flowgpt.py",
    "tests/providers/test_openai_compatible.py",
)
_REPLIES = (
    "tests/providers/test_replies.py::test_a_reply_in_single_bytes",
    "tests/providers/test_replies.py::test_an_unknown_word_is_told_once",
    "tests/providers/test_replies.py::test_every_word_has_one_reason",
    "tests/providers/test_replies.py::TestLimits::test_a_thousand_calls_are_taken",
    "tests/providers/test_replies.py::TestLimits::test_more_calls_are_not",
)
_GIGACHAT = (
    "tests/providers/test_gigachat.py::TestRequest",
    "tests/providers/test_gigachat.py::TestReply",
    "tests/providers/test_gigachat.py::TestKey::test_checked_without_a_call",
    "tests/providers/test_gigachat.py::TestKey::test_none",
    "tests/providers/test_gigachat.py::TestKey::test_looked_up_at_the_call",
    "tests/providers/test_gigachat.py::TestRefusedToken",
    "tests/providers/test_gigachat.py::TestModel",
    "tests/providers/test_gigachat.py::TestRest",
    "tests/providers/test_gigachat.py::test_whose_requests_wait_for_one_another",
    "tests/providers/test_gigachat.py::TestTokenRequests::test_users_cache",
    "tests/providers/test_gigachat.py::TestTokenRequests::test_a_file_in_the_home_folder",
    "tests/providers/test_gigachat.py::TestTokenRequests::test_keys_and_scopes_do_not_share",
    "tests/providers/test_gigachat_dialect.py::TestEnvironment",
    "tests/providers/test_gigachat_files.py::TestCalls",
    "tests/providers/test_gigachat_files.py::TestAttach",
    "tests/providers/test_gigachat_files.py::TestDrawn",
    "tests/providers/test_gigachat_ways.py::TestStandIn",
    "tests/providers/test_gigachat_ways.py::TestAlias",
    "tests/providers/test_gigachat_ways.py::TestNotFound",
    "tests/providers/test_gigachat_ways.py::TestVersion2",
    "tests/providers/test_gigachat_ways.py::TestRefusals",
    "tests/providers/test_gigachat_ways.py::TestCredentials",
    "tests/providers/test_gigachat_ways.py::TestOrder",
    "tests/providers/test_gigachat_ways.py::TestCertificate",
    "tests/account/test_concurrency.py::TestProviders::test_default_limits",
    "tests/account/test_concurrency.py::TestProviders::test_with_other_processes",
    "tests/test_numbers.py::TestArguments::test_no_end",
    "tests/test_request.py::test_arguments_of_one_provider",
    "tests/providers/test_trust.py::TestDefault",
    "tests/providers/test_trust.py::TestStore::test_believed",
    "tests/providers/test_trust.py::TestStore::test_another_certificate_than_gigachats",
)
TESTS: dict[str, tuple[str, ...]] = {
    "failover/_target": (
        "tests/failover/test_failover.py::TestOrder",
        "tests/failover/test_failover.py::TestNested",
        "tests/failover/test_retry.py",
        "tests/failover/test_retry_budget.py",
        "tests/failover/test_report.py",
        "tests/failover/test_health.py::TestKeys",
        "tests/failover/test_health.py::TestFile::test_many_of_one_kind",
        "tests/http/test_retry_after.py::TestWaiting",
    ),
    "failover/_engine": _CALLS,
    "failover/_client": (
        "tests/failover/test_failover.py",
        "tests/failover/test_retry.py::TestPredicates",
        "tests/http/test_retry_after.py::TestWaiting",
        "tests/failover/test_health.py::TestInCalls",
        "tests/failover/test_health.py::TestKeys",
        "tests/failover/test_hedge.py::TestWinning",
        "tests/failover/test_report.py",
        "tests/failover/test_call_arguments.py",
        "tests/http/test_deadline.py::TestFirstChunk",
        "tests/config/test_config.py::TestFromConfig",
        "tests/test_numbers.py::TestArguments::test_no_end",
    ),
    "failover/_health": ("tests/failover/test_health.py",),
    "failover/_hedging": ("tests/failover/test_hedge.py",),
    "_account/tokens": ("tests/account/test_token.py",),
    "_http/decoding": (
        "tests/http/test_lines.py",
        "tests/reliability/test_limits.py",
        "tests/http/test_connections.py::TestCompression",
        "tests/http/test_connections.py::TestWhatIsKept::test_text_may_go_on",
        *_PARSERS,
    ),
    "_http/error_map": (
        "tests/http/test_error_map.py",
        "tests/http/test_status.py",
        "tests/http/test_retry_after.py",
    ),
    "_http/error_rules": ("tests/http/test_error_map.py::TestRules",),
    "_http/redirects": ("tests/http/test_redirects.py",),
    "_account/quotas": (
        "tests/account/test_quotas.py::TestADay",
        "tests/account/test_quotas.py::TestAMinute",
        "tests/account/test_quotas.py::TestArguments",
        "tests/account/test_quotas.py::TestUsage",
        "tests/account/test_quotas.py::TestTheFile::test_one_that_another_process_keeps_busy",
    ),
    "_account/ledger": ("tests/account/test_quotas.py",),
    "_account/names": ("tests/account/test_names.py",),
    "_account/usage": ("tests/account/test_quotas.py",),
    "schema": ("tests/test_schema.py",),
    "tools": ("tests/test_tools.py",),
    "_turns": ("tests/test_tools.py",),
    "cache": ("tests/test_cache.py",),
    "providers/_chat_completions": (
        "tests/http/test_frame.py::TestStreams",
        "tests/providers/test_openai_compatible.py::TestStream",
        "tests/providers/test_openai_compatible.py::TestThinkingAndTools",
        "tests/providers/test_openai_compatible.py::TestWhole",
        "tests/providers/test_openai_compatible.py::TestErrors",
        "tests/providers/test_openai_compatible.py::TestModels",
        "tests/providers/test_replies.py::test_a_reply_in_single_bytes",
        "tests/providers/test_replies.py::TestCounts",
        "tests/providers/test_replies.py::TestLimits::test_an_error_of_many_values",
        "tests/providers/test_replies.py::test_the_wait_after_the_reason_begins_once",
        "tests/providers/test_replies.py::test_a_listing",
        "tests/providers/test_replies.py::test_images",
        "tests/providers/test_replies.py::test_forms_of_an_image",
        "tests/providers/test_replies.py::test_a_word_that_says_nothing",
        "tests/providers/test_replies.py::test_an_unknown_word_is_told_once",
        "tests/providers/test_replies.py::test_an_error_told_without_a_mark",
        "tests/providers/test_replies.py::test_a_message_amid_a_reply",
        "tests/providers/test_replies.py::test_words_beside_a_failed_finish",
        "tests/providers/test_replies.py::test_the_tokens_of_a_reply_that_failed",
        "tests/providers/test_replies.py::test_an_error_after_a_blank_piece_and_text",
        "tests/providers/test_replies.py::test_whether_an_interruption_passes",
        "tests/providers/test_replies.py::test_a_wait_in_the_headers_of_a_failed_stream",
        "tests/providers/test_replies.py::test_half_characters_beside_the_text",
        "tests/providers/test_thoughts.py::TestItems",
        "tests/providers/test_thoughts.py::TestHistory",
        "tests/providers/test_chatgptt.py::TestReply",
        "tests/providers/test_embed_and_images.py::TestEmbed",
        "tests/providers/test_gigachat.py::TestReply",
        "tests/providers/test_gigachat.py::TestModel::test_what_stands_in_for_the_default",
        "tests/providers/test_gigachat.py::TestRest::test_embed",
        "tests/providers/test_gigachat.py::TestRest::test_embeddings_in_another_order",
        "tests/providers/test_gigachat.py::TestRest::test_the_error_says_what_was_wrong",
        "tests/providers/test_gigachat_ways.py::TestVersion2",
    ),
    "providers/_listings": (
        "tests/providers/test_replies.py::test_a_listing",
        "tests/providers/test_openai_compatible.py::TestModels",
        "tests/providers/test_embed_and_images.py::TestEmbed",
        "tests/providers/test_gigachat.py::TestRest",
        "tests/providers/test_gigachat.py::TestModel::test_what_stands_in_for_the_default",
    ),
    "providers/chatglm": ("tests/providers/test_chatglm.py",),
    "providers/chatgptt": ("tests/providers/test_chatgptt.py",),
    "providers/flowgpt": _PARSERS,
    "providers/openai_compatible": (
        "tests/providers/test_openai_compatible.py",
        "tests/providers/test_chat_requests.py",
        "tests/providers/test_embed_and_images.py",
        "tests/providers/test_keys.py",
        "tests/providers/test_registry.py::TestLocalServers",
    ),
    "providers/_chat_parts": ("tests/providers/test_chat_parts.py", *_REPLIES),
    "providers/_chat_requests": (
        "tests/providers/test_chat_requests.py",
        "tests/providers/test_openai_compatible.py",
        "tests/providers/test_arguments.py",
        "tests/providers/test_embed_and_images.py",
    ),
    "providers/_finish_words": (
        *_REPLIES,
        "tests/providers/test_replies.py::test_ways_to_write_a_word",
        "tests/providers/test_replies.py::test_a_word_that_says_nothing",
        "tests/providers/test_replies.py::test_unknown_words_without_end",
    ),
    "providers/glm": ("tests/providers/test_glm.py", "tests/providers/test_keys.py"),
    "providers/yandexgpt": ("tests/providers/test_yandexgpt.py", "tests/providers/test_keys.py"),
    "providers/deepseek": ("tests/providers/test_deepseek.py", "tests/providers/test_keys.py"),
    "providers/__init__": ("tests/providers/test_registry.py",),
    "providers/_local_servers": ("tests/providers/test_registry.py::TestLocalServers",),
    "providers/gigachat/_answers": (
        "tests/providers/test_gigachat.py::TestRest",
        "tests/providers/test_gigachat_files.py::TestCalls",
    ),
    "providers/gigachat/_dialect": ("tests/providers/test_gigachat_dialect.py",),
    "providers/gigachat/_files": ("tests/providers/test_gigachat_files.py",),
    "providers/gigachat/_models": (
        "tests/providers/test_gigachat_ways.py::TestStandIn",
        "tests/providers/test_gigachat_ways.py::TestNotFound",
    ),
    "providers/gigachat/_root": (
        "tests/providers/test_trust.py::TestStore",
        "tests/providers/test_trust.py::TestDownload",
        "tests/providers/test_trust.py::TestDefault",
    ),
    "providers/gigachat/_settings": (
        "tests/providers/test_gigachat_dialect.py::TestEnvironment",
        "tests/providers/test_gigachat_ways.py::TestVersion2",
        "tests/providers/test_gigachat_ways.py::TestCertificate",
    ),
    "providers/gigachat/_provider": _GIGACHAT,
    "providers/gigachat/_credentials": (
        "tests/providers/test_gigachat_ways.py",
        "tests/providers/test_gigachat.py::TestRequest",
        "tests/providers/test_gigachat.py::TestKey",
        "tests/providers/test_gigachat.py::TestTokenService",
        "tests/providers/test_gigachat.py::TestRefusedToken",
        "tests/providers/test_gigachat.py::TestTokenRequests",
        "tests/providers/test_keys.py",
    ),
}
# These take a second or more, start processes, which run unmutated code, or check their caller,
# which here is mutmut.
SLOW = (
    "tests/providers/test_gigachat.py::TestOfficial",
    "tests/providers/test_gigachat.py::TestTokenRequests::test_16_processes",
    "tests/providers/test_gigachat.py::TestTokenRequests::test_a_day_of_cron",
    "tests/providers/test_gigachat.py::TestTokenRequests::test_revoked_between_processes",
    "tests/providers/test_gigachat_files.py::TestAttach::test_once_from_two_processes",
    "tests/providers/test_gigachat_files.py::TestCalls::test_a_large_file",
    "tests/providers/test_gigachat_ways.py::TestCredentials::test_importing_it_is_cheap",
    "tests/failover/test_call_arguments.py::TestDeadline::test_it_holds",
    "tests/failover/test_health.py::TestFile::test_a_new_process_knows",
    "tests/failover/test_health.py::TestFile::test_one_of_many_processes_probes",
    "tests/failover/test_health.py::TestFileTrouble::test_many_processes",
    "tests/failover/test_retry_budget.py::TestAnOutage::test_of_all_providers_under_16_threads",
    "tests/http/test_retry_after.py::TestParser::test_never_fails",
    "tests/account/test_token.py::TestFile::test_lock_held_too_long[None-30.0]",
    "tests/providers/test_registry.py::test_a_warning_names_the_line_that_asked",
    "tests/providers/test_registry.py::test_the_package_itself_loads_no_registry",
    "tests/providers/test_trust.py::TestUnverified::test_argument",
    "tests/account/test_quotas.py::TestProcesses",
    "tests/account/test_quotas.py::TestTheFile::test_a_forked_child_has_a_connection_of_its_own",
    "tests/test_cache.py::TestFile::test_many_processes",
    "tests/test_cache.py::TestFile::test_a_fork",
)


def main(arguments: list[str]) -> int:
    """Mutate the modules one after another and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(TESTS))
    parser.add_argument("--short", action="store_true", help="only the module of lines")
    parser.add_argument("--limit-s", type=float)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("mutmut") is None:
        print("mutmut is not installed: pip install mutmut")
        return 0 if given.short else 1
    print("| module | mutants tried | killed | share | not tried | words |")
    print("| --- | --- | --- | --- | --- | --- |")
    survivors: list[str] = []
    for module in given.modules or (["_http/decoding"] if given.short else TESTS):
        with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
            folder = Path(given.folder or temporary) / module.replace("/", ".")
            run = _Run(folder.absolute(), module)
            run.mutate(given.limit_s)
            counts, alive = run.outcome()
        tried = counts["killed"] + counts["alive"]
        share = f"{counts['killed'] / tried:.0%}" if tried else "-"
        cells = (module, tried, counts["killed"], share, counts["not tried"], counts["words"])
        print("|", *(f"{cell} |" for cell in cells), flush=True)
        survivors += alive
    print("\nalive:", *survivors, sep="\n")
    return 0


class _Outcomes(NamedTuple):
    counts: Counter[str]
    alive: list[str]


class _Run:
    """One module's mutants, in a new copy of the checkout.

    The outcomes of an earlier copy are kept. mutmut goes by the date of a file, and would confuse
    the mutants of another checkout with those of this one; it keeps outcomes by a hash of the
    function.
    """

    def __init__(self, folder: Path, module: str) -> None:
        self._folder = folder
        self._source = f"llmproviders/{module}.py"
        self._kept = folder / "mutants" / f"{self._source}.meta"
        outcomes = self._kept.read_bytes() if self._kept.exists() else None
        shutil.rmtree(folder, ignore_errors=True)
        left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "mutants")
        shutil.copytree(ROOT, folder, ignore=left_out)
        if outcomes is not None:
            self._kept.parent.mkdir(parents=True)
            self._kept.write_bytes(outcomes)
        _configure(folder / "setup.cfg", self._source, TESTS[module])
        with (folder / "tests" / "conftest.py").open("a") as conftest:
            conftest.write(_PROFILE)

    def mutate(self, limit_s: float | None) -> None:
        """Try every mutant that has not been killed, and retry those that took too long.

        A mutant that waits forever is detected by a timeout, but a busy machine can cause one, too.
        """
        self._forget(lambda code: code != _KILLED)
        self._mutmut(limit_s)
        if self._forget(_TOO_LONG.__contains__):
            self._mutmut(limit_s)

    def outcome(self) -> _Outcomes:
        """The numbers of killed and surviving mutants, and the changes of the survivors."""
        from benchmarks.mutation._mutants import changes

        counts: Counter[str] = Counter()
        alive: list[str] = []
        made = changes(self._folder / "mutants" / self._source)
        for name, code in self._codes().items():
            change = made[name.rpartition(".")[2]]
            if change.words:
                counts["words"] += 1
            elif code is None:
                counts["not tried"] += 1
            elif code in (_KILLED, *_TOO_LONG):
                counts["killed"] += 1
            else:
                counts["alive"] += 1
                alive += [f"{name} ({code})", *change.lines]
        return _Outcomes(counts, alive)

    def _codes(self) -> dict[str, int | None]:
        """The exit code of the tests for each mutant; None if they did not run."""
        kept: dict[str, int | None] = json.loads(self._kept.read_text())["exit_code_by_key"]
        return kept

    def _forget(self, is_wrong: Callable[[int | None], bool]) -> int:
        """Mark mutants with one of these codes to be tried again, and return their number.

        Which tests reach which function is determined again, too: the code may have changed.
        """
        (self._folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
        if not self._kept.exists():
            return 0
        kept = json.loads(self._kept.read_text())
        wrong = [name for name, code in kept["exit_code_by_key"].items() if is_wrong(code)]
        kept["exit_code_by_key"].update(dict.fromkeys(wrong))
        self._kept.write_text(json.dumps(kept))
        return len(wrong)

    def _mutmut(self, limit_s: float | None) -> None:
        with (self._folder / "mutmut.log").open("a") as log:
            run = subprocess.Popen(
                [sys.executable, "-m", "mutmut", "run", "--max-children", "1"],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                code = run.wait(limit_s)
            except subprocess.TimeoutExpired:
                return
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGTERM)
                run.wait()
        if code != 0:
            raise SystemExit((self._folder / "mutmut.log").read_text()[-2000:])


# pytest's exit code where a test failed; what mutmut gives for the processor's time and the clock.
_KILLED = 1
_TOO_LONG = (24, -24, 36, 152, 255, -9)

# mutmut runs the tests many times in one process. hypothesis takes that for a mistake, and the
# library has already given its once-per-process warnings, read its cached files, and counted in the
# file of a test's folder, whose name comes again in the next run. Failures need not be shrunk to
# their simplest form.
_PROFILE = """
from hypothesis import HealthCheck, Phase

settings.register_profile(
    "mutation",
    settings.get_profile("default"),
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.differing_executors],
)
settings.load_profile("mutation")


@pytest.fixture(autouse=True)
def forget_what_was_told() -> None:
    import sys
    from functools import _lru_cache_wrapper

    from llmproviders._account import ledger
    from llmproviders._runtime import files
    from llmproviders.providers import _finish_words

    files._told.clear()
    ledger._ledgers.clear()
    _finish_words._unknown_words.clear()
    for name, module in list(sys.modules.items()):
        if name.startswith("llmproviders"):
            for value in list(vars(module).values()):
                if isinstance(value, _lru_cache_wrapper):
                    value.cache_clear()
"""


def _configure(path: Path, source: str, tests: tuple[str, ...]) -> None:
    parser = RawConfigParser()
    parser.read(path)
    slow = [f"--deselect={test}" for test in SLOW]
    parser["mutmut"] = {
        "source_paths": "llmproviders",
        "only_mutate": source,
        "also_copy": "\n".join(["", "conftest.py", "README.md", "docs"]),
        "pytest_add_cli_args_test_selection": "\n".join(["", *tests]),
        "timeout_multiplier": "4",
        "timeout_constant": "2",
        "pytest_add_cli_args": "\n".join(["", "-n0", "-p", "no:cacheprovider", *slow]),
    }
    with path.open("w") as file:
        parser.write(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
