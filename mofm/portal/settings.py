"""What a portal is given once, and where it keeps things.

    DATA/settings.json   these settings, for the worker; neither the token nor Redis's URL, which may hold a password
    DATA/secret          what sessions are signed with; readable by the owner alone
    DATA/portal.sqlite   files and jobs (`store.py`);  DATA/queue.sqlite  huey's, where there is no Redis
    DATA/model/          what the model is, for looks at uploads (`model_card.py`)
    DATA/incoming/       uploads that are on their way
    DATA/files/ID/cells  uploads, whatever they were called
    DATA/jobs/ID/        result/ once it is whole; attempt-N/ and log.txt until then

Ids are made here and are the only names of users' things on disk.
"""

import dataclasses
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from mofm.errors import InputError
from mofm.files import written_whole

GB = 2**30
TOKEN_VARIABLE, REDIS_VARIABLE = "MOFM_AUTH_TOKEN", "MOFM_REDIS_URL"
NOT_WRITTEN = ("token", "redis")


@dataclass(frozen=True)
class Settings:
    """How a portal is run.

    Attributes:
      model: what `mofm.inference.model.load` takes.
      ontology: an OBO file, by whose broader terms cells are named that no label is sure enough of; None for none.
      data_dir: where it keeps what is uploaded and made.
      host, port: where it listens.
      token: what a user must show; None asks for nothing.
      redis: URL of the Redis that queues jobs; None queues them in SQLite.
      workers: processes that take jobs, one at a time each.
      upload_gb: largest upload.
      max_cells: most cells of an upload.
      look_gb, look_seconds: memory and time in which an upload must be understood.
      job_gb, job_hours: memory and time of a job.
      keep_days: results are deleted so long after they were made, uploads after they were last used.
      max_waiting: most jobs that wait.
      requests_per_second: of one address, in the long run; ten seconds' worth at once.
    """

    model: str
    data_dir: Path
    ontology: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    redis: str | None = field(default=None, repr=False)
    workers: int = 1
    upload_gb: float = 5.0
    max_cells: int = 500_000
    look_gb: float = 4.0
    look_seconds: float = 120.0
    job_gb: float = 16.0
    job_hours: float = 6.0
    keep_days: float = 14.0
    max_waiting: int = 500
    requests_per_second: float = 20.0

    def __post_init__(self):
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.type in (int, float) and item.name != "port" and not value > 0:
                raise InputError(f"--{item.name.replace('_', '-')} {value}: must be more than 0")
        if not 0 <= self.port < 2**16:
            raise InputError(f"--port {self.port}: must be from 0, which takes a free one, to 65535")
        if self.token is not None and len(self.token) < 8:
            raise InputError("--auth-token: has fewer than 8 characters; give a longer one")

    @property
    def store_path(self) -> Path:
        """SQLite: files and jobs."""
        return self.data_dir / "portal.sqlite"

    @property
    def queue_path(self) -> Path:
        """SQLite: huey's."""
        return self.data_dir / "queue.sqlite"

    @property
    def model_dir(self) -> Path:
        """What the model is."""
        return self.data_dir / "model"

    @property
    def incoming(self) -> Path:
        """Uploads that are on their way."""
        return self.data_dir / "incoming"

    def file_path(self, file_id: str) -> Path:
        """Where an upload lies."""
        return self.data_dir / "files" / _checked(file_id) / "cells"

    def job_dir(self, job_id: str) -> Path:
        """Where a job works and leaves its result."""
        return self.data_dir / "jobs" / _checked(job_id)

    def result_dir(self, job_id: str) -> Path:
        """What a job made: whole, or not there."""
        return self.job_dir(job_id) / "result"

    def write(self) -> None:
        """Make the data directory, and in it settings.json.

        Raises:
          InputError: it cannot be made or written.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.incoming, self.model_dir, self.data_dir / "files", self.data_dir / "jobs"):
                folder.mkdir(exist_ok=True)
            written = {key: value for key, value in dataclasses.asdict(self).items() if key not in NOT_WRITTEN}
            with written_whole(self.data_dir / "settings.json") as temporary:
                temporary.write_text(json.dumps(written | {"data_dir": str(self.data_dir)}), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--data-dir {self.data_dir}: cannot be written ({error.strerror or error})") from error

    def secret(self) -> bytes:
        """What sessions are signed with; made at the first call."""
        path = self.data_dir / "secret"
        if not path.exists():
            with written_whole(path) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(secrets.token_bytes(32))
        return path.read_bytes()


def read_settings(data_dir: Path) -> Settings:
    """The settings of the portal that keeps its things there; Redis's URL is that of the environment."""
    written = json.loads((data_dir / "settings.json").read_text(encoding="utf-8"))
    return Settings(**written | {"data_dir": data_dir, "redis": os.environ.get(REDIS_VARIABLE)})


def new_id() -> str:
    """128 random bits: who was not given it does not guess it."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether this is what `new_id` makes."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def _checked(identity: str) -> str:
    if not is_id(identity):
        raise ValueError("no id of the portal")
    return identity
