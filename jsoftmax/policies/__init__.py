"""Policies from action values: distributions, actions, log-probabilities and comparisons.

A policy is a distribution over actions. Every mapping of this library computes one from action
values (or from logits, the *preferences* of a policy network):

    softmax(q, temperature=T)                 Boltzmann exploration; `where` masks actions
    entmax(q, alpha, temperature=T)           sparse: bad actions are never tried
    hardmax(q)                                greedy, ties shared; the same as temperature=0
    epsilon_mixture(p, epsilon)               any of these, mixed with equal shares
    softmax(q, temperature=mellowmax_temperature(q, omega))

The state value of such a policy is `smoothmax(q, alpha, temperature=T)`, soft at α = 1, sparse at
α = 2: its gradient in q is the policy, and it equals the policy's expected value plus T times its
`entropy`. A time-dependent temperature is a function of the step count, such as an optax schedule:
`temperature=schedule(step)`.

Further functions draw from a policy (`sample_action`), score actions (`log_prob`), and compare two
policies (`kl_divergence`, `importance_ratio`).
"""

from jsoftmax.policies._actions import log_prob, sample_action
from jsoftmax.policies._comparison import importance_ratio, kl_divergence, log_importance_ratio
from jsoftmax.policies._epsilon import epsilon_mixture
from jsoftmax.policies._mellowmax import mellowmax
from jsoftmax.policies._mellowmax_policy import mellowmax_temperature

__all__ = [
    "epsilon_mixture",
    "importance_ratio",
    "kl_divergence",
    "log_importance_ratio",
    "log_prob",
    "mellowmax",
    "mellowmax_temperature",
    "sample_action",
]
