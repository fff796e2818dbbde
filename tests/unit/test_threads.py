from concurrent.futures import Future

from classifier.threads import in_order


def test_results_come_in_order_and_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def submit(item: int) -> "Future[int]":
        taken.append(item)
        future: Future[int] = Future()
        future.set_result(item * item)
        return future

    results = in_order(submit, range(10), ahead=3)
    assert taken == []
    assert next(results) == (0, 0)
    assert taken == [0, 1, 2]
    assert next(results) == (1, 1)
    assert taken == [0, 1, 2, 3]
    assert list(results) == [(item, item * item) for item in range(2, 10)]
