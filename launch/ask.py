"""Ask a model: python launch/ask.py --adapter ... --image x.png --question "..."."""

from kit import command


def main() -> int:
    from kit.evaluate.ask_config import AskConfig

    config = command.parse(AskConfig)

    from kit.demo.serve import ask_or_serve

    return ask_or_serve(config)


if __name__ == "__main__":
    command.run(main)
