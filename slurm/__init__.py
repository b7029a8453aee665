"""Stages as SLURM jobs, by submitit: submit.py is the command, jobs.py what runs in a job."""
