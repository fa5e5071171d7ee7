"""Samplers join and go in the middle of work; nobody waits for one that has no place, and no job is lost."""

import math
import os
import re
import sys
import time

import pytest
import ray

from raypref.cluster import places
from raypref.cluster.crew import Crew
from raypref.cluster.placement import Bundle
from raypref.cluster.pool import Job, Pool, Silence
from raypref.cluster.whereabouts import Whereabouts
from raypref.train.stopped import StoppedRun
from tests.cluster.named import named

pytestmark = pytest.mark.ray

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import test files

LARGE = 3.0
"""CPUs: the cluster of the tests has room for one such actor."""


class Stub:
    """Stands in for a sampler: answers with its number after a while; says that it is on a certain node."""

    def __init__(self, number, node, doubtful):
        self.number, self.node, self.doubtful, self.proved = number, node, doubtful, []

    def ready(self):
        return Whereabouts(os.getpid(), "1.2.3.4", "", self.node)

    def prove(self, weights):
        if self.doubtful:
            raise ValueError("another prediction")
        self.proved.append(weights)

    def rollout(self, name, seconds):
        time.sleep(seconds)
        return (self.number, self.proved), []


class Unable(Stub):
    """A sampler that is to score for itself, and lacks a reward's weights."""

    def ready(self):
        raise StoppedRun("the reward 'x' cannot be loaded")


class Recruits:
    """Makes stubs, numbered; `doubtful` ones predict otherwise than the learner."""

    def __init__(self, cpus=0.0, nodes=(), doubtful=(), slots=1, kind=Stub):
        self.cpus, self.nodes, self.doubtful, self.slots, self.made, self.kind = cpus, nodes, doubtful, slots, [], kind

    def __call__(self):
        number = len(self.made)
        node = self.nodes[number] if number < len(self.nodes) else "lasting"
        stub = ray.remote(self.kind).options(num_cpus=self.cpus, max_concurrency=self.slots)
        self.made.append(stub.remote(number, node, number in self.doubtful))
        return self.made[-1]


def jobs(count, seconds=0.0):
    return [Job("rollout", named(f"chunk {index}"), (seconds,)) for index in range(count)]


def numbers(pool, work):
    """Who did which job."""
    return [answer[0] for answer in ray.get(pool.wait_jobs(work))]


