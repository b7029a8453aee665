"""What a run will take, before it is queued: python launch/gpu_setup.py --stage sft --config ..."""

from kit import command


def main() -> int:
    from kit.plan.config import PreflightConfig

    config = command.parse(PreflightConfig)

    from kit.plan.preflight import preflight

    return preflight(config)


if __name__ == "__main__":
    command.run(main)
