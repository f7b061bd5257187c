"""``memory_limit`` on real memory, in this process.

Blocks here keep the memory that they take until they are left, so that it is sampled.
"""

import asyncio
import contextlib
import functools
import gc
import itertools
import mmap
import resource
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from memwarden import LimitExceeded, SettingsError, memory_limit
from memwarden.guards.limit import interrupt
from memwarden.guards.limit.interrupt import Interrupted
from memwarden.guards.limit.limit_monitor import monitor
from memwarden.guards.limit.limited_region import LEEWAY
from memwarden.guards.limit.proc_files import read_memory
from memwarden.model.units import GIB, MIB

LIMIT = 24 * MIB
LIMITED = memory_limit(LIMIT)
ONES = b"x" * MIB


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """No thread, no other limit of the system, no other pace of the interpreter."""
    before = resource.getrlimit(resource.RLIMIT_DATA), threading.active_count(), sys.getswitchinterval()
    yield
    until = time.monotonic() + 5
    while not monitor.single_threaded() and time.monotonic() < until:
        pass  # a thread that has been joined is gone a moment later
    assert monitor.single_threaded()
    assert (resource.getrlimit(resource.RLIMIT_DATA), threading.active_count(), sys.getswitchinterval()) == before
    assert not monitor._regions


def block(size):
    """Return memory in use that goes back to the kernel when it is freed: an allocator would keep it."""
    taken = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    taken.write(b"x" * size if size > MIB else ONES[:size])
    return taken


