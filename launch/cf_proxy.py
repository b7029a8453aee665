"""GRPO records from prepared ones: accelerate launch launch/cf_proxy.py --sft_ckpt ..."""

from kit import command


def main() -> int:
    from kit.evaluate.config import CfProxyConfig

    config = command.parse(CfProxyConfig)

    from kit.evaluate.cf_proxy import cf_proxy

    return cf_proxy(config)


if __name__ == "__main__":
    command.run(main)
