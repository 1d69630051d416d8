"""Route tokens to experts: chosen experts, their weights, and statistics that balance their load.

    routing = route(logits, 8)                        experts, weights, statistics
    routing.statistics.balance_loss, .z_loss          from sums that add over devices and steps
    bias = update_bias(bias, routing.statistics.load, 1e-3)   or balance without a loss

Dispatching tokens to experts and combining their results is left to the model.
"""

from jsoftmax.routing._route import Routing, route
from jsoftmax.routing._routing_statistics import RoutingStatistics
from jsoftmax.routing._update_bias import update_bias

__all__ = ["Routing", "RoutingStatistics", "route", "update_bias"]
