"""How benchmarks judge: by pairs taken in turn, so that a busy moment hits both sides."""

from collections.abc import Callable
from itertools import count

from benchmarks.measuring import Result, Sizes, Taken, interleave, show


def result(ours: list[float], limit: list[float], aim: float | None = None) -> Result:
    return Result("work", "ours", "limit", Taken({"ours": ours, "limit": limit}, (1.0, 2.0)), aim)


def test_sides_are_taken_in_turn() -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], float]:
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    taken = interleave({"a": side("a"), "b": side("b")}, Sizes(rounds=3))
    assert "".join(order) == "ababab"
    assert taken.values == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_one_round_is_taken_whatever_the_time_allows() -> None:
    numbers = count(1)
    taken = interleave({"a": lambda: float(next(numbers))}, Sizes(rounds=5, seconds=0.0))
    assert taken.values == {"a": [1.0]}


def test_a_benchmark_may_want_fewer_rounds_than_the_caller_but_never_more() -> None:
    assert len(interleave({"a": lambda: 1.0}, Sizes(rounds=5), 2).values["a"]) == 2
    assert len(interleave({"a": lambda: 1.0}, Sizes(rounds=1), 2).values["a"]) == 1


def test_the_ratio_is_the_median_of_the_pairs_not_of_the_sides() -> None:
    busy = result([2.0, 20.0, 3.0], [1.0, 10.0, 1.0], aim=2.0)
    assert busy.ratio == 2.0
    assert busy.worst == (3.0, 1.0)
    assert busy.met is True


def test_an_aim_can_be_missed_and_be_absent() -> None:
    assert result([3.0], [1.0], aim=2.9).met is False
    assert result([3.0], [1.0]).met is None
    assert "MISSED" in result([3.0], [1.0], aim=2.9).as_text()


def test_a_p99_needs_many_rounds() -> None:
    few, many = result([1.0] * 3, [1.0] * 3), result([1.0] * 30, [1.0] * 30)
    assert "p99" not in few.as_json()["sides"]["ours"]
    assert many.as_json()["sides"]["ours"]["p99"] == 1.0


def test_values_are_shown_as_people_say_them() -> None:
    assert [show(0.0123, "s"), show(1.2, "s"), show(54 << 20, "bytes")] == ["12.3 ms", "1.20 s", "54.0 MiB"]
