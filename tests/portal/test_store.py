"""The store: a job has one owner, an owner that lost it changes nothing, and nothing that is needed is deleted."""

import threading
import time

import pytest

from mofm.portal.settings import new_id
from mofm.portal.store import MOST_ATTEMPTS, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "portal.sqlite")


@pytest.fixture
def file(store):
    added = store.add_file(new_id(), "cells.h5ad", 10)
    store.looked(added.id, "ready", "", {"asked": {}})
    return store.file(added.id)


def test_a_job_of_many_that_want_it_is_claimed_by_one(store, file):
    jobs = [store.add_job(file, "embed", {}, 100) for _ in range(10)]
    taken = []

    def take(worker):
        taken.extend(job.id for job in jobs if store.claim(job.id, worker) is not None)

    threads = [threading.Thread(target=take, args=(f"worker {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(job.id for job in jobs)


def test_who_lost_a_job_ends_it_no_more(store, file):
    job = store.add_job(file, "embed", {}, 100)
    first = store.claim(job.id, "first")
    store.give_back(first, counts=True)
    second = store.claim(job.id, "second")
    assert not store.progress(first, "embedding", 1, 2)
    assert not store.end(first, "failed", error="too late")
    assert store.progress(second, "embedding", 1, 2)
    assert store.end(second, "done", summary={"title": "whole"})
    assert store.job(job.id).state == "done"
    assert store.job(job.id).summary == {"title": "whole"}
    assert not store.end(second, "failed", error="twice")


def test_a_job_that_ends_its_workers_is_not_tried_for_ever(store, file):
    job = store.add_job(file, "embed", {}, 100)
    for attempt in range(MOST_ATTEMPTS):
        claimed = store.claim(job.id, f"worker {attempt}")
        assert claimed.attempts == attempt + 1
        store.give_back(claimed, counts=True)
    ended = store.job(job.id)
    assert (ended.state, ended.attempts) == ("failed", MOST_ATTEMPTS)
    assert "its worker ended 3 times" in ended.error


def test_a_job_that_is_given_back_unfinished_by_an_orderly_end_has_not_been_tried(store, file):
    job = store.add_job(file, "embed", {}, 100)
    store.give_back(store.claim(job.id, "worker"), counts=False)
    assert (store.job(job.id).state, store.job(job.id).attempts) == ("queued", 0)


def test_a_stopped_job_ends_at_once_or_when_its_worker_sees_it(store, file):
    waiting, running = (store.add_job(file, "embed", {}, 100) for _ in range(2))
    claimed = store.claim(running.id, "worker")
    assert store.stop(waiting.id)
    assert store.stop(running.id)
    assert store.job(waiting.id).state == "stopped"
    assert store.claim(waiting.id, "worker") is None
    assert not store.progress(claimed, "embedding", 1, 2)
    store.give_back(claimed, counts=False)
    assert store.job(running.id).state == "stopped"
    assert store.job(running.id).ended is not None
    assert not store.stop(running.id)


def test_what_is_needed_is_not_deleted(store, file):
    job = store.add_job(file, "embed", {}, 100)
    assert not store.delete_file(file.id)
    assert not store.delete_job(job.id)
    store.stop(job.id)
    assert store.delete_job(job.id)
    assert store.delete_file(file.id)
    assert store.add_job(file, "embed", {}, 100) is None


def test_no_more_jobs_wait_than_may(store, file):
    assert [store.add_job(file, "embed", {}, 2) is not None for _ in range(3)] == [True, True, False]


def test_what_was_not_used_for_long_expires(store, file):
    job = store.add_job(file, "embed", {}, 100)
    store.end(store.claim(job.id, "worker"), "done")
    later = time.time() + 1
    assert store.expired(later) == ([file.id], [job.id])
    assert store.expired(later - 100) == ([], [])


def test_jobs_wait_in_their_order(store, file):
    jobs = [store.add_job(file, "embed", {}, 100) for _ in range(3)]
    assert [store.waiting_before(job) for job in jobs] == [0, 1, 2]
    assert [job.id for job in store.jobs(states=("queued",))] == [job.id for job in reversed(jobs)]
