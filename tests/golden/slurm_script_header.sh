#!/bin/bash
#SBATCH --job-name=hpo-gpt2-lr-501bf1-round-1
#SBATCH --array=0-9%4
#SBATCH --output="/scratch/me/my runs/gpt2-lr/logs/%A_%a.log"
#SBATCH --open-mode=append
#SBATCH --time=26:03:04
#SBATCH --signal=B:USR2@120
#SBATCH --cpus-per-task=16
#SBATCH --partition=alvis
#SBATCH --account=NAISS2026-1-1
#SBATCH --qos=normal
#SBATCH --mem=64G
#SBATCH --gres=gpu:A100:2
#SBATCH --constraint=nvme
#SBATCH --mail-type=END

export HPOCTL_RUN_DIR='/scratch/me/my runs/gpt2-lr'
export HPOCTL_PYTHON='/opt/my env/bin/python'
export HPOCTL_TRIALS_PER_TASK=2
export HPOCTL_CPUS=16
export HPOCTL_GPUS=2
export HPOCTL_WALLTIME_S=93784
export HPOCTL_SETUP='module load PyTorch
export NOTE="it'"'"'s 100% $(hostname)"'

