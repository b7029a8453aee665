"""What a run will take, before it is queued: python launch/gpu_setup.py --stage sft --config ..."""

from kit import command


def main() -> int:
    from kit.plan.preflight import PreflightConfig, preflight

    return preflight(command.parse(PreflightConfig))


if __name__ == "__main__":
    command.run(main)
