"""Evaluation: tasks through the stock harness over HTTP, a model's answers to prompts, and their style.

    evaluate_tasks(url, ["nq_open"], task_data="DATA") -> Results       style_task(answers, reference) -> TaskResults
"""
from easylm_imitation.evaluate.answers import AnswersMeta, answer_prompts, answers_meta, read_answers
from easylm_imitation.evaluate.config import AnswerConfig, EvaluateConfig
from easylm_imitation.evaluate.harness import evaluate_tasks, results_now
from easylm_imitation.evaluate.style import style_task
from easylm_imitation.evaluate.tasks import TASKS, Task, find_tasks

__all__ = ["TASKS", "AnswerConfig", "AnswersMeta", "EvaluateConfig", "Task", "answer_prompts", "answers_meta",
           "evaluate_tasks", "find_tasks", "read_answers", "results_now", "style_task"]
