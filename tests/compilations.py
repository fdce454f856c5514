"""`make test ARGS="-p tests.compilations"`: at the end, how much of the time of each file was compiling.

For each file: its tests, processor seconds in all, seconds of tracing, lowering and compiling by XLA,
programs asked for, and those that had to be compiled, because no earlier test or run had left them in the
cache.
"""

import collections
import time

import pytest

SECONDS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
COUNTS = {
    "/jax/compilation_cache/compile_requests_use_cache": "programs",
    "/jax/compilation_cache/cache_hits": "found",
}
spent: collections.Counter = collections.Counter()


def pytest_configure() -> None:
    import jax  # not before conftest.py has said where JAX keeps what it compiles

    def on_duration(event: str, seconds: float, **_) -> None:
        if event in SECONDS:
            spent[SECONDS[event]] += seconds

    def on_event(event: str, **_) -> None:
        if event in COUNTS:
            spent[COUNTS[event]] += 1

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    spent.clear()
    spent["seconds"] = -time.process_time()
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item):
    result = yield
    spent["seconds"] += time.process_time()
    item.user_properties.append(("spent", dict(spent)))
    return result


def pytest_terminal_summary(terminalreporter) -> None:
    files: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "spent" and report.when == "teardown":
                    files[report.nodeid.split("::")[0]].update(value | {"tests": 1})
    every = collections.Counter()
    for row in files.values():
        every.update(row)
    terminalreporter.write_line("tests seconds trace lower compile programs compiled")
    for file, row in [*sorted(files.items(), key=lambda pair: pair[1]["seconds"]), ("all", every)]:
        times = " ".join(f"{row[k]:7.1f}" for k in ("seconds", *SECONDS.values()))
        counts = f"{row['programs']:8} {row['programs'] - row['found']:8}"
        terminalreporter.write_line(f"{row['tests']:5} {times} {counts} {file}")
