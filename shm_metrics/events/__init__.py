"""Metrics from the lifecycle events that an application publishes.

Lives here: the table of rules, the handler of events, the router, and instrument(). May not: know a framework (the
integrations do).
"""

from shm_metrics.events.rules import DEFAULT_RULES, Effect, EventRule, EventRules, counts, observes, sets

__all__ = ["DEFAULT_RULES", "Effect", "EventRule", "EventRules", "counts", "observes", "sets"]
