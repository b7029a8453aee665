"""A model to share: python launch/export.py --adapter checkpoints/qwen2vl_grpo --output ..."""

from kit import command


def main() -> int:
    from kit.share.export import ExportConfig, export

    return export(command.parse(ExportConfig))


if __name__ == "__main__":
    command.run(main)
