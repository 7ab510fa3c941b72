"""Exporters: what turns a scrape into a document, or sends it somewhere, by name.

Lives here: the public names. May not: anything that would be loaded without being asked for.

    registry                       names, plugins (entry-point group `shm_metrics.exporters`), register_exporter
    documents                      text, openmetrics, json, jsonl, csv
    pushgateway, statsd, otlp      those that send; http_request is what two of them send with
    options                        what several of them may be told
    otlp_environment               what OpenTelemetry's variables say
    classify                       families -> additive and absolute samples                     [pure]
    statsd_lines                   samples -> StatsD lines and packets                           [pure]
    otlp_mapping                   families -> OTLP metrics
    pushed_totals                  what was sent of each total, kept beside the segment
    schedule                       one thread a worker, of which the leader's pushes
"""

from shm_metrics.exporters.registry import Exporter, exporter, exporters, register_exporter
from shm_metrics.exporters.schedule import PushSchedule

__all__ = ["Exporter", "PushSchedule", "exporter", "exporters", "register_exporter"]
