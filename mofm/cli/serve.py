"""`mofm serve`: a model as a web page for the lab."""

import os
from pathlib import Path

from mofm.cli.options import add_verb
from mofm.errors import InputError


def add(verbs) -> None:
    """Adds `mofm serve`."""
    verb = add_verb(
        verbs,
        "serve",
        run,
        "Put a model on a web page: upload a file, see whether it fits, embed, translate, find regulators.",
        "  mofm serve runs/mine                    # http://127.0.0.1:8000/, for this machine alone\n"
        "  MOFM_AUTH_TOKEN=... mofm serve runs/mine --host 0.0.0.0   # for who has the token; put HTTPS before it\n"
        "Needs the extra: pip install 'mofm[portal]'. Jobs run one at a time (--workers), each in a process of its own.\n"
        "A server that was killed goes on where it was when it is started again. The REST API is described under /api.",
    )
    verb.add_argument("model", metavar="MODEL", help="the workdir of a `mofm train` run, or a bundle")
    verb.add_argument(
        "--ontology",
        metavar="OBO",
        help="where the model has an annotation head: cells that no label is sure enough of are named by the most specific "
        "term of this ontology that is, such as the Cell Ontology's cl-basic.obo (default: they are unknown)",
    )
    verb.add_argument("--host", default="127.0.0.1", help="where to listen (default: this machine alone)")
    verb.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    verb.add_argument(
        "--data-dir",
        type=Path,
        default=Path("mofm-portal"),
        metavar="DIR",
        help="uploads, jobs, results (default: mofm-portal)",
    )
    verb.add_argument(
        "--auth-token",
        metavar="TOKEN",
        help="what users must show; better in MOFM_AUTH_TOKEN, which nobody else can read",
    )
    verb.add_argument(
        "--redis", metavar="URL", help="queue jobs in this Redis; with a password, better in MOFM_REDIS_URL"
    )
    verb.add_argument("--workers", type=int, default=1, metavar="N", help="jobs at a time (default: 1)")
    limits = (
        ("--upload-gb", 5.0, "largest upload"),
        ("--max-cells", 500_000, "most cells of an upload"),
        ("--job-gb", 16.0, "memory of a job"),
        ("--job-hours", 6.0, "time of a job"),
        ("--keep-days", 14.0, "uploads and results are deleted after"),
        ("--requests-per-second", 20.0, "of one address"),
    )
    for name, default, says in limits:
        verb.add_argument(name, type=type(default), default=default, metavar="N", help=f"{says} (default: {default:g})")


def run(args) -> int:
    """Runs the verb; returns the exit code."""
    try:
        import fastapi  # noqa: F401
        import huey  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'mofm[portal]'") from error
    from mofm.portal.security import LOOPBACK
    from mofm.portal.serve import serve
    from mofm.portal.settings import REDIS_VARIABLE, TOKEN_VARIABLE, Settings

    names = (
        "host",
        "port",
        "workers",
        "upload_gb",
        "max_cells",
        "job_gb",
        "job_hours",
        "keep_days",
        "requests_per_second",
    )
    token = args.auth_token or os.environ.get(TOKEN_VARIABLE) or None
    if token is None and args.host not in LOOPBACK:
        raise InputError(
            f"--host {args.host}: whoever reaches this machine could use the portal; give --auth-token TOKEN (or "
            f"{TOKEN_VARIABLE}), or listen on 127.0.0.1"
        )
    redis = args.redis or os.environ.get(REDIS_VARIABLE) or None
    given = {name: getattr(args, name) for name in names}
    given |= {} if args.ontology is None else {"ontology": str(Path(args.ontology).absolute())}
    serve(Settings(args.model, args.data_dir.absolute(), token=token, redis=redis, **given))
    return 0
