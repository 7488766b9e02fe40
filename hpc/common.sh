# shellcheck shell=bash
# What the job scripts share: the environment, one stage after the other, and what happens when SLURM takes the node back.
# Settings are variables with defaults; README.md in this folder explains them.
set -euo pipefail

RL_HOME=${RL_HOME:-${SLURM_SUBMIT_DIR:?submit this with sbatch}}
RL_ENV=${RL_ENV:-$RL_HOME/.venv}
RL_CONFIG=${RL_CONFIG:-configs/demo.yaml}
RL_STAGES=${RL_STAGES:-cache select evaluate}
RL_STRATEGY=${RL_STRATEGY:-auto}
RL_STORE=${RL_STORE:-}
RL_LOCAL=${RL_LOCAL:-}
RL_IMAGE=${RL_IMAGE:-}
RL_MAX_RESTARTS=${RL_MAX_RESTARTS:-100}
read -ra RL_ARGS <<<"${RL_ARGS:-}"

export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it over from sbatch any more
fi

python=("$RL_ENV/bin/python")
if [ -n "$RL_IMAGE" ]; then
  python=("${RL_CONTAINER:-apptainer}" exec --nv --bind "$RL_HOME")
  if [ -n "${RL_OVERLAY:-}" ]; then python+=(--overlay "$RL_OVERLAY:ro"); fi
  python+=("$RL_IMAGE" "${RL_IMAGE_ENV:-/opt/refusal_lightning}/bin/python")
fi

# One process per GPU, or one per node with all of its GPUs.
devices=${SLURM_NTASKS_PER_NODE:-1}
if [ "$RL_STRATEGY" = device_map ]; then devices=auto; fi

trainer=(--trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$devices" --trainer.strategy "$RL_STRATEGY")
trainer+=(--trainer.progress_bar false)
store=()

noticed=
step=
notice() {
  noticed=1
  echo "$(date +%T) $1: what is at hand is finished, then the job is requeued"
  if [ -n "$step" ]; then kill -USR1 "$step" 2>/dev/null || true; fi # srun hands it to every process
}
trap 'notice "SLURM will end this job soon (USR1)"' USR1
trap 'notice "SLURM is ending this job (TERM)"' TERM

# Each file whole or not at all, and only if it is newer than the one that is there.
copy_tree() {
  [ -d "$1" ] || return 0
  (cd "$1" && find . -type f ! -name '.*' ! -name '*.part' -print0) | while IFS= read -r -d '' file; do
    if [ -e "$2/$file" ] && [ ! "$1/$file" -nt "$2/$file" ]; then continue; fi
    mkdir -p "$(dirname "$2/$file")"
    cp -p "$1/$file" "$2/$file.part"
    mv "$2/$file.part" "$2/$file"
  done
}

stage() {
  local status=0 tasks=() given=()
  case $1 in
    analyze) tasks=(--nodes=1 --ntasks=1) given=("${store[@]}") ;; # a single process, without the model
    doctor | evaluate) given=("${trainer[@]}") ;;                  # without the store
    *) given=("${trainer[@]}" "${store[@]}") ;;
  esac
  srun --kill-on-bad-exit=1 "${tasks[@]}" "${python[@]}" -m refusal_lightning "$1" --config "$RL_CONFIG" \
    "${given[@]}" "${RL_ARGS[@]}" &
  step=$!
  while :; do # a signal ends `wait` before the step has ended
    status=0
    wait "$step" || status=$?
    kill -0 "$step" 2>/dev/null || break
  done
  step=
  return "$status"
}

run_stages() {
  cd "$RL_HOME"
  local shared=${RL_STORE:-activation_store} status=0 name
  if [ -n "$RL_LOCAL" ]; then
    if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
      echo "RL_LOCAL is for jobs on one node: several nodes write one store, on a shared file system or s3://" >&2
      exit 2
    fi
    case $shared in
      *://*)
        echo "RL_LOCAL copies a folder and RL_STORE is $shared; leave one of them out" >&2
        exit 2
        ;;
    esac
    copy_tree "$shared" "$RL_LOCAL/activation_store"
    store=(--store.root "$RL_LOCAL/activation_store")
  elif [ -n "$RL_STORE" ]; then
    store=(--store.root "$RL_STORE")
  fi
  echo "$(date +%T) job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST"
  for name in $RL_STAGES; do
    stage "$name" || status=$?
    if [ -n "$noticed" ] || [ "$status" -ne 0 ]; then break; fi
  done
  if [ -n "$RL_LOCAL" ]; then copy_tree "$RL_LOCAL/activation_store" "$shared"; fi
  if [ -z "$noticed" ]; then
    echo "$(date +%T) ended with status $status"
    exit "$status"
  fi
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "$RL_MAX_RESTARTS" ]; then
    echo "not requeued: this was start $((${SLURM_RESTART_COUNT:-0} + 1)), and RL_MAX_RESTARTS is $RL_MAX_RESTARTS" >&2
    exit 1
  fi
  echo "$(date +%T) requeued; the next start continues"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
