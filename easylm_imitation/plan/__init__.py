"""What a run would need on a machine that is not here: memory, time and money, by the real compiler or by formula."""
from easylm_imitation.plan.compiler import available
from easylm_imitation.plan.estimate import between_slices, exchange_seconds
from easylm_imitation.plan.planner import ASSUMPTIONS, Plan, advice, described, plan, search
from easylm_imitation.plan.pods import CHIPS, Pod, find_pod
from easylm_imitation.plan.serving import ServingPlan, plan_serving

__all__ = ["ASSUMPTIONS", "CHIPS", "Plan", "Pod", "ServingPlan", "advice", "available", "between_slices", "described",
           "exchange_seconds", "find_pod", "plan", "plan_serving", "search"]
