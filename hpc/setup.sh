#!/bin/bash
# Makes the environment that the job scripts use, once, on a login node:
#
#   hpc/setup.sh                    a virtual environment in RL_ENV (default: .venv beside this folder)
#   hpc/setup.sh apptainer          the same inside an Apptainer (Singularity) image: RL_IMAGE, a single file
#   hpc/setup.sh overlay            an ext3 overlay RL_OVERLAY with the environment, over a plain Python image RL_IMAGE
#
# PYTHON (default python3) is the Python of the virtual environment. TORCH is cuda (default here: a login node need not
# have a GPU), cpu or default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export RL_HOME=$PWD TORCH=${TORCH:-cuda}
kind=${1:-venv}
container=${RL_CONTAINER:-$(command -v apptainer || command -v singularity || true)}

need_container() {
  if [ -z "$container" ]; then
    echo "there is no apptainer or singularity here; try 'module load apptainer', or a plain hpc/setup.sh" >&2
    exit 2
  fi
}

case $kind in
venv)
  make install VENV="${RL_ENV:-$RL_HOME/.venv}" PYTHON="${PYTHON:-python3}"
  ;;
apptainer)
  need_container
  "$container" build --build-arg torch="$TORCH" "${RL_IMAGE:?name the image to make, e.g. RL_IMAGE=\$SCRATCH/refusal.sif}" \
    hpc/refusal_lightning.def
  ;;
overlay)
  need_container
  : "${RL_OVERLAY:?name the overlay to make, e.g. RL_OVERLAY=\$SCRATCH/refusal.ext3}"
  : "${RL_IMAGE:?name the image under it, e.g. RL_IMAGE=\$SCRATCH/python.sif (it is fetched if it is not there)}"
  if [ ! -e "$RL_IMAGE" ]; then "$container" pull "$RL_IMAGE" docker://python:3.12-slim-bookworm; fi
  if [ ! -e "$RL_OVERLAY" ]; then "$container" overlay create --sparse --size "${RL_OVERLAY_MB:-20480}" "$RL_OVERLAY"; fi
  # shellcheck disable=SC2016  # what is quoted runs in the container
  "$container" exec --overlay "$RL_OVERLAY" --bind "$RL_HOME" "$RL_IMAGE" sh -ec '
    python -m venv /opt/refusal_lightning
    cd "$RL_HOME"
    /opt/refusal_lightning/bin/python -m pip install --quiet --upgrade "pip>=25.3"
    /opt/refusal_lightning/bin/python scripts/install_torch.py constraints.txt
    /opt/refusal_lightning/bin/python -m pip install --quiet --constraint constraints.txt .'
  ;;
*)
  echo "hpc/setup.sh makes: venv, apptainer or overlay; not '$kind'" >&2
  exit 2
  ;;
esac
