"""Evaluation: tasks through the stock harness over HTTP, a model's answers to prompts, and their style.

    evaluate_tasks(url, ["nq_open"], task_data="DATA") -> Results       style_task(answers, reference) -> TaskResults
"""
from easylm_imitation.evaluate.after import able
from easylm_imitation.evaluate.answers import AnswersMeta, answer_prompts, answers_meta, read_answers
from easylm_imitation.evaluate.config import AnswerConfig, EvaluateConfig
from easylm_imitation.evaluate.harness import evaluate_tasks, results_now
from easylm_imitation.evaluate.measured import style_results
from easylm_imitation.evaluate.outcome import item_id
from easylm_imitation.evaluate.plan import planned
from easylm_imitation.evaluate.prompt_sets import prompt_set
from easylm_imitation.evaluate.published import published_results
from easylm_imitation.evaluate.style import style_task
from easylm_imitation.evaluate.tasks import SUITES, TASKS, Suite, Task, find_suite, find_tasks, listed

__all__ = ["SUITES", "TASKS", "AnswerConfig", "AnswersMeta", "EvaluateConfig", "Suite", "Task", "able",
           "answer_prompts", "answers_meta", "evaluate_tasks", "find_suite", "find_tasks", "item_id", "listed",
           "planned", "prompt_set", "published_results", "read_answers", "results_now", "style_results", "style_task"]