def pump_until(pool, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        pool._pump([], deadline)


def busy_until(pool, at_work, waiting, seconds):
    """Keeps so many jobs waiting, each of so many seconds, until so many are at work, however long their start takes
    here; the jobs."""
    work = []

    def met():
        more = jobs(waiting - pool.queued(), seconds)
        work.extend(more)
        pool.submit(more)
        return len(pool.crew.at_work()) == at_work

    pump_until(pool, met)
    return work


@pytest.fixture
def make_pool(ray_cluster):
    """A factory of pools that look around ten times a second, and are closed in the end."""
    made = []

    def make(recruits, least, most, asked=None, timeout=60.0, idle_timeout=60.0):
        crew = Crew(recruits, least, most, timeout, idle_timeout)
        crew.places.interval = 0.1
        crew.ask(asked or most)
        made.append(Pool(crew, recruits.slots, timeout))
        made[-1].wait_ready()
        return made[-1]

    yield make
    for pool in made:
        pool.crew.close()


def told(pool):
    return [(change.kind, change.why) for change in pool.crew.register.take().changes]


def test_what_no_sampler_can_load_is_told_at_once_as_what_it_is(make_pool):
    recruits = Recruits(kind=Unable)
    with pytest.raises(StoppedRun, match=r"^the reward 'x' cannot be loaded$"):
        make_pool(recruits, 1, 1)
    assert len(recruits.made) == 1


def test_work_begins_without_those_who_have_no_place_and_they_join_when_there_is_one(make_pool):
    pool = make_pool(Recruits(cpus=LARGE), 1, 2)
    first, second = pool.crew.seats
    assert (first.at_work, second.at_work) == (True, False)
    pool.submit(work := jobs(4, 0.2))
    assert numbers(pool, work) == [0, 0, 0, 0]
    assert pool.crew.places.missing == {second.actor._actor_id.hex()}
    assert second.deadline == math.inf  # only who has a place can be late
    pool.crew.most = 1
    pool._replace(first, [], "is taken away")
    pump_until(pool, lambda: second.at_work)
    pool.submit(work := jobs(1))
    assert numbers(pool, work) == [1]


def test_who_joins_proves_the_newest_weights_first(make_pool, caplog):
    recruits = Recruits(doubtful={1})
    pool = make_pool(recruits, 1, 2, asked=1)
    pool.crew.newest_weights = lambda: ray.put("version 7")
    work = busy_until(pool, 2, 4, 0.3)
    assert len(recruits.made) == 3  # the second was refused
    assert "another prediction" in caplog.text
    answers = dict(ray.get(pool.wait_jobs(work)))
    assert answers == {0: [], 2: ["version 7"]}
    assert not any(job.losses for job in work)


def test_on_a_node_that_is_about_to_go_work_ends_and_another_takes_over(make_pool, monkeypatch):
    going = set()
    monkeypatch.setattr(places, "draining_nodes", lambda: frozenset(going))
    pool = make_pool(Recruits(nodes=["lasting", "doomed"]), 2, 2)
    pool.submit(work := jobs(2, 1.0))
    going.add("doomed")
    pump_until(pool, lambda: len(pool.crew.seats) == 3 or work[1].result)
    assert [seat.leaving for seat in pool.crew.seats] == [False, True, False]
    pool.submit(more := jobs(4))
    assert 1 not in numbers(pool, more)
    assert numbers(pool, work) == [0, 1]  # what it had begun
    pump_until(pool, lambda: len(pool.crew.at_work()) == 2 and len(pool.crew.seats) == 2)
    assert ("left", "its node is about to go") in told(pool)
    assert not any(job.losses for job in work)


def test_who_has_nothing_to_do_leaves_and_is_asked_for_again(make_pool):
    pool = make_pool(Recruits(), 1, 3, idle_timeout=0.3)
    pump_until(pool, lambda: len(pool.crew.at_work()) == 3)  # however long it takes until a run begins
    pool.crew.newest_weights = lambda: ray.put("version 1")
    pump_until(pool, lambda: len(pool.crew.seats) == 1)
    told(pool)
    work = busy_until(pool, 3, 4, 0.3)
    assert len(set(numbers(pool, work))) == 3
    pump_until(pool, lambda: len(pool.crew.seats) == 1)
    assert [kind for kind, _ in told(pool)] == ["joined", "joined", "left", "left"]
    assert pool.crew.seats[0].at_work


def test_nobody_leaves_below_the_least(make_pool):
    pool = make_pool(Recruits(), 2, 2, idle_timeout=0.1)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        pool._pump([], deadline)
    assert len(pool.crew.at_work()) == 2


def test_a_spare_sampler_gives_way_to_the_learner_and_its_job_is_done_by_another(make_pool, monkeypatch):
    monkeypatch.setattr(places, "FIRST_WORD", 0.5)
    recruits = Recruits(nodes=["lasting"])
    pool = make_pool(recruits, 1, 2, asked=1)
    recruits.cpus, recruits.nodes = LARGE, ["", ray.get_runtime_context().get_node_id()]
    work = busy_until(pool, 2, 1, 3.0)
    bundle = Bundle("learner", 1, 1, LARGE, 0.0)
    learner = ray.remote(Stub).options(**bundle.options()).remote(-1, "", False)
    pool.crew.places.watch(learner, bundle)
    assert pool.wait_other(learner.ready.remote(), "the learner's start")
    assert ("left", "the learner needs its place") in told(pool)
    assert set(numbers(pool, work)) == {0}
    assert not any(job.losses for job in work)
    ray.kill(learner)


def test_a_wait_says_what_has_no_place(ray_cluster, monkeypatch, caplog):
    monkeypatch.setattr(places, "FIRST_WORD", 0.5)
    crew = Crew(lambda: spawn(), 1, 1, 5.0, 60.0)
    bundle = Bundle("sampler", 1, 1, 1.0, 1.0, labels={"zone": "b"})

    def spawn():
        actor = ray.remote(Stub).options(**bundle.options()).remote(0, "", False)
        crew.places.watch(actor, bundle)
        return actor

    crew.ask(1)
    line = re.escape("no place for 1 sampler (1 CPU, 1 GPU, on a node with zone = b: no node would do); free: ")
    with pytest.raises(Silence, match=rf"0 of 1 samplers are ready after 5 s \(cluster.timeout\): {line}"):
        Pool(crew, 1, 5.0).wait_ready()
    assert re.search(rf"waiting for \d s: {line}", caplog.text)
    crew.close()


def test_a_process_that_is_slow_to_start_has_its_place(ray_cluster, monkeypatch, tmp_path, caplog):
    """Another actor of the same cluster has no place meanwhile, and none would do."""
    monkeypatch.setattr(places, "FIRST_WORD", 0.5)
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(4)")
    slowly = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
    bundle = Bundle("sampler", 1, 1, 0.5, 0.0)
    watched = places.Places()
    other = ray.remote(Stub).options(num_cpus=1000.0).remote(0, "", False)
    actor = ray.remote(Stub).options(**bundle.options(), runtime_env=slowly).remote(0, "", False)
    watched.watch(actor, bundle)
    deadline = time.monotonic() + 30
    while not caplog.text and time.monotonic() < deadline:
        watched.refresh()
        time.sleep(0.1)
    assert re.search(r"waiting for \d s: 1 sampler placed, and still being started by Ray$", caplog.messages[0])
    for each in (actor, other):
        ray.kill(each)


def test_where_no_sampler_finds_a_place_any_more_the_run_ends(make_pool):
    recruits = Recruits()
    pool = make_pool(recruits, 1, 1)
    recruits.cpus, pool.timeout = 1000.0, 3.0
    pool._replace(pool.crew.seats[0], [], "is taken away")
    pool.submit(work := jobs(1))
    with pytest.raises(Silence, match="no sampler has had a place for 3 s"):
        pool.wait_jobs(work)
