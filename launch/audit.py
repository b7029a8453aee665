"""Check anybody's predictions: python launch/audit.py --predictions preds.jsonl --data test.json"""

from kit import command


def main() -> int:
    from kit.audit.config import AuditConfig

    config = command.parse(AuditConfig)

    from kit.audit.audit import audit

    return audit(config)


if __name__ == "__main__":
    command.run(main)
