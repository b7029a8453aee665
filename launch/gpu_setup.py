"""What a run will take, before it is queued: python launch/gpu_setup.py --stage sft --config ..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("gpu_setup")
