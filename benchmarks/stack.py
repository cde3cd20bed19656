"""One proxy and one replica serving one scenario, until standard input ends."""

from __future__ import annotations

import argparse
import sys

import deployments

import serving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=deployments.APPLICATIONS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--no-access-log", action="store_true")
    args = parser.parse_args()
    serving.start(
        http_options=serving.HTTPOptions(port=args.port),
        logging_config=serving.LoggingConfig(enable_access_log=not args.no_access_log),
    )
    serving.run(deployments.APPLICATIONS[args.scenario])
    sys.stdin.read()
    serving.shutdown()


if __name__ == "__main__":
    main()
