"""Router logits → experts of each token, their weights, and the statistics that balance them.

    routing = route(logits, 8)                        experts, weights, statistics
    routing.statistics.balance_loss, .z_loss          from sums that add up over devices and steps
    bias = update_bias(bias, routing.statistics.load, 1e-3)   or balance without a loss

Tokens are not moved here: dispatch to experts, and the combination of results, are the model's.
"""

from jsoftmax.routing._route import Routing, route
from jsoftmax.routing._routing_statistics import RoutingStatistics
from jsoftmax.routing._update_bias import update_bias

__all__ = ["Routing", "RoutingStatistics", "route", "update_bias"]
