"""Whatever kind of function it is, it stays one, and does what it did."""

import asyncio
import functools
import inspect

import pytest

from memwarden.errors import SettingsError
from memwarden.guards.measure.measurement import Measurement
from memwarden.guards.measure.wrapping import function_kind, name_of, wrap
from support.kernel import MIB, Kernel


class Bench:
    """Wraps functions, and has their calls."""

    def __init__(self):
        self.kernel = Kernel()
        self.scopes = self.kernel.scopes()
        self.reported = []
        self.on = True

    def __call__(self, function):
        make = lambda: Measurement(name_of(function), on_end=self.reported.append, scopes=self.scopes)  # noqa: E731
        return wrap(function, make, lambda: self.on)


@pytest.fixture
def bench():
    return Bench()


@pytest.mark.contract("W3-11")
def test_every_kind_stays_what_it_is(bench):
    """Frameworks ask for the kind, and for name, documentation and signature."""

    def plain(first, *, second=2) -> int:
        """What it says."""
        return first + second

    def generator():
        yield 1

    async def coroutine():
        return 1

    async def async_generator():
        yield 1

    kinds = {plain: "function", generator: "generator", coroutine: "coroutine", async_generator: "async generator"}
    for function, kind in kinds.items():
        wrapped = bench(function)
        assert function_kind(wrapped) == function_kind(function) == kind
        assert wrapped.__wrapped__ is function
        assert wrapped.__name__ == function.__name__
        assert inspect.signature(wrapped) == inspect.signature(function)
    assert bench(plain).__doc__ == "What it says."
    assert bench(plain)(1, second=3) == 4


def test_methods_of_every_sort(bench):
    """Bound where they are asked for, above or below classmethod and staticmethod."""

    class Store:
        @bench
        def method(self, value):
            return self, value

        @bench
        @classmethod
        def above(cls, value):
            return cls, value

        @classmethod
        @bench
        def below(cls, value):
            return cls, value

        @bench
        @staticmethod
        def static(value):
            return value

        @property
        @bench
        def shown(self):
            return "shown"

    store = Store()
    assert store.method(1) == (store, 1)
    assert store.above(2) == Store.below(2) == (Store, 2)
    assert (store.static(3), store.shown) == (3, "shown")
    assert len(bench.reported) == 5


def test_whatever_can_be_called(bench):
    """A partial, an object with __call__ and a built-in function have a kind and a name, too."""

    class Adder:
        def __call__(self, value):
            return value + 1

    class Later:
        async def __call__(self):
            return 1

    assert bench(functools.partial(max, 3))(2) == 3
    assert bench(Adder())(1) == 2
    assert bench(len)("abc") == 3
    assert (
        function_kind(Later())
        == function_kind(functools.partial(Later()))
        == function_kind(Later().__call__)
        == "coroutine"
    )
    assert name_of(functools.partial(len)) == "builtins.len"
    assert [memory.name for memory in bench.reported][1].endswith("Adder")


@pytest.mark.parametrize("wrong", [int, 3, property(lambda self: 1)])
def test_what_cannot_be_wrapped_is_refused(bench, wrong):
    """At once, with the way out; a class would stop being one."""
    with pytest.raises(SettingsError, match="decorate"):
        bench(wrong)


def test_turned_off_nothing_is_measured(bench):
    """And every kind still works."""
    bench.on = False

    @bench
    def generator():
        return (yield (yield 1))

    @bench
    async def coroutine():
        return 2

    @bench
    async def async_generator():
        yield 3

    async def main():
        return [await coroutine()] + [each async for each in async_generator()]

    made = generator()
    assert (next(made), made.send("a")) == (1, "a")
    assert asyncio.run(main()) == [2, 3]
    assert bench(len)("ab") == 2
    assert (bench.reported, bench.kernel.reads) == ([], 0)


def test_a_generator_gets_what_is_sent_and_thrown(bench):
    """And its result comes out of ``yield from``."""
    seen = []

    @bench
    def talk():
        try:
            seen.append((yield 1))
            yield 2
        except ValueError as error:
            seen.append(str(error))
            yield 3
        return "result"

    def outer():
        seen.append((yield from talk()))

    made = outer()
    assert next(made) == 1
    assert made.send("sent") == 2
    assert made.throw(ValueError("thrown")) == 3
    assert list(made) == []
    assert seen == ["sent", "thrown", "result"]
    (memory,) = bench.reported
    assert memory.error == ""


def test_a_generator_that_is_left_is_closed(bench):
    """Its own ``finally`` runs when the consumer leaves, and it counts as a call that did not fail."""
    seen = []

    @bench
    def endless():
        try:
            while True:
                yield 1
        finally:
            seen.append("closed")

    made = endless()
    next(made)
    made.close()
    (memory,) = bench.reported
    assert (seen, memory.error, bench.scopes.open_scopes) == (["closed"], "", [])


def test_a_generator_that_was_never_started_is_no_call(bench):
    """Nothing ran."""

    @bench
    def never():
        yield 1

    never().close()
    assert bench.reported == []


def test_a_generator_that_fails_is_named(bench):
    """The exception is the consumer's, with the generator's own line in its traceback."""

    @bench
    def failing():
        yield 1
        raise LookupError("here")

    made = failing()
    next(made)
    with pytest.raises(LookupError) as caught:
        next(made)
    assert caught.traceback[-1].name == "failing"
    (memory,) = bench.reported
    assert memory.error == "LookupError"


def test_what_a_consumer_holds_is_not_the_generators(bench):
    """It is measured while its own code runs; between its steps others are not beside it."""

    @bench
    def steps():
        bench.kernel.hold(110 * MIB)
        yield 1
        bench.kernel.hold(620 * MIB)

    for _ in steps():
        bench.kernel.hold(610 * MIB)
        with Measurement("consumer", scopes=bench.scopes) as consumer:
            pass
    (memory,) = bench.reported
    assert (memory.growth, memory.shared, consumer.memory.shared) == (20 * MIB, (), ())


def test_an_async_generator_gets_what_is_sent_and_thrown(bench):
    """As a plain one does, and it is closed when it is left."""
    seen = []

    @bench
    async def talk():
        try:
            try:
                seen.append((yield 1))
                yield 2
            except ValueError as error:
                seen.append(str(error))
                yield 3
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def main():
        made = talk()
        assert await anext(made) == 1
        assert await made.asend("sent") == 2
        assert await made.athrow(ValueError("thrown")) == 3
        await made.aclose()
        async for _ in talk():
            pass

    asyncio.run(main())
    assert seen == ["sent", "thrown", "closed", None, "closed"]
    assert [memory.error for memory in bench.reported] == ["", ""]
    assert bench.scopes.open_scopes == []


def test_a_cancelled_task_ends_its_call(bench):
    """The cancellation goes on, and says how the call ended."""

    @bench
    async def waits():
        await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (memory,) = bench.reported
    assert (memory.error, bench.scopes.open_scopes) == ("CancelledError", [])


def test_concurrent_tasks_are_reported(bench):
    """Two at once; each has the peak of its own time."""

    @bench
    async def first(started, may_end):
        started.set()
        await may_end.wait()

    @bench
    async def second():
        bench.kernel.spike(300 * MIB)

    async def main():
        started, may_end = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(first(started, may_end))
        await started.wait()
        await second()
        bench.kernel.spike(500 * MIB)
        may_end.set()
        await task

    asyncio.run(main())
    inner, outer = bench.reported
    assert (inner.peak, outer.peak) == (300 * MIB, 500 * MIB)
    assert inner.shared == (outer.name,)
    assert outer.shared == (inner.name,)
