#!/bin/sh
# End the cluster that `start_slurm.sh FOLDER` started.
SLURM_CONF="$1/slurm.conf" scancel --user="$(id -u)" || true
sleep 10 # KillWait and a little more: slurmd ends the jobs
for name in slurmd-n1 slurmd-n2 slurmctld munged; do
    if [ -s "$1/$name.pid" ]; then kill "$(cat "$1/$name.pid")" 2>/dev/null || true; fi
done
