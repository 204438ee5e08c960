#!/bin/bash
# A Ray cluster inside one Slurm job, and a sweep on it:
#
#     sbatch --nodes=8 --cpus-per-task=32 cluster/slurm.sh sweep sweeps/pusht_race.yaml --out runs/race
#
# What follows the script is a bet-ray command, run from the directory of the submission, which all nodes must see. With
# --resume (and the same --out) a job that ran out of time goes on. cluster/README.md says more.
#SBATCH --job-name=bet-ray
#SBATCH --output=%x-%j.log
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

if [[ $# -eq 0 || -z ${SLURM_JOB_ID:-} ]]; then
    echo "usage: sbatch [--nodes=N ...] cluster/slurm.sh COMMAND...    (COMMAND... as in bet-ray COMMAND...)" >&2
    exit 2
fi
PATH=${BET_RAY_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin:$PATH

# Whoever reaches a node's ports needs the token: one for each job, which its processes inherit and no command line shows.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')

# The batch script runs on the first node. Jobs that share a node differ in the port.
head=$(hostname)
address=${BET_RAY_ADDRESS:-$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ { print $1; exit }')}
port=$((20000 + SLURM_JOB_ID % 10000))
: "${address:?"the name of $head leads to no address that other nodes reach; give it one with BET_RAY_ADDRESS"}"
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-$(nproc)}}

# Ray ends with its step, and nothing else of the user's does (`ray stop` would end every Ray on the node).
on() {
    srun --overlap --nodes="$1" --ntasks="$1" --cpus-per-task="$cpus" "${@:2}" &
    steps+=($!)
}
steps=()
finish() {
    trap - EXIT
    [[ ${#steps[@]} -eq 0 ]] || kill "${steps[@]}" 2> /dev/null || true
    wait
    on "$SLURM_JOB_NUM_NODES" rm -rf "$temporary"
    wait
}
trap finish EXIT

# A CPU of the first node is the driver's. Temporary files are the node's own; the dashboard would listen for nobody.
temporary=/tmp/ray-$SLURM_JOB_ID
on 1 --nodelist="$head" ray start --head --block --node-ip-address="$address" --port="$port" \
    --num-cpus=$((cpus > 1 ? cpus - 1 : 1)) --include-dashboard=false --temp-dir="$temporary"
if ((SLURM_JOB_NUM_NODES > 1)); then
    on $((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" ray start --address="$address:$port" --block --num-cpus="$cpus"
fi
export RAY_ADDRESS=$address:$port

# The sweep divides the CPUs that are there when it begins, so it waits for all of them.
python3 - "$SLURM_JOB_NUM_NODES" << 'PYTHON' &
import sys, time

import ray

deadline = time.monotonic() + 300
while True:
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
        break
    except ConnectionError:
        if time.monotonic() > deadline:
            sys.exit("Ray did not start on the first node; its messages are above")
        time.sleep(2)
while (there := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit(f"only {there} of {sys.argv[1]} nodes came within five minutes")
    time.sleep(2)
print(f"{there} nodes, {ray.cluster_resources().get('CPU', 0):.0f} CPUs")
PYTHON
ready=$!
wait -n "${steps[@]}" "$ready" || { kill "$ready" 2> /dev/null || true; exit 1; } # whichever failed has said why

# Slurm's signal before the end of the time comes here alone; the driver takes it as Ctrl-C, and leaves what --resume needs.
bet-ray "$@" &
driver=$! told=
trap 'told=yes; kill -TERM "$driver" 2> /dev/null || true' TERM
code=0
wait "$driver" || code=$?
while [[ $told ]]; do # the signal ended the wait, too
    told='' code=0
    wait "$driver" || code=$?
done
exit "$code"
