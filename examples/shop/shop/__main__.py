"""The process: settings, wiring, signals, exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import NoReturn

from shop.app import App
from shop.catalog import CatalogError
from shop.config import Config, ConfigError, load_shop
from shop.logs import Log
from shop.metrics import ShopMetrics
from shop.server import Server
from shop.tracing import NullSink, OtlpExporter, Tracer

RELOAD_SECONDS = 1.0
FLUSH_SECONDS = 2.0
EXIT_CONFIG = 78
EXIT_UNCLEAN = 1


def main() -> int:
    """Runs the shop until SIGTERM or SIGINT."""
    try:
        config = Config.from_env(os.environ)
    except ConfigError as error:
        print(f"shop: {error}", file=sys.stderr)
        return EXIT_CONFIG
    log = Log(sys.stdout, service=config.service_name, version=config.version)
    metrics = ShopMetrics(config.version)
    exporter = _exporter(config, metrics)
    app = App(config.version, metrics, Tracer(exporter or NullSink()), log)
    server = Server(app.handle, config.host, config.port, config.workers)
    app.is_draining = lambda: server.draining
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.drain())
    threading.Thread(target=_load, args=(config, app, log), name="load", daemon=True).start()
    log.info("listening", port=server.port)
    clean = server.serve(config.drain_seconds)
    if exporter is not None:
        exporter.close(FLUSH_SECONDS)
    log.info("stopped", clean=clean)
    return 0 if clean else EXIT_UNCLEAN


def _exporter(config: Config, metrics: ShopMetrics) -> OtlpExporter | None:
    if config.otlp_endpoint is None:
        return None
    resource = {
        "service.name": config.service_name,
        "service.version": config.version,
        **config.resource_attributes,
    }
    return OtlpExporter(
        config.otlp_endpoint, resource, lambda count: metrics.spans_dropped.add(amount=count)
    )


def _load(config: Config, app: App, log: Log) -> None:
    """Loads the catalogue, again and again until it is usable; until then readiness fails."""
    while app.shop is None:
        try:
            app.shop = load_shop(config)
        except (CatalogError, OSError, UnicodeDecodeError) as error:
            log.error(
                "configuration is not usable", path=str(config.catalog_path), error=str(error)
            )
            time.sleep(RELOAD_SECONDS)
    log.info("configuration loaded", products=len(app.shop.catalog))


def _exit(code: int) -> NoReturn:
    """Ends the process at once, even while a thread still waits for a client or the collector."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _exit(main())
