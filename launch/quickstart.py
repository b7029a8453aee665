"""The whole pipeline on phantoms with the embedded model, on a CPU: python launch/quickstart.py."""

from kit import command


def main() -> int:
    from kit.demo.config import QuickstartConfig

    config = command.parse(QuickstartConfig)

    from kit.demo.quickstart import quickstart

    return quickstart(config)


if __name__ == "__main__":
    command.run(main)
