"""How the processes of a server tell what happens: events to stderr, lines for people or JSON."""

from __future__ import annotations

import logging.config
import sys
from typing import Any

import structlog

from icehouse.config import LogFormat, LogLevel


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Send events to stderr: lines for people on a terminal, JSON elsewhere, or what *log_format* says."""
    logging.config.dictConfig(_library_logging(log_format))
    structlog.configure(
        processors=[*_shared_processors(), *_last_processors(log_format)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _library_logging(log_format: LogFormat) -> dict[str, Any]:
    """Settings of the standard library's logging under which lines of uvicorn and others look like ours."""
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": _shared_processors(),
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last_processors(log_format)],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"icehouse": formatter},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "icehouse", "stream": "ext://sys.stderr"}
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _last_processors(log_format: LogFormat) -> list[structlog.typing.Processor]:
    is_for_people = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    if is_for_people:
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
