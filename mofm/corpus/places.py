"""Where a corpus lies: a local folder, or a URL (gs://, s3://, http://, https://, file://), all through TensorStore.

There is one way to remote data, and one set of credentials. All of it is set here. Choices and their cost:

- Credentials are the usual ones. S3: AWS_ACCESS_KEY_ID and its kin, else AWS_PROFILE, `~/.aws`, the machine's own role;
  AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names another server than Amazon's, with AWS_REGION or AWS_DEFAULT_REGION;
  Amazon names the region of a bucket itself. GCS: GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default
  login`, the machine's own account. What has none is read as the public is. Of `~/.aws/config` only credentials are
  read: an endpoint goes into the environment.
- A request that fails (429, 5xx, no connection) is sent again after half a second, twice as long each time: a server may
  be away for a minute. One that says nothing for half a minute counts as failed, and no read takes longer than
  `PATIENCE_S`. So a wrong address takes a minute to be reported, and a server that comes and goes costs no run.
- 64 requests at once: at 30 ms each some 2,000 a second, which is 40,000 cells a second in blocks of 128.
"""

import functools
import os
import re
from pathlib import Path

import tensorstore as ts

from mofm.errors import InputError

RETRIES = {"max_retries": 7, "initial_delay": "500ms", "max_delay": "16s"}
CONCURRENCY = {"limit": 64}
SILENCE_S = 30
"""Seconds without a byte after which a request is sent again."""
PATIENCE_S = 600
"""Seconds after which a read is given up, whatever holds it up."""

_REMOTE = ("gs", "s3", "http")
_NO_ACCESS = ("PERMISSION_DENIED", "UNAUTHENTICATED")
_NO_ANSWER = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "TIMEOUT")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and AWS_ENDPOINT_URL where it is not Amazon's",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login",
}


def is_url(root: str | Path) -> bool:
    """Whether it is a URL rather than a path."""
    return "://" in str(root)


def join(root: str | Path, *parts: str) -> str:
    """The place of `parts` in `root`, for people and for TensorStore; no slash at its end."""
    return "/".join([str(root).rstrip("/"), *parts])


def kvstore(root: str | Path, *parts: str) -> str | dict:
    """TensorStore's spec of the folder `parts` of `root`, a local path or a URL."""
    if not is_url(root):
        return {"driver": "file", "path": os.path.join(os.path.abspath(root), *parts, "")}
    url = join(root, *parts, "")
    if not url.startswith("s3://"):
        return url
    bucket, _, path = url.removeprefix("s3://").partition("/")
    spec = {"driver": "s3", "bucket": bucket, "path": path, "use_conditional_write": True}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        # Of Amazon's own buckets the region is found; a server of another kind has none, or whatever is set.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        spec |= {"endpoint": endpoint.rstrip("/"), "aws_region": region}
    return spec


def context(**resources: dict) -> ts.Context:
    """TensorStore's context for reading and writing anywhere, with these resources besides."""
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(SILENCE_S))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    return ts.Context(resources, _shared(os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_PROFILE")))


@functools.cache
def _shared(key: str | None, profile: str | None) -> ts.Context:
    """What all stores share, as long as the credentials are these: limits hold for the process, not for each store."""
    spec: dict = {f"{kind}_request_retries": RETRIES for kind in ("s3", "gcs", "http")}
    spec |= {f"{kind}_request_concurrency": CONCURRENCY for kind in ("s3", "gcs", "http")}
    # A key is what the default chain would take, too, but first it would log that there is no ~/.aws.
    credentials = {"type": "environment"} if key else {"type": "default", "profile": profile or "default"}
    return ts.Context(spec | {"aws_credentials": credentials})


def open_files(root: str | Path, *parts: str) -> ts.KvStore:
    """The files of a folder. Raises ValueError where the URL is none."""
    return ts.KvStore.open(kvstore(root, *parts), context=context()).result(PATIENCE_S)


def read_file(root: str | Path, name: str, *, optional: bool = False) -> bytes | None:
    """The bytes of the file `name` in `root`, None where there is none.

    Args:
      optional: the file need not be there. A bucket that may be read but not listed says of what is not there that it
        may not be read: that is None too.

    Raises:
      InputError: it cannot be read.
    """
    try:
        read = open_files(root).read(name).result(PATIENCE_S)
    except Exception as error:
        if optional and status_of(error) in _NO_ACCESS:
            return None
        raise unreachable(root, name, error) or InputError(
            f"{root}: {name} cannot be read ({cause_of(error)}); check the path and its permissions"
        ) from error
    return None if read.state == "missing" else read.value


def unreachable(root: str | Path, what: str, error: Exception) -> InputError | None:
    """The error that says that a server cannot be reached or refuses, where that is what `error` is; else None."""
    status, scheme = (
        status_of(error),
        str(root).partition("://")[0].removesuffix("s" if str(root)[:5] == "https" else ""),
    )
    if scheme not in _REMOTE:
        return None
    if status in _NO_ACCESS:
        needed = f"; the credentials are {_CREDENTIALS[scheme]}" if scheme in _CREDENTIALS else ""
        return InputError(f"{root}: {what} may not be read, or is not there ({cause_of(error)}){needed}")
    if status in _NO_ANSWER:
        return InputError(
            f"{root}: {what} cannot be reached ({cause_of(error)}); check the address and the network, then run this again"
        )
    return None


def status_of(error: Exception) -> str:
    """The status code that TensorStore's messages begin with; that of a read that took too long."""
    if isinstance(error, TimeoutError):
        return "TIMEOUT"
    return found[0] if (found := re.match(r"[A-Z_]+(?=:)", str(error))) else ""


def cause_of(error: Exception) -> str:
    """An exception's message on one line, without TensorStore's copy of the whole spec and of what the server said."""
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE_S:,} s"
    message = re.sub(r"\[\w+_body='[^']*'\]", "", str(error))
    code = re.search(r"http_response_code='(\d+)'", message)
    said = message.split(" [tensorstore_spec")[0]
    said = re.sub(r" \[[\w-]+='[^']*'\]", "", said) + (f" (HTTP {code[1]})" if code else "")
    return " ".join(said.split()) or type(error).__name__
