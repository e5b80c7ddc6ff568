"""The REST API, under /api; its schema is /api/openapi.json, and /api describes it to people.

Programs show the token as `Authorization: Bearer TOKEN`. Whatever is wrong is {"detail": one line} with a status that says
whose fault it is.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from mofm.portal import store
from mofm.portal.desk import Desk, Refused
from mofm.portal.uploads import UploadError, receive
from mofm.portal.wording import download_stem


class ModelOut(BaseModel):
    """The portal's model."""

    name: str
    step: int
    modalities: list[str]
    species: str
    builds: list[str]
    genes: int
    translates: bool
    networks: list[str]
    labels: str = Field(description="what its annotation head names; empty where it has none")
    labelled: list[str] = Field(description="modalities that the head reads")
    ontology: str = Field(description="the ontology whose broader terms it gives too; empty where there is none")
    version: str


class FileOut(BaseModel):
    """An upload, and what it holds."""

    id: str
    name: str
    size: int = Field(description="bytes")
    state: Literal["looking", "ready", "refused"]
    why: str = Field(description="in a line, what it holds or why it is refused")
    report: dict[str, Any] = Field(description="cells; of each modality what is known to the model; columns of obs")
    created: float = Field(description="seconds since 1970")


class ReadingIn(BaseModel):
    """How a file is to be read; what is left out is found."""

    modality: Literal["rna", "atac", "adt", "methylation"] | None = None
    build: str | None = None
    recover_counts: bool = False


class JobIn(BaseModel):
    """What is to be done with an upload."""

    file: str = Field(description="id of an upload")
    verb: Literal["embed", "annotate", "translate", "regulators"]
    options: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict,
        description="embed: modality. annotate: modality, confidence (a name must be as sure). translate: to, "
        "modality, features (a name or BED line each). regulators: groupby, min_cells, network",
    )


class ResultFile(BaseModel):
    """A file of a result."""

    name: str
    what: str
    bytes: int
    url: str


class JobOut(BaseModel):
    """A job: how far it is, or what came out."""

    id: str
    file: str
    file_name: str
    verb: str
    options: dict[str, Any]
    state: Literal["queued", "running", "done", "failed", "stopped"]
    stage: str
    done: int = Field(description="cells of this stage")
    total: int
    error: str
    created: float
    started: float | None
    ended: float | None
    lines: list[str] = Field(description="what came out, in words")
    files: list[ResultFile]


def job_out(job: store.Job) -> JobOut:
    """A job as the API shows it."""
    shown = {key: getattr(job, key) for key in JobOut.model_fields if hasattr(job, key)}
    files = [file | {"url": f"/api/jobs/{job.id}/files/{file['name']}"} for file in job.summary.get("files", [])]
    lines = [*job.summary.get("warnings", []), *job.summary.get("lines", [])]
    return JobOut(**shown, file=job.file_id, lines=lines, files=files)


def _file_out(file: store.File) -> FileOut:
    return FileOut(**{key: getattr(file, key) for key in FileOut.model_fields})


def desk_of(request: Request) -> Desk:
    """The portal that was asked."""
    return request.app.state.desk


def _may_call(request: Request) -> None:
    guard = request.app.state.guard
    if not guard.may_call(request):
        raise Refused(401 if guard.settings.token else 403, "Show the portal's token: Authorization: Bearer TOKEN.")


AtDesk = Annotated[Desk, Depends(desk_of)]
router = APIRouter(prefix="/api", dependencies=[Depends(_may_call)])
MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.get("/model", tags=["model"])
def model(desk: AtDesk) -> ModelOut:
    """What the model is."""
    return ModelOut(**{key: getattr(desk.card, key) for key in ModelOut.model_fields})


@router.post("/files", status_code=201, tags=["files"], openapi_extra=MULTIPART)
async def upload(request: Request, desk: AtDesk) -> FileOut:
    """Upload an h5ad, h5mu or 10x HDF5 file. Ask for it again until its state is no longer "looking"."""
    taken = await receive(request, desk.settings, lambda csrf: True)
    return _file_out(await run_in_threadpool(desk.take, taken))


@router.get("/files", tags=["files"])
def files(desk: AtDesk) -> list[FileOut]:
    """All uploads, the newest first."""
    return [_file_out(file) for file in desk.store.files()]


@router.get("/files/{file_id}", tags=["files"])
def file(file_id: str, desk: AtDesk) -> FileOut:
    """An upload, and what it holds."""
    return _file_out(desk.file(file_id))


@router.post("/files/{file_id}/look", tags=["files"])
def look(file_id: str, reading: ReadingIn, desk: AtDesk) -> FileOut:
    """Look at an upload again, read in another way."""
    return _file_out(desk.look_again(desk.file(file_id), reading.model_dump()))


@router.delete("/files/{file_id}", status_code=204, tags=["files"])
def delete_file(file_id: str, desk: AtDesk) -> Response:
    """Delete an upload; results that were made of it stay."""
    desk.delete_file(desk.file(file_id))
    return Response(status_code=204)


@router.post("/jobs", status_code=201, tags=["jobs"])
def start(asked: JobIn, desk: AtDesk) -> JobOut:
    """Start a job."""
    return job_out(desk.start(desk.file(asked.file), asked.verb, asked.options))


@router.get("/jobs", tags=["jobs"])
def jobs(desk: AtDesk) -> list[JobOut]:
    """All jobs, the newest first."""
    return [job_out(job) for job in desk.store.jobs()]


@router.get("/jobs/{job_id}", tags=["jobs"])
def job(job_id: str, desk: AtDesk) -> JobOut:
    """A job: how far it is, or what came out."""
    return job_out(desk.job(job_id))


@router.post("/jobs/{job_id}/stop", tags=["jobs"])
def stop(job_id: str, desk: AtDesk) -> JobOut:
    """Stop a job that waits or runs."""
    desk.stop(desk.job(job_id))
    return job_out(desk.job(job_id))


@router.delete("/jobs/{job_id}", status_code=204, tags=["jobs"])
def delete_job(job_id: str, desk: AtDesk) -> Response:
    """Delete a job that has ended, and what it made."""
    desk.delete_job(desk.job(job_id))
    return Response(status_code=204)


@router.get("/jobs/{job_id}/files/{name}", tags=["jobs"], response_class=FileResponse)
def result_file(job_id: str, name: str, desk: AtDesk) -> FileResponse:
    """A file of a result."""
    found = desk.job(job_id)
    path = desk.result_file(found, name)
    return FileResponse(path, filename=f"{download_stem(found.file_name)}_{found.verb}_{name}")


__all__ = ["UploadError", "job_out", "router"]
