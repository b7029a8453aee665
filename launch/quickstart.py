"""The whole pipeline on phantoms with the embedded model, on a CPU: python launch/quickstart.py."""

from kit import command


def main() -> int:
    from kit.demo.quickstart import QuickstartConfig, quickstart

    return quickstart(command.parse(QuickstartConfig))


if __name__ == "__main__":
    command.run(main)
