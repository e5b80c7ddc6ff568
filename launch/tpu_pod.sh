#!/usr/bin/env bash
# Trains on a slice of Cloud TPUs: queues for it, sets up every host, trains, and after a preemption queues again and goes on:
#
#   launch/tpu_pod.sh --name mofm-pod --zone us-west4-a --type v5litepod-256 --share 10.0.0.2:/mofm --spot -- \
#       --config configs/pod.py --config.data.corpus=gs://BUCKET/corpus --workdir /mnt/mofm/runs/pod
#   DRY_RUN=1 launch/tpu_pod.sh ...      prints the commands of one round, and runs nothing
#
#   --name NAME       of the TPU; the queued resource is NAME-queued
#   --zone ZONE       --project PROJECT (default: gcloud's own)
#   --type TYPE       accelerator type: v5litepod-16, v5litepod-256, v5p-128, v6e-256
#   --runtime IMAGE   of the hosts (default: by the type)
#   --share HOST:/DIR an NFS share (Filestore), mounted as /mnt/mofm on every host: --workdir must lie there, as all hosts write it
#   --spot            may be preempted, and costs less
#   --keep            leave the TPU there at the end (it costs money until it is deleted)
#   after --          options of `mofm train`
#
# Wants gcloud, logged in, and a clean clone (what is committed is what runs). Ask `mofm plan` first. The same command, started
# again, takes up a TPU that is there. Ctrl-C stops this script and not the TPU: it says how to delete it.
#   MAX_FAILURES=3    failures that are no preemption before it gives up
#   POLL=60           seconds between two looks at the queue
set -euo pipefail

name='' zone='' type='' runtime='' share='' project='' spot='' keep=''
fail() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case "$1" in
    --name | --zone | --type | --runtime | --share | --project)
      [ $# -gt 1 ] || fail "$1 wants a value"
      declare "${1#--}=$2"
      shift 2
      ;;
    --spot) spot=1 && shift ;;
    --keep) keep=1 && shift ;;
    --)
      shift
      break
      ;;
    *) fail "unknown option $1; options of mofm train stand after --" ;;
  esac
done
[ -n "$name" ] && [ -n "$zone" ] && [ -n "$type" ] || fail "--name, --zone and --type are needed; see the head of $0"
[ $# -gt 0 ] || fail "nothing to train: add -- --config FILE --workdir DIR"
if [ -z "$runtime" ]; then
  case "$type" in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "no runtime is known for $type: give --runtime" ;;
  esac
fi
[ -n "${DRY_RUN:-}" ] || command -v gcloud >/dev/null || fail "gcloud: not found; install the Google Cloud CLI and log in"
cd "$(dirname "$0")/.."

where=(--zone "$zone")
[ -z "$project" ] || where+=(--project "$project")
queued="$name-queued"
poll="${POLL:-60}"

run() {
  printf '+ %s\n' "$(printf '%q ' "$@")" >&2
  [ -n "${DRY_RUN:-}" ] || "$@"
}

state() { # of the queued resource; empty where there is none
  [ -z "${DRY_RUN:-}" ] || { [ -n "${created:-}" ] && echo ACTIVE; return 0; }
  gcloud compute tpus queued-resources describe "$queued" "${where[@]}" --format='value(state.state)' 2>/dev/null || true
}

everywhere() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command "$1"
}

acquire() { # waits until the slice is there
  local now
  while now="$(state)" && [ "$now" != ACTIVE ]; do
    case "$now" in
      '')
        local options=(--node-id "$name" --accelerator-type "$type" --runtime-version "$runtime")
        [ -z "$spot" ] || options+=(--spot)
        run gcloud compute tpus queued-resources create "$queued" "${where[@]}" "${options[@]}"
        created=1
        fresh=1
        ;;
      FAILED | SUSPENDED)
        run gcloud compute tpus queued-resources delete "$queued" "${where[@]}" --force --quiet
        ;;
      *) # queued, being made, or being taken down
        echo "tpu_pod.sh: $queued is $now" >&2
        sleep "$poll"
        ;;
    esac
  done
}

set_up() { # sends what is committed, and installs it
  run git archive --format=tar.gz --prefix=mofm/ --output=mofm.tar.gz HEAD
  run gcloud compute tpus tpu-vm scp mofm.tar.gz "$name:" "${where[@]}" --worker=all
  run rm -f mofm.tar.gz
  if [ -n "$share" ]; then
    everywhere "sudo apt-get install -qy nfs-common && sudo mkdir -p /mnt/mofm && { mountpoint -q /mnt/mofm || \
sudo mount -t nfs $share /mnt/mofm; }"
  fi
  everywhere "tar xzf mofm.tar.gz && cd mofm && python3 -m venv .venv && .venv/bin/pip install -q '.[tpu]'"
}

trap 'echo "tpu_pod.sh: stopped; $name is still there, and costs: gcloud compute tpus queued-resources delete $queued \
${where[*]} --force" >&2; exit 130' INT TERM

failures=0
fresh=1
# A connection that broke leaves the run of before on the hosts, with their TPUs: it is asked to save, and waited for.
clear="timeout 300 sh -c \"while pkill -TERM -f '^[^ ]*python[0-9.]* [^ ]*bin/mofm train'; do sleep 5; done\" || true"
train="cd mofm && .venv/bin/mofm train --distributed --quiet --stopped-code 75 $(printf '%q ' "$@")"
while true; do
  acquire
  code=0
  if [ -n "$fresh" ]; then
    set_up || code=$?
  fi
  if [ "$code" -eq 0 ]; then
    fresh=''
    began=$SECONDS
    { everywhere "$clear" && everywhere "$train"; } || code=$?
    [ $((SECONDS - began)) -lt 3600 ] || failures=0 # it got somewhere
  fi
  if [ "$(state)" != ACTIVE ]; then # it was taken away; SIGTERM had mofm save
    echo "tpu_pod.sh: $name was preempted; queueing again" >&2
    fresh=1
    continue
  fi
  [ "$code" -ne 0 ] || break
  failures=$((failures + 1))
  if [ "$failures" -ge "${MAX_FAILURES:-3}" ]; then
    echo "tpu_pod.sh: failed $failures times (last code $code); $name is still there for you to look, and costs" >&2
    exit "$code"
  fi
  echo "tpu_pod.sh: failed with code $code; trying again" >&2
done
[ -n "$keep" ] || run gcloud compute tpus queued-resources delete "$queued" "${where[@]}" --force --quiet
echo "tpu_pod.sh: done" >&2
