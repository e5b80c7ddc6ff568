"""The web page of a trained model and its job queue: `mofm serve MODEL`.

    browser, curl -> app (pages, api, security, uploads) -> store (SQLite: what there is) -> look (a process an upload)
                                                         -> tasks (huey: whose turn it is) -> worker -> job (a process a job)

The store is the truth and the queue only wakes workers: a message that is lost is sent again, one that comes twice finds
nothing to do. The server and the worker import no array library; whatever opens a user's file does so in a process of its
own, with limits (`limits.py`).
"""