def grow(kept=None, step=MIB // 4, until=10**9):
    """Take memory, a step at a time."""
    kept = [] if kept is None else kept
    while len(kept) < until:
        kept.append(block(step))
    return kept


def in_thread(function):
    """Return the result or exception of a function in a thread of its own."""
    seen = []

    def run():
        try:
            seen.append(function())
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen[0]


# --- what it is -----------------------------------------------------------------------------------------------


@pytest.mark.contract("W3-4", "X-27", "V-31")
def test_growth_is_limited_while_the_function_runs():
    """A function that would never end is stopped near its limit; the size of the process does not count."""
    kept = []
    with pytest.raises(LimitExceeded) as caught:
        LIMITED(grow)(kept)
    error = caught.value
    assert isinstance(error, MemoryError)
    assert error.limit == LIMIT
    assert LIMIT - MIB < len(kept) * MIB // 4 <= LIMIT + LEEWAY + MIB
    assert error.used is not None
    assert LIMIT - MIB < error.used < LIMIT + LEEWAY + MIB
    for part in ("grow", "24.0 MiB", "raise limit="):
        assert part in str(error)


@pytest.mark.contract("W3-4")
def test_a_limit_below_the_size_of_the_process_lets_a_small_function_run():
    """It returns its result, and keeps its name and docstring."""

    @memory_limit("1MiB")
    def small(a, *, b=2):
        """Adds."""
        return a + b

    assert small(1, b=4) == 5
    assert (small.__name__, small.__doc__) == ("small", "Adds.")


@pytest.mark.contract("V-31")
def test_absolute_means_the_process():
    """In a process that exceeds it already the function does not start; below it, it may take the rest."""
    with pytest.raises(LimitExceeded, match="before it started"):
        memory_limit("1MiB", absolute=True)(grow)()
    above = read_memory()[0] + LIMIT
    with pytest.raises(LimitExceeded) as caught:
        memory_limit(above, absolute=True)(grow)()
    assert above <= caught.value.used < above + LEEWAY + MIB


@pytest.mark.contract("W3-4")
def test_the_functions_own_exception_is_kept():
    """Though the block exceeded its limit, and also when it is a MemoryError."""
    for error in (ValueError("mine"), MemoryError("mine"), KeyboardInterrupt()):

        def fail(error=error):
            monitor._regions[-1].exceeded = LIMIT + 1  # as if a sample had found it
            raise error

        with pytest.raises(type(error)) as caught:
            LIMITED(fail)()
        assert caught.value is error
        assert caught.value.__context__ is None
        with pytest.raises(type(error)) as caught, LIMITED:
            fail()
        assert caught.value is error


def test_errors_caused_by_the_interruption_become_limit_exceeded():
    """An error that handlers of the block raise because of it does not hide the reason."""

    def cleaning():
        try:
            grow()
        finally:
            raise ValueError("in the cleanup")

    with pytest.raises(LimitExceeded) as caught:
        memory_limit(LIMIT, refuse=False)(cleaning)()
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_traceback_leads_to_where_it_was():
    """It names the function that grew."""
    with pytest.raises(LimitExceeded) as caught:
        memory_limit(LIMIT, refuse=False)(grow)()
    assert "grow" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("refuse", [True, False])
def test_a_result_past_the_limit_is_none(refuse):
    """Also where no sample came in time: the end of the block checks."""
    with pytest.raises(LimitExceeded):
        memory_limit(LIMIT, refuse=refuse)(lambda: block(LIMIT + 2 * MIB))()


@pytest.mark.parametrize("refuse", [True, False])
def test_memory_of_a_block_is_freed_with_its_error(refuse):
    """No cycle keeps it until a collection."""

    class Taken(list):
        pass

    def work():
        kept = Taken()
        alive.append(weakref.ref(kept))
        grow(kept)

    for _ in range(3):
        alive = []
        gc.disable()
        try:
            with contextlib.suppress(LimitExceeded):
                memory_limit(LIMIT, refuse=refuse)(work)()
            with contextlib.suppress(LimitExceeded), memory_limit(LIMIT, refuse=refuse):
                work()
            assert [each() for each in alive] == [None, None]
        finally:
            gc.enable()


def test_a_block_that_swallows_exceptions_is_stopped():
    """A loop that takes any Exception for a reason to go on."""

    def stubborn():
        kept = []
        while True:
            try:
                kept.append(block(MIB))
            except Exception:
                pass

    with pytest.raises(LimitExceeded):
        LIMITED(stubborn)()


def test_a_block_that_swallows_everything_fails_at_its_end():
    """It cannot be kept from going on, but it gives no result."""

    def mad():
        kept = []
        for _ in range(3 * LIMIT // MIB):
            try:
                kept.append(block(MIB))
            except BaseException:
                pass
        return kept

    with pytest.raises(LimitExceeded):
        memory_limit(LIMIT, refuse=False)(mad)()


def test_a_large_buffer_is_refused_before_it_is_there():
    """By the kernel, so that nothing of it is ever in use."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    with pytest.raises(LimitExceeded, match="refused") as caught:
        memory_limit("200MiB")(lambda: bytearray(GIB))()
    assert isinstance(caught.value.__cause__, MemoryError)
    assert caught.value.used < MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100 * MIB // mmap.PAGESIZE


def test_no_allocation_is_refused_beside_another_thread():
    """It could be refused instead; so the process keeps its limit."""
    before, ready, done = resource.getrlimit(resource.RLIMIT_DATA), threading.Event(), threading.Event()

    def other():
        ready.set()
        done.wait()

    thread = threading.Thread(target=other)
    with memory_limit("1GiB"):
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
        thread.start()
        ready.wait()
        until = time.monotonic() + 5
        while resource.getrlimit(resource.RLIMIT_DATA) != before and time.monotonic() < until:
            pass
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with memory_limit("1GiB"):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
    done.set()
    thread.join()
    with memory_limit("1GiB", refuse=False):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_library_with_threads_of_its_own_does_not_switch_the_refusal_off():
    """numpy starts threads for BLAS: 1.82 GiB were in use before the error."""
    code = """
        import numpy, resource
        from memwarden import LimitExceeded, memory_limit
        assert len(os.listdir("/proc/self/task")) > 1 or os.cpu_count() == 1
        try:
            memory_limit("100MiB")(numpy.ones)(250_000_000)
        except LimitExceeded as error:
            print(error)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 300 * 1024
    """
    done = subprocess.run([sys.executable, "-c", "import os\n" + textwrap.dedent(code)], capture_output=True, text=True)
    assert "an allocation was refused" in done.stdout, done.stderr


def test_memory_that_is_given_back_before_a_sample_counts_beside_an_idle_thread():
    """The kernel's high-water mark has it: each call ends with the error, also the second."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        for _ in range(2):
            with pytest.raises(LimitExceeded):
                memory_limit("64MiB")(lambda: len(b"x" * (256 * MIB)))()
        assert memory_limit("64MiB")(lambda: len(b"x" * (16 * MIB)))() == 16 * MIB
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("isolate", [False, True])
def test_a_pool_of_idle_threads_fits_into_a_small_limit(isolate):
    """RLIMIT_DATA counts their stacks of 8 MiB, of which nothing is used."""

    def pool():
        with ThreadPoolExecutor(8) as executor:
            return list(executor.map(time.sleep, [0.01] * 8))

    for _ in range(3):
        assert memory_limit("20MiB", isolate=isolate)(pool)() == [None] * 8


# --- false alarms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["main", "worker"])
def test_shared_and_file_backed_maps_do_not_count(where, tmp_path):
    """A sparse shared map of 2 GiB, a part of it in use, and a file of 256 MiB that is read through a map."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(256 * MIB)

    @LIMITED
    def map_them():
        with mmap.mmap(-1, 2 * GIB) as shared, path.open("rb") as file:
            for at in range(0, 64 * MIB, mmap.PAGESIZE):
                shared[at] = 1
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return sum(mapped[at] for at in range(0, len(mapped), mmap.PAGESIZE))

    assert (map_them() if where == "main" else in_thread(map_them)) == 0


def test_a_worker_is_not_charged_with_another():
    """Memory that another thread takes is not charged to one that takes nothing."""
    done = threading.Event()

    def other():
        kept = grow(until=3 * LIMIT // (MIB // 4))
        done.set()
        return len(kept)

    started = threading.Event()

    @LIMITED
    def quiet():
        started.set()
        done.wait()
        return sum(range(100))

    waiting = threading.Thread(target=lambda: (started.wait(), other()))
    waiting.start()
    time.sleep(0.05)  # so that its start is before the block by the clock of the kernel
    assert in_thread(quiet) == 4950
    waiting.join()


def test_each_worker_is_stopped_for_its_own_memory():
    """Of two in the same process only the one that grows."""
    grown, stop = [], threading.Event()

    @memory_limit("16MiB")
    def modest():
        kept = grow(until=8)
        while not stop.is_set():
            pass
        return len(kept)

    seen = []
    calm = threading.Thread(target=lambda: seen.append(modest()))
    calm.start()
    grown = in_thread(LIMITED(grow))
    stop.set()
    calm.join()
    assert isinstance(grown, LimitExceeded)
    assert seen == [8]


# --- coroutines, generators, methods ----------------------------------------------------------------------------


def test_each_coroutine_is_charged_with_its_own_memory():
    """One grows and is stopped; one that waits meanwhile and one that works a little are not."""

    @LIMITED
    async def growing():
        kept = []
        while True:
            kept.append(block(MIB))
            await asyncio.sleep(0)

    @memory_limit("8MiB")
    async def working():
        for _ in range(40):
            await asyncio.sleep(0)
        return "done"

    async def in_a_block():
        with memory_limit("8MiB"):
            for _ in range(10):
                await asyncio.sleep(0.002)
            return "left"

    async def main():
        return await asyncio.gather(growing(), working(), in_a_block(), return_exceptions=True)

    error, *others = asyncio.run(main())
    assert isinstance(error, LimitExceeded)
    assert others == ["done", "left"]


@pytest.mark.parametrize("pause", [0.0005, 0.02, 0.05])
def test_memory_of_other_coroutines_is_not_charged_to_a_block(pause, monkeypatch):
    """However rarely samples are taken: between two of them the block is suspended and a neighbour allocates."""
    for name in ("poll_thread._FIRST", "limit_monitor.SHORTEST", "limit_monitor.LONGEST"):
        monkeypatch.setattr(f"memwarden.guards.limit.{name}", pause)

    async def neighbour():
        kept = []
        for _ in range(32):
            kept.append(block(MIB))
            await asyncio.sleep(0.001)

    async def innocent():
        for wait in (0, 0.01, 0.04):
            with memory_limit("8MiB"):
                await asyncio.sleep(wait)
        return "left"

    async def main():
        return await asyncio.gather(neighbour(), innocent(), innocent())

    assert asyncio.run(main()) == [None, "left", "left"]


def test_a_step_of_a_coroutine_is_limited_after_others_ran():
    """A block that waited first is stopped in a step that grows, though what others took meanwhile is not charged."""

    async def growing():
        with LIMITED:
            await asyncio.sleep(0.005)
            grow()

    async def main():
        kept = []
        task = asyncio.create_task(growing())
        await asyncio.sleep(0)
        kept += grow(until=8)
        await task

    with pytest.raises(LimitExceeded):
        asyncio.run(main())


def test_memory_that_a_generator_handed_out_and_that_was_freed_does_not_count():
    """Its consumer drops each part: at no time more than two of them are in use."""

    @memory_limit("8MiB")
    def parts():
        for _ in range(40):
            yield block(MIB)

    assert sum(len(part) for part in parts()) == 40 * MIB


def test_memory_of_a_consumer_is_not_charged_to_a_block_in_a_generator():
    """It runs between the steps of the generator, in the same thread and frame."""

    def numbers():
        with memory_limit("8MiB"):
            yield from range(2000)

    kept = [block(MIB) for number in numbers() if number % 40 == 0]
    assert len(kept) == 50


def test_a_block_may_be_left_by_hand():
    """``__enter__`` and ``__exit__`` called as methods, also without a limit exceeded."""
    limit = memory_limit("64MiB")
    scope = limit.__enter__()
    limit.__exit__(None, None, None)
    assert scope.peak < MIB
    assert not monitor._regions
    with pytest.raises(SettingsError, match="without __enter__"):
        limit.__exit__(None, None, None)


def test_a_coroutine_that_does_not_wait_is_stopped():
    """In the middle of its step, by a block of its own, by a decorator, by a block around the whole loop."""

    async def growing():
        grow()

    async def with_a_block():
        with LIMITED:
            await growing()

    for start in (LIMITED(growing), with_a_block):
        with pytest.raises(LimitExceeded):
            asyncio.run(start())
    with pytest.raises(LimitExceeded), LIMITED:
        asyncio.run(growing())


def test_generators_are_limited_in_their_own_steps():
    """Memory of the consumer is not theirs; values and exceptions pass in and out."""

    @LIMITED
    def numbers():
        try:
            got = yield 1
            yield got
        except KeyError:
            yield from grow_slowly()
        return

    def grow_slowly():
        kept = []
        while True:
            kept.append(block(MIB))
            yield len(kept)

    with contextlib.closing(numbers()) as generator:
        assert next(generator) == 1
        mine = grow(until=3 * LIMIT // (MIB // 4))
        assert generator.send("x") == "x"
        del mine
        assert generator.throw(KeyError()) == 1
        with pytest.raises(LimitExceeded):
            list(generator)


def test_asynchronous_generators():
    """Items come out, closing passes in, growth stops them."""
    closed = []

    @LIMITED
    async def items(many):
        kept = []
        try:
            for number in range(many):
                await asyncio.sleep(0)
                kept.append(block(MIB))
                yield number
        finally:
            closed.append(len(kept))

    async def main():
        assert [each async for each in items(3)] == [0, 1, 2]
        opened = items(3)
        assert await anext(opened) == 0
        await opened.aclose()
        with pytest.raises(LimitExceeded):
            async for _ in items(100):
                pass

    asyncio.run(main())
    assert closed[:2] == [3, 1]


def test_methods_and_objects_that_are_no_function():
    """Decorate below ``staticmethod`` and ``classmethod``; else the error names that."""

    class Maker:
        size = 3

        @LIMITED
        def make(self, many):
            return self.size * many

        @classmethod
        @LIMITED
        def of(cls):
            return cls.size

        @staticmethod
        @LIMITED
        def plain():
            return 1

    assert (Maker().make(2), Maker.of(), Maker.plain()) == (6, 3, 1)
    for wrong in (Maker, staticmethod(grow), classmethod(grow), 5):
        with pytest.raises(SettingsError, match="no function"):
            LIMITED(wrong)
    for wrong in ("500", "many", 0, -1, None, 1.5):
        if wrong == "500":
            continue  # a bare number is bytes
        with pytest.raises(SettingsError):
            memory_limit(wrong)


# --- where it is not interrupted --------------------------------------------------------------------------------


def test_a_finally_is_run_to_its_end():
    """Nothing is raised in a ``finally``, in code that it calls, or in an ``__exit__``; behind them it is."""
    steps = []

    class Closing:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            wait_on()
            steps.append("exit")

    def wait_on():
        until = time.monotonic() + 0.03  # many samples
        while time.monotonic() < until:
            pass

    @memory_limit(LIMIT, refuse=False)
    def work():
        try:
            with Closing():
                kept = [block(LIMIT + MIB)]  # in one call, so that no interruption comes before the clean-up
        finally:
            wait_on()
            steps.append("finally")
        wait_on()
        steps.append("behind")
        return kept

    sys.setswitchinterval(0.0001)
    try:
        with pytest.raises(LimitExceeded):
            work()
    finally:
        sys.setswitchinterval(0.005)
    assert steps in ([], ["exit", "finally"], ["exit", "finally", "behind"]), "it was interrupted in a clean-up"


def test_a_finally_that_is_past_the_limit_is_run_to_its_end():
    """It takes too much; still its next statement runs, and the one behind it does not."""
    steps = []

    @memory_limit(LIMIT, refuse=False)
    def work():
        try:
            steps.append("started")
        finally:
            kept = [block(LIMIT + MIB)]
            until = time.monotonic() + 0.1  # many samples
            while time.monotonic() < until:
                pass
            steps.append("finally")
        until = time.monotonic() + 20
        while time.monotonic() < until:
            pass
        return kept

    with pytest.raises(LimitExceeded):
        work()
    assert steps == ["started", "finally"]


def test_a_clean_up_that_grows_is_stopped_all_the_same():
    """Protection ends after a further 3 MiB."""

    def hoard():
        try:
            raise ValueError
        except ValueError:
            grow()

    with pytest.raises(LimitExceeded):
        memory_limit(LIMIT, refuse=False)(hoard)()


def test_a_pending_interruption_ends_with_the_block():
    """Its thread raises it as late as at the end of the block: that is left all the same, and nothing follows."""
    thread = threading.get_ident()
    interrupt.load()
    # CPython does not check for exceptions while it unpacks a sequence, and this one sets one meanwhile.
    setters = map(functools.partial(interrupt._set_async_exc, thread), [Interrupted] * 3)

    def interrupted():
        interrupt.interrupted_threads.add(thread)
        monitor._regions[-1].exceeded = 1

    one, two, three = (itertools.islice(setters, 1) for _ in range(3))

    def leave_at_once():
        interrupted()
        (_,) = two

    def fall_off():
        with LIMITED:
            interrupted()
            (_,) = one

    with pytest.raises(LimitExceeded):
        fall_off()
    with pytest.raises(LimitExceeded):
        LIMITED(leave_at_once)()

    def fail():
        empty = {}
        with LIMITED:
            interrupted()
            (done,) = three
            empty[done]

    with pytest.raises(KeyError):
        fail()


def test_a_program_that_is_profiled_goes_on():
    """Python 3.11 hangs under a profiler when a pending exception was cleared."""
    for _ in range(50):
        with contextlib.suppress(LimitExceeded), memory_limit(MIB, refuse=False):
            block(2 * MIB)
    seen = []
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    try:
        block(1)
    finally:
        sys.setprofile(None)
    assert seen


@pytest.mark.parametrize(
    ("trials", "where"),
    [
        (500, "main"),
        (500, "worker"),
        pytest.param(5000, "main", marks=pytest.mark.long),
        pytest.param(5000, "worker", marks=pytest.mark.long),
    ],
)
def test_nothing_is_raised_after_the_block(trials, where, monkeypatch):
    """However close the end of a block and its interruption are: the outcome is its result or LimitExceeded, and
    nothing is raised later."""
    monkeypatch.setattr("memwarden.guards.limit.poll_thread._FIRST", 0.00005)
    monkeypatch.setattr("memwarden.guards.limit.limit_monitor.SHORTEST", 0.00005)
    monkeypatch.setattr("memwarden.guards.limit.limit_monitor.LONGEST", 0.00005)
    limit = memory_limit(3 * MIB // 2, refuse=False)
    outcomes = {"result": 0, "exceeded": 0}

    def all_trials():
        taken = ()
        for trial in range(trials):
            try:
                try:
                    with limit:
                        taken = block(MIB), block(MIB)
                        for _ in range(trial % 200):
                            pass
                        taken = ()
                        for _ in range(trial % 50):
                            pass
                    outcomes["result"] += 1
                except LimitExceeded:
                    outcomes["exceeded"] += 1
                for _ in range(100):
                    len(taken)
            except Interrupted:
                return trial
        return None

    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.00001)
    try:
        late = all_trials() if where == "main" else in_thread(all_trials)
    finally:
        sys.setswitchinterval(usual)
    assert late is None, f"late in trial {late}"
    assert outcomes["exceeded"] > trials / 20, f"they hardly coincided: {outcomes}"


# --- blocks in blocks -------------------------------------------------------------------------------------------


def test_the_outer_block_stops_the_inner_one():
    """The exception is that of the block that was exceeded, and passes through the other unchanged."""
    with pytest.raises(LimitExceeded) as caught, memory_limit("16MiB"), memory_limit("64MiB"):
        grow()
    assert caught.value.limit == 16 * MIB
    with memory_limit("64MiB"):
        with pytest.raises(LimitExceeded) as caught, memory_limit("16MiB"):
            grow()
        assert caught.value.limit == 16 * MIB


def test_one_limit_may_be_entered_again():
    """In itself, by recursion, by threads; each entry counts from its own start."""

    @LIMITED
    def deep(levels):
        kept = grow(until=8)
        return len(kept) + (deep(levels - 1) if levels else 0)

    assert deep(8) == 72
    with LIMITED as outer, LIMITED as inner:
        kept = grow(until=16)
    assert outer is not inner
    assert 3 * MIB < inner.peak <= outer.peak + MIB // 4
    assert len(kept) == 16


def test_helpers_of_contextlib_enter_for_others():
    """A block that a stack opens, or a generator behind ``contextmanager``, is interrupted in its user's code."""

    @contextlib.contextmanager
    def limited():
        with LIMITED:
            yield

    with pytest.raises(LimitExceeded), limited():
        grow()

    def with_a_stack():
        with contextlib.ExitStack() as stack:
            stack.enter_context(memory_limit(LIMIT, refuse=False))
            grow()

    with pytest.raises(LimitExceeded):
        with_a_stack()


def test_a_thread_that_is_waited_for_counts():
    """Threads started in a block count as its own, and it is stopped when it runs Python code again."""

    def with_a_thread():
        kept = []
        thread = threading.Thread(target=grow, args=(kept, MIB, 3 * LIMIT // MIB))
        thread.start()
        thread.join()
        for _ in range(1_000_000):
            len(kept)

    with pytest.raises(LimitExceeded):
        memory_limit(LIMIT, refuse=False)(with_a_thread)()


def test_programs_that_are_started_inside_do_not_inherit_where_asked():
    """``refuse=False`` is for a block that starts programs."""
    show = [sys.executable, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0])"]
    with memory_limit("1GiB", refuse=False):
        assert int(subprocess.check_output(show)) == resource.getrlimit(resource.RLIMIT_DATA)[0]
