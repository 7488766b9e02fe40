#!/usr/bin/env bash
# A SLURM cluster of two nodes on this machine, for the tests: cluster.sh start|stop FOLDER. As root; nothing of the
# system's own configuration is touched: everything is in FOLDER, and SLURM_CONF says where.
set -euo pipefail
action=$1 folder=$2
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

start() {
  mkdir -p "$folder"/{state,spool-n1,spool-n2,log,munge}
  chown munge: "$folder/munge" && chmod 755 "$folder" && chmod 700 "$folder/munge"
  runuser -u munge -- dd if=/dev/urandom bs=64 count=2 of="$folder/munge/key" status=none
  chmod 400 "$folder/munge/key"
  mkdir -p "$folder/run" && chown munge: "$folder/run" && chmod 755 "$folder/run"
  runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$folder/run/socket" --pid-file="$folder/run/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  cat >"$folder/slurm.conf" <<C
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((17100 + RANDOM % 200))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=60
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17400 + RANDOM % 200)) CPUs=8 RealMemory=200000 Gres=gpu:1 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17700 + RANDOM % 200)) CPUs=8 RealMemory=200000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
C
  # GPUs that are none: the jobs are told to run on the CPU.
  printf 'NodeName=n1 Name=gpu File=/dev/zero\nNodeName=n2 Name=gpu File=/dev/full\n' >"$folder/gres.conf"
  slurmctld
  for node in n1 n2; do slurmd -N "$node"; done
  for _ in $(seq 60); do
    [ "$(sinfo --noheader --Node --format=%T | grep -c '^idle$')" = 2 ] && return 0
    sleep 0.5
  done
  sinfo >&2
  tail -n 20 "$folder"/log/*.log >&2
  return 1
}

stop() {
  timeout 10 scancel --user root 2>/dev/null || true
  for name in n1 n2 slurmctld run/pid; do
    pid=$folder/${name%.pid}.pid
    [ "$name" = run/pid ] && pid=$folder/run/pid
    if [ -s "$pid" ]; then kill "$(cat "$pid")" 2>/dev/null || true; fi
  done
}

case $action in
  start) start ;;
  stop) stop ;;
esac
