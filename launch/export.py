"""A model to share: python launch/export.py --adapter checkpoints/qwen2vl_grpo --output ..."""

from kit import command


def main() -> int:
    from kit.share.config import ExportConfig

    config = command.parse(ExportConfig)

    from kit.share.export import export

    return export(config)


if __name__ == "__main__":
    command.run(main)
