// What makes pages quicker: the upload's progress, a job's progress as it happens. Every page works without it.
"use strict";

const $ = (id) => document.getElementById(id);

function upload(form) {
  const input = form.querySelector("input[type=file]");
  const sending = form.querySelector(".sending"), bar = $("sent"), percent = form.querySelector(".percent");
  const problem = form.querySelector(".problem"), button = form.querySelector("button");
  const over = (is) => (event) => { event.preventDefault(); form.classList.toggle("over", is); };
  form.addEventListener("dragover", over(true));
  form.addEventListener("dragleave", over(false));
  form.addEventListener("drop", (event) => {
    over(false)(event);
    if (event.dataTransfer.files.length) input.files = event.dataTransfer.files;
  });
  const fail = (said) => {
    sending.hidden = true; button.disabled = false; problem.hidden = false; problem.textContent = said;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const request = new XMLHttpRequest();
    button.disabled = true; problem.hidden = true; sending.hidden = false;
    request.upload.addEventListener("progress", (sent) => {
      if (!sent.lengthComputable) return;
      bar.value = (100 * sent.loaded) / sent.total;
      percent.textContent = Math.floor(bar.value) + "%";
    });
    request.addEventListener("load", () => {
      if (request.status < 400) { location.href = request.responseURL; return; }
      const said = new DOMParser().parseFromString(request.responseText, "text/html").querySelector("main .problem");
      fail(said ? said.textContent : request.responseText.slice(0, 200));
    });
    request.addEventListener("error", () => fail("The upload broke off; send the file again. It may be larger than the server takes."));
    request.open("POST", form.action);
    request.send(new FormData(form));
  });
}

function waitForLook(section) {
  const ask = async () => {
    try {
      const answer = await fetch("/api/files/" + section.dataset.file);
      if (answer.ok && (await answer.json()).state === "looking") { setTimeout(ask, 700); return; }
      location.reload();
    } catch { setTimeout(ask, 3000); }
  };
  setTimeout(ask, 400);
}

function follow(section) {
  const events = new EventSource("/jobs/" + section.dataset.job + "/progress");
  let lastSaid = "";
  events.onmessage = (event) => {
    const job = JSON.parse(event.data), bar = $("bar");
    if (job.state !== "queued" && job.state !== "running") { events.close(); location.reload(); return; }
    $("state").textContent = job.state;
    $("state").className = "state " + job.state;
    const waits = job.before ? "waits for " + job.before + (job.before > 1 ? " others" : " other") : "starts soon";
    const said = job.state === "queued" ? waits : job.stage;
    if (said !== lastSaid) $("stage").textContent = lastSaid = said; // a screen reader reads each change once
    if (job.total) { bar.max = job.total; bar.value = job.done; } else bar.removeAttribute("value");
    $("cells").textContent = job.total ? job.done.toLocaleString("en") + " of " + job.total.toLocaleString("en") + " cells" : "\u00a0";
    document.title = (job.total ? Math.floor((100 * job.done) / job.total) + "% " : "") + document.title.replace(/^\d+% /, "");
  };
}

if ($("upload")) upload($("upload"));
if ($("looking")) waitForLook($("looking"));
if ($("progress")) follow($("progress"));
for (const form of document.querySelectorAll("form.end"))
  form.addEventListener("submit", (event) => { if (!confirm(form.querySelector("button").textContent + "?")) event.preventDefault(); });
