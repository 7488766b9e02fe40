# shellcheck shell=bash
# What the job scripts share: the environment, the stages, and what happens when SLURM takes the node back.
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
IFS=$' \t\n' read -r -d '' -a RL_ARGS <<<"${RL_ARGS:-}" || true # words of all lines; it ends at the end, with 1

export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it over from sbatch any more
fi

python=("$RL_ENV/bin/python")
if [ -n "$RL_IMAGE" ]; then
  python=("${RL_CONTAINER:-apptainer}" exec --nv --bind "$RL_HOME")
  if [ -n "$RL_LOCAL" ]; then python+=(--bind "$RL_LOCAL"); fi
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
trap 'noticed+=" USR1"' USR1
trap 'noticed+=" TERM"' TERM

# Runs a command so that a notice is heard, and handed to it, while it runs. A signal during `wait` can cost the status
# of what is waited for, so that is asked for when the command has ended.
heeding() {
  local step status=0 known=
  "$@" &
  step=$!
  while kill -0 "$step" 2>/dev/null; do
    sleep 0.5 || true
    if [ "$noticed" = "$known" ]; then continue; fi
    known=$noticed
    echo "$(date +%T) SLURM will end this job soon (${noticed##* }): what is at hand is finished first"
    kill -USR1 "$step" 2>/dev/null || true # srun hands it to every process
  done
  wait "$step" || status=$?
  return "$status"
}

# The doctor, or stages that are run one after the other by the same processes, which keep the model.
step() {
  local command=(run --stages "$@") tasks=() given=()
  # `[@]+`: to bash before 4.4, an empty array is an unset variable.
  case " $* " in
    *" doctor "*) command=(doctor) given=("${trainer[@]}") ;;
    *" cache "* | *" select "* | *" evaluate "*) given=("${trainer[@]}" ${store[@]+"${store[@]}"}) ;;
    *) tasks=(--nodes=1 --ntasks=1) given=(${store[@]+"${store[@]}"}) ;; # a single process
  esac
  heeding srun --kill-on-bad-exit=1 ${tasks[@]+"${tasks[@]}"} "${python[@]}" -m refusal_lightning "${command[@]}" \
    --config "$RL_CONFIG" ${given[@]+"${given[@]}"} ${RL_ARGS[@]+"${RL_ARGS[@]}"}
}

# Takes the place of the (sub)shell that calls it.
copy_stores() {
  [ -d "$1" ] || exit 0
  exec "${python[@]}" -m refusal_lightning store copy "$1" "$2"
}

# The node's own disk gets what the shared folder has, and the stages use that.
use_own_disk() {
  if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    echo "RL_LOCAL is for jobs on one node: several nodes write one store, on a shared file system or s3://" >&2
    return 2
  fi
  case $shared in
    *://*)
      echo "RL_LOCAL copies a folder and RL_STORE is $shared; leave one of them out" >&2
      return 2
      ;;
  esac
  store=(--store.root "$own")
  heeding copy_stores "$shared" "$own"
}

# The shared folder gets what the node's own disk has, however often the job is told to end meanwhile. Ends the job
# where that cannot be.
bring_back() {
  local status=0 aside=$shared.of-job-$SLURM_JOB_ID
  (trap '' USR1 TERM && copy_stores "$own" "$shared") || status=$?
  if [ "$status" -eq 0 ]; then return 0; fi
  if [ "$status" -eq 2 ] && (trap '' USR1 TERM && copy_stores "$own" "$aside"); then
    echo "what this job has computed is in $aside: a folder of stores, to be named in RL_STORE or store.root" >&2
  else
    echo "what this job has computed is still in $own on $(hostname)" >&2
  fi
  exit "$status"
}

step_and_back() {
  local status=0
  if [ -n "$noticed" ]; then return 143; fi
  step "$@" || status=$?
  if [ -n "$RL_LOCAL" ]; then bring_back; fi
  return "$status"
}

# The doctor, then all stages in one step. From a node's own disk each stage is a step, and what it has written goes back.
all_stages() {
  local name together=()
  if [ -n "$RL_LOCAL" ]; then use_own_disk || return; fi
  for name in $RL_STAGES; do
    if [ "$name" = doctor ] || [ -n "$RL_LOCAL" ]; then
      step_and_back "$name" || return
    else
      together+=("$name")
    fi
  done
  if [ "${#together[@]}" -gt 0 ]; then step_and_back "${together[@]}"; fi
}

run_stages() {
  cd "$RL_HOME"
  local shared=${RL_STORE:-activation_store} own=$RL_LOCAL/activation_store status=0
  shared=${shared%/}
  if [ -n "$RL_STORE" ]; then store=(--store.root "$RL_STORE"); fi
  echo "$(date +%T) job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST"
  all_stages || status=$?
  if [ -z "$noticed" ] || [ "$status" -eq 0 ] || [ "$status" -eq 2 ]; then # 2: a mistake, which a restart only repeats
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
