"""Exporters: what turns a scrape into a document, or sends it somewhere, by name.

Lives here: the public names. May not: anything that would be loaded without being asked for.

    registry                       names, plugins (entry-point group `shm_metrics.exporters`), register_exporter
    documents                      text, openmetrics, json, jsonl, csv
    pushgateway, statsd, otlp      those that send; http_request is what two of them send with
    options                        checks of options that several of them share
    otlp_environment               options from OpenTelemetry's environment variables
    classify                       families -> additive and absolute samples                     [pure]
    statsd_lines                   samples -> StatsD lines and packets                           [pure]
    otlp_mapping                   families -> OTLP metrics
    pushed_totals                  how much of each total was sent, in a file beside the segment
    schedule                       one thread per worker; that of the leader pushes
"""

from shm_metrics.exporters.registry import Exporter, exporter, exporters, register_exporter
from shm_metrics.exporters.schedule import PushSchedule

__all__ = ["Exporter", "PushSchedule", "exporter", "exporters", "register_exporter"]
