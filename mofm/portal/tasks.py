"""The queue, by huey: on SQLite, or on Redis where several machines' worth of workers wait on one.

A message is a job's id and nothing else, in JSON: huey's own pickle would let whoever can write to the queue run code. It
only says that there may be something to do; the store says what (`Store.claim`).
"""

import json
from collections.abc import Callable

from huey import Huey, SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer

from mofm.errors import InputError
from mofm.portal.settings import Settings


class JsonSerializer(Serializer):
    """Messages as JSON."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps(list(data), default=str).encode()

    def _deserialize(self, data: bytes) -> Message:
        return Message(*json.loads(data))


def make_queue(settings: Settings, run: Callable[[str], None] | None = None) -> tuple[Huey, Callable[[str], None]]:
    """The queue, and a function (job's id) that puts a message into it.

    Args:
      run: what a worker does with an id; None for who only sends.

    Raises:
      InputError: Redis is asked for and does not answer, or its client is not installed.
    """
    kept = {"name": "mofm-portal", "results": False, "serializer": JsonSerializer()}
    if settings.redis is None:
        huey = SqliteHuey(filename=str(settings.queue_path), **kept)
    else:
        huey = _redis(settings.redis, kept)

    def run_job(job_id: str) -> None:
        if run is not None:
            run(job_id)

    return huey, huey.task(name="run_job")(run_job)


def _redis(url: str, kept: dict) -> Huey:
    try:
        import redis
    except ImportError as error:
        raise InputError('--redis: its client is not installed; pip install "redis>=5"') from error
    from huey import RedisHuey

    try:
        huey = RedisHuey(url=url, **kept)
        huey.storage.conn.ping()
    except (redis.RedisError, ValueError) as error:
        raise InputError(f"--redis: no Redis answers there ({type(error).__name__}); check the URL") from error
    return huey
