"""The scheduler without Ray: what it orders, on a cluster on paper, in simulated time."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.execution.capacity import Capacity, fits
from benchmarks.execution.orders import Commit, Fail, Item, Key, Need, Node, SetAside, StartWorker, StopWorker, Withdraw
from benchmarks.execution.scheduler import MAX_RETRIES, Scheduler
from tests.execution.simulation import NEVER, Cluster

ONE = Need(1)


def items(key: Key, count: int, **rest: object) -> list[Item]:
    return [Item(key, (key.name, place), place=place, **rest) for place in range(count)]  # type: ignore[arg-type]


def ends(cluster: Cluster) -> Counter[str]:
    return Counter(type(end).__name__ for end in cluster.ended.values())


def test_64_slots_are_busy_nearly_all_the_time() -> None:
    cluster = Cluster([Node(f"n{i}", 16) for i in range(4)], load_seconds=lambda key, node: 3.0)
    cluster.submit(items(Key("m", ONE), 256))
    cluster.play()
    assert ends(cluster) == {"Commit": 256}
    after_start = cluster.now - 3.0
    assert 256 / (64 * after_start) >= 0.95


def test_units_of_one_key_share_workers_and_kinds_share_the_cluster() -> None:
    cluster = Cluster([Node("n", 8)])
    one, other = Key("one", ONE), Key("other", ONE)
    cluster.submit([*items(one, 40), *items(other, 40)])
    assert cluster.started_workers == {"one": 4, "other": 4}
    cluster.play()
    assert cluster.now <= 12
    assert sum(cluster.started_workers.values()) <= 12


def test_no_worker_is_started_that_would_be_ready_too_late() -> None:
    """Loading takes 100 s; 20 cases of 1 s are done by the first worker before a second one could help."""
    cluster = Cluster([Node("n", 8)], load_seconds=lambda key, node: 100.0)
    key = Key("m", ONE)
    cluster.submit(items(key, 1))
    cluster.at(150.0, lambda: cluster.scheduler.submit(items(key, 1), cluster.now))
    cluster.at(100.5, lambda: cluster.scheduler.submit(items(key, 20), cluster.now))
    cluster.play()
    assert cluster.started_workers["m"] == 1 or cluster.now < 125


def test_the_longest_come_first_and_the_node_that_has_read_a_case_reads_it_again() -> None:
    nodes = [Node(f"n{i}", 1) for i in range(4)]
    cluster = Cluster(nodes)
    for name in ("a", "b"):
        cluster.submit([Item(Key(name, ONE), place, length=1.0 + place // 4, place=place) for place in range(40)])
    cluster.play()
    where: dict[object, set[str]] = {}
    for item, places in cluster.assigned.items():
        where.setdefault(item.work, set()).update(places)
    assert sum(len(places) == 1 for places in where.values()) >= 30
    order = [item.length for item in cluster.assigned if item.key.name == "a"]
    assert order[0] == max(order)
    assert order[-1] == min(order)


def test_what_a_slow_worker_has_not_begun_is_taken_over() -> None:
    def seconds(item: Item, node: str) -> float:
        return 500.0 if item.work == ("m", 0) else 1.0

    cluster = Cluster([Node("n", 2)], seconds=seconds)
    cluster.submit(items(Key("m", ONE), 12))
    cluster.play()
    others = [when for item, when in cluster.ended_at.items() if item.work != ("m", 0)]
    assert max(others) < 20


def test_a_straggler_is_computed_twice_and_counts_once() -> None:
    def seconds(item: Item, node: str) -> float:
        return 1000.0 if item.work == ("m", 63) and node == "n1" and len(cluster.assigned[item]) == 1 else 10.0

    cluster = Cluster([Node("n0", 4), Node("n1", 4)], seconds=seconds)
    cluster.submit(items(Key("m", ONE), 64))
    cluster.play()
    assert ends(cluster) == {"Commit": 64}
    # Begun at 70 s, at three times the usual 10 s begun again, and 10 s later there; a tick is a second.
    assert 110 <= cluster.now <= 113
    assert not cluster.processes or cluster.scheduler.outstanding == 0


def test_a_case_that_hangs_fails_alone() -> None:
    cluster = Cluster([Node("n", 2)], seconds=lambda item, node: NEVER if item.work == ("m", 3) else 1.0)
    cluster.submit(items(Key("m", ONE), 10, limit=120.0))
    cluster.play()
    assert ends(cluster) == {"Commit": 9, "Fail": 1}
    (failed,) = (end for end in cluster.ended.values() if isinstance(end, Fail))
    assert failed.item.work == ("m", 3)
    assert failed.reason == "no result within 2 minutes; the process was ended"
    assert 120 < cluster.now < 130


def test_the_limit_of_a_case_begins_when_it_begins() -> None:
    """The second item waits 50 s on its worker and then needs 59 s of its 60."""
    scheduler = Scheduler([Node("n", 1)])
    key = Key("m", ONE)
    work = items(key, 4, limit=60.0)
    (start,) = scheduler.submit(work, 0.0)
    assert isinstance(start, StartWorker)
    given = [action.item for action in scheduler.loaded(start.worker, 1.0)]  # type: ignore[union-attr]
    assert len(given) == 2
    scheduler.tick(50.0)
    scheduler.finished(start.worker, given[0], 51.0)
    assert scheduler.tick(110.0) == []
    late = scheduler.tick(112.0)
    assert StopWorker(start.worker) in late
    assert any(isinstance(action, Fail) and action.item is given[1] for action in late)


def test_a_death_is_the_machines_the_first_time_and_the_methods_the_second() -> None:
    once: set[object] = set()

    def trouble(item: Item, node: str) -> str:
        if item.work == ("m", 1):
            return "death"
        if item.work == ("m", 2) and item.work not in once:
            once.add(item.work)
            return "death"
        return ""

    cluster = Cluster([Node("n", 2)], trouble=trouble)
    cluster.submit(items(Key("m", ONE), 10))
    cluster.play()
    assert ends(cluster) == {"Commit": 9, "Fail": 1}
    (failed,) = (end for end in cluster.ended.values() if isinstance(end, Fail))
    assert failed.item.work == ("m", 1)
    assert failed.reason == "death; it ended 2 processes"
    assert cluster.avoided == []


def test_a_fault_of_the_machine_is_tried_elsewhere_and_then_set_aside() -> None:
    cluster = Cluster(
        [Node(f"n{i}", 1) for i in range(5)], trouble=lambda item, node: "fault" if item.work == 0 else ""
    )
    key = Key("m", ONE)
    cluster.submit([Item(key, 0), *(Item(key, i) for i in range(1, 60))])
    cluster.play()
    assert ends(cluster) == {"Commit": 59, "SetAside": 1}
    (aside,) = (end for end in cluster.ended.values() if isinstance(end, SetAside))
    assert aside.reason == f"fault; tried {MAX_RETRIES + 1} times"
    assert len(set(cluster.assigned[aside.item])) == MAX_RETRIES + 1


def test_a_node_with_three_faults_in_a_row_is_left_alone() -> None:
    cluster = Cluster(
        [Node("good", 2), Node("bad", 2)],
        seconds=lambda item, node: 6.0,
        trouble=lambda item, node: "fault" if node == "bad" else "",
    )
    cluster.submit(items(Key("m", ONE), 40))
    cluster.play()
    assert cluster.avoided == ["bad"]
    assert ends(cluster) == {"Commit": 40}
    assert all(places[-1] == "good" for places in cluster.assigned.values())


def test_a_node_that_is_given_up_for_a_result_hands_back_no_item_that_has_its_end() -> None:
    """The item ended a process on n1, which computes it again beside n2; its result is the third strike of n1."""
    late, loads = "late", Key("loads nowhere but on n2", ONE)

    def seconds(item: Item, node: str) -> float:
        if item.work != late or len(cluster.assigned[item]) == 1:
            return 1.0
        return 42.0 if node == "n2" else NEVER

    def trouble(item: Item, node: str) -> str:
        return "death" if item.work == late and len(cluster.assigned[item]) == 1 else ""

    cluster = Cluster(
        [Node("n1", 2), Node("n2", 1)],
        seconds=seconds,
        trouble=trouble,
        load_seconds=lambda key, node: 5.0 if key is loads else 0.0,
        load_trouble=lambda key, node: "death" if key is loads and node == "n1" else "",
    )
    item = Item(Key("m", ONE), late)
    cluster.submit([item, *items(item.key, 60)])
    cluster.at(30.0, lambda: cluster.scheduler.submit(items(loads, 1), cluster.now))
    cluster.play()
    assert ends(cluster) == {"Commit": 62}
    assert cluster.assigned[item] == ["n1", "n2", "n1"]
    assert cluster.avoided == ["n1"]
    assert 41 < cluster.ended_at[item] < 51  # after the second load that failed on n1, and before a third


def test_a_full_disk_on_the_only_node_ends_soon_with_everything_set_aside() -> None:
    cluster = Cluster([Node("n", 2)], trouble=lambda item, node: "fault")
    cluster.submit(items(Key("m", ONE), 1000))
    cluster.play()
    assert ends(cluster) == {"SetAside": 1000}
    assert cluster.now < 60


def test_a_lost_node_costs_nothing_but_time() -> None:
    cluster = Cluster([Node("n0", 4), Node("n1", 4)], seconds=lambda item, node: 3.0)
    cluster.submit(items(Key("m", ONE), 80))
    cluster.lose("n1", 10.0)
    cluster.play()
    assert ends(cluster) == {"Commit": 80}
    assert all("n1" not in places[1:] for places in cluster.assigned.values())


def test_without_any_node_left_everything_is_set_aside_after_a_while() -> None:
    cluster = Cluster([Node("n0", 4)], seconds=lambda item, node: 3.0)
    cluster.submit(items(Key("m", ONE), 80))
    cluster.lose("n0", 10.0)
    cluster.play()
    assert ends(cluster)["SetAside"] + ends(cluster)["Commit"] == 80
    assert ends(cluster)["SetAside"] > 60
    assert 60 < cluster.now < 120


TWO_WORKERS = Key("training", Need(1, 1, workers=2), first=True, resumes=True)
TWO_GPUS = [Node("n0", 4, 1), Node("n1", 4, 1)]


def test_a_group_that_fits_no_more_because_a_node_is_lost_is_set_aside_after_a_while() -> None:
    cluster = Cluster(TWO_GPUS, seconds=lambda item, node: 40.0)
    cluster.submit([Item(TWO_WORKERS), *items(Key("m", ONE), 4)])
    cluster.lose("n1", 10.0)
    cluster.play(until=1000.0)
    assert ends(cluster) == {"Commit": 4, "SetAside": 1}
    ((aside, when),) = ((end, cluster.ended_at[item]) for item, end in cluster.ended.items() if item.key is TWO_WORKERS)
    assert aside.reason == "no nodes are left for 2 workers with 1 CPU and 1 GPU"  # type: ignore[union-attr]
    assert 70 <= when <= 75  # lost after 10 s, missed from the first retry 1 s later on, for 60 s


def test_a_group_goes_on_when_the_lost_node_is_back_within_the_while() -> None:
    cluster = Cluster(TWO_GPUS, seconds=lambda item, node: 40.0)
    cluster.submit([Item(TWO_WORKERS)])
    cluster.lose("n1", 10.0)
    cluster.at(50.0, lambda: cluster.scheduler.set_nodes(TWO_GPUS, cluster.now))
    cluster.play(until=1000.0)
    assert ends(cluster) == {"Commit": 1}


def test_a_group_that_fits_only_with_a_node_that_is_left_out_is_set_aside_at_once() -> None:
    scheduler = Scheduler(TWO_GPUS)
    scheduler.avoid("n1", "n1 cannot take part: another commit", 0.0)
    (aside,) = scheduler.submit([Item(TWO_WORKERS)], 0.0)
    assert isinstance(aside, SetAside)
    assert aside.reason == ("no nodes are left for 2 workers with 1 CPU and 1 GPU; n1 cannot take part: another commit")


def test_a_node_that_comes_back_is_used_again() -> None:
    cluster = Cluster([Node("n0", 4)], seconds=lambda item, node: 3.0)
    cluster.submit(items(Key("m", ONE), 80))
    cluster.lose("n0", 10.0)
    cluster.at(30.0, lambda: cluster.scheduler.set_nodes([Node("n0", 4)], cluster.now))
    cluster.play()
    assert ends(cluster) == {"Commit": 80}


def test_too_little_memory_is_tried_once_with_a_whole_gpu() -> None:
    key = Key("m", Need(1, 0.25))
    cluster = Cluster([Node("n", 8, 2)], trouble=lambda item, node: "memory" if item.work == ("m", 5) else "")
    cluster.submit(items(key, 20))
    cluster.play()
    assert ends(cluster) == {"Commit": 20}
    assert len(cluster.assigned[next(item for item in cluster.ended if item.work == ("m", 5))]) == 2
    assert key.roomier().need.gpus == 1.0
    assert Key("m", Need(1, 2.0)).roomier().need.gpus == 2.0
    assert Key("m", Need(1)).roomier().need.gpus == 0.0


def test_a_method_that_cannot_be_loaded_fails_with_all_its_items() -> None:
    broken, good = Key("broken", ONE), Key("good", ONE)
    cluster = Cluster([Node("n", 4)], load_trouble=lambda key, node: "error" if key.name == "broken" else "")
    cluster.submit([*items(broken, 30), *items(good, 30)])
    cluster.play()
    assert ends(cluster) == {"Commit": 30, "Fail": 30}
    cluster.submit(items(broken, 1))
    assert ends(cluster) == {"Commit": 30, "Fail": 31}


def test_loading_that_never_ends_has_a_limit() -> None:
    key = Key("m", ONE, load_limit=60.0)
    cluster = Cluster([Node("n", 1)], load_seconds=lambda key, node: 1e12)
    cluster.submit(items(key, 5))
    cluster.play()
    assert {end.reason for end in cluster.ended.values()} == {"not ready within 1 minutes; the process was ended"}  # type: ignore[union-attr]
    assert ends(cluster) == {"Fail": 5}
    assert cluster.now < 140


def test_a_node_on_which_nothing_loads_is_passed_by_and_no_case_suffers() -> None:
    cluster = Cluster(
        [Node("good", 1), Node("bad", 1)],
        load_seconds=lambda key, node: 6.0,
        load_trouble=lambda key, node: "death" if node == "bad" else "",
    )
    cluster.submit(items(Key("m", ONE), 40))
    cluster.play()
    assert ends(cluster) == {"Commit": 40}


def test_a_moment_in_which_no_process_can_be_started_costs_nothing() -> None:
    """For two seconds every process dies while it is loaded; the pauses between the attempts outlast that."""
    cluster = Cluster([Node("n0", 1), Node("n1", 1)])
    cluster.load_trouble = lambda key, node: "death" if cluster.now < 2.0 else ""
    cluster.load_seconds = lambda key, node: 0.1
    cluster.submit([*items(Key("a", ONE), 10), *items(Key("b", ONE), 10)])
    cluster.play()
    assert ends(cluster) == {"Commit": 20}


def test_a_killed_training_is_tried_again_and_never_held_against_the_method() -> None:
    key = Key("training", Need(2, 1, workers=2), first=True, resumes=True)
    tries: list[str] = []

    def trouble(item: Item, node: str) -> str:
        tries.append(node)
        return "death" if len(tries) < 4 else ""

    cluster = Cluster([Node("n0", 2, 1), Node("n1", 2, 1)], trouble=trouble)
    cluster.submit([Item(key)])
    cluster.play()
    assert ends(cluster) == {"Commit": 1}
    cluster = Cluster([Node("n0", 2, 1), Node("n1", 2, 1)], trouble=lambda item, node: "death")
    cluster.submit([Item(key)])
    cluster.play()
    assert ends(cluster) == {"SetAside": 1}


def test_a_result_that_comes_while_it_is_taken_over_counts_once() -> None:
    scheduler = Scheduler([Node("n", 2)])
    key = Key("m", ONE)
    work = items(key, 6)
    first, second = (action.worker for action in scheduler.submit(work, 0.0) if isinstance(action, StartWorker))
    scheduler.loaded(first, 0.0)
    scheduler.loaded(second, 0.0)
    orders, done, now = [], [], 1.0
    held = {first: [], second: []}  # type: ignore[var-annotated]
    state = {one.number: one for one in scheduler._workers.values()}
    while not any(isinstance(order, Withdraw) for order in orders):
        now += 1
        item = state[second].items[0]
        orders = scheduler.finished(second, item, now)
        done += [order.item for order in orders if isinstance(order, Commit)]
        assert now < 20, held
    (withdraw,) = (order for order in orders if isinstance(order, Withdraw))
    late = [scheduler.finished(first, state[first].items[0], now), scheduler.finished(first, withdraw.item, now)]
    done += [order.item for orders in late for order in orders if isinstance(order, Commit)]
    assert len(done) == len(set(done))
    assert scheduler.outstanding == 6 - len(done)


def test_abandoning_sets_everything_aside() -> None:
    scheduler = Scheduler([Node("n", 2)])
    scheduler.submit(items(Key("m", ONE), 6), 0.0)
    told = scheduler.abandon("Ray is gone")
    assert [type(action) for action in told] == [SetAside] * 6
    assert scheduler.outstanding == 0


def test_shares_of_a_gpu_are_of_one_gpu() -> None:
    room = Capacity()
    room.add(Node("n", 100, 4))
    places = [room.take(Need(1, 0.7)) for _ in range(5)]
    assert sum(place is not None for place in places) == 4  # not 5, though 3.5 < 4
    assert room.take(Need(1, 0.3)) is not None
    assert room.take(Need(1, 1)) is None


@pytest.mark.parametrize(
    ("need", "can"),
    [
        (Need(2), True),
        (Need(3), True),
        (Need(4), False),
        (Need(1, 1), False),
        (Need(2, workers=3), True),
        (Need(2, workers=4), False),
        (Need(1, workers=10**9), False),
        (Need(float("inf")), False),
        (Need(1, float("inf")), False),
    ],
)
def test_what_the_cluster_can_never_hold(need: Need, can: bool) -> None:
    assert fits([Node("a", 2), Node("b", 2), Node("c", 3)], need) is can


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 80), machines=st.integers(1, 5), kinds=st.integers(1, 4))
def test_whatever_happens_every_item_comes_to_exactly_one_end(seed: int, count: int, machines: int, kinds: int) -> None:
    """Deaths, faults, hangs, too little memory, lost and returning nodes, at random; `Cluster` checks the rest."""
    chance = random.Random(seed)
    rate = chance.choice([0.0, 0.05, 0.3])
    nodes = [Node(f"n{i}", chance.randint(1, 4), chance.randint(0, 2)) for i in range(machines)]
    keys = [
        Key(
            kind,
            Need(1, chance.choice([0, 0, 0.5]), workers=chance.choice([1, 1, 2, 3])),
            resumes=chance.random() < 0.2,
            load_limit=50.0,
        )
        for kind in range(kinds)
    ]
    cluster = Cluster(
        nodes,
        seconds=lambda item, node: chance.choice([0.1, 1.0, 1.0, 5.0, 40.0, NEVER if chance.random() < rate else 1.0]),
        load_seconds=lambda key, node: chance.choice([0.0, 3.0, 100.0 if chance.random() < rate else 1.0]),
        trouble=lambda item, node: chance.choice(["death", "fault", "memory"]) if chance.random() < rate else "",
        load_trouble=lambda key, node: "death" if chance.random() < rate else "",
    )
    work = [
        Item(chance.choice(keys), i, length=chance.random() + 0.1, limit=60.0, place=chance.randrange(99))
        for i in range(count)
    ]
    half = chance.randrange(count + 1)
    cluster.submit(work[:half])
    cluster.at(chance.uniform(0, 30), lambda: cluster.scheduler.submit(work[half:], cluster.now))
    if chance.random() < 0.5:
        cluster.lose("n0", chance.uniform(0, 60))
        back = chance.uniform(60, 200)
        cluster.at(back, lambda: cluster.scheduler.set_nodes(nodes, cluster.now))
    while len(cluster.ended) < count:
        cluster.play(until=20_000, tick=1.0)
        if not cluster.scheduler.outstanding and len(cluster.ended) < count:
            when, _, event = min(cluster._events, key=lambda one: one[0])
            cluster.now = max(cluster.now, when)
            cluster._events.remove(min(cluster._events, key=lambda one: one[0]))
            cluster.carry_out(event())
    assert set(cluster.ended) == set(work)
